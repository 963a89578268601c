# SPDX-License-Identifier: Apache-2.0
"""Are these returns? The rules that every request passes in the kernels; the client asks them to say why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.backend import AnyArray, Array, array_namespace, to_numpy
from sigmahat_kernels.status import (
    LEVEL_AUTOCORRELATION,
    LOWEST_RETURN,
    MAX_ABS_RETURN,
    MAX_INTEREST,
    MAX_MEAN_ABS_RETURN,
    MAX_UNIVERSE_MEAN_ABS_RETURN,
    MIN_OBSERVATIONS,
    UNDATED_ROW_DAYS,
    Status,
)

_SMALLEST_RANGE = 1e-100
"""Returns closer together than this are constant: their squares underflow."""

_ROUNDING = 1e-6
"""A total loss may come as -1.0000001: float32 after a rescaling."""


_DAYS_PER_YEAR = 365.2425


class Judged(NamedTuple):
    """What the returns of each of `m` columns show, by themselves; on the host."""

    status: np.ndarray  # (m,) int32
    large: np.ndarray  # (m,) bool, above `MAX_UNIVERSE_MEAN_ABS_RETURN`


def mean_row_days(dates: np.ndarray | None) -> float:
    """Average days from row to row, of days of shape (T,), T >= 2; `UNDATED_ROW_DAYS` where there are none."""
    return UNDATED_ROW_DAYS if dates is None else float(dates[-1] - dates[0]) / (len(dates) - 1)


def mean_abs_limit(weekly: float, row_days: AnyArray) -> Any:
    """A limit on the mean absolute return of a week, for rows so many days apart: returns grow with the root of time.

    >>> [round(mean_abs_limit(0.3, days), 3) for days in (1.0, 7.0, 30.44)]
    [0.113, 0.3, 0.626]
    """
    return weekly * (row_days / 7.0) ** 0.5


def judge_columns(returns: Array, row_days: AnyArray = UNDATED_ROW_DAYS) -> Judged:
    """Look at the returns of each column of a window, (T, m); its rows are so many days apart, (m,) or all alike.

    In the order of the checks: infinite, too large for returns, below -1, too few returns, constant, levels.
    """
    xp = array_namespace(returns)
    lowest, highest = returns.min(axis=0), returns.max(axis=0)
    # As returns usually are, all there and all possible, two passes have shown everything but their mean.
    if xp is np and ((lowest >= LOWEST_RETURN) & (highest <= MAX_ABS_RETURN)).all():
        n_observed = xp.full(returns.shape[1], len(returns))
        infinite = xp.zeros((1, returns.shape[1]), bool)
        mean_abs = xp.abs(returns).sum(axis=0) / n_observed
    else:
        missing, infinite = xp.isnan(returns), xp.isinf(returns)
        n_observed = (~missing).sum(axis=0)
        lowest = xp.where(missing | infinite, np.inf, returns).min(axis=0)
        highest = xp.where(missing | infinite, -np.inf, returns).max(axis=0)
        mean_abs = _mean_abs(xp.where(missing | infinite, 0.0, returns), n_observed)

    status = xp.zeros(returns.shape[1], xp.int32)
    for code, bad in (  # later ones win, so the first check stands last
        (Status.LEVELS, _levels(returns, xp.isfinite(lowest) & ((lowest > 0) | (highest < 0)), row_days)),
        (Status.CONSTANT_ASSET, highest - lowest <= _SMALLEST_RANGE),
        (Status.SHORT_HISTORY, n_observed < MIN_OBSERVATIONS),
        (Status.IMPOSSIBLE_RETURN, lowest < LOWEST_RETURN - _ROUNDING),
        (
            Status.NOT_RETURNS,
            (highest > MAX_ABS_RETURN) | (mean_abs > mean_abs_limit(MAX_MEAN_ABS_RETURN, row_days)),
        ),
        (Status.NON_FINITE, infinite.any(axis=0)),
    ):
        status = xp.where(bad, int(code), status)
    large = mean_abs > mean_abs_limit(MAX_UNIVERSE_MEAN_ABS_RETURN, row_days)
    both = to_numpy(xp.stack([status, large.astype(xp.int32)]))  # at once: each copy waits for the device
    return Judged(both[0], both[1].astype(bool))


def universe_status(judged: Judged, places: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Status of every asset within its universe: percentages show where half of a universe moves too much.

    Parameters
    ----------
    judged : Judged
        Of m columns.
    places : integer array of shape (n, N)
        Where each universe's assets stand among the columns; anything where `held` is False.
    held : boolean array of shape (n, N)
        Where there is an asset.
    """
    codes = np.where(held, judged.status[places], int(Status.GOOD))
    large = held & judged.large[places] & np.isin(codes, (Status.GOOD, Status.IMPOSSIBLE_RETURN))
    # Of the assets that would remain, so that leaving out the others changes nothing.
    n_counted = (large | (held & (codes == Status.GOOD))).sum(axis=1)
    in_percent = 2 * large.sum(axis=1) >= np.maximum(n_counted, 1)
    return np.where(large & in_percent[:, None], int(Status.NOT_RETURNS), codes).astype(np.int32)


def column_status(returns: Array, row_days: float = UNDATED_ROW_DAYS) -> np.ndarray:
    """Status of each column of a window as an asset of the universe of all of them; shape (T, m) -> (m,) int32."""
    places = np.arange(returns.shape[1])[None]
    return universe_status(judge_columns(returns, row_days), places, np.ones_like(places, bool))[0]


def explain_column(
    column: np.ndarray, code: int, row_days: float, name_row: Callable[[int], str] = "row {}".format
) -> str:
    """Say what was found in one column, of shape (T,), with this status: rows, values, limits; "" of an unknown code.

    >>> explain_column(np.array([0.01, -9.99, 0.02]), Status.IMPOSSIBLE_RETURN, 1.0)
    '-9.99 in row 1; 1 of 3 rows'
    """
    n_rows, observed = len(column), column[~np.isnan(column)]

    def first_of(bad: np.ndarray) -> str:
        row = int(np.argmax(bad))
        return f"{column[row]:.6g} in {name_row(row)}; {bad.sum()} of {n_rows} rows"

    match code:
        case Status.NON_FINITE:
            return first_of(np.isinf(column))
        case Status.NOT_RETURNS if np.nanmax(column) > MAX_ABS_RETURN:
            return f"{first_of(column > MAX_ABS_RETURN)} above the limit {MAX_ABS_RETURN:g}"
        case Status.NOT_RETURNS:
            mean = float(_mean_abs(observed, np.array(len(observed))))
            own, half = (
                mean_abs_limit(weekly, row_days) for weekly in (MAX_MEAN_ABS_RETURN, MAX_UNIVERSE_MEAN_ABS_RETURN)
            )
            limit, whose = (own, "") if mean > own else (half, ", as of half of the universe")
            where = f"for rows {row_days:.3g} days apart{whose}; {len(observed)} of {n_rows} rows"
            return f"mean absolute value {mean:.3g}, above the limit {limit:.3g} {where}"
        case Status.IMPOSSIBLE_RETURN:
            return first_of(column < LOWEST_RETURN - _ROUNDING)
        case Status.SHORT_HISTORY | Status.CONSTANT_ASSET:
            return f"{len(observed)} of {n_rows} rows"
        case Status.LEVELS:
            found = float(_autocorrelation(_scaled(column[:, None])[0])[0])
            what = f"{observed.min():.4g} to {observed.max():.4g}, autocorrelation {found:.4f}"
            return f"{what}, above the limit {LEVEL_AUTOCORRELATION}; {len(observed)} of {n_rows} rows"
        case _:
            return ""


def _mean_abs(usable: Array, n_observed: Array) -> Array:
    """Mean absolute value over what can be a return: codes for missing, such as -999, say nothing of the unit."""
    xp = array_namespace(usable)
    impossible = usable < LOWEST_RETURN
    # Cut above the limit on single values, so that no sum overflows.
    magnitude = xp.where(impossible, 0.0, xp.minimum(xp.abs(usable), 2.0 * MAX_ABS_RETURN))
    return magnitude.sum(axis=0) / xp.maximum(n_observed - impossible.sum(axis=0), 1)


def _levels(returns: Array, one_sign: Array, row_days: AnyArray) -> Array:
    """Which columns hold levels; only those of one sign can."""
    xp = array_namespace(returns)
    result = xp.zeros(returns.shape[1], bool)
    if not bool(one_sign.any()):
        return result
    x, largest = _scaled(returns[:, one_sign])
    known = ~(xp.isnan(x[1:]) | xp.isnan(x[:-1]))
    stands_still = 2 * (known & (x[1:] == x[:-1])).sum(axis=0) > known.sum(axis=0)
    row_days = xp.broadcast_to(row_days, one_sign.shape)[one_sign]
    accrues = xp.abs(xp.nanmean(x, axis=0)) < MAX_INTEREST * row_days / _DAYS_PER_YEAR / largest
    result[one_sign] = (_autocorrelation(x) > LEVEL_AUTOCORRELATION) & ~(stands_still & accrues)
    return result


def _scaled(columns: Array) -> tuple[Array, Array]:
    """Columns divided by their largest value, so that no square underflows, and that; what is not finite is missing."""
    xp = array_namespace(columns)
    x = xp.where(xp.isfinite(columns), columns, xp.nan).astype(xp.float64)
    largest = xp.maximum(xp.nanmax(xp.abs(x), axis=0), 1e-300)
    return x / largest, largest


def _autocorrelation(x: Array) -> Array:
    """Lag-one autocorrelation about zero, over rows that follow each other.

    Returns scatter about zero, so theirs is small; a level hardly moves from row to row, whatever its size.
    """
    xp = array_namespace(x)
    both = ~(xp.isnan(x[1:]) | xp.isnan(x[:-1]))
    earlier, later = xp.where(both, x[:-1], 0.0), xp.where(both, x[1:], 0.0)
    norms = xp.sqrt((earlier**2).sum(axis=0) * (later**2).sum(axis=0))
    return (earlier * later).sum(axis=0) / xp.maximum(norms, 1e-300)
