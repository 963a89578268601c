# SPDX-License-Identifier: Apache-2.0
"""What missing cells and stale prices cost out of sample, into ``results/missing.json``.

Universes of real panels hold assets that were listed within the window, that trade now and then, or whose history is
cut here, of which the full one is known. Judged is the realised volatility of minimum-variance portfolios in the 21
days that follow, against zeros in the place of missing returns: the estimate as it is, from a panel of the other assets
alone, from one filled with each asset's mean, and from all returns where they are known. Of stale prices, universes
that hold an asset with a run of them are estimated as sent and by the rule.

    python -m benchmarks.accuracy.missing ../shared
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from benchmarks.figures import RESULTS, four_digits, write_figures
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.combine import combine
from sigmahat_kernels.parameters import split_parameters
from sigmahat_kernels.pipeline import Pipeline, features_and_status
from sigmahat_kernels.request import read_request
from sigmahat_kernels.shared_window import KeptMoments
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import MIN_OBSERVATIONS, Status
from sigmahat_trainer.data.dataset import eligible_assets, holding_returns
from sigmahat_trainer.data.panels import ReturnPanel, load_panel
from sigmahat_trainer.evaluation.portfolios import gmv_weights, long_only_weights
from sigmahat_trainer.evaluation.significance import newey_west_t

RESULT = RESULTS / "missing.json"
LISTINGS = {
    "us_broad_2005_2017": "data",
    "au_asx_1997_2024": "markets",
    "ph_pse_2000_2020": "markets",
    "vn_hose_2007_2020": "markets",
}
STALE = {
    "bd_dse_2012_2022": "markets",
    "ph_pse_2000_2020": "markets",
    "vn_hose_2007_2020": "markets",
    "au_asx_1997_2024": "markets",
    "uk_ftse64_2000_2023": "data",
}
"""Panel -> its folder among the shared ones."""

N_ASSETS, N_OBS, HORIZON = 50, 252, 21
LATE_SHARE = 0.3
PERCENT = 100.0


class Case(NamedTuple):
    """A universe at one date."""

    returns: np.ndarray  # (T, N), NaN = missing
    full: np.ndarray | None  # (T, N), the same before it was cut
    with_gap: np.ndarray  # (N,) whether the asset is what the case is about
    ahead: np.ndarray  # (H, N)
    context: Mapping[str, np.ndarray]  # market and dates of the window


class ZeroFilled(KeptMoments):
    """Moments in which a missing cell stays a product of zero."""

    def keep(self, group: Any, moments: Any) -> None:
        """Keep them without what gaps are completed from."""
        super().keep(group, moments._replace(incomplete=None))


def estimate(pipeline: Pipeline, returns: np.ndarray, case: Case, *, zero: bool = False) -> np.ndarray | None:
    """The covariance of one universe of all columns; None where it is refused."""
    request = read_request(returns.astype(np.float32), np.arange(returns.shape[1])[None], **case.context)
    kept = ZeroFilled() if zero else KeptMoments()
    table, row_status, _ = features_and_status(request, kept)
    if row_status[0, 0] != Status.GOOD:
        return None
    combined = combine([member(table.features) for member in pipeline.members], row_status)
    return assemble(request, split_parameters(combined.parameters), row_status[:, 0], kept=kept)[0].astype(float)


def as_sent(pipeline: Pipeline, case: Case) -> np.ndarray | None:
    """The covariance with stale prices taken for returns."""

    def unchanged(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return returns, np.zeros(returns.shape[1], bool)

    with mock.patch("sigmahat_kernels.groups.without_stale", unchanged):
        return estimate(pipeline, case.returns, case)


def of_gaps(pipeline: Pipeline, case: Case) -> dict[str, np.ndarray | None]:
    """Covariance by what is done about missing cells; of the other assets alone with NaN for those left out."""
    x, n_assets = case.returns, case.returns.shape[1]
    found = {
        "zero": estimate(pipeline, x, case, zero=True),
        "sigmahat": estimate(pipeline, x, case),
        "mean": estimate(pipeline, np.where(np.isnan(x), np.nanmean(x, axis=0), x), case),
    }
    others = np.flatnonzero(~case.with_gap)
    dropped = np.full((n_assets, n_assets), np.nan)
    rest = estimate(pipeline, x[:, others], case)
    if rest is not None:
        dropped[np.ix_(others, others)] = rest
        found["dropped"] = dropped
    if case.full is not None:
        found["full"] = estimate(pipeline, case.full, case)
    return found


def of_stale(pipeline: Pipeline, case: Case) -> dict[str, np.ndarray | None]:
    """Covariance as sent and by the rule."""
    return {"as sent": as_sent(pipeline, case), "sigmahat": estimate(pipeline, case.returns, case)}


def judge(covariance: np.ndarray, case: Case) -> tuple[float, float, float]:
    """ln realised volatility of the minimum-variance portfolio and the long-only one; the gaps' weight in the first."""
    held = ~np.isnan(np.diag(covariance))
    square = covariance[np.ix_(held, held)]
    logs = []
    weight = 0.0
    for k, weights_of in enumerate((gmv_weights, long_only_weights)):
        weights = weights_of(square)
        logs.append(0.5 * float(np.log(((case.ahead[:, held] @ weights) ** 2).mean())))
        if k == 0:
            weight = float(weights[case.with_gap[held]].sum())
    return logs[0], logs[1], weight


# ------------------------------------------------------------------------------------------------------ the universes


def window_at(panel: ReturnPanel, stop: int, chosen: np.ndarray, with_gap: np.ndarray) -> Case:
    """The case of chosen columns before a row, uncut."""
    rows = slice(stop - N_OBS, stop)
    context = {"market": panel.market[rows], "dates": panel.dates[rows].astype(np.int64).astype(np.int32)}
    ahead = holding_returns(panel.returns, stop, HORIZON)[:, chosen].astype(float)
    return Case(panel.returns[rows][:, chosen].copy(), None, with_gap, ahead, context)


def draw_listed(rng: np.random.Generator, panel: ReturnPanel, stop: int, *, intermittent: bool) -> Case | None:
    """At most 15 assets with 20 to 95 % of the rows beside whole ones; listed lately, or trading now and then too."""
    past = panel.returns[stop - N_OBS : stop]
    observed = ~np.isnan(past)
    usable = eligible_assets(past, 0.08)
    share = observed[:, usable].mean(axis=0)
    whole, late = usable[share >= 0.95], usable[(share >= 0.2) & (share < 0.95)]
    if not intermittent:
        since = np.array([observed[observed[:, i].argmax() :, i].mean() for i in late])
        late = late[(since >= 0.98) & (observed[:, late].argmax(axis=0) > 5)] if len(late) else late
    n_late = min(len(late), 15)
    n_assets = min(N_ASSETS, int(0.8 * (len(whole) + n_late)))
    if n_late == 0 or n_assets - n_late < 5:
        return None
    chosen = np.concatenate(
        [rng.choice(late, n_late, replace=False), rng.choice(whole, n_assets - n_late, replace=False)]
    )
    return window_at(panel, stop, chosen, np.arange(n_assets) < n_late)


def draw_cut(rng: np.random.Generator, panel: ReturnPanel, stop: int) -> Case | None:
    """Whole assets, 30 % of which keep only their last 8 to 90 % of the rows."""
    past = panel.returns[stop - N_OBS : stop]
    usable = eligible_assets(past, 1.0)
    n_assets = min(N_ASSETS, int(0.9 * len(usable)))
    if n_assets < 18:
        return None
    chosen = rng.choice(usable, n_assets, replace=False)
    n_cut = int(LATE_SHARE * n_assets)
    whole = window_at(panel, stop, chosen, np.arange(n_assets) < n_cut)
    cut = whole.returns.copy()
    for i in range(n_cut):
        cut[: N_OBS - int(N_OBS * rng.uniform(0.08, 0.9)), i] = np.nan
    return whole._replace(returns=cut, full=whole.returns)


def draw_stale(rng: np.random.Generator, panel: ReturnPanel, stop: int) -> Case | None:
    """As many assets with a run of stale prices as there are, at most a third, beside others."""
    past = panel.returns[stop - N_OBS : stop]
    usable = eligible_assets(past, 0.8)
    cleaned, stale = without_stale(past[:, usable])
    keeps = (~np.isnan(cleaned)).sum(axis=0) >= MIN_OBSERVATIONS
    usable, stale = usable[keeps], stale[keeps]
    n_assets = min(N_ASSETS, int(0.9 * len(usable)))
    n_stale = min(int(stale.sum()), n_assets // 3)
    if n_stale == 0 or n_assets - n_stale > (~stale).sum():
        return None
    chosen = np.concatenate(
        [
            rng.choice(usable[stale], n_stale, replace=False),
            rng.choice(usable[~stale], n_assets - n_stale, replace=False),
        ]
    )
    return window_at(panel, stop, chosen, np.arange(n_assets) < n_stale)


def dates_of(panel: ReturnPanel, first: str) -> Iterator[int]:
    """Every 21st row from the first on, with a window before it and a holding period behind it."""
    start = max(N_OBS, int(np.searchsorted(panel.dates, np.datetime64(first))))
    yield from range(start, len(panel.dates) - HORIZON + 1, HORIZON)


# --------------------------------------------------------------------------------------------------------- the figures

KINDS: dict[str, Callable[[np.random.Generator, ReturnPanel, int], Case | None]] = {
    "listed": lambda *at: draw_listed(*at, intermittent=False),
    "intermittent": lambda *at: draw_listed(*at, intermittent=True),
    "cut": draw_cut,
}


def figures_of(
    draw: Callable[[np.random.Generator, ReturnPanel, int], Case | None],
    compare: Callable[[Pipeline, Case], dict[str, np.ndarray | None]],
    pipeline: Pipeline,
    panel: ReturnPanel,
    first: str,
    draws: int,
) -> dict[str, Any] | None:
    """Mean difference of each method's ln volatility to the first one's, in per cent, one unit a date; None if few."""
    rng = np.random.default_rng(7)
    by_date: dict[int, list[dict[str, tuple[float, float, float]]]] = {}
    for stop in dates_of(panel, first):
        for _ in range(draws):
            case = draw(rng, panel, stop)
            if case is None:
                continue
            found = compare(pipeline, case)
            if any(covariance is None for covariance in found.values()):
                continue
            judged = {name: judge(covariance, case) for name, covariance in found.items() if covariance is not None}
            by_date.setdefault(stop, []).append(judged)
    if len(by_date) < 10:
        return None
    base, *others = next(iter(by_date.values()))[0]
    of_dates = {
        name: np.array([np.mean([judged[name] for judged in cases], axis=0) for cases in by_date.values()])
        for name in (base, *others)
    }
    figures: dict[str, Any] = {"n_dates": len(by_date), "base": base, "methods": {}}
    for name, values in of_dates.items():
        difference = PERCENT * (values - of_dates[base])
        figures["methods"][name] = {
            **{
                portfolio: {
                    "difference": four_digits(difference[:, k].mean()),
                    "t": four_digits(newey_west_t(difference[:, k])),
                }
                for k, portfolio in enumerate(("gmv", "long_only"))
            },
            "weight": four_digits(values[:, 2].mean()),
        }
    return figures


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder that holds data/ and markets/")
    parser.add_argument("--first", default="2016-01-01", help="first day after a window")
    parser.add_argument("--last", default=None, help="last day of a holding period")
    parser.add_argument("--draws", type=int, default=2, help="universes a date")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--members", type=Path, default=Path("model_repository"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a column that misses its first rows
    pipeline = Pipeline(given.members)
    figures: dict[str, Any] = {"missing": {}, "stale": {}}
    for name, folder in LISTINGS.items():
        panel = load_panel(given.shared / folder / f"{name}.npz").between(None, given.last)
        for kind, draw in KINDS.items():
            found = figures_of(draw, of_gaps, pipeline, panel, given.first, given.draws)
            if found is not None:
                figures["missing"].setdefault(name, {})[kind] = found
                print(name, kind, found, flush=True)
    for name, folder in STALE.items():
        panel = load_panel(given.shared / folder / f"{name}.npz").between(None, given.last)
        found = figures_of(draw_stale, of_stale, pipeline, panel, given.first, given.draws)
        if found is not None:
            figures["stale"][name] = found
            print(name, found, flush=True)
    settings = {"first": given.first, "last": given.last, "draws": given.draws, "n_assets": N_ASSETS, "n_obs": N_OBS}
    write_figures(given.out, figures, settings={**settings, "horizon": HORIZON})


if __name__ == "__main__":
    main()
