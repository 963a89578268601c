# SPDX-License-Identifier: Apache-2.0
"""What one estimate was worth: its portfolios over the holding period, and its forecasts for portfolios of no one."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sigmahat_trainer.evaluation.portfolios import (
    gmv_weights,
    long_only_weights,
    random_half,
    random_long_only,
    random_long_short,
    tracking_weights,
)

FloatArray: TypeAlias = npt.NDArray[np.float64]

RANDOM_PORTFOLIOS = 16
"""Of each kind, for each universe; the same for all estimators."""

SMALLEST_VARIANCE = 1e-12


PORTFOLIOS = ("gmv", "long_only", "tracking")
"""Made from an estimate, and held: their daily returns are kept."""


class RandomPortfolios(NamedTuple):
    """Portfolios that no estimate had a hand in, and the assets that a tracking portfolio may hold."""

    long_only: FloatArray  # (n, n_assets)
    long_short: FloatArray  # (n, n_assets)
    half: npt.NDArray[np.int64]  # (n_assets // 2,) indices


class Score(NamedTuple):
    """One estimate over one holding period; variances per period, about zero."""

    gmv_variance: float  # realised, of the unconstrained minimum-variance portfolio
    gmv_log_variance: float
    gmv_error: float  # ln(realised / forecast volatility) of that portfolio
    gmv_square: float  # realised / forecast variance: its mean is the squared bias statistic
    gmv_gross: float  # sum of absolute weights
    gmv_names: float  # 1 / sum of squared weights
    long_only_variance: float
    long_only_log_variance: float
    long_only_square: float
    long_only_names: float
    tracking_variance: float  # realised, of half of the assets less all of them, equally weighted
    tracking_log_variance: float
    tracking_square: float
    random_long_only_square: float  # mean over portfolios of realised / forecast variance
    random_long_only_qlike: float  # mean over portfolios of `qlike`
    random_long_short_square: float
    random_long_short_qlike: float


class Held(NamedTuple):
    """One estimate's score, and what other measures need of its minimum-variance portfolios."""

    score: Score
    gmv_weights: FloatArray  # (n_assets,)
    gmv_returns: FloatArray  # (horizon,)
    long_only_returns: FloatArray  # (horizon,)
    tracking_returns: FloatArray  # (horizon,), less the benchmark's


def draw_random(rng: np.random.Generator, n_assets: int, n: int = RANDOM_PORTFOLIOS) -> RandomPortfolios:
    """Draw the random portfolios of one universe."""
    return RandomPortfolios(
        random_long_only(rng, n, n_assets), random_long_short(rng, n, n_assets), random_half(rng, n_assets)
    )


def hold(covariance: FloatArray, forward: FloatArray, random: RandomPortfolios) -> Held:
    """Score an estimate.

    Parameters
    ----------
    covariance : array of shape (n_assets, n_assets)
    forward : array of shape (horizon, n_assets)
        Returns of the holding period.
    random : RandomPortfolios

    Raises
    ------
    numpy.linalg.LinAlgError
        If the covariance is singular, indefinite or not finite.
    """
    weights, long_only = gmv_weights(covariance), long_only_weights(covariance)
    returns, long_only_returns = forward @ weights, forward @ long_only
    realised, realised_long_only = _mean_square(returns), _mean_square(long_only_returns)
    forecast, forecast_long_only = weights @ covariance @ weights, long_only @ covariance @ long_only
    benchmark = np.full(len(covariance), 1 / len(covariance))
    active = tracking_weights(covariance, benchmark, random.half) - benchmark
    active_returns = forward @ active
    tracking = _mean_square(active_returns)
    ratios = [_ratios(portfolios, covariance, forward) for portfolios in (random.long_only, random.long_short)]
    score = Score(
        realised,
        float(np.log(realised)),
        float(0.5 * np.log(realised / forecast)),
        float(realised / forecast),
        float(np.abs(weights).sum()),
        1 / float(weights @ weights),
        realised_long_only,
        float(np.log(realised_long_only)),
        float(realised_long_only / forecast_long_only),
        1 / float(long_only @ long_only),
        tracking,
        float(np.log(tracking)),
        float(tracking / (active @ covariance @ active)),
        float(ratios[0].mean()),
        float(qlike(ratios[0]).mean()),
        float(ratios[1].mean()),
        float(qlike(ratios[1]).mean()),
    )
    return Held(score, weights, returns, long_only_returns, active_returns)


def no_portfolio(n_assets: int, horizon: int) -> Held:
    """What `hold` would be for an estimate that has no minimum-variance portfolio: NaN throughout."""
    nothing = np.full(horizon, np.nan)
    return Held(Score(*[np.nan] * len(Score._fields)), np.full(n_assets, np.nan), nothing, nothing, nothing)


def qlike(ratio: FloatArray) -> FloatArray:
    """Loss of a forecast variance, from realised / forecast: ratio - ln(ratio) - 1, zero where they are equal.

    References
    ----------
    Patton (2011), J. Econometrics 160(1), 246-256: its order of forecasts does not depend on the noise of the proxy.
    """
    return ratio - np.log(np.maximum(ratio, SMALLEST_VARIANCE)) - 1


def turnover(before: FloatArray, weights: FloatArray, returns: FloatArray) -> float:
    """Sum of absolute trades from weights `before`, let drift over `returns` (horizon, n), to `weights`.

    All three speak of the same n assets, those of either portfolio.
    """
    grown = before * np.prod(1.0 + returns, axis=0)
    return float(np.abs(weights - grown / grown.sum()).sum())


def _ratios(portfolios: FloatArray, covariance: FloatArray, forward: FloatArray) -> FloatArray:
    realised = ((forward @ portfolios.T) ** 2).mean(axis=0)
    return realised / ((portfolios @ covariance) * portfolios).sum(axis=1)


def _mean_square(returns: FloatArray) -> float:
    return max(float((returns**2).mean()), SMALLEST_VARIANCE)
