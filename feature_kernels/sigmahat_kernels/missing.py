# SPDX-License-Identifier: Apache-2.0
"""Patterns of missing and stale returns."""

from __future__ import annotations

from sigmahat_kernels.backend import Array
from sigmahat_kernels.panel import Window

MISSING = {
    "missing_share": "share of missing returns in the window; [0, 1)",
    "short_history_share": "share of assets with less than 90 % of the window's returns; [0, 1]",
    "zero_share": "share of the window's cells that hold a return of exactly zero; [0, 1)",
}
"""Feature name -> definition."""

_SHORT_HISTORY = 0.9


def missing_features(window: Window, membership: Array) -> dict[str, Array]:
    """The features listed in `MISSING`, each of shape (n,); `membership` (m, n) is 1.0 where a universe holds one."""
    n_assets = membership.sum(axis=0)
    n_obs = len(window.returns)
    zeros = ((window.returns == 0) * window.observed).sum(axis=0)
    statistics = {
        "missing_share": 1.0 - window.n_observed / n_obs,
        "short_history_share": 1.0 * (window.n_observed < _SHORT_HISTORY * n_obs),
        "zero_share": zeros / n_obs,
    }
    return {name: statistic @ membership / n_assets for name, statistic in statistics.items()}
