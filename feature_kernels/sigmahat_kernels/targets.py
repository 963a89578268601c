# SPDX-License-Identifier: Apache-2.0
"""Shrinkage targets on the correlation scale: identity, constant correlation, single factor."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace


def mean_correlation(correlation: Array) -> Array:
    """Average off-diagonal entry of each matrix of shape (..., N, N) -> (...)."""
    n_assets = correlation.shape[-1]
    return (correlation.sum(axis=(-2, -1)) - n_assets) / (n_assets * (n_assets - 1))


def single_factor_loadings(correlation: Array) -> Array:
    """Correlation of each asset with the equal-weighted mean of the standardised returns; (..., N, N) -> (..., N).

    With R the correlation matrix, the factor's covariance with asset i is c_i = (R 1)_i / N and its variance
    v = 1'R 1 / N^2, so the loading is c_i / sqrt(v). |loading| <= 1 (Cauchy-Schwarz).
    """
    xp = array_namespace(correlation)
    n_assets = correlation.shape[-1]
    covariance = correlation.sum(axis=-1) / n_assets
    variance = covariance.sum(axis=-1, keepdims=True) / n_assets
    # A factor without variance (assets that hedge each other exactly) explains nothing: its loadings are 0.
    has_variance = variance > 1e-12
    return xp.where(has_variance, covariance / xp.sqrt(xp.where(has_variance, variance, 1.0)), 0.0)


def mix_targets(correlation: Array, weights: Array) -> Array:
    """Weighted sum of the three targets of each correlation matrix.

    Parameters
    ----------
    correlation : array of shape (n, N, N)
        Sample correlation, unit diagonal.
    weights : array of shape (n, 3)
        In the order of `parameters.TARGETS`, sum 1: identity; constant correlation, all pairs at the average (Ledoit,
        Wolf 2004, J. Portfolio Management 30(4)); single factor, the equal-weighted mean of the standardised returns
        being the factor (Ledoit, Wolf 2003, J. Empirical Finance 10).

    Returns
    -------
    array of shape (n, N, N)
        Unit diagonal, positive semi-definite, as each target is.

    >>> import numpy as np
    >>> mix_targets(np.array([[[1.0, 0.4], [0.4, 1.0]]]), np.array([[0.5, 0.5, 0.0]]))
    array([[[1. , 0.2],
            [0.2, 1. ]]])
    """
    xp = array_namespace(correlation)
    loadings = single_factor_loadings(correlation)
    scaled = weights[:, 2, None] * loadings
    mixed = scaled[:, :, None] * loadings[:, None, :]
    mixed += (weights[:, 1] * mean_correlation(correlation))[:, None, None]
    diagonal = xp.arange(correlation.shape[-1])
    mixed[:, diagonal, diagonal] = 1.0
    return mixed
