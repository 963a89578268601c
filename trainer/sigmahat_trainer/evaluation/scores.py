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
    gmv_largest: float  # absolute weight
    long_only_variance: float
    long_only_log_variance: float
    long_only_square: float
    long_only_names: float
    tracking_variance: float  # realised, of half of the assets less all of them, equally weighted
    tracking_log_variance: float
    tracking_square: float
    equal_weight_square: float  # realised / forecast variance of 1/N
    equal_weight_qlike: float
    random_long_only_square: float  # mean over portfolios of realised / forecast variance
    random_long_only_qlike: float  # mean over portfolios of `qlike`
    random_long_short_square: float
    random_long_short_qlike: float
    negative_log_likelihood: float  # Gaussian, mean zero: nats an asset and period
    log10_condition: float  # of the covariance


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
    kinds = (benchmark[None], random.long_only, random.long_short)
    ratios = [_ratios(portfolios, covariance, forward) for portfolios in kinds]
    score = Score(
        realised,
        float(np.log(realised)),
        float(0.5 * np.log(realised / forecast)),
        float(realised / forecast),
        float(np.abs(weights).sum()),
        1 / float(weights @ weights),
        float(np.abs(weights).max()),
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
        float(ratios[2].mean()),
        float(qlike(ratios[2]).mean()),
        negative_log_likelihood(covariance, forward),
        log10_condition(covariance),
    )
    return Held(score, weights, returns, long_only_returns, active_returns)


def no_portfolio(n_assets: int, horizon: int) -> Held:
    """What `hold` would be for an estimate that has no minimum-variance portfolio: NaN throughout."""
    nothing = np.full(horizon, np.nan)
    return Held(Score(*[np.nan] * len(Score._fields)), np.full(n_assets, np.nan), nothing, nothing, nothing)


def negative_log_likelihood(covariance: FloatArray, returns: FloatArray) -> float:
    """Of Gaussian returns (n_periods, n_assets) with mean zero: in nats, an asset and period.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the covariance is not positive definite.

    >>> round(negative_log_likelihood(np.eye(2), np.array([[1.0, -1.0]])), 4)  # (ln(2 pi) + 1) / 2
    1.4189
    """
    from scipy.linalg import solve_triangular

    volatility = np.sqrt(covariance.diagonal())
    lower = np.linalg.cholesky(covariance / np.outer(volatility, volatility))  # on the scale of correlations
    log_determinant = 2 * (np.log(lower.diagonal()).sum() + np.log(volatility).sum())
    whitened = solve_triangular(lower, (returns / volatility).T, lower=True)
    n_periods, n_assets = returns.shape
    return float(0.5 * (np.log(2 * np.pi) + (log_determinant + (whitened**2).sum() / n_periods) / n_assets))


def log10_condition(covariance: FloatArray) -> float:
    """Of its largest over its smallest eigenvalue; NaN if that is not positive, or a cell not finite."""
    if not np.isfinite(covariance).all():
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(covariance)
    return float(np.log10(eigenvalues[-1] / eigenvalues[0])) if eigenvalues[0] > 0 else float("nan")


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
