# SPDX-License-Identifier: Apache-2.0
"""How a universe moves through time: trend, memory, stability of correlations, season."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.panel import FAST_HALFLIFE, TINY, Window, exponential_weights
from sigmahat_kernels.regime import MarketSeries

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

_RECENT = 63
_DAYS_PER_YEAR = 365.2425


def asset_averages(window: Window) -> dict[str, Array]:
    """Those features of `TEMPORAL` that are averages over assets: name -> one value a column, (m,)."""
    squares = window.standardised**2
    squares -= squares.sum(axis=0) / window.n_observed
    window.mask(squares)
    return {"squared_autocorrelation": _lagged(squares)}


def temporal_features(series: MarketSeries, n_assets: Array) -> dict[str, Array]:
    """Those features of `TEMPORAL` that are statistics of the universe's series, each of shape (n,).

    Parameters
    ----------
    series : MarketSeries
        Of n universes over T rows.
    n_assets : array of shape (n,)
        Assets of each universe.
    """
    xp = array_namespace(series.market)
    market = series.market
    n_obs = len(market)
    volatility = xp.sqrt(xp.maximum((market**2).mean(axis=0), TINY))
    recent = market[-_RECENT:].mean(axis=0) + series.mean_return

    # With Z the correlation factor, 1'R 1 = sum_t (sum_i z_ti)^2 and tr R = sum_t sum_i z_ti^2: a weighted sum over
    # rows gives the average correlation of the weighted sample (up to the assets' own changes in volatility).
    def average_correlation(weights: Array) -> Array:
        total = weights @ series.slow_sum**2
        own = xp.maximum(weights @ series.slow_norm, TINY)
        return (total / own - 1.0) / (n_assets - 1.0)

    ones = xp.ones(n_obs)
    second_half = (xp.arange(n_obs) >= n_obs // 2).astype(xp.float64)
    return {
        "trend": series.mean_return / volatility * n_obs**0.5,
        "trend_63": recent / volatility * min(n_obs, _RECENT) ** 0.5,
        "market_autocorrelation": _autocorrelation(market),
        "volatility_clustering": _autocorrelation(xp.abs(market)),
        "mean_correlation_fast": average_correlation(exponential_weights(xp, n_obs, FAST_HALFLIFE))
        - average_correlation(ones),
        "mean_correlation_change": average_correlation(second_half) - average_correlation(1.0 - second_half),
    }


def season_features(dates: np.ndarray | None, stop: int) -> dict[str, float]:
    """The features listed in `SEASON` of a window that ends before row `stop`; dates in days since 1970-01-01."""
    if dates is None:
        return dict.fromkeys(SEASON, 0.0)
    angle = 2.0 * np.pi * float(dates[stop - 1]) / _DAYS_PER_YEAR
    return {"has_dates": 1.0, "season_sin": float(np.sin(angle)), "season_cos": float(np.cos(angle))}


def _autocorrelation(x: Array) -> Array:
    return _lagged(x - x.mean(axis=0))


def _lagged(x: Array) -> Array:
    xp = array_namespace(x)
    return (x[1:] * x[:-1]).sum(axis=0) / xp.maximum((x**2).sum(axis=0), TINY)
