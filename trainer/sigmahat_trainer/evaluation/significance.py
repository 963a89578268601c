# SPDX-License-Identifier: Apache-2.0
"""Is one estimator better than another? Tests on series with one entry a date, or a day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erfc, sqrt
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from arch.bootstrap import MCS, CircularBlockBootstrap
from arch.covariance.kernel import QuadraticSpectral

FloatArray: TypeAlias = npt.NDArray[np.float64]

HAC_LAGS = 3
LARGEST_ROOT = 0.97
"""Bound on the singular values of the prewhitening autoregression: Andrews, Monahan (1992), Econometrica 60(4)."""


class VarianceTest(NamedTuple):
    """Two strategies' variances compared."""

    log_ratio: float  # ln of the first variance over the second
    standard_error: float
    p_value: float  # two-sided, of equality


def newey_west_t(values: FloatArray, lags: int = HAC_LAGS) -> float:
    """t-statistic of a mean by `newey_west_error`; 0 for a series of zeros."""
    error = newey_west_error(values, lags)
    return float(values.mean() / error) if error > 0 else 0.0


def newey_west_error(values: FloatArray, lags: int = HAC_LAGS) -> float:
    """Standard error of a mean with Bartlett weights: Newey, West (1987), Econometrica 55."""
    n = len(values)
    deviations = values - values.mean()
    long_run = deviations @ deviations / n
    for lag in range(1, min(lags, n - 1) + 1):
        long_run += 2.0 * (1.0 - lag / (lags + 1.0)) * (deviations[lag:] @ deviations[:-lag]) / n
    return sqrt(max(float(long_run), 0.0) / n)


def variance_test(moments: FloatArray) -> VarianceTest:
    """Test that two strategies have the same variance, with a prewhitened quadratic-spectral standard error.

    Parameters
    ----------
    moments : array of shape (n_days, 4)
        Of each day the two returns, then their squares. Where a strategy is an average over several portfolios, the
        averages of their returns and of their squares: the variance is then nearly the average of their variances.

    References
    ----------
    Ledoit, Wolf (2011), Wilmott 55, 86-89, section 3.1; the kernel: Andrews (1991), Econometrica 59(3).
    """
    if (moments[:, [0, 2]] == moments[:, [1, 3]]).all():
        return VarianceTest(0.0, 0.0, 1.0)
    log_ratio, gradient = _log_ratio(moments.mean(axis=0))
    error = sqrt(_prewhitened_long_run(moments, gradient) / len(moments))
    return VarianceTest(log_ratio, error, erfc(abs(log_ratio) / error / sqrt(2)))


def bootstrap_variance_test(moments: FloatArray, *, block: int = 10, resamples: int = 4_999, seed: int = 0) -> float:
    """p-value of the same hypothesis by the studentised circular block bootstrap: ibid., section 3.2.

    The statistic of a resample is studentised by the variance of its own block sums (Goetze, Kuensch 1996, Annals of
    Statistics 24(5)). `moments` as for `variance_test`; `block` in days.
    """
    observed = variance_test(moments)
    if observed.standard_error == 0:
        return 1.0
    statistic = abs(observed.log_ratio) / observed.standard_error
    n_blocks = len(moments) // block
    if n_blocks < 2:
        raise ValueError(f"the bootstrap needs at least two blocks of {block} days, got {len(moments)} days")
    n_days = n_blocks * block
    exceed = 0
    for positional, _ in CircularBlockBootstrap(block, moments, seed=seed).bootstrap(resamples):
        resample = np.asarray(positional[0])
        mean = resample.mean(axis=0)
        log_ratio, gradient = _log_ratio(mean)
        sums = ((resample[:n_days] - mean) @ gradient).reshape(n_blocks, block).sum(axis=1) / sqrt(block)
        error = sqrt((sums**2).mean() / len(moments))
        exceed += abs(log_ratio - observed.log_ratio) >= statistic * error
    return (exceed + 1) / (resamples + 1)


def confidence_set(
    losses: Mapping[str, FloatArray], *, size: float = 0.1, block: int = 3, resamples: int = 1_000, seed: int = 0
) -> dict[str, float]:
    """p-value of each method in the model confidence set; those above `size` are in the set of that level.

    Parameters
    ----------
    losses : mapping of arrays of shape (n_dates,)
    block : int
        Mean length, in dates, of the blocks of the stationary bootstrap.

    References
    ----------
    Hansen, Lunde, Nason (2011), Econometrica 79(2), 453-497; as `arch` computes it, with the range statistic.
    """
    import pandas as pd

    frame = pd.DataFrame(dict(losses))
    # Methods with the same losses to the last digit have no variance between them, which the statistic divides by.
    distinct = ~frame.round(12).T.duplicated()
    kept = frame.loc[:, distinct]
    if kept.shape[1] < 2 or len(kept) < 2:  # one date tells nothing apart
        return dict.fromkeys(frame.columns, 1.0)
    result = MCS(kept, size=size, reps=resamples, block_size=block, method="R", bootstrap="stationary", seed=seed)
    result.compute()
    p_values = {str(name): float(value) for name, value in result.pvalues["Pvalue"].items()}
    for name in frame.columns[~distinct]:
        twin = next(other for other in kept.columns if np.allclose(frame[other], frame[name], rtol=0, atol=1e-11))
        p_values[str(name)] = p_values[twin]
    return p_values


def moments_of(first: Sequence[FloatArray], second: Sequence[FloatArray]) -> FloatArray:
    """Moments for `variance_test` of two strategies, each a pair (returns, squares) of shape (n_days,)."""
    return np.column_stack([first[0], second[0], first[1], second[1]])


def _log_ratio(mean: FloatArray) -> tuple[float, FloatArray]:
    """Delta = ln(c - a^2) - ln(d - b^2) of the means (a, b, c, d), and its gradient."""
    a, b, c, d = mean
    one, two = c - a * a, d - b * b
    return float(np.log(one / two)), np.array([-2 * a / one, 2 * b / two, 1 / one, -1 / two])


def _prewhitened_long_run(moments: FloatArray, gradient: FloatArray) -> float:
    """gradient' Psi gradient, Psi the long-run covariance of the moments: VAR(1) first, kernel on what it leaves."""
    scale = moments.std(axis=0)
    centred = (moments - moments.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    coefficients = np.linalg.lstsq(centred[:-1], centred[1:], rcond=None)[0].T
    left, roots, right = np.linalg.svd(coefficients)
    coefficients = left * np.minimum(roots, LARGEST_ROOT) @ right
    residuals = centred[1:] - centred[:-1] @ coefficients.T
    psi = np.asarray(QuadraticSpectral(residuals, center=False).cov.long_run)
    recolour = np.linalg.inv(np.eye(len(psi)) - coefficients)
    weighted = recolour.T @ (gradient * scale)
    return float(weighted @ psi @ weighted)
