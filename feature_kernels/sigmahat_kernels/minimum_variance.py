# SPDX-License-Identifier: Apache-2.0
"""Minimum-variance portfolios of a stack of covariance matrices, without and with short positions."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy

_RIDGE = 1e-12
"""Added to the unit diagonal of correlations: of the many solutions of a singular matrix, nearly the shortest one."""

_TOLERANCE = 1e-11
"""Of the signs of scaled positions and gradients: what is closer to zero than this is zero."""

CERTIFIED_GAP = 1e-8
"""A long-only portfolio's variance is proved to be this close to the smallest one, relatively, or it is not given."""

_PATIENCE = 3
_MAX_STEPS = 200


def long_short(matrices: Array, assets: Array | None = None) -> Array:
    """Fully invested weights of least variance: Sigma^-1 1 / (1' Sigma^-1 1); (n, N, N) -> (n, N); see `long_only`."""
    correlation, scale = _scaled(matrices, assets)
    return _invested(_solve(correlation, scale) * scale)


def long_only(matrices: Array, assets: Array | None = None) -> Array:
    """Fully invested weights of least variance among those without short positions.

    With x >= 0 minimising x' Sigma x / 2 - 1'x, the weights are x / 1'x. Solved for all universes at once by block
    principal pivoting: the assets held are guessed, the positions that make their gradients zero are found, and all
    assets whose position or gradient has the wrong sign change sides; one at a time where that does not help for a
    while, which ends for certain. A step is one batched solution of linear equations, and on a GPU one wait.

    Parameters
    ----------
    matrices : float64 array of shape (n, N, N)
        Positive semi-definite, of positive variances; 0 beyond the assets of a smaller universe.
    assets : bool array of shape (n, N), optional
        Where a universe has an asset: everywhere unless it is said. Elsewhere the weight is 0.

    Returns
    -------
    float64 array of shape (n, N)
        NaN for a universe whose `duality_gap` is above `CERTIFIED_GAP`.

    References
    ----------
    Judice, Pires (1994), Computers & Operations Research 21(5); Kim, Park (2011), SIAM J. Scientific Computing 33(6).
    """
    xp = array_namespace(matrices)
    correlation, scale = _scaled(matrices, assets)
    n, n_assets = scale.shape
    held = xp.ones((n, n_assets), bool) if assets is None else assets.copy()
    positions = xp.zeros((n, n_assets))
    fewest = xp.full(n, n_assets + 1)
    patience = xp.full(n, _PATIENCE)
    order = xp.arange(n_assets)
    left = np.arange(n)
    for _ in range(_MAX_STEPS):
        at = xp.asarray(left)
        found, wrong = _pivot(correlation[at], scale[at], held[at])
        positions[at] = found
        n_wrong = wrong.sum(axis=1)
        better = n_wrong < fewest[at]
        fewest[at] = xp.where(better, n_wrong, fewest[at])
        patience[at] = xp.where(better, _PATIENCE, patience[at] - 1)
        last = xp.where(wrong, order, -1).max(axis=1)
        changes = xp.where((patience[at] >= 0)[:, None], wrong, order == last[:, None])
        held[at] = held[at] ^ changes
        left = left[to_numpy(n_wrong > 0)]
        if not len(left):
            break
    weights = _invested(xp.maximum(positions, 0.0) * scale)
    return xp.where(duality_gap(matrices, weights, assets)[:, None] <= CERTIFIED_GAP, weights, xp.nan)


def duality_gap(matrices: Array, weights: Array, assets: Array | None = None) -> Array:
    """How far the variance of long-only weights may be above the least one, at most, relatively; (n,).

    `assets` as of `long_only`.

    By convexity, any u >= 0 with 1'u = 1 has u' Sigma u >= w' Sigma w + 2 (Sigma w)'(u - w)
    >= 2 min_i (Sigma w)_i - w' Sigma w.
    """
    xp = array_namespace(matrices)
    gradient = xp.einsum("nij,nj->ni", matrices, weights)
    variance = xp.einsum("ni,ni->n", gradient, weights)
    if assets is not None:
        gradient = xp.where(assets, gradient, xp.inf)
    return 2.0 * (variance - gradient.min(axis=1)) / variance


def _scaled(matrices: Array, assets: Array | None) -> tuple[Array, Array]:
    """Correlations with the ridge, and 1 / volatility over its largest: the scale in which positions are alike.

    Where there is no asset the matrix has nothing but the ridge, and the scale is 0.
    """
    xp = array_namespace(matrices)
    variances = xp.einsum("nii->ni", matrices)
    if assets is not None:
        variances = xp.where(assets, variances, xp.inf)
    inverse = 1.0 / xp.sqrt(variances)
    correlation = matrices * inverse[:, :, None] * inverse[:, None, :]
    diagonal = xp.arange(matrices.shape[1])
    correlation[:, diagonal, diagonal] += _RIDGE
    return correlation, inverse / inverse.max(axis=1, keepdims=True)


def _pivot(correlation: Array, scale: Array, held: Array) -> tuple[Array, Array]:
    """Positions with zero gradient in the assets held, and which assets have a sign that the optimum has not."""
    xp = array_namespace(scale)
    both = held[:, :, None] & held[:, None, :]
    # The others' rows become those of the identity, with nothing on the right: their positions are zero.
    system = xp.where(both, correlation, xp.eye(scale.shape[1]))
    positions = _solve(system, xp.where(held, scale, 0.0))
    gradient = xp.einsum("nij,nj->ni", correlation, positions) - scale
    wrong = xp.where(held, positions, gradient) < -_TOLERANCE
    return positions, wrong


def _solve(matrices: Array, right: Array) -> Array:
    return array_namespace(matrices).linalg.solve(matrices, right[:, :, None])[:, :, 0]


def _invested(positions: Array) -> Array:
    return positions / positions.sum(axis=1, keepdims=True)
