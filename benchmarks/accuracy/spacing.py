# SPDX-License-Identifier: Apache-2.0
"""Weekly and monthly returns: are the answers good there too? Into ``results/spacing.json``.

Panels of daily returns are compounded over 5 and 21 rows. Judged against Ledoit and Wolf's shrinkage to several
targets, on the same universes and dates: realised volatility of the minimum-variance portfolio in the periods that
follow (mean difference of logarithms in percent, t by Newey and West, one unit a date), and the forecast risk of
equally weighted portfolios (bias: realised over forecast, 1 if right). The members have seen daily returns alone.

    python -m benchmarks.accuracy.spacing ../shared/data ../shared/markets --period test
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.accuracy.history import FEWEST_DATES, load_pipeline
from benchmarks.figures import RESULTS, four_digits, write_figures
from sigmahat_kernels.parallel import available_threads
from sigmahat_trainer.baselines.adapters import closed_form
from sigmahat_trainer.baselines.closed_form import BASELINES
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets
from sigmahat_trainer.data.panels import ReturnPanel, load_panels
from sigmahat_trainer.data.split import PERIODS
from sigmahat_trainer.evaluation.methods import SERVED, Methods
from sigmahat_trainer.evaluation.rolling import Cell, evaluate
from sigmahat_trainer.evaluation.significance import newey_west_error, newey_west_t
from sigmahat_trainer.progress import track

RESULT = RESULTS / "spacing.json"
REFERENCE = "multi_target_ledoit_wolf"
"""Of QIS nothing is left where a universe has about as many assets as the window has rows, as here."""

LARGEST = 100
"""Assets of a universe; of a smaller panel four fifths."""


class Spacing(NamedTuple):
    """Rows of a daily panel that make one period, the periods of a window, and those for which a portfolio is held."""

    rows: int
    window: int
    horizon: int


SPACINGS = {
    "weekly, 52": Spacing(5, 52, 4),
    "weekly, 104": Spacing(5, 104, 4),
    "weekly, 260": Spacing(5, 260, 4),
    "monthly, 24": Spacing(21, 24, 3),
    "monthly, 36": Spacing(21, 36, 3),
    "monthly, 60": Spacing(21, 60, 3),
}


def compounded(panel: ReturnPanel, rows: int) -> ReturnPanel:
    """The panel in periods of so many rows, the last ending on its last row: a period without a return is missing."""
    n_periods = len(panel.dates) // rows
    start = len(panel.dates) - n_periods * rows
    blocks = panel.returns[start:].reshape(n_periods, rows, -1).astype(np.float64)
    returns = np.prod(1.0 + np.nan_to_num(blocks), axis=1) - 1.0
    returns[np.isnan(blocks).all(axis=1)] = np.nan
    ends = slice(start + rows - 1, None, rows)
    return panel._replace(returns=returns.astype(np.float32), dates=panel.dates[ends], market=panel.market[ends])


def scores_of(panel: ReturnPanel, members: Path, period: str, draws: int) -> pd.DataFrame:
    """Scores by spacing, date and method; none where dates are few."""
    methods = Methods({REFERENCE: closed_form(BASELINES[REFERENCE])}, {SERVED: load_pipeline(members)})
    found = []
    for name, spacing in SPACINGS.items():
        coarse = compounded(panel, spacing.rows)
        own = PERIODS[period].of(coarse)
        begin = max(int(np.searchsorted(coarse.dates, np.datetime64(own.first))), spacing.window)
        stops = range(begin, len(coarse.between(None, own.last).dates) - spacing.horizon + 1, spacing.horizon)
        sizes = [len(eligible_assets(coarse.returns[at - spacing.window : at], MIN_COVERAGE)) for at in stops]
        n_assets = min(LARGEST, int(0.8 * np.median(sizes))) if len(sizes) >= FEWEST_DATES else 0
        if n_assets < 5:
            continue
        with threadpool_limits(1):
            cell = Cell(n_assets, spacing.window, spacing.horizon)
            scores = evaluate(coarse, cell, PERIODS[period], methods, draws=draws, seed=0).scores
        found.append(scores.assign(spacing=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def figures_of(scores: pd.DataFrame) -> dict[str, Any]:
    """By spacing and panel, and on average over panels."""
    figures: dict[str, Any] = {}
    for spacing, of_spacing in scores.groupby("spacing", sort=False):
        panels: dict[str, Any] = {}
        means, errors = [], []
        for name, rows in of_spacing.groupby("panel"):
            logs = rows.pivot(index="date", columns="method", values="gmv_log_variance")
            difference = 50.0 * (logs[SERVED] - logs[REFERENCE]).dropna().to_numpy()
            if len(difference) < FEWEST_DATES:
                continue
            means.append(float(difference.mean()))
            errors.append(newey_west_error(difference))
            squares = rows.groupby("method")["equal_weight_square"].mean() ** 0.5
            panels[str(name)] = {
                "n_assets": int(rows["n_assets"].iloc[0]),
                "n_dates": len(difference),
                "difference": four_digits(means[-1]),
                "t": four_digits(newey_west_t(difference)),
                "bias": four_digits(float(squares[SERVED])),
                "bias_of_reference": four_digits(float(squares[REFERENCE])),
            }
        if not panels:
            continue
        mean, error = float(np.mean(means)), float(np.sqrt(np.square(errors).sum()) / len(errors))
        figures[str(spacing)] = {
            "difference": four_digits(mean),
            "t": four_digits(mean / error),
            "panels_better": int((np.array(means) < 0).sum()),
            "risk_gap": four_digits(float(np.mean([abs(of["bias"] - 1) for of in panels.values()]))),
            "risk_gap_of_reference": four_digits(
                float(np.mean([abs(of["bias_of_reference"] - 1) for of in panels.values()]))
            ),
            "panels": panels,
        }
    return figures


def each(panels: list[ReturnPanel], members: Path, period: str, draws: int) -> Iterator[pd.DataFrame]:
    """`scores_of` every panel, one core each."""
    measure = partial(scores_of, members=members, period=period, draws=draws)
    with ProcessPoolExecutor(available_threads(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, panels)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of daily return panels")
    parser.add_argument("--period", choices=tuple(PERIODS), default="validation")
    parser.add_argument("--draws", type=int, default=4, help="universes a date")
    parser.add_argument("--members", type=Path, default=Path("model_repository"), help="or a training run")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    console = Console(stderr=True)
    panels = load_panels(given.folders, console)
    found = each(panels, given.members, given.period, given.draws)
    figures = figures_of(pd.concat(track(found, "panels", total=len(panels), console=console), ignore_index=True))
    console.print_json(data={name: {k: v for k, v in of.items() if k != "panels"} for name, of in figures.items()})
    settings = {"period": given.period, "draws": given.draws, "reference": REFERENCE}
    write_figures(given.out, figures, settings=settings)


if __name__ == "__main__":
    main()
