# SPDX-License-Identifier: Apache-2.0
"""Shrinkage targets on the correlation scale: identity, constant correlation, single factor."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace

STILL = 1e-12
"""A factor whose variance is at most this much of an asset's does not move."""


def single_factor_loadings(row_sum: Array) -> Array:
    """Correlation of each asset with the equal-weighted mean of the standardised returns; shape (..., N).

    With R the correlation matrix and R1 its row sums, the factor's covariance with asset i is c_i = (R1)_i / N and its
    variance v = 1'R 1 / N^2, so the loading is c_i / sqrt(v). |loading| <= 1 (Cauchy-Schwarz).
    """
    xp = array_namespace(row_sum)
    total = row_sum.sum(axis=-1, keepdims=True)
    moves = factor_moves(total, row_sum.shape[-1])
    return xp.where(moves, row_sum / xp.sqrt(xp.where(moves, total, 1.0)), 0.0)


def factor_moves(total: Array, n_assets: Array | int) -> Array:
    """Whether the equal-weighted mean of N standardised returns varies at all, from the sum 1'R 1 of all correlations.

    A factor without variance (assets that hedge each other exactly) explains nothing: all loadings on it are 0.
    """
    return total > STILL * n_assets**2


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
    n_assets = correlation.shape[-1]
    row_sum = correlation @ xp.ones(n_assets)
    loadings = single_factor_loadings(row_sum)
    mean_correlation = (row_sum.sum(axis=-1) - n_assets) / (n_assets * (n_assets - 1))
    # Off the diagonal the mix has rank two: the constant correlation and the factor.
    constant = xp.broadcast_to((weights[:, 1] * mean_correlation)[:, None], loadings.shape)
    left = xp.stack([constant, weights[:, 2, None] * loadings], axis=2)
    right = xp.stack([xp.ones_like(loadings), loadings], axis=1)
    mixed = left @ right
    diagonal = xp.arange(n_assets)
    mixed[:, diagonal, diagonal] = 1.0
    return mixed
