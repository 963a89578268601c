# SPDX-License-Identifier: Apache-2.0
"""How a universe moves through time: trend, memory, stability of correlations, season."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.panel import FAST_HALFLIFE, TINY, Window
from sigmahat_kernels.regime import RECENT, SeriesMoments, lagged

TEMPORAL = {
    "trend": "t-statistic of the market's mean return: mean / (volatility / sqrt T)",
    "trend_63": "mean of the last 63 rows over the window's volatility, times sqrt min(T, 63)",
    "market_autocorrelation": "first-order autocorrelation of the market; [-1, 1]",
    "volatility_clustering": "first-order autocorrelation of the absolute value of the market less its mean; [-1, 1]",
    "squared_autocorrelation": "average over assets of the first-order autocorrelation of the squared standardised "
    "returns, cut at 3; a missing one counts as the average; [-1, 1]",
    "mean_correlation_fast": f"average correlation of rows weighted with half-life {FAST_HALFLIFE:g}, less that of the "
    "window: N/(N-1) times the change of the share of variance that the equal-weighted mode absorbs (Kritzman, Li, "
    "Page, Rigobon 2011)",
    "mean_correlation_change": "average correlation of the window's second half, less that of its first",
}
"""Feature name -> definition."""

SEASON = {
    "has_dates": "1 if DATES was sent",
    "season_sin": "sin(2 pi d / 365.2425), d = DATES of the window's last row; 0 without DATES",
    "season_cos": "cos of the same",
}
"""Feature name -> definition."""

_DAYS_PER_YEAR = 365.2425


def asset_averages(window: Window) -> dict[str, Array]:
    """Those features of `TEMPORAL` that are averages over assets: name -> one value a column, (m,)."""
    squares = window.standardised**2
    squares -= squares.sum(axis=0) / window.n_observed
    window.mask(squares)
    return {"squared_autocorrelation": lagged(squares)}


def temporal_features(moments: SeriesMoments, n_assets: Array, n_obs: Array) -> dict[str, Array]:
    """Those features of `TEMPORAL` that are statistics of the universe's series, each of shape (n,).

    Parameters
    ----------
    moments : SeriesMoments
        Of n universes.
    n_assets : array of shape (n,)
        Assets of each universe.
    n_obs : integer array of shape (n,)
        Rows of the window.
    """
    xp = array_namespace(moments.variance)
    volatility = xp.sqrt(moments.variance)
    # With Z the correlation factor, 1'R 1 = sum_t (sum_i z_ti)^2 and tr R = sum_t sum_i z_ti^2: a weighted sum over
    # rows gives the average correlation of the weighted sample (up to the assets' own changes in volatility).
    fast, slow, second, first = (moments.total / xp.maximum(moments.own, TINY) - 1.0) / (n_assets - 1.0)
    return {
        "trend": moments.mean_return / volatility * xp.sqrt(n_obs),
        "trend_63": (moments.recent + moments.mean_return) / volatility * xp.sqrt(xp.minimum(n_obs, RECENT)),
        "market_autocorrelation": moments.autocorrelation,
        "volatility_clustering": moments.clustering,
        "mean_correlation_fast": fast - slow,
        "mean_correlation_change": second - first,
    }


def season_features(dates: np.ndarray | None, stop: int) -> dict[str, float]:
    """The features listed in `SEASON` of a window that ends before row `stop`; dates in days since 1970-01-01."""
    if dates is None:
        return dict.fromkeys(SEASON, 0.0)
    angle = 2.0 * np.pi * float(dates[stop - 1]) / _DAYS_PER_YEAR
    return {"has_dates": 1.0, "season_sin": float(np.sin(angle)), "season_cos": float(np.cos(angle))}
