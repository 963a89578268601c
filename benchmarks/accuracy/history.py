# SPDX-License-Identifier: Apache-2.0
"""Does a longer history make the answer worse? Into ``results/history.json``.

The same universes at the same dates, each asset with a return in nearly all of the longest window, are answered from
their last 126, 252, 504 and 1,008 rows. Judged is the realised volatility of the minimum-variance portfolio in the 21
days that follow, against 252 rows: mean difference of logarithms in percent, t by Newey and West, one unit a date.

    python -m benchmarks.accuracy.history ../shared/data ../shared/markets --period test
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.figures import RESULTS, four_digits, write_figures
from sigmahat_kernels.parallel import available_threads
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_trainer.baselines.adapters import checkpoint_pipeline, unpadded
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets, holding_returns
from sigmahat_trainer.data.panels import ReturnPanel, load_panels
from sigmahat_trainer.data.split import PERIODS
from sigmahat_trainer.evaluation.portfolios import gmv_weights
from sigmahat_trainer.evaluation.rolling import Cell, plan, request_of
from sigmahat_trainer.evaluation.significance import newey_west_error, newey_west_t
from sigmahat_trainer.progress import track

RESULT = RESULTS / "history.json"
LENGTHS = (126, 252, 504, 1008)
USUAL = 252
HORIZON = 21
N_ASSETS = 100
FEWEST_DATES = 10


def load_pipeline(folder: Path) -> Pipeline:
    """The members of a model repository, or of a training run."""
    return checkpoint_pipeline(folder) if list(folder.glob("member_*.safetensors")) else Pipeline(folder)


def log_volatilities(panel: ReturnPanel, members: Path, period: str, draws: int) -> pd.DataFrame:
    """ln realised volatility by date and window length, averaged over universes; no rows where dates are few."""
    longest = max(LENGTHS)
    own = PERIODS[period].of(panel)
    past = panel.between(None, own.last)
    begin = max(int(np.searchsorted(past.dates, np.datetime64(own.first))), longest)
    sizes = [
        len(eligible_assets(past.returns[stop - longest : stop], MIN_COVERAGE))
        for stop in range(begin, len(past.dates) - HORIZON + 1, HORIZON)
    ]
    n_assets = min(N_ASSETS, int(0.8 * np.median(sizes))) if sizes else 0
    if n_assets < 5:
        return pd.DataFrame()
    pipeline = load_pipeline(members)
    rows = []
    with threadpool_limits(1):
        for rebalance in plan(panel, Cell(n_assets, longest, HORIZON), PERIODS[period], draws=draws, seed=0):
            ahead = holding_returns(panel.returns, rebalance.stop, HORIZON).astype(np.float64)
            row: dict[str, Any] = {"panel": panel.name, "n_assets": n_assets, "date": panel.dates[rebalance.stop - 1]}
            found: dict[int, list[float]] = {}
            for length in LENGTHS:
                request = request_of(panel, Cell(n_assets, length, HORIZON), rebalance)
                matrices = unpadded(request, pipeline.estimate(request).covariance)
                found[length] = [
                    _log_volatility(matrix, ahead[:, universe])
                    for universe, matrix in zip(rebalance.universes, matrices, strict=True)
                ]
            # Near copies of a fund can leave a matrix singular in single precision: it is left out at every length.
            usable = np.isfinite(list(found.values())).all(axis=0)
            if usable.any():
                rows.append(row | {str(length): np.mean(np.array(logs)[usable]) for length, logs in found.items()})
    return pd.DataFrame(rows if len(rows) >= FEWEST_DATES else [])


def _log_volatility(covariance: np.ndarray, ahead: np.ndarray) -> float:
    """Of the minimum-variance portfolio in the periods ahead; NaN where there is none."""
    try:
        weights = gmv_weights(covariance)
    except np.linalg.LinAlgError:
        return float("nan")
    return 0.5 * float(np.log(((ahead @ weights) ** 2).mean()))


def figures_of(logs: pd.DataFrame) -> dict[str, Any]:
    """Differences to the usual length, of each panel and on average over panels."""
    panels: dict[str, Any] = {}
    means: dict[str, list[tuple[float, float]]] = {}
    for name, rows in logs.groupby("panel"):
        found = panels.setdefault(str(name), {"n_assets": int(rows["n_assets"].iloc[0]), "n_dates": len(rows)})
        for length in map(str, LENGTHS):
            if length == str(USUAL):
                continue
            difference = 100.0 * (rows[length] - rows[str(USUAL)]).to_numpy()
            means.setdefault(length, []).append((float(difference.mean()), newey_west_error(difference)))
            found[length] = {
                "difference": four_digits(float(difference.mean())),
                "t": four_digits(newey_west_t(difference)),
            }
    together = {}
    for length, of_panels in means.items():
        differences, errors = np.array(of_panels).T
        mean, error = differences.mean(), np.sqrt((errors**2).sum()) / len(errors)
        together[length] = {
            "difference": four_digits(float(mean)),
            "t": four_digits(float(mean / error)),
            "worst": four_digits(float(differences.max())),
            "panels_worse": int((differences > 0).sum()),
            "panels": len(differences),
        }
    return {"against_252_rows": together, "panels": panels}


def each(panels: Sequence[ReturnPanel], members: Path, period: str, draws: int) -> Iterator[pd.DataFrame]:
    """`log_volatilities` of every panel, one core each."""
    measure = partial(log_volatilities, members=members, period=period, draws=draws)
    with ProcessPoolExecutor(available_threads(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, panels)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of return panels")
    parser.add_argument("--period", choices=tuple(PERIODS), default="validation")
    parser.add_argument("--draws", type=int, default=6, help="universes a date")
    parser.add_argument("--members", type=Path, default=Path("model_repository"), help="or a training run")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    console = Console(stderr=True)
    panels = load_panels(given.folders, console)
    found = each(panels, given.members, given.period, given.draws)
    logs = pd.concat(track(found, "panels", total=len(panels), console=console), ignore_index=True)
    figures = figures_of(logs)
    console.print_json(data=figures["against_252_rows"])
    settings = {"period": given.period, "draws": given.draws, "horizon": HORIZON, "lengths": list(LENGTHS)}
    write_figures(given.out, figures, settings=settings)


if __name__ == "__main__":
    main()
