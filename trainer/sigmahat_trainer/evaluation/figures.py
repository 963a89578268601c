# SPDX-License-Identifier: Apache-2.0
"""From rows to figures: volatilities, differences with their significance, calibration, efficiency on simulations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sigmahat_trainer.evaluation.calibration import calibrate
from sigmahat_trainer.evaluation.designs import ORACLE, prial
from sigmahat_trainer.evaluation.rolling import HINDSIGHT
from sigmahat_trainer.evaluation.scores import PORTFOLIOS
from sigmahat_trainer.evaluation.significance import (
    bootstrap_variance_test,
    confidence_set,
    moments_of,
    newey_west_error,
    newey_west_t,
    variance_test,
)

PERIODS_PER_YEAR = 252
MARKET = "equal_weight"
"""The method whose minimum-variance portfolio is 1/N: how turbulent a time was."""

REFERENCES = ("qis_correlation", "learned_constants", "tilted_constants", "rienet")
"""The first is what every method is compared with, all are what a pipeline is, as far as they were evaluated."""

DIFFERENCES = {
    # column -> factor that turns a mean difference into what is reported
    "gmv_log_variance": 50.0,  # ln variance to ln volatility, in percent
    "long_only_log_variance": 50.0,
    "tracking_log_variance": 50.0,
    "random_long_only_qlike": 1.0,
    "random_long_short_qlike": 1.0,
}
MULTI_TARGET = "multi_target_ledoit_wolf"
"""What every method is compared with where the truth is known: the closed form that has the same targets."""

PRIALS = ("frobenius", "minimum_variance")

BIASES = {
    # what is reported -> column of squares whose mean it is the root of
    "bias": "gmv_square",
    "long_only_bias": "long_only_square",
    "tracking_bias": "tracking_square",
    "random_long_only_bias": "random_long_only_square",
    "random_long_short_bias": "random_long_short_square",
}
CELL = ["panel", "n_assets", "n_obs", "horizon"]


def summarise(
    scores: pd.DataFrame, heads: pd.DataFrame, simulated: pd.DataFrame, *, resamples: int = 4_999
) -> dict[str, Any]:
    """All figures of an evaluation; see the functions that make them, and `calibration.calibrate`.

    `resamples` is for the bootstrap p-values, which are given for pipelines alone; 0 leaves them out.
    """
    pipelines = [] if heads.empty else list(heads["method"].unique())
    parts = ("panels", "grid", "pooled", "confidence_set", "bias", "heads", "simulated", "prial")
    figures: dict[str, Any] = {part: {} for part in parts}
    for (panel, *_), rows in scores.groupby(CELL, sort=True):
        cells = figures["panels"].setdefault(panel, {})
        cells[cell_name(rows)] = summarise_cell(rows, pipelines, resamples=resamples)
    if not scores.empty:
        figures["grid"] = {name: grid_of(figures["panels"], name) for name in pipelines}
        scopes = {"all": scores, **{str(panel): rows for panel, rows in scores.groupby("panel")}}
        figures["pooled"] = {scope: pool(rows, pipelines) for scope, rows in scopes.items()}
        figures["confidence_set"] = {scope: pool_confidence(rows) for scope, rows in scopes.items()}
        figures["bias"] = {scope: pool_bias(rows) for scope, rows in scopes.items()}
    for method, rows in heads.groupby("method") if pipelines else []:
        by_panel = {str(panel): calibrate(part) for panel, part in rows.groupby("panel")}
        figures["heads"][method] = {"all": calibrate(rows), **by_panel}
    if not simulated.empty:
        figures["simulated"] = summarise_designs(simulated)
        for method in (*pipelines, *REFERENCES):
            figures["prial"][method] = prial_of(figures["simulated"], method)
    return rounded(figures)


def cell_name(rows: pd.DataFrame) -> str:
    """N, T and H of rows that share them.

    >>> cell_name(pd.DataFrame({"n_assets": [100], "n_obs": [252], "horizon": [21]}))
    'N=100, T=252, H=21'
    """
    first = rows.iloc[0]
    return f"N={first['n_assets']}, T={first['n_obs']}, H={first['horizon']}"


def summarise_cell(rows: pd.DataFrame, pipelines: Sequence[str], *, resamples: int) -> dict[str, Any]:
    """Figures of one panel and cell; methods without a portfolio at some date are named, and have no figures."""
    names = list(rows["method"].unique())
    lacking = set(rows.loc[rows["gmv_log_variance"].isna(), "method"])
    table = {str(name): part for name, part in rows.groupby("method") if name not in lacking}
    losses = {name: part["gmv_log_variance"].to_numpy() for name, part in table.items()}
    p_values = confidence_set({name: values for name, values in losses.items() if name != HINDSIGHT})
    methods = {}
    for name in names:
        if name in lacking:
            continue
        part = table[name]
        versus = {
            reference: _against(part, table[reference], resamples=resamples if name in pipelines else 0)
            for reference in _references(name, pipelines)
            if reference in table
        }
        place = {"confidence_set_p": p_values[name]} if name in p_values else {}  # the bound has looked ahead
        methods[name] = {**_levels(part), **place, "versus": versus}
    return {
        "n_assets": int(rows["n_assets"].iloc[0]),
        "n_dates": int(rows["date"].nunique()),
        "first": str(rows["date"].min().date()),
        "last": str(rows["date"].max().date()),
        "methods": methods,
        "without_portfolio": sorted(lacking),
    }


def _references(method: str, pipelines: Sequence[str]) -> Sequence[str]:
    return REFERENCES if method in pipelines else REFERENCES[:1]


def _levels(part: pd.DataFrame) -> dict[str, float]:
    """Volatilities are roots of 252 times a mean square; bias statistics as `_bias` says; time is that of processors.

    All universes of a date are estimated together, so that the time of one is lower than if it came alone.
    """
    mean = part.drop(columns=[*CELL, "step", "date", "method"]).select_dtypes("number").mean()
    per_year = PERIODS_PER_YEAR / part["horizon"].iloc[0]
    window_volatility = np.sqrt(PERIODS_PER_YEAR * part["gmv_variance"]).mean()
    return {
        "annual_volatility_percent": 100 * math.sqrt(PERIODS_PER_YEAR * mean["gmv_variance"]),
        "mean_window_volatility_percent": 100 * float(window_volatility),
        "gross_leverage": mean["gmv_gross"],
        "effective_names": mean["gmv_names"],
        "turnover_per_year": mean["turnover"] * per_year,
        "milliseconds_per_universe": float(part["milliseconds"].median()),
        "long_only_annual_volatility_percent": 100 * math.sqrt(PERIODS_PER_YEAR * mean["long_only_variance"]),
        "long_only_effective_names": mean["long_only_names"],
        "annual_tracking_error_percent": 100 * math.sqrt(PERIODS_PER_YEAR * mean["tracking_variance"]),
        "random_long_only_qlike": mean["random_long_only_qlike"],
        "random_long_short_qlike": mean["random_long_short_qlike"],
        **{
            key: value
            for name, column in BIASES.items()
            for key, value in zip((name, f"{name}_error"), _bias(part[column]).values(), strict=True)
        },
    }


def _bias(squares: pd.Series) -> dict[str, float]:
    """Root of the mean of realised / forecast variance, in order of dates; 1 is right. With its HAC standard error.

    It is the standard deviation about zero of daily returns over their forecast volatility, the latter held for a
    period: the bias statistic. Its error is that of the mean by the delta method.
    """
    value = math.sqrt(squares.mean())
    return {"value": value, "standard_error": newey_west_error(squares.to_numpy()) / (2 * value)}


def _against(part: pd.DataFrame, reference: pd.DataFrame, *, resamples: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for column, factor in DIFFERENCES.items():
        difference = part[column].to_numpy() - reference[column].to_numpy()
        figures[column.removesuffix("_log_variance")] = _difference(difference, factor)
    for kind in PORTFOLIOS:
        days = [
            [np.concatenate(rows[f"{kind}_{what}"].to_list()) for what in ("returns", "squares")]
            for rows in (part, reference)
        ]
        moments = moments_of(*days)
        figures[kind]["p"] = variance_test(moments).p_value
        if resamples and kind == "gmv":
            figures[kind]["bootstrap_p"] = bootstrap_variance_test(moments, resamples=resamples)
    return figures


def _difference(series: Any, factor: float) -> dict[str, float]:
    values = np.asarray(series)
    return {"difference": factor * float(values.mean()), "t": newey_west_t(values)}


def pool(rows: pd.DataFrame, pipelines: Sequence[str]) -> dict[str, Any]:
    """Differences over several cells and panels: one unit a step, in which first cells, then panels are averaged.

    Of each method against its references, `REFERENCES`.
    """
    one_over_n = rows[rows["method"] == MARKET].set_index([*CELL, "step"])
    market = _by_step(one_over_n[["gmv_log_variance"]])["gmv_log_variance"]
    wide = {column: rows.pivot(index=[*CELL, "step"], columns="method", values=column) for column in DIFFERENCES}
    answers: dict[str, Any] = {name: {} for name in rows["method"].unique()}
    for reference in REFERENCES:
        if reference not in answers:
            continue
        stepwise = {column: _by_step(table.sub(table[reference], axis=0)) for column, table in wide.items()}
        for method, versus in answers.items():
            steps = stepwise["gmv_log_variance"][method].dropna().index
            if method == reference or reference not in _references(method, pipelines) or steps.empty:
                continue
            versus[reference] = {
                column.removesuffix("_log_variance"): _difference(table.loc[steps, method], DIFFERENCES[column])
                for column, table in stepwise.items()
            }
            gmv = stepwise["gmv_log_variance"].loc[steps, method]
            versus[reference] |= {"gmv_splits": _splits(gmv, market), "n_steps": len(steps)}
    return answers


def pool_confidence(rows: pd.DataFrame) -> dict[str, float]:
    """p-values of the model confidence set over several cells and panels, a unit a step as in `pool`.

    Of the methods that have a minimum-variance portfolio at every date of every cell; the bound has looked ahead.
    """
    wide = rows.pivot(index=[*CELL, "step"], columns="method", values="gmv_log_variance")
    losses = _by_step(wide.dropna(axis=1).drop(columns=HINDSIGHT, errors="ignore"))
    return confidence_set({str(name): losses[name].to_numpy() for name in losses})


def pool_bias(rows: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Bias statistics, `BIASES`, of each method over several cells and panels, a unit a step as in `pool`."""
    wide = {name: _by_step(rows.pivot(index=[*CELL, "step"], columns="method", values=c)) for name, c in BIASES.items()}
    methods = [method for method in rows["method"].unique() if wide["bias"][method].notna().any()]
    return {method: {name: _bias(table[method].dropna()) for name, table in wide.items()} for method in methods}


def grid_of(panels: dict[str, Any], method: str) -> dict[str, Any]:
    """Is a method better everywhere? Its minimum-variance differences in all cells, a table for each reference.

    Of `panels`, figures of `summarise_cell`; beside the table, how many cells there are, in how many of them the
    difference is negative, in how many with t <= -2, and the worst.
    """
    answers = {}
    for reference in REFERENCES:
        table: dict[str, dict[str, Any]] = {}
        for panel, cells in panels.items():
            for name, cell in cells.items():
                versus = cell["methods"].get(method, {}).get("versus", {})
                if reference in versus:
                    found = versus[reference]["gmv"]
                    table.setdefault(panel, {})[name] = {key: found[key] for key in ("difference", "t")}
        every = [{"panel": panel, "cell": name, **f} for panel, found in table.items() for name, f in found.items()]
        if every:
            answers[reference] = {
                "cells": len(every),
                "better": sum(found["difference"] < 0 for found in every),
                "better_with_t_below_minus_2": sum(found["t"] <= -2 and found["difference"] < 0 for found in every),
                "worst": max(every, key=lambda found: found["difference"]),
                "table": table,
            }
    return answers


def _splits(differences: pd.Series, market: pd.Series) -> dict[str, Any]:
    """By third of the steps, and by whether 1/N had a variance above its median.

    Not by a compared method's own variance: where its luck was bad it lies high, and whatever it is compared with wins.
    """
    level = market.reindex(differences.index)
    thirds = [differences.iloc[rows] for rows in np.array_split(np.arange(len(differences)), 3)]
    parts = dict(zip(("first_third", "second_third", "last_third"), thirds, strict=True))
    parts |= {"calm": differences[level <= level.median()], "turbulent": differences[level > level.median()]}
    factor = DIFFERENCES["gmv_log_variance"]
    return {name: _difference(values, factor) for name, values in parts.items() if len(values)}


def _by_step(table: pd.DataFrame) -> pd.DataFrame:
    """One row a step: the mean over panels of the mean over their cells; where a method is missing, without it."""
    return table.groupby(level=["step", "panel"]).mean().groupby(level="step").mean()


def summarise_designs(rows: pd.DataFrame) -> dict[str, Any]:
    """By design and shape, of each method: both PRIALs where they exist, and mean losses, with standard errors.

    `condition_error` is that of its absolute value. Each comes with what it is less that of `MULTI_TARGET` on the same
    draws: a positive difference of PRIALs is good, a positive difference of losses is not.
    """
    figures: dict[str, Any] = {}
    for (design, n_assets, n_obs), cell in rows.groupby(["design", "n_assets", "n_obs"], sort=False):
        table = {name: part.set_index("draw") for name, part in cell.groupby("method", sort=False)}
        methods = {}
        for name, part in table.items():
            if part["frobenius"].isna().any():
                continue  # the estimator does not exist here
            own: dict[str, Any] = {}
            other = table.get(MULTI_TARGET)
            for loss in PRIALS:
                worst, mine, best = (table[n][loss].to_numpy() for n in ("sample", name, ORACLE))
                if not np.isnan([worst, mine, best]).any():
                    difference = prial(worst, mine, best, other[loss].to_numpy()) if other is not None else None
                    own[f"prial_{loss}"] = _with_errors(prial(worst, mine, best), difference)
            for loss in ("gmv_ratio", "stein", "condition_error"):
                values = part[loss].abs().to_numpy()
                if not np.isnan(values).any():
                    less = _mean(values - other[loss].abs().to_numpy()) if other is not None else None
                    own[loss] = _with_errors(_mean(values), less)
            methods[name] = own
        figures.setdefault(str(design), {})[f"N={n_assets}, T={n_obs}"] = methods
    return figures


def prial_of(simulated: dict[str, Any], method: str) -> dict[str, Any]:
    """Does a method know when little shrinkage is right? Its PRIALs less those of `MULTI_TARGET` in one table a loss.

    Of `simulated`, figures of `summarise_designs`. By loss and design, beside the table: how many shapes there are, in
    how many the difference is not negative, in how many it is by more than two standard errors, and the worst.
    """
    answers: dict[str, Any] = {}
    for loss in PRIALS:
        for design, shapes in simulated.items():
            found = {shape: methods.get(method, {}).get(f"prial_{loss}", {}) for shape, methods in shapes.items()}
            table = {shape: row for shape, row in found.items() if "difference" in row}
            if table:
                rows = [{"shape": shape, **row} for shape, row in table.items()]
                answers.setdefault(loss, {})[design] = {
                    "shapes": len(rows),
                    "not_below": sum(row["difference"] >= 0 for row in rows),
                    "below_by_two_errors": sum(row["difference"] < -2 * row["difference_error"] for row in rows),
                    "worst": min(rows, key=lambda row: row["difference"]),
                    "table": table,
                }
    return answers


def _mean(values: Any) -> tuple[float, float]:
    """With its standard error over independent draws."""
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(values.mean()), error


def _with_errors(mean: tuple[float, float], difference: tuple[float, float] | None) -> dict[str, float]:
    figures = dict(zip(("mean", "standard_error"), mean, strict=True))
    if difference is not None:
        figures |= dict(zip(("difference", "difference_error"), difference, strict=True))
    return figures


def rounded(value: Any) -> Any:
    """Five significant digits; NaN, which JSON does not have, becomes None."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (float, np.floating)):
        return None if math.isnan(value) else float(f"{value:.5g}")
    return value
