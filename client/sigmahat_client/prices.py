# SPDX-License-Identifier: Apache-2.0
"""Prices to returns."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from sigmahat_client.intake.arrays import as_array, require
from sigmahat_client.intake.containers import is_a
from sigmahat_kernels.status import InvalidRequest


def returns_from_prices(prices: Any, kind: Literal["simple", "log"] = "simple") -> Any:
    """Turn prices into returns from each row to the next.

    Parameters
    ----------
    prices : DataFrame of pandas or array of shape (rows, assets)
        Adjusted for splits and dividends, oldest first; NaN = missing. A return that would bridge a missing price is
        missing: nothing is filled.
    kind : {"simple", "log"}
        p_t / p_(t-1) - 1, which is what is estimated from; or ln(p_t / p_(t-1)), which is not: a portfolio's log return
        is no weighted sum of its assets'.

    Returns
    -------
    DataFrame or float64 array of shape (rows - 1, assets)
        Named by the later of each two dates.

    Raises
    ------
    InvalidRequest
        If there are fewer than two rows, or a price is not positive; names the first such cell.

    >>> returns_from_prices(np.array([[100.0], [101.0], [99.99]])).round(4).tolist()
    [[0.01], [-0.01]]
    """
    require(kind in ("simple", "log"), f'kind must be "simple" or "log", got {kind!r}')
    is_frame = is_a(prices, "pandas", "DataFrame")
    values = prices.to_numpy(dtype=np.float64, na_value=np.nan) if is_frame else as_array("prices", prices)
    require(
        values.ndim == 2 and len(values) >= 2 and values.dtype.kind in "fiu",
        f"prices must be numbers of shape (2 rows or more, assets), got {values.dtype} of shape {values.shape}",
    )
    for row, column in np.argwhere(values <= 0)[:1].tolist():
        where = f"row {row}, column {column}"
        if is_frame:
            where = f"row {prices.index[row]}, asset {prices.columns[column]!r}"
        raise InvalidRequest(f"prices must be positive, got {values[row, column]:g} in {where}")
    ratios = values[1:] / values[:-1]
    returns = ratios - 1.0 if kind == "simple" else np.log(ratios)
    if not is_frame:
        return returns
    return type(prices)(returns, prices.index[1:], prices.columns)
