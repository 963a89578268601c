# SPDX-License-Identifier: Apache-2.0
"""Are these returns? The rules that every request passes in the kernels; the client asks them to say why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.status import (
    LEVEL_AUTOCORRELATION,
    LOWEST_RETURN,
    MAX_ABS_RETURN,
    MAX_MEAN_ABS_RETURN,
    MIN_OBSERVATIONS,
    UNDATED_ROW_DAYS,
    Status,
)

_SMALLEST_RANGE = 1e-100
"""Returns closer together than this are constant: their squares underflow."""

_ROUNDING = 1e-6
"""A total loss may come as -1.0000001: float32 after a rescaling."""


def mean_row_days(dates: np.ndarray | None) -> float:
    """Average days from row to row, of days of shape (T,), T >= 2; `UNDATED_ROW_DAYS` where there are none."""
    return UNDATED_ROW_DAYS if dates is None else float(dates[-1] - dates[0]) / (len(dates) - 1)


def mean_abs_limit(row_days: float) -> float:
    """Largest mean absolute return of rows so many days apart: returns grow with the root of time.

    >>> round(mean_abs_limit(1.0), 3), round(mean_abs_limit(7.0), 3), round(mean_abs_limit(30.44), 3)
    (0.113, 0.3, 0.626)
    """
    return float(MAX_MEAN_ABS_RETURN * np.sqrt(row_days / UNDATED_ROW_DAYS))


def column_status(returns: Array, row_days: float = UNDATED_ROW_DAYS) -> Array:
    """Status code of each column of a window, looking at its returns; shape (T, m) -> (m,) int32.

    In the order of the checks: infinite, too large for returns, below -1, too few returns, constant, levels.
    """
    xp = array_namespace(returns)
    missing = xp.isnan(returns)
    infinite = xp.isinf(returns)
    usable = xp.where(missing | infinite, 0.0, returns)
    n_observed = (~missing).sum(axis=0)
    lowest = xp.where(missing | infinite, np.inf, returns).min(axis=0)
    highest = xp.where(missing | infinite, -np.inf, returns).max(axis=0)

    status = xp.zeros(returns.shape[1], xp.int32)
    for code, bad in (  # later ones win, so the first check stands last
        (Status.LEVELS, _autocorrelation(returns, (lowest > 0) | (highest < 0)) > LEVEL_AUTOCORRELATION),
        (Status.CONSTANT_ASSET, highest - lowest <= _SMALLEST_RANGE),
        (Status.SHORT_HISTORY, n_observed < MIN_OBSERVATIONS),
        (Status.IMPOSSIBLE_RETURN, lowest < LOWEST_RETURN - _ROUNDING),
        (Status.NOT_RETURNS, (highest > MAX_ABS_RETURN) | (_mean_abs(usable, n_observed) > mean_abs_limit(row_days))),
        (Status.NON_FINITE, infinite.any(axis=0)),
    ):
        status = xp.where(bad, int(code), status)
    return status


def explain_column(
    column: np.ndarray, code: int, row_days: float, name_row: Callable[[int], str] = "row {}".format
) -> str:
    """Say what `column_status` found in one column, of shape (T,): rows, values, limits; "" of an unknown code.

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
            mean = float(_mean_abs(observed, len(observed)))
            limit = f"the limit {mean_abs_limit(row_days):.3g} for rows {row_days:.3g} days apart"
            return f"mean absolute value {mean:.3g}, above {limit}; {len(observed)} of {n_rows} rows"
        case Status.IMPOSSIBLE_RETURN:
            return first_of(column < LOWEST_RETURN - _ROUNDING)
        case Status.SHORT_HISTORY | Status.CONSTANT_ASSET:
            return f"{len(observed)} of {n_rows} rows"
        case Status.LEVELS:
            found = float(_autocorrelation(column[:, None], np.array([True]))[0])
            limit = f"autocorrelation {found:.4f}, above the limit {LEVEL_AUTOCORRELATION}"
            return f"{observed.min():.4g} to {observed.max():.4g}, {limit}; {len(observed)} of {n_rows} rows"
        case _:
            return ""


def _mean_abs(usable: Array, n_observed: Array) -> Array:
    """Mean absolute value over what can be a return: codes for missing, such as -999, say nothing of the unit."""
    xp = array_namespace(usable)
    impossible = usable < LOWEST_RETURN
    # Cut above the limit on single values, so that no sum overflows.
    magnitude = xp.where(impossible, 0.0, xp.minimum(xp.abs(usable), 2.0 * MAX_ABS_RETURN))
    return magnitude.sum(axis=0) / xp.maximum(n_observed - impossible.sum(axis=0), 1)


def _autocorrelation(returns: Array, columns: Array) -> Array:
    """Lag-one autocorrelation about zero of the given columns, 0 in the others; over rows that follow each other.

    Returns scatter about zero, so theirs is small; a level hardly moves from row to row, whatever its size.
    """
    xp = array_namespace(returns)
    result = xp.zeros(returns.shape[1])
    if not bool(columns.any()):
        return result
    x = xp.where(xp.isfinite(returns[:, columns]), returns[:, columns], 0.0).astype(xp.float64)
    x /= xp.maximum(xp.abs(x).max(axis=0), 1e-300)  # whatever its size: no square underflows
    both = (x[1:] != 0) & (x[:-1] != 0)
    earlier, later = xp.where(both, x[:-1], 0.0), xp.where(both, x[1:], 0.0)
    norms = xp.sqrt((earlier**2).sum(axis=0) * (later**2).sum(axis=0))
    result[columns] = (earlier * later).sum(axis=0) / xp.maximum(norms, 1e-300)
    return result
