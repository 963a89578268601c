# SPDX-License-Identifier: Apache-2.0
"""Patterns of missing and stale returns."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.panel import Window

MISSING = {
    "missing_share": "share of missing returns in the window; [0, 1)",
    "short_history_share": "share of assets with less than 90 % of the window's returns; [0, 1]",
    "recent_missing_share": "share of missing returns in the window's last 21 rows; [0, 1]",
    "zero_share": "share of the window's cells that hold a return of exactly zero; [0, 1)",
}
"""Feature name -> definition."""

_SHORT_HISTORY = 0.9
_RECENT = 21


def asset_averages(window: Window) -> dict[str, Array]:
    """The features listed in `MISSING`, all averages over assets: name -> one value a column, (m,)."""
    n_rows = window.n_rows
    xp = array_namespace(window.returns)
    zero = (window.returns == 0).astype(window.returns.dtype)
    window.mask(zero)
    return {
        "missing_share": 1.0 - window.n_observed / n_rows,
        "short_history_share": 1.0 * (window.n_observed < _SHORT_HISTORY * n_rows),
        "recent_missing_share": 1.0 - window.observed[-_RECENT:].sum(axis=0) / xp.minimum(n_rows, _RECENT),
        "zero_share": zero.sum(axis=0) / n_rows,
    }
