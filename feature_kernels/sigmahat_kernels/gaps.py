# SPDX-License-Identifier: Apache-2.0
"""Correlations of universes with missing cells: one expectation step of a one-factor model.

A product of two returns of which one is missing is replaced by what it is expected to be, given the returns that the
universe has in that row. Zero in its place would pull every correlation of an asset with a short history toward zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.panel import FAST_HALFLIFE, TINY, Window, exponential_weights
from sigmahat_kernels.scratch import Scratch, take

PRIOR_ROWS = 20.0
"""An asset's slope on the others starts from the universe's, which counts as much as this many rows."""

_LEAST, _MOST = 0.01, 0.99
"""Limits of the average correlation that the factor is made of: at 0 and 1 the model has no factor or no rest."""


class Incomplete(NamedTuple):
    """Columns of a window of T rows in which returns are missing; a column is a row here, to be gathered whole."""

    standardised: Array  # (m, T) winsorised, missing = 0, of mean square 1 over the rows that there are
    observed: Array  # (m, T) 1.0 where there is a return
    weights: Array  # (T,) of the rows in the slow correlation, `Window.weights`
    columns: np.ndarray  # (m,) on the host, whether a column misses any


def incomplete(window: Window) -> Incomplete | None:
    """What correlations of a window's universes with missing cells are made of; None where no cell is missing."""
    if window.complete:
        return None
    xp = array_namespace(window.standardised)
    z = window.standardised
    scaled = z * xp.sqrt(window.n_observed / (z**2).sum(axis=0))
    columns = to_numpy(window.n_observed) < len(z)
    return Incomplete(xp.ascontiguousarray(scaled.T), xp.ascontiguousarray(window.observed.T), window.weights, columns)


class MissingCells(NamedTuple):
    """The same of m columns of windows of up to T rows, for a kernel that reads what is missing one by one."""

    standardised: Array  # (T, m) as in `Incomplete`, not a number where missing; rows that all count alike
    roots: Array  # (2, m) of the sums of their squares over the rows, by either of `weights`
    weights: Array  # (2, T) of the rows in the slow and in the fast correlation
    starts: Array  # (m + 1,) int32: column c misses rows[starts[c] : starts[c + 1]]
    rows: Array  # (missing cells,) int32


def missing_cells(window: Window) -> MissingCells:
    """What correlations of universes with missing cells are made of, on a GPU; waits for it.

    Above the rows of a shorter window nothing is missing, and nothing is there.
    """
    xp = array_namespace(window.standardised)
    z = window.standardised * xp.sqrt(window.n_observed / (window.standardised**2).sum(axis=0))
    weights = xp.stack([window.weights, exponential_weights(xp, len(z), FAST_HALFLIFE)])
    roots = xp.sqrt(weights @ z**2)
    observed = window.observed > 0
    missing = ~observed
    if window.lengths is not None:
        missing &= xp.arange(len(z))[:, None] >= len(z) - window.lengths
    starts = xp.zeros(z.shape[1] + 1, xp.int32)
    starts[1:] = xp.cumsum(window.n_rows - window.n_observed)
    rows = xp.nonzero(missing.T)[1].astype(xp.int32)
    return MissingCells(xp.ascontiguousarray(xp.where(observed, z, xp.nan)), roots, weights, starts, rows)


def complete_correlations(window: Incomplete, index: Array, scratch: Scratch) -> tuple[Array, Array]:
    r"""Slow and exponentially weighted correlations of universes with missing cells.

    With z the standardised returns (0 where missing), o = 1 where there is one and m = 1 - o, all assets load alike on
    a factor of variance rho, the average correlation over the rows that pairs have in common:

        s_t = sum_i z_it,  c_t = sum_i o_it,  rho = sum_t (s_t^2 - sum_i z_it^2) / sum_t c_t (c_t - 1)
        f_t = s_t / (c_t + k),  u_t = rho k / (c_t + k),  k = (1 - rho) / rho      its mean and variance given the row
        g_it = (s_t - z_it) / (c_t - 1 + k)                                        the mean without asset i itself
        b_i = (sum_t o z g + a b) / (sum_t o g^2 + a)                              slope on it, a prior of 20 rows
        e_i = 1 - (2 b p - b^2 q) / n_i - b^2 mean(rho k / (c - 1 + k))            variance that it leaves

    and the sums of products are what they are expected to be given the observed cells,

        S = x'Wx + y'Wy + diag(e_i sum_t w_t m_it),  x_it = z_it + m_it b_i f_t,  y_it = m_it b_i sqrt(u_t),

    scaled to a unit diagonal. Two Gram matrices and a diagonal that is not negative: S is positive semi-definite, and
    without missing cells it is z'Wz. Assets that share no row with others have the universe's own average slope.

    Parameters
    ----------
    window : Incomplete
    index : integer array of shape (n, N)
        Columns of each universe.
    scratch : Scratch
        Holds what is returned.

    Returns
    -------
    slow, fast : float64 arrays of shape (n, N, N)
        A universe's are the same to the bit whatever its neighbours.

    References
    ----------
    Dempster, Laird, Rubin (1977), J. Royal Statistical Society B 39(1); Stambaugh (1997), J. Financial Economics 45(3),
    for histories of different lengths. One step, not iterated, with variances of the observed rows alone. The model is
    fitted to all rows alike; W are `Window.weights` of the slow correlation, and exponential ones of the fast.
    """
    xp = array_namespace(window.standardised)
    n, n_assets = index.shape
    n_obs = window.standardised.shape[1]
    shape = (n, n_assets, n_obs)
    z = take(window.standardised, index, scratch.array("standardised", shape), axis=0)
    observed = take(window.observed, index, scratch.array("observed", shape), axis=0)
    n_observed = observed.sum(axis=2)
    count, total = observed.sum(axis=1), z.sum(axis=1)
    product = xp.multiply(z, z, out=scratch.array("product", shape))
    pairs = (count * (count - 1.0)).sum(axis=1)
    average = (total**2 - product.sum(axis=1)).sum(axis=1) / xp.maximum(pairs, 1.0)
    rho = xp.clip(average, _LEAST, _MOST)[:, None]
    noise = (1.0 - rho) / rho

    # Sums over rows, not differences of products: where assets share no row they are exactly zero.
    without = 1.0 / (xp.maximum(count, 1.0) - 1.0 + noise)
    others = xp.subtract(total[:, None, :], z, out=scratch.array("others", shape))
    others *= without[:, None, :]
    others *= observed
    shared = xp.multiply(z, others, out=product).sum(axis=2)
    others *= others
    square = others.sum(axis=2)
    all_squares = square.sum(axis=1, keepdims=True)
    prior = PRIOR_ROWS * all_squares / n_observed.sum(axis=1, keepdims=True)
    usual = shared.sum(axis=1, keepdims=True) / xp.maximum(all_squares, TINY)
    slope = (shared + prior * usual) / xp.maximum(square + prior, TINY)
    # The factor explains no more than the asset's variance, 1: few common rows could say otherwise.
    slope = xp.clip(slope, -(rho**-0.5), rho**-0.5)
    unsure = (observed @ (rho * noise * without)[:, :, None])[:, :, 0] / n_observed
    residual = 1.0 - slope * (2.0 * shared - slope * square) / n_observed
    own = xp.maximum(residual - slope**2 * unsure, 0.0)

    fast_weights = exponential_weights(xp, n_obs, FAST_HALFLIFE)
    gap = xp.subtract(1.0, observed, out=observed)
    missing, fast_missing = gap @ window.weights, gap @ fast_weights
    gap *= slope[:, :, None]
    both = scratch.array("expected", (n, n_assets, 2, n_obs))  # x and y side by side: one product is both Gram matrices
    expected, spread = both[:, :, 0], both[:, :, 1]
    xp.multiply(gap, (total / (count + noise))[:, None, :], out=expected)
    expected += z
    xp.multiply(gap, xp.sqrt(rho * noise / (count + noise))[:, None, :], out=spread)
    both *= xp.sqrt(window.weights)
    slow = _correlation(both, own * missing, scratch, "slow")
    both *= xp.sqrt(fast_weights / window.weights)
    fast = _correlation(both, own * fast_missing, scratch, "fast")
    return slow, fast


def _correlation(both: Array, own: Array, scratch: Scratch, name: str) -> Array:
    """Gram matrices of `both` (n, N, 2, T) with `own` (n, N) added to the diagonal, scaled to a unit diagonal."""
    xp = array_namespace(both)
    n, n_assets = own.shape
    rows = both.reshape(n, n_assets, -1)
    matrices = xp.matmul(rows, rows.transpose(0, 2, 1), out=scratch.array(name, (n, n_assets, n_assets)))
    diagonal = matrices.reshape(n, -1)[:, :: n_assets + 1]
    diagonal += own
    scale = 1.0 / xp.sqrt(diagonal)
    # Their product first: it is the same for (i, j) and (j, i), so the matrices stay symmetric to the bit.
    scales = scratch.array("scales", matrices.shape)
    matrices *= xp.multiply(scale[:, :, None], scale[:, None, :], out=scales)
    diagonal[:] = 1.0
    return matrices
