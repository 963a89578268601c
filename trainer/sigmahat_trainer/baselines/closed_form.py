# SPDX-License-Identifier: Apache-2.0
"""Closed-form covariance estimators of one universe: what a learned estimator is compared with.

Every estimator of `BASELINES` maps returns to a covariance under one convention:

- ``returns``, shape (n_obs, n_assets): simple returns per period, oldest first, without NaN, at least three
  observations of at least two assets, each of which varies. Whoever reads the data checks that; nothing here does;
- the column means are removed, which costs a degree of freedom: ``n_effective = n_obs - 1`` stands wherever a paper
  that assumes known means writes its sample size;
- the answer, shape (n_assets, n_assets), is float64, exactly symmetric, in squared returns per period;
- `numpy.linalg.LinAlgError` says that an estimator does not exist for these returns (more assets than observations).

The formulas are in `linear` and `spectral`; what is fitted to earlier data, in `learned`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from sigmahat_trainer.baselines.linear import (
    MULTI_TARGETS,
    FloatArray,
    constant_correlation,
    demean,
    identity,
    measure,
    sample_of,
    shrink,
    shrink_multi_target,
    shrink_oas,
    single_factor,
)
from sigmahat_trainer.baselines.spectral import (
    Rule,
    analytical,
    linear_inverse,
    quadratic_inverse,
    rotationally_invariant,
    shrink_correlation,
    shrink_spectrum,
)

Baseline = Callable[[FloatArray], FloatArray]

EWMA_HALFLIFE = 63.0
IEWMA_HALFLIVES = 21.0, 63.0
"""Of the volatilities and of the correlation."""


def equal_weight(returns: FloatArray) -> FloatArray:
    """Return the mean variance times identity, whose minimum-variance portfolio is 1/N."""
    return identity(measure(returns)).matrix


def inverse_variance(returns: FloatArray) -> FloatArray:
    """Return the sample variances without any correlation."""
    return np.diag(demean(returns).var(axis=0, ddof=1))


def sample(returns: FloatArray) -> FloatArray:
    """Return the unbiased sample covariance; it is singular when n_assets > n_obs - 1.

    >>> sample(np.array([[0.01, 0.02], [0.03, -0.02], [-0.01, 0.03]])).round(6).tolist()
    [[0.0004, -0.0005], [-0.0005, 0.0007]]
    """
    return sample_of(demean(returns), len(returns) - 1)


def ewma(returns: FloatArray, *, halflife: float = EWMA_HALFLIFE) -> FloatArray:
    """Weigh observation t of T by 2^(-(T - t) / halflife); unbiased: divided by 1 - sum of squared weights."""
    weights = _exponential_weights(len(returns), halflife)
    centred = np.asarray(returns, np.float64) - weights @ returns
    half = np.sqrt(weights / (1 - weights @ weights))[:, None] * centred
    return np.asarray(half.T @ half)


def iterated_ewma(returns: FloatArray, *, halflives: tuple[float, float] = IEWMA_HALFLIVES) -> FloatArray:
    """Weigh volatilities and correlation with half-lives of their own: returns are standardised day by day.

    References
    ----------
    Engle (2002), J. Business & Economic Statistics 20(3); Johansson, Ogut, Pelger, Schmelzer, Boyd (2023), A Simple
    Method for Predicting Covariance Matrices of Financial Returns, section 2.5. Means are taken as zero, as there;
    each return is divided by the volatility that includes its own day.
    """
    returns = np.asarray(returns, np.float64)
    variance = ewma_variances(returns, halflives[0])
    standardised = returns / np.sqrt(np.where(variance > 0, variance, 1.0))
    half = np.sqrt(_exponential_weights(len(returns), halflives[1]))[:, None] * standardised
    second_moment = half.T @ half
    scale = np.sqrt(variance[-1] / second_moment.diagonal())
    return second_moment * np.outer(scale, scale)


def ewma_variances(returns: FloatArray, halflife: float) -> FloatArray:
    """Variances about zero after each day, that day included: weighted means of the squares so far; as `returns`."""
    decay = 0.5 ** (1 / halflife)
    squares, total, variances = np.zeros(returns.shape[1]), 0.0, np.empty_like(returns)
    for t, row in enumerate(returns**2):
        squares, total = decay * squares + row, decay * total + 1
        variances[t] = squares / total
    return variances


def ledoit_wolf_identity(returns: FloatArray) -> FloatArray:
    """Shrink toward mean variance times identity: Ledoit, Wolf (2004), J. Multivariate Analysis 88(2), 365-411."""
    moments = measure(returns)
    return shrink(moments, identity(moments)).covariance


def ledoit_wolf_constant_correlation(returns: FloatArray) -> FloatArray:
    """Shrink toward one correlation for all pairs: Ledoit, Wolf (2004), J. Portfolio Management 30(4), 110-119."""
    moments = measure(returns)
    return shrink(moments, constant_correlation(moments)).covariance


def ledoit_wolf_single_factor(returns: FloatArray) -> FloatArray:
    """Shrink toward an equal-weighted market model: Ledoit, Wolf (2003), J. Empirical Finance 10(5), 603-621."""
    moments = measure(returns)
    return shrink(moments, single_factor(moments)).covariance


def oas(returns: FloatArray) -> FloatArray:
    """Shrink toward mean variance times identity with the intensity of `shrink_oas`, made for Gaussian returns."""
    return shrink_oas(measure(returns)).covariance


def multi_target_ledoit_wolf(returns: FloatArray) -> FloatArray:
    """Shrink toward diagonal, constant correlation and single factor at once, as in `shrink_multi_target`."""
    moments = measure(returns)
    return shrink_multi_target(moments, [target(moments) for target in MULTI_TARGETS]).covariance


def in_covariance_space(returns: FloatArray, *, rule: Rule) -> FloatArray:
    """Shrink the eigenvalues of the sample covariance."""
    return shrink_spectrum(sample(returns), len(returns) - 1, rule)


def in_correlation_space(returns: FloatArray, *, rule: Rule) -> FloatArray:
    """Shrink the eigenvalues of the sample correlation; the sample variances are kept."""
    return shrink_correlation(sample(returns), len(returns) - 1, rule)


qis: Baseline = partial(in_covariance_space, rule=quadratic_inverse)
qis_correlation: Baseline = partial(in_correlation_space, rule=quadratic_inverse)

BASELINES: dict[str, Baseline] = {
    "equal_weight": equal_weight,
    "inverse_variance": inverse_variance,
    "sample": sample,
    "ewma": ewma,
    "iterated_ewma": iterated_ewma,
    "ledoit_wolf_identity": ledoit_wolf_identity,
    "ledoit_wolf_constant_correlation": ledoit_wolf_constant_correlation,
    "ledoit_wolf_single_factor": ledoit_wolf_single_factor,
    "oas": oas,
    "multi_target_ledoit_wolf": multi_target_ledoit_wolf,
    "lis": partial(in_covariance_space, rule=linear_inverse),
    "qis": qis,
    "analytical": partial(in_covariance_space, rule=analytical),
    "lis_correlation": partial(in_correlation_space, rule=linear_inverse),
    "qis_correlation": qis_correlation,
    "analytical_correlation": partial(in_correlation_space, rule=analytical),
    "rie": partial(in_correlation_space, rule=rotationally_invariant),
}
"""Name -> estimator, in the order in which tables list them."""


def _exponential_weights(n_obs: int, halflife: float) -> FloatArray:
    weights: FloatArray = 0.5 ** (np.arange(n_obs)[::-1] / halflife)
    return weights / weights.sum()
