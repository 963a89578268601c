# SPDX-License-Identifier: Apache-2.0
"""The state of the market that a universe forms: volatility, dispersion, tails, stress.

The market of a universe is the equal-weighted mean of its own assets' returns, so that neither other universes nor
other columns of the panel can change a feature.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.panel import FAST_HALFLIFE, TINY, VOLATILITY_HALFLIVES, Window, exponential_weights

REGIME = {
    "market_volatility_share": "ln(volatility of the market / geometric mean of the assets' volatilities)",
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

BLOCK = 21
"""Rows of a block whose volatility is one of the window's volatilities."""

RECENT = 63
"""Rows that are recent."""

HALFLIVES = (FAST_HALFLIFE, 21.0, 5.0)
"""Of the weights of a series' recent rows."""

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


def market_series(sums: Array, n_assets: Array, lengths: Array | None = None) -> MarketSeries:
    """The series of n universes.

    Parameters
    ----------
    sums : array of shape (4 or 5, T, n)
        Of `asset_series`, over the assets of each universe.
    n_assets : array of shape (n,)
    lengths : integer array of shape (n,), optional
        Rows of each one's window, the last of T, where not all have T; all series are 0 above.
    """
    xp = array_namespace(sums)
    count = xp.maximum(sums[4], 1.0) if len(sums) == 5 else n_assets
    mean = sums[0] / count
    mean_return = mean.sum(axis=0) / (len(mean) if lengths is None else lengths)
    return MarketSeries(
        market=_within(mean - mean_return, lengths),
        mean_return=mean_return,
        dispersion=xp.maximum(sums[1] / count - mean**2, 0.0),
        slow_sum=sums[2],
        slow_norm=sums[3],
    )


class SeriesMoments(NamedTuple):
    """All that is read of the series of `n` universes; a mean is one over the rows of the window."""

    mean_return: Array  # (n,), see `MarketSeries`
    variance: Array  # (n,) mean square of the market, at least TINY
    recent_squares: Array  # (3, n) the same, rows weighted by `HALFLIVES`
    kurtosis: Array  # (n,) mean square of the squared market over its variance
    blocks: Array  # (T // BLOCK, n) mean square of the market in the last whole blocks of the longest window
    recent: Array  # (n,) mean of the market over the last `RECENT` rows
    fall: Array  # (n,) of the market's summed returns from their peak, 0 at the start, to the end
    autocorrelation: Array  # (n,) first-order, of the market
    clustering: Array  # (n,) first-order autocorrelation of the market's absolute value
    dispersion: Array  # (n,) mean of the dispersion, at least TINY
    recent_dispersion: Array  # (n,) the same, rows weighted by the second of `HALFLIVES`
    total: (
        Array  # (4, n) sums of `slow_sum` squared: by the first of `HALFLIVES`, plain, of the second half, of the first
    )
    own: Array  # (4, n) the same sums of `slow_norm`
    norm_square: Array  # (n,) sum of `slow_norm` squared


def _within(values: Array, lengths: Array | None) -> Array:
    """Series (T, n) with 0 above the rows of shorter windows, see `market_series`."""
    if lengths is None:
        return values
    return values * (array_namespace(values).arange(len(values))[:, None] >= len(values) - lengths)


def row_weights(xp: ModuleType, n_obs: int) -> Array:
    """Weights by `HALFLIVES`, then those of the second half of the rows and those of the first, (5, n_obs)."""
    second = (xp.arange(n_obs) >= n_obs // 2).astype(xp.float64)
    return xp.stack([*(exponential_weights(xp, n_obs, halflife) for halflife in HALFLIVES), second, 1.0 - second])


def series_moments(series: MarketSeries, lengths: Array | None = None) -> SeriesMoments:
    """Measure the series of all universes at once; `lengths` as of `market_series`."""
    xp = array_namespace(series.market)
    market, dispersion = series.market, series.dispersion
    longest = len(market)
    n_rows = longest if lengths is None else lengths
    weights = row_weights(xp, longest)
    sums_of_weights = weights[:3].sum(axis=1)[:, None]
    if lengths is not None:
        sums_of_weights = xp.cumsum(weights[:3, ::-1], axis=1)[:, lengths - 1]

    def mean(values: Array) -> Array:
        return values.sum(axis=0) / n_rows

    def centred(values: Array) -> Array:
        return _within(values - mean(values), lengths)

    squares = market**2
    variance = xp.maximum(mean(squares), TINY)
    path = xp.cumsum(_within(market + series.mean_return, lengths), axis=0)
    n_blocks = longest // BLOCK
    return SeriesMoments(
        mean_return=series.mean_return,
        variance=variance,
        recent_squares=weights[:3] @ squares / sums_of_weights,
        kurtosis=mean((squares / variance) ** 2),
        blocks=squares[longest - n_blocks * BLOCK :].reshape(n_blocks, BLOCK, variance.shape[0]).mean(axis=1),
        recent=market[-RECENT:].sum(axis=0) / xp.minimum(n_rows, RECENT),
        fall=xp.maximum(path.max(axis=0), 0.0) - path[-1],
        autocorrelation=lagged(centred(market)),
        clustering=lagged(centred(xp.abs(market))),
        dispersion=xp.maximum(mean(dispersion), TINY),
        recent_dispersion=weights[1] @ dispersion / sums_of_weights[1],
        total=_over_halves(series.slow_sum**2, weights, lengths),
        own=_over_halves(series.slow_norm, weights, lengths),
        norm_square=(series.slow_norm**2).sum(axis=0),
    )


def _over_halves(values: Array, weights: Array, lengths: Array | None) -> Array:
    """Sums of series (T, n): by the first of `row_weights`, plain, of the second half, of the first; (4, n)."""
    xp = array_namespace(values)
    if lengths is None:
        return xp.stack([weights[0], xp.ones(len(values)), *weights[3:]]) @ values
    in_second = xp.arange(len(values))[:, None] >= len(values) - lengths + lengths // 2
    plain, second = values.sum(axis=0), (values * in_second).sum(axis=0)
    return xp.stack([weights[0] @ values, plain, second, (values * ~in_second).sum(axis=0)])


def lagged(x: Array) -> Array:
    """First-order autocorrelation of columns whose mean is zero; 0 where nothing moves."""
    xp = array_namespace(x)
    return (x[1:] * x[:-1]).sum(axis=0) / xp.maximum((x**2).sum(axis=0), TINY)


def asset_averages(window: Window) -> dict[str, Array]:
    """`LOG_VOLATILITY`, and those features of `REGIME` that are averages over assets: name -> one value a column."""
    xp = array_namespace(window.volatilities)
    log_volatility = xp.log(window.volatilities)
    ratio = {
        f"{halflife:g}": log_volatility[k] - log_volatility[0] for k, halflife in enumerate(VOLATILITY_HALFLIVES, 1)
    }
    return {
        LOG_VOLATILITY: log_volatility[0],
        **{f"asset_volatility_ratio_{halflife}": values for halflife, values in ratio.items()},
        "asset_kurtosis": xp.log(window.kurtosis / 3.0),
        "tail_share": window.tail_share,
        "stress_share": (ratio["21"] > math.log(_STRESS)).astype(xp.float64),
    }


LOG_VOLATILITY = "log_volatility"
"""Of an asset's window: no feature by itself, since returns in another unit are to be answered alike."""

SPREADS = {"volatility_dispersion": LOG_VOLATILITY, "volatility_ratio_dispersion": "asset_volatility_ratio_21"}
"""Features that are the standard deviation over assets of what another one averages."""


def regime_features(moments: SeriesMoments, mean_log_volatility: Array, n_obs: Array) -> dict[str, Array]:
    """Those features of `REGIME` that are statistics of the universe's series, each of shape (n,).

    `mean_log_volatility` (n,) is the average of `LOG_VOLATILITY` over the assets of each, `n_obs` (n,) the rows of its
    window.
    """
    xp = array_namespace(moments.variance)
    variance, dispersion = moments.variance, moments.dispersion

    def ratio(recent: Array, mean: Array) -> Array:
        # A market that stood still lately is cut at 1 % of its usual volatility.
        return 0.5 * xp.log(xp.maximum(recent / mean, 1e-4))

    return {
        "market_volatility_share": 0.5 * xp.log(variance) - mean_log_volatility,
        **{
            f"market_volatility_ratio_{halflife:g}": ratio(moments.recent_squares[k], variance)
            for k, halflife in enumerate(HALFLIVES)
        },
        "volatility_of_volatility": _deviation(ratio(moments.blocks, variance), n_obs // BLOCK),
        "dispersion_share": dispersion / (dispersion + variance),
        "dispersion_ratio_21": ratio(moments.recent_dispersion, dispersion),
        # A kurtosis is at least 1; assets that hedge each other exactly leave a market that does not move: 0 / 0.
        "market_kurtosis": xp.log(xp.maximum(moments.kurtosis, 1.0) / 3.0),
        "drawdown": moments.fall / xp.sqrt(variance * n_obs),
    }


def _deviation(values: Array, counts: Array) -> Array:
    """Standard deviation of the last `counts` (n,) of each column of (., n); 0 of none."""
    xp = array_namespace(values)
    counted = xp.arange(len(values))[:, None] >= len(values) - counts
    n = xp.maximum(counts, 1)
    mean = (values * counted).sum(axis=0) / n
    return xp.sqrt(((values - mean) ** 2 * counted).sum(axis=0) / n)
