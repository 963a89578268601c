# SPDX-License-Identifier: Apache-2.0
"""Leading factors of the exponentially weighted correlation: what of the fast moves is common, without its noise."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace

N_FACTORS = 3

PASSES = 6
"""Products with the correlation: enough where the first eigenvalues stand apart from the rest, as in real universes."""

DEPENDENT = 1e-9
"""A column of which the others leave at most this share of its variance is none: three factors there are not."""


def leading_factors(correlation: Array) -> Array:
    """Loadings L of shape (n, N, 3) on the leading factors of correlations R of shape (n, N, N).

    From the columns 1, s and s^2 with s = R 1 / N, `PASSES` times

        V <- R V C'^-1,  C C' = V'R V  (Cholesky),

    an orthogonal iteration (Rutishauser 1970) that needs no eigenvectors of small matrices. L is the last V, so that
    L L' = R V (V'R V)^-1 V'R is Nystrom's approximation of R: positive semi-definite, nowhere above R's diagonal, at
    the fixed point the three leading eigenpairs. The start is the same for every order of the assets.

    >>> import numpy as np
    >>> loadings = leading_factors(np.array([[[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]]]))
    >>> (loadings @ loadings.transpose(0, 2, 1))[0].round(6)
    array([[0.8, 0.8, 0. ],
           [0.8, 0.8, 0. ],
           [0. , 0. , 1. ]])

    References
    ----------
    Rutishauser, Numerische Mathematik 16, 1970; Halko, Martinsson, Tropp, SIAM Review 53(2), 2011, section 5.5.
    """
    xp = array_namespace(correlation)
    n_assets = correlation.shape[-1]
    mean = correlation @ xp.ones(n_assets) / n_assets
    columns = xp.stack([xp.ones_like(mean), mean, mean**2], axis=2)
    for _ in range(PASSES):
        product = correlation @ columns
        columns = _divide(product, columns.transpose(0, 2, 1) @ product)
    return columns


def _divide(product: Array, gram: Array) -> Array:
    """`product` C'^-1 with C C' = `gram`, column by column; zero where a column depends on those before it.

    Parameters
    ----------
    product : array of shape (n, N, 3)
    gram : array of shape (n, 3, 3)
    """
    xp = array_namespace(product)
    cholesky: list[list[Array]] = []
    done: list[Array] = []
    for k in range(N_FACTORS):
        row: list[Array] = []
        for j in range(k):
            known = sum((row[i] * cholesky[j][i] for i in range(j)), xp.zeros(len(gram)))
            pivot = cholesky[j][j]
            row.append(xp.where(pivot > 0, (gram[:, k, j] - known) / xp.where(pivot > 0, pivot, 1.0), 0.0))
        left = gram[:, k, k] - sum((entry**2 for entry in row), xp.zeros(len(gram)))
        pivot = xp.sqrt(xp.where(left > DEPENDENT * gram[:, k, k], left, 0.0))
        column = product[:, :, k] - sum((done[j] * row[j][:, None] for j in range(k)), xp.zeros_like(product[:, :, k]))
        moves = pivot > 0
        done.append(xp.where(moves[:, None], column / xp.where(moves, pivot, 1.0)[:, None], 0.0))
        cholesky.append([*row, pivot])
    return xp.stack(done, axis=2)


def blend_factors(correlation: Array, loadings: Array, share: Array) -> Array:
    """Mix correlations with those that the factors alone would give: (1 - psi) R + psi (L L' + diag(1 - |L_i|^2)).

    Parameters
    ----------
    correlation : array of shape (n, N, N)
        Overwritten; unit diagonal.
    loadings : array of shape (n, N, 3)
    share : array of shape (n,)
        psi in [0, 1].

    Returns
    -------
    array of shape (n, N, N)
        In the memory of `correlation`; positive semi-definite with a unit diagonal, since both parts are.
    """
    xp = array_namespace(correlation)
    correlation *= (1.0 - share)[:, None, None]
    scaled = loadings * xp.sqrt(share)[:, None, None]
    correlation += scaled @ scaled.transpose(0, 2, 1)
    diagonal = xp.arange(correlation.shape[-1])
    correlation[:, diagonal, diagonal] = 1.0
    return correlation
