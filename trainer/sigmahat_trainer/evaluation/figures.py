# SPDX-License-Identifier: Apache-2.0
"""From rows to figures: volatilities, differences with their significance, calibration, efficiency on simulations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sigmahat_trainer.data.panels import PERIODS_PER_YEAR
from sigmahat_trainer.evaluation.calibration import calibrate
from sigmahat_trainer.evaluation.designs import ORACLE, prial
from sigmahat_trainer.evaluation.methods import HINDSIGHT
from sigmahat_trainer.evaluation.results import (
    CRASH,
    REFERENCES,
    Biases,
    CellDifference,
    CellFigures,
    Compared,
    DesignLosses,
    Difference,
    Differences,
    EveryCell,
    EveryShape,
    Figures,
    Levels,
    MethodFigures,
    Pooled,
    ShapeDifference,
    ShapeFigures,
    Splits,
    WithError,
)
from sigmahat_trainer.evaluation.scores import PORTFOLIOS
from sigmahat_trainer.evaluation.significance import (
    bootstrap_variance_test,
    confidence_set,
    moments_of,
    newey_west_error,
    newey_west_t,
    variance_test,
)

Table = TypeVar("Table", pd.DataFrame, pd.Series)

ONE_OVER_N = "equal_weight"
"""The method whose minimum-variance portfolio is 1/N: how turbulent a time was."""

MULTI_TARGET = "multi_target_ledoit_wolf"
"""What every method is compared with where the truth is known: the closed form that has the same targets."""

VOLATILITY_PERCENT = 50.0
"""Turns a difference of ln variances into one of ln volatilities, in percent."""

COMPARED = {
    # field of Differences -> (column, factor that turns a mean difference into what is reported)
    "gmv": ("gmv_log_variance", VOLATILITY_PERCENT),
    "long_only": ("long_only_log_variance", VOLATILITY_PERCENT),
    "tracking": ("tracking_log_variance", VOLATILITY_PERCENT),
    "random_long_only_qlike": ("random_long_only_qlike", 1.0),
    "random_long_short_qlike": ("random_long_short_qlike", 1.0),
    "equal_weight_qlike": ("equal_weight_qlike", 1.0),
    "negative_log_likelihood": ("negative_log_likelihood", 1.0),
}
SQUARES = {name: f"{name}_square" for name in Biases._fields}
"""Field of Biases -> column of squares whose mean it is the root of."""

PRIALS = ("frobenius", "minimum_variance")
CELL = ["panel", "n_assets", "n_obs", "horizon"]


def make_figures(
    scores: pd.DataFrame, heads: pd.DataFrame, simulated: pd.DataFrame, *, resamples: int = 4_999
) -> Figures:
    """All figures of an evaluation; see the functions that make them, and `calibration.calibrate`.

    `resamples` is for the bootstrap p-values, which are given for pipelines alone; 0 leaves them out.
    """
    pipelines = [] if heads.empty else [str(name) for name in heads["method"].unique()]
    panels: dict[str, list[CellFigures]] = {}
    for (panel, *_), rows in scores.groupby(CELL, sort=True) if not scores.empty else []:
        panels.setdefault(str(panel), []).append(cell_figures(rows, pipelines, resamples=resamples))
    scopes = {} if scores.empty else {"all": scores, **_by(scores, "panel")}
    calibrations = {
        method: {"all": calibrate(rows), **{panel: calibrate(part) for panel, part in _by(rows, "panel").items()}}
        for method, rows in (_by(heads, "method") if pipelines else {}).items()
    }
    designs = {} if simulated.empty else design_figures(simulated)
    return Figures(
        panels=panels,
        every_cell={name: every_cell(panels, name) for name in pipelines if panels},
        pooled={scope: pool(rows, pipelines) for scope, rows in scopes.items()},
        confidence_set={scope: pool_confidence(rows) for scope, rows in scopes.items()},
        bias={scope: pool_bias(rows) for scope, rows in scopes.items()},
        heads=calibrations,
        simulated=designs,
        every_shape={name: every_shape(designs, name) for name in (*pipelines, *REFERENCES) if designs},
        against_all={name: pool_against_all(scores, name) for name in pipelines if scopes},
        bias_outside_crash={scope: pool_bias(outside_crash(rows)) for scope, rows in scopes.items()},
    )


# ------------------------------------------------------------------------------------------------------ of one cell


def cell_figures(rows: pd.DataFrame, pipelines: Sequence[str], *, resamples: int) -> CellFigures:
    """Figures of one panel and cell; methods without a portfolio at some date are named, and have no figures."""
    lacking = {str(name) for name in rows.loc[rows["gmv_log_variance"].isna(), "method"]}
    table = {name: part for name, part in _by(rows, "method").items() if name not in lacking}
    losses = {name: part["gmv_log_variance"].to_numpy() for name, part in table.items()}
    p_values = confidence_set({name: values for name, values in losses.items() if name != HINDSIGHT})
    methods = {}
    for name in (str(name) for name in rows["method"].unique() if name not in lacking):
        part = table[name]
        versus = {
            reference: _against(part, table[reference], resamples=resamples if name in pipelines else 0)
            for reference in _references(name, pipelines)
            if reference in table
        }
        methods[name] = MethodFigures(
            annual_volatility_percent=_volatility(part["gmv_variance"].mean()),
            bias=Biases(*(_bias(part[column]) for column in SQUARES.values())),
            versus=versus,
            confidence_set_p=p_values.get(name),  # the bound has looked ahead
            levels=_levels(part),
        )
    shape = {name: int(rows[name].iloc[0]) for name in ("n_assets", "n_obs", "horizon")}
    return CellFigures(
        **shape,
        n_dates=int(rows["date"].nunique()),
        first=str(rows["date"].min().date()),
        last=str(rows["date"].max().date()),
        methods=methods,
        without_portfolio=sorted(lacking),
    )


def _references(method: str, pipelines: Sequence[str]) -> Sequence[str]:
    return REFERENCES if method in pipelines else REFERENCES[:1]


def _volatility(variance: float) -> float:
    """Percent a year, of a mean square a period."""
    return 100 * math.sqrt(PERIODS_PER_YEAR * variance)


def _levels(part: pd.DataFrame) -> Levels:
    """All universes of a date are estimated together, so that the time of one is lower than if it came alone."""
    mean = part.drop(columns=[*CELL, "step", "date", "method"]).select_dtypes("number").mean()
    return Levels(
        mean_window_volatility_percent=100 * float(np.sqrt(PERIODS_PER_YEAR * part["gmv_variance"]).mean()),
        gross_leverage=mean["gmv_gross"],
        effective_names=mean["gmv_names"],
        turnover_per_year=mean["turnover"] * (PERIODS_PER_YEAR / part["horizon"].iloc[0]),
        milliseconds_per_universe=float(part["milliseconds"].median()),
        long_only_annual_volatility_percent=_volatility(mean["long_only_variance"]),
        long_only_effective_names=mean["long_only_names"],
        annual_tracking_error_percent=_volatility(mean["tracking_variance"]),
        random_long_only_qlike=mean["random_long_only_qlike"],
        random_long_short_qlike=mean["random_long_short_qlike"],
        equal_weight_qlike=mean["equal_weight_qlike"],
        largest_weight=mean["gmv_largest"],
        log10_condition=mean["log10_condition"],
    )


def _bias(squares: pd.Series) -> WithError:
    """Root of the mean of realised / forecast variance, in order of dates; 1 is right. With its HAC standard error.

    It is the standard deviation about zero of daily returns over their forecast volatility, the latter held for a
    period: the bias statistic. Its error is that of the mean by the delta method.
    """
    value = math.sqrt(squares.mean())
    return WithError(value, newey_west_error(squares.to_numpy()) / (2 * value))


def _against(part: pd.DataFrame, reference: pd.DataFrame, *, resamples: int) -> Differences:
    differences = _differences({c: part[c].to_numpy() - reference[c].to_numpy() for c, _ in COMPARED.values()})
    tested = {}
    for kind in PORTFOLIOS:
        days = [
            [np.concatenate(rows[f"{kind}_{what}"].to_list()) for what in ("returns", "squares")]
            for rows in (part, reference)
        ]
        moments = moments_of(*days)
        bootstrap = bootstrap_variance_test(moments, resamples=resamples) if resamples and kind == "gmv" else None
        found = getattr(differences, kind)
        tested[kind] = found._replace(p=variance_test(moments).p_value, bootstrap_p=bootstrap)
    return differences._replace(**tested)


def _differences(series: Mapping[str, Any]) -> Differences:
    """All that is compared, of a series of differences a column."""
    return Differences(**{kind: _difference(series[column], factor) for kind, (column, factor) in COMPARED.items()})


def _difference(series: Any, factor: float) -> Difference:
    values = np.asarray(series)
    return Difference(factor * float(values.mean()), newey_west_t(values))


def every_cell(panels: Mapping[str, Sequence[CellFigures]], method: str) -> dict[str, EveryCell]:
    """Is a method better everywhere? Its minimum-variance differences in all cells, for each reference."""
    answers = {}
    for reference in REFERENCES:
        table = [
            CellDifference(panel, cell.n_assets, cell.n_obs, cell.horizon, found.difference, found.t)
            for panel, cells in panels.items()
            for cell in cells
            if method in cell.methods and reference in cell.methods[method].versus
            for found in (cell.methods[method].versus[reference].gmv,)
        ]
        if table:
            answers[reference] = EveryCell(
                cells=len(table),
                better=sum(found.difference < 0 for found in table),
                better_with_t_below_minus_2=sum(found.t <= -2 and found.difference < 0 for found in table),
                worst=max(table, key=lambda found: found.difference),
                table=table,
            )
    return answers


# ------------------------------------------------------------------------------------- over several cells and panels


def pool(rows: pd.DataFrame, pipelines: Sequence[str]) -> dict[str, dict[str, Pooled]]:
    """Differences over several cells and panels: one unit a step, in which first cells, then panels are averaged.

    Of each method against its references, `REFERENCES`.
    """
    one_over_n = rows[rows["method"] == ONE_OVER_N].set_index([*CELL, "step"])
    market = _by_step(one_over_n[["gmv_log_variance"]])["gmv_log_variance"]
    wide = {column: _wide(rows, column) for column, _ in COMPARED.values()}
    answers: dict[str, dict[str, Pooled]] = {str(name): {} for name in rows["method"].unique()}
    for reference in REFERENCES:
        if reference not in answers:
            continue
        stepwise = {column: _by_step(table.sub(table[reference], axis=0)) for column, table in wide.items()}
        for method, versus in answers.items():
            gmv = stepwise["gmv_log_variance"][method].dropna()
            if method == reference or reference not in _references(method, pipelines) or gmv.empty:
                continue
            differences = _differences({column: table.loc[gmv.index, method] for column, table in stepwise.items()})
            versus[reference] = Pooled(differences, len(gmv), _splits(gmv, market))
    return answers


def pool_against_all(rows: pd.DataFrame, method: str) -> dict[str, Pooled]:
    """A method against each other one, as in `pool`, over the cells and steps at which that one has a portfolio."""
    wide = {column: _wide(rows, column) for column, _ in COMPARED.values()}
    answers = {}
    for other in (str(name) for name in rows["method"].unique() if name != method):
        series = {column: _by_step((table[method] - table[other]).dropna()) for column, table in wide.items()}
        if n_steps := len(series["gmv_log_variance"]):
            answers[other] = Pooled(_differences(series), n_steps)
    return answers


def outside_crash(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose holding period has no day in `results.CRASH`."""
    first, last = (pd.Timestamp(day) for day in CRASH)
    return rows[(rows["until"] < first) | (rows["date"] >= last)]


def pool_confidence(rows: pd.DataFrame) -> dict[str, float]:
    """p-values of the model confidence set over several cells and panels, a unit a step as in `pool`.

    Of the methods that have a minimum-variance portfolio at every date of every cell; the bound has looked ahead.
    """
    wide = _wide(rows, "gmv_log_variance")
    losses = _by_step(wide.dropna(axis=1).drop(columns=HINDSIGHT, errors="ignore"))
    return confidence_set({str(name): losses[name].to_numpy() for name in losses})


def pool_bias(rows: pd.DataFrame) -> dict[str, Biases]:
    """Bias statistics of each method over several cells and panels, a unit a step as in `pool`."""
    if rows.empty:
        return {}
    tables = [_by_step(_wide(rows, column)) for column in SQUARES.values()]
    methods = [str(method) for method in rows["method"].unique() if tables[0][method].notna().any()]
    return {method: Biases(*(_bias(table[method].dropna()) for table in tables)) for method in methods}


def _splits(differences: pd.Series, market: pd.Series) -> Splits:
    """By third of the steps, and by whether 1/N had a variance above its median.

    Not by a compared method's own variance: where its luck was bad it lies high, and whatever it is compared with wins.
    """
    level = market.reindex(differences.index)
    thirds = [differences.iloc[rows] for rows in np.array_split(np.arange(len(differences)), 3)]
    parts = [*thirds, differences[level <= level.median()], differences[level > level.median()]]
    return Splits(*(_difference(values, VOLATILITY_PERCENT) if len(values) else None for values in parts))


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row a cell and step, a column a method."""
    return rows.pivot(index=[*CELL, "step"], columns="method", values=column)


def _by_step(table: Table) -> Table:
    """One row a step: the mean over panels of the mean over their cells; where a method is missing, without it."""
    return table.groupby(level=["step", "panel"]).mean().groupby(level="step").mean()


def _by(rows: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    return {str(name): part for name, part in rows.groupby(column)}


# -------------------------------------------------------------------------------------------- where the truth is known


def design_figures(rows: pd.DataFrame) -> dict[str, list[ShapeFigures]]:
    """By design and shape, of each method: both PRIALs where they exist, and mean losses, with standard errors.

    `condition_error` is that of its absolute value. Each comes with what it is less that of `MULTI_TARGET` on the same
    draws: a positive difference of PRIALs is good, a positive difference of losses is not.
    """
    figures: dict[str, list[ShapeFigures]] = {}
    for (design, *_), cell in rows.groupby(["design", "n_assets", "n_obs"], sort=False):
        shape = int(cell["n_assets"].iloc[0]), int(cell["n_obs"].iloc[0])
        if cell["draw"].nunique() < 2:
            raise ValueError(f"{design} {shape} has one draw: a standard error needs two at least")
        table = {str(name): part.set_index("draw") for name, part in cell.groupby("method", sort=False)}
        methods = {
            name: _design_losses(part, table)
            for name, part in table.items()
            if not part["frobenius"].isna().any()  # the estimator exists here
        }
        figures.setdefault(str(design), []).append(ShapeFigures(*shape, methods))
    return figures


def _design_losses(part: pd.DataFrame, table: Mapping[str, pd.DataFrame]) -> DesignLosses:
    other = table.get(MULTI_TARGET)
    losses = {}
    for loss in PRIALS:
        worst, mine, best = (one[loss].to_numpy() for one in (table["sample"], part, table[ORACLE]))
        if not np.isnan([worst, mine, best]).any():
            difference = prial(worst, mine, best, other[loss].to_numpy()) if other is not None else ()
            losses[f"prial_{loss}"] = Compared(*prial(worst, mine, best), *difference)
    for loss in ("gmv_ratio", "stein", "condition_error"):
        values = part[loss].abs().to_numpy()
        if not np.isnan(values).any():
            less = _mean(values - other[loss].abs().to_numpy()) if other is not None else ()
            losses[loss] = Compared(*_mean(values), *less)
    return DesignLosses(**losses)


def every_shape(simulated: Mapping[str, Sequence[ShapeFigures]], method: str) -> dict[str, dict[str, EveryShape]]:
    """Does a method know when little shrinkage is right? Its PRIALs less those of `MULTI_TARGET`, by loss and design.

    Beside the table: how many shapes there are, in how many the difference is not negative, in how many it is by more
    than two standard errors, and the worst.
    """
    answers: dict[str, dict[str, EveryShape]] = {}
    for loss in PRIALS:
        for design, shapes in simulated.items():
            found = [(shape, getattr(shape.methods.get(method), f"prial_{loss}", None)) for shape in shapes]
            table = [
                ShapeDifference(shape.n_assets, shape.n_obs, prial.difference, prial.difference_error)
                for shape, prial in found
                if prial is not None and prial.difference is not None
            ]
            if table:
                answers.setdefault(loss, {})[design] = EveryShape(
                    shapes=len(table),
                    not_below=sum(row.difference >= 0 for row in table),
                    below_by_two_errors=sum(row.difference < -2 * row.difference_error for row in table),
                    worst=min(table, key=lambda row: row.difference),
                    table=table,
                )
    return answers


def _mean(values: Any) -> tuple[float, float]:
    """With its standard error over independent draws."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
