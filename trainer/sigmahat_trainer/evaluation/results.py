# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, as types: what makes figures fills them; tables, pictures and files read them.

A file is `to_json` of these types and nothing else, so that `from_json` reads it back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

SIGNIFICANT_DIGITS = 5
LINE = 500
"""Characters that a line of a file of figures may have: a method of a cell, in most cases."""

REFERENCES = ("qis_correlation", "learned_constants", "tilted_constants", "rienet")
REFERENCE = REFERENCES[0]
"""The first is what every method is compared with, all are what a pipeline is, as far as they were evaluated."""

SHOWN = (
    "ledoit_wolf_identity",
    "ledoit_wolf_single_factor",
    "multi_target_ledoit_wolf",
    "qis",
    "rie",
    "dcc_nl",
    "average_oracle",
    "learned_constants",
    "rienet",
    "hindsight_constants",
    "tilted_constants",
)
"""Baselines that have room in a picture."""

TABULATED = ("sample", *REFERENCES, *SHOWN)
"""Baselines whose figures in every cell and shape are kept with the source: those of pictures and of tables."""


CRASH = ("2020-02-15", "2020-05-31")
"""Days, the last one included, in which no forecast of risk was right; it is judged with them and without them."""


# ---------------------------------------------------------------------------------------------- on panels of returns


class Difference(NamedTuple):
    """A method less a reference, over dates."""

    difference: float  # of ln volatility in percent, or of QLIKE; below zero: the method is better
    t: float  # HAC
    p: float | None = None  # of equal variances of the daily returns
    bootstrap_p: float | None = None  # the same by a block bootstrap


class Differences(NamedTuple):
    """A method less a reference, by what the two are used for."""

    gmv: Difference  # unconstrained minimum-variance portfolio
    long_only: Difference
    tracking: Difference
    random_long_only_qlike: Difference | None = None
    random_long_short_qlike: Difference | None = None
    equal_weight_qlike: Difference | None = None
    negative_log_likelihood: Difference | None = None  # nats an asset and period


class WithError(NamedTuple):
    """A figure and its standard error."""

    value: float
    standard_error: float | None = None


class Biases(NamedTuple):
    """Bias statistics, realised over forecast volatility, of portfolios: 1 is right."""

    gmv: WithError
    long_only: WithError
    tracking: WithError
    random_long_only: WithError
    random_long_short: WithError
    equal_weight: WithError | None = None


class Levels(NamedTuple):
    """What a method's portfolios were like; volatilities in percent a year."""

    mean_window_volatility_percent: float
    gross_leverage: float
    effective_names: float
    turnover_per_year: float
    milliseconds_per_universe: float  # of processors; all universes of a date are estimated together
    long_only_annual_volatility_percent: float
    long_only_effective_names: float
    annual_tracking_error_percent: float
    random_long_only_qlike: float
    random_long_short_qlike: float
    equal_weight_qlike: float | None = None
    largest_weight: float | None = None  # absolute, of the minimum-variance portfolio
    log10_condition: float | None = None


class MethodFigures(NamedTuple):
    """One method in one cell."""

    annual_volatility_percent: float  # of its minimum-variance portfolio
    bias: Biases
    versus: dict[str, Differences]  # reference -> this method less it
    confidence_set_p: float | None = None  # None: takes no part in the contest
    levels: Levels | None = None


class CellFigures(NamedTuple):
    """One panel and shape; a method without a portfolio at some date has no figures."""

    n_assets: int
    n_obs: int
    horizon: int
    n_dates: int
    first: str  # ISO date
    last: str
    methods: dict[str, MethodFigures]
    without_portfolio: list[str]


class CellDifference(NamedTuple):
    """Of minimum-variance portfolios, in one cell."""

    panel: str
    n_assets: int
    n_obs: int
    horizon: int
    difference: float
    t: float


class EveryCell(NamedTuple):
    """Is a method better than a reference everywhere?"""

    cells: int
    better: int
    better_with_t_below_minus_2: int
    worst: CellDifference
    table: list[CellDifference]


class Splits(NamedTuple):
    """A difference by third of the time, and by whether 1/N had a variance above its median; None: no such dates."""

    first_third: Difference | None = None
    second_third: Difference | None = None
    last_third: Difference | None = None
    calm: Difference | None = None
    turbulent: Difference | None = None


class Pooled(NamedTuple):
    """A method less a reference over several cells and panels, one unit a step."""

    differences: Differences
    n_steps: int
    gmv_splits: Splits | None = None


# ------------------------------------------------------------------------------------------------- auxiliary answers


class ConditionCalibration(NamedTuple):
    """Error of the log10 condition number, and the spread of what was to be said."""

    root_mean_square_error: float
    mean_error: float
    standard_deviation_of_truth: float


class ErrorCalibration(NamedTuple):
    """Expected against realised error of the portfolio's forecast."""

    spearman: float
    r_squared: float
    decile_gap: float
    mean_error: float


class UncertaintyCalibration(NamedTuple):
    """Coverage of Gaussian intervals, and likelihood against the best constant in hindsight."""

    coverage_50: float
    coverage_90: float
    negative_log_likelihood: float
    negative_log_likelihood_of_constant: float
    t: float


class RegimeCalibration(NamedTuple):
    """Scores of the regime probabilities, against the base rates of these very rows."""

    log_score: float
    log_score_of_base_rates: float
    brier: float
    brier_of_base_rates: float
    t: float


class ConfidenceCalibration(NamedTuple):
    """Score of a confidence, and what dropping its lowest decile does to the loss of its target."""

    log_score: float
    log_score_of_base_rate: float
    loss: float
    loss_without_lowest_decile: float


class Calibration(NamedTuple):
    """All auxiliary answers of one pipeline."""

    n_universes: int
    condition: ConditionCalibration
    expected_error: ErrorCalibration
    uncertainty: UncertaintyCalibration
    regime: RegimeCalibration
    confidence: dict[str, ConfidenceCalibration]  # by target


# -------------------------------------------------------------------------------------------- where the truth is known


class Compared(NamedTuple):
    """A mean over draws, and what it is less that of multi-target Ledoit-Wolf on the same draws."""

    mean: float
    standard_error: float
    difference: float | None = None
    difference_error: float | None = None


class DesignLosses(NamedTuple):
    """One method on one design and shape; None where the loss does not exist."""

    prial_frobenius: Compared | None = None
    prial_minimum_variance: Compared | None = None
    gmv_ratio: Compared | None = None
    stein: Compared | None = None
    condition_error: Compared | None = None


class ShapeFigures(NamedTuple):
    """One shape of a design."""

    n_assets: int
    n_obs: int
    methods: dict[str, DesignLosses]


class ShapeDifference(NamedTuple):
    """PRIAL less that of multi-target Ledoit-Wolf, at one shape."""

    n_assets: int
    n_obs: int
    difference: float
    difference_error: float


class EveryShape(NamedTuple):
    """Does a method know when little shrinkage is right?"""

    shapes: int
    not_below: int
    below_by_two_errors: int
    worst: ShapeDifference
    table: list[ShapeDifference]


class Figures(NamedTuple):
    """All figures of an evaluation; `all` is a scope beside the panels, and means all of them together."""

    panels: dict[str, list[CellFigures]]
    every_cell: dict[str, dict[str, EveryCell]]  # pipeline -> reference
    pooled: dict[str, dict[str, dict[str, Pooled]]]  # scope -> method -> reference
    confidence_set: dict[str, dict[str, float]]  # scope -> method: p-value
    bias: dict[str, dict[str, Biases]]  # scope -> method
    heads: dict[str, dict[str, Calibration]]  # pipeline -> scope
    simulated: dict[str, list[ShapeFigures]]  # by design
    every_shape: dict[str, dict[str, dict[str, EveryShape]]]  # method -> loss -> design
    against_all: dict[str, dict[str, Pooled]] | None = None  # pipeline -> any other method: over all panels
    bias_outside_crash: dict[str, dict[str, Biases]] | None = (
        None  # as `bias`, without holding periods that touch `CRASH`
    )


def cell_name(cell: CellFigures | CellDifference) -> str:
    """N, T and H of a cell.

    >>> cell_name(CellDifference("north", 100, 252, 21, difference=-1.0, t=-2.0))
    'N=100, T=252, H=21'
    """
    return f"{shape_name(cell)}, H={cell.horizon}"


def shape_name(shape: CellFigures | CellDifference | ShapeFigures | ShapeDifference) -> str:
    """N and T of a shape."""
    return f"N={shape.n_assets}, T={shape.n_obs}"


def headline(figures: Figures, pipelines: Sequence[str]) -> Figures:
    """The part that tables, pictures and texts read, small enough to be kept with the source.

    Pipelines are kept whole. Of baselines there are, in each cell, the `TABULATED` ones without errors and p-values;
    of designs the PRIAL that is drawn; differences that are pooled over cells are there for all of them, pooled bias
    statistics for `REFERENCES`.
    """

    def in_cell(name: str, found: MethodFigures) -> MethodFigures:
        if name in pipelines:
            return found
        bias = Biases(*(WithError(bias.value) for bias in found.bias if bias is not None))
        versus = {
            reference: Differences(*(Difference(d.difference, d.t) for d in (of.gmv, of.long_only, of.tracking)))
            for reference, of in found.versus.items()
        }
        return MethodFigures(found.annual_volatility_percent, bias, versus)

    def pooled(name: str, found: Pooled) -> Pooled:
        return found if name in pipelines else found._replace(gmv_splits=None)

    def of_references(biases: dict[str, dict[str, Biases]]) -> dict[str, dict[str, Biases]]:
        return {
            scope: {name: of for name, of in methods.items() if name in (*pipelines, *REFERENCES)}
            for scope, methods in biases.items()
        }

    kept = {*pipelines, *TABULATED}
    return figures._replace(
        panels={
            panel: [
                cell._replace(methods={name: in_cell(name, of) for name, of in cell.methods.items() if name in kept})
                for cell in cells
            ]
            for panel, cells in figures.panels.items()
        },
        pooled={
            scope: {name: {reference: pooled(name, p) for reference, p in of.items()} for name, of in methods.items()}
            for scope, methods in figures.pooled.items()
        },
        bias=of_references(figures.bias),
        simulated={
            design: [
                shape._replace(
                    methods={n: DesignLosses(of.prial_frobenius) for n, of in shape.methods.items() if n in kept}
                )
                for shape in shapes
            ]
            for design, shapes in figures.simulated.items()
        },
        every_shape={name: figures.every_shape[name] for name in pipelines if name in figures.every_shape},
        bias_outside_crash=of_references(figures.bias_outside_crash or {}),
    )


# -------------------------------------------------------------------------------------------------------------- files


def to_json(value: Any) -> Any:
    """Dicts, lists and numbers of five significant digits; what is None is left out, and NaN becomes null.

    >>> to_json({"a": WithError(1.23456789, float("nan")), "b": [Difference(-1.0, 2.0)]})
    {'a': {'value': 1.2346, 'standard_error': None}, 'b': [{'difference': -1.0, 't': 2.0}]}
    """
    if hasattr(value, "_asdict"):
        return {name: to_json(item) for name, item in value._asdict().items() if item is not None}
    if isinstance(value, dict):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return value


def from_json(kind: Any, value: Any) -> Any:
    """The value of a type of this module, or of a dict, list or optional of such, from what `to_json` made of it.

    >>> from_json(WithError, {"value": 1.5, "standard_error": None})
    WithError(value=1.5, standard_error=nan)

    Raises
    ------
    TypeError
        If a field is unknown or missing.
    """
    if get_origin(kind) is UnionType:  # of a type and None
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
        # A field that is None is not written, so the null of a number is NaN here too.
        return None if value is None and kind is not float else from_json(kind, value)
    if kind is float:
        return math.nan if value is None else float(value)
    if get_origin(kind) is dict:
        return {name: from_json(get_args(kind)[1], item) for name, item in value.items()}
    if get_origin(kind) is list:
        return [from_json(get_args(kind)[0], item) for item in value]
    if hasattr(kind, "_fields"):
        kinds = get_type_hints(kind)
        return kind(**{name: from_json(kinds.get(name), item) for name, item in value.items()})
    return value


def read_figures(path: Path) -> Figures:
    """The figures of a file that `sigmahat evaluate` wrote.

    Raises
    ------
    ValueError
        If the file has none, or others than these types know.
    """
    content = json.loads(path.read_text())
    if "figures" not in content:
        raise ValueError(f"{path} has no figures: did the evaluation end before them? sigmahat figures {path.parent}")
    try:
        figures: Figures = from_json(Figures, content["figures"])
    except TypeError as error:
        raise ValueError(f"{path} is no file of figures of this version: {error}") from error
    return figures


def in_few_lines(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits into a line stands in one; a change of a figure is then a change of its line."""
    flat = json.dumps(value)
    if len(flat) + indent <= LINE or not value or not isinstance(value, dict | list):
        return flat
    if isinstance(value, dict):
        opening, closing = "{}"
        items = [f"{json.dumps(name)}: {in_few_lines(item, indent + 1)}" for name, item in value.items()]
    else:
        opening, closing = "[]"
        items = [in_few_lines(item, indent + 1) for item in value]
    inner = ",\n".join(" " * (indent + 1) + item for item in items)
    return f"{opening}\n{inner}\n{' ' * indent}{closing}"
