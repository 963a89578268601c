# SPDX-License-Identifier: Apache-2.0
"""The state of the market that a universe forms: volatility, dispersion, tails, stress.

The market of a universe is the equal-weighted mean of its own assets' returns, so that neither other universes nor
other columns of the panel can change a feature.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.panel import TINY, VOLATILITY_HALFLIVES, Window, exponential_weights

REGIME = {
    "log_market_volatility": "ln of the market's annualised volatility (252 periods)",
    "log_asset_volatility": "average over assets of the ln annualised volatility",
    "volatility_dispersion": "standard deviation over assets of the ln volatility",
    "market_volatility_ratio_63": "ln(volatility with half-life 63 / volatility of the window), of the market",
    "market_volatility_ratio_21": "the same with half-life 21",
    "market_volatility_ratio_5": "the same with half-life 5",
    "asset_volatility_ratio_63": "average over assets of ln(volatility with half-life 63 / volatility of the window)",
    "asset_volatility_ratio_21": "the same with half-life 21",
    "volatility_ratio_dispersion": "standard deviation over assets of the latter",
    "volatility_of_volatility": "standard deviation of the market's ln volatility over blocks of 21 rows; 0 if < 2",
    "dispersion_share": "cross-sectional variance over total variance of the returns; [0, 1]",
    "dispersion_ratio_21": "ln(cross-sectional dispersion with half-life 21 / dispersion of the window)",
    "market_kurtosis": "ln(kurtosis of the market / 3)",
    "asset_kurtosis": "average over assets of ln(kurtosis / 3)",
    "tail_share": "average over assets of the share of returns beyond 3 standard deviations",
    "drawdown": "fall of the market's summed returns from their peak (0 at the start), over volatility times sqrt T",
    "stress_share": "share of assets whose half-life 21 volatility is above 1.5 times the window's",
}
"""Feature name -> definition. An asset's window volatility divides by n - 1; the market's and all weighted ones are
(weighted) root mean squares around the window's mean. Ratios are cut below: assets at 10 % of the window's volatility,
market, dispersion and blocks at 1 %."""

_PERIODS_PER_YEAR = 252
_BLOCK = 21
_STRESS = 1.5


class MarketSeries(NamedTuple):
    """Cross-sectional series of `n` universes over the `T` rows of their window."""

    market: Array  # (T, n) average return over the assets observed that day, less its mean over the window
    mean_return: Array  # (n,) average of the market over the window
    dispersion: Array  # (T, n) cross-sectional variance of the returns
    slow_sum: Array  # (T, n) sum over assets of the columns of the correlation factor Z
    slow_norm: Array  # (T, n) sum over assets of its squares


def asset_series(window: Window, slow_factor: Array) -> Array:
    """What `market_series` sums over assets, for all columns of a window: (4, T, m), or (5, T, m) with gaps.

    `slow_factor` is Z of shape (T, m) with Z'Z the equal-weighted correlation.
    """
    xp = array_namespace(slow_factor)
    series = xp.empty((4 if window.complete else 5, *slow_factor.shape))
    for k, values in ((0, window.returns), (2, slow_factor)):
        series[k] = values
        xp.multiply(values, values, out=series[k + 1])
    if not window.complete:  # without a gap the number of assets observed is the same on all rows
        series[4] = window.observed
    return series


def market_series(series: Array, membership: Array) -> MarketSeries:
    """Sums over the assets of all universes at once, in one matrix product.

    Parameters
    ----------
    series : array of shape (4 or 5, T, m)
        Of `asset_series`.
    membership : array of shape (m, n)
        1.0 where universe n holds column m.
    """
    xp = array_namespace(membership)
    sums = series @ membership
    count = xp.maximum(sums[4], 1.0) if len(series) == 5 else membership.sum(axis=0)
    mean = sums[0] / count
    mean_return = mean.mean(axis=0)
    return MarketSeries(
        market=mean - mean_return,
        mean_return=mean_return,
        dispersion=xp.maximum(sums[1] / count - mean**2, 0.0),
        slow_sum=sums[2],
        slow_norm=sums[3],
    )


def asset_averages(window: Window) -> dict[str, Array]:
    """Those features of `REGIME` that are averages over assets: name -> one value a column, (m,)."""
    xp = array_namespace(window.volatilities)
    log_volatility = xp.log(window.volatilities)
    ratio = {
        f"{halflife:g}": log_volatility[k] - log_volatility[0] for k, halflife in enumerate(VOLATILITY_HALFLIVES, 1)
    }
    return {
        "log_asset_volatility": log_volatility[0] + 0.5 * math.log(_PERIODS_PER_YEAR),
        **{f"asset_volatility_ratio_{halflife}": values for halflife, values in ratio.items()},
        "asset_kurtosis": xp.log(window.kurtosis / 3.0),
        "tail_share": window.tail_share,
        "stress_share": (ratio["21"] > math.log(_STRESS)).astype(xp.float64),
    }


SPREADS = {"volatility_dispersion": "log_asset_volatility", "volatility_ratio_dispersion": "asset_volatility_ratio_21"}
"""Features that are the standard deviation over assets of what another one averages."""


def regime_features(series: MarketSeries) -> dict[str, Array]:
    """Those features of `REGIME` that are statistics of the universe's series, each of shape (n,)."""
    xp = array_namespace(series.market)
    squares = series.market**2
    variance = xp.maximum(squares.mean(axis=0), TINY)
    dispersion = xp.maximum(series.dispersion.mean(axis=0), TINY)

    def fast_ratio(values: Array, mean: Array, halflife: float) -> Array:
        weights = exponential_weights(xp, len(values), halflife)
        # A market that stood still lately is cut at 1 % of its usual volatility.
        return 0.5 * xp.log(xp.maximum(weights @ values / weights.sum() / mean, 1e-4))

    path = xp.cumsum(series.market + series.mean_return, axis=0)
    peak = xp.maximum(path.max(axis=0), 0.0)
    return {
        "log_market_volatility": 0.5 * xp.log(variance * _PERIODS_PER_YEAR),
        "market_volatility_ratio_63": fast_ratio(squares, variance, 63.0),
        "market_volatility_ratio_21": fast_ratio(squares, variance, 21.0),
        "market_volatility_ratio_5": fast_ratio(squares, variance, 5.0),
        "volatility_of_volatility": _volatility_of_volatility(squares, variance),
        "dispersion_share": dispersion / (dispersion + variance),
        "dispersion_ratio_21": fast_ratio(series.dispersion, dispersion, 21.0),
        # A kurtosis is at least 1; assets that hedge each other exactly leave a market that does not move: 0 / 0.
        "market_kurtosis": xp.log(xp.maximum(((squares / variance) ** 2).mean(axis=0), 1.0) / 3.0),
        "drawdown": (peak - path[-1]) / xp.sqrt(variance * len(path)),
    }


def _volatility_of_volatility(squares: Array, variance: Array) -> Array:
    xp = array_namespace(squares)
    n_blocks = len(squares) // _BLOCK
    if n_blocks < 2:
        return xp.zeros(squares.shape[1])
    blocks = squares[len(squares) - n_blocks * _BLOCK :].reshape(n_blocks, _BLOCK, -1).mean(axis=1)
    return (0.5 * xp.log(xp.maximum(blocks / variance, 1e-4))).std(axis=0)
