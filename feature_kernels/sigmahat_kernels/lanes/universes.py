# SPDX-License-Identifier: Apache-2.0
"""Spectra and pair statistics of universes of any sizes, by compiled kernels; see `solvers.Solver`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import float64, int64

from sigmahat_kernels.lanes import pairs
from sigmahat_kernels.lanes.compiled import compiled_for
from sigmahat_kernels.lanes.pairs import FORM, gather_pairs, quadratic_form
from sigmahat_kernels.lanes.spectra import SPARE, eigenvalues_of_triangles, triangle_size
from sigmahat_kernels.pairs import HISTOGRAM_BINS, PairStatistics
from sigmahat_kernels.scratch import Scratch


def gather_universes(
    products: Sequence[np.ndarray], index: np.ndarray, sizes: np.ndarray, scratch: Scratch
) -> tuple[np.ndarray, PairStatistics]:
    """Correlation matrices of n universes, as `eigenvalues_of_triangles` takes them, and their pair statistics.

    Parameters
    ----------
    products : three float64 arrays of shape (m, m)
        See `solvers.Solver.pair_statistics`.
    index : int64 array of shape (n, N)
        Columns of each universe, anything behind the last.
    sizes : int64 array of shape (n,)
        Assets of each, the largest first.
    scratch : Scratch
        Of this thread; holds the triangles.

    Returns
    -------
    triangles : float64 array of shape (n, `triangle_size` of the largest + `SPARE`)
    statistics : PairStatistics
        Row sums with zeros behind a smaller universe's.
    """
    n, width = len(sizes), int(sizes[0])
    length = -(-width // pairs.LANES) * pairs.LANES
    columns = scratch.array("columns", (n, length), np.int64)
    columns[:, :width] = index[:, :width]
    triangles = scratch.array("triangles", (n, triangle_size(width) + SPARE))
    row_sum, sums = np.zeros((n, length)), np.empty((n, pairs.N_SUMS))
    histogram = np.empty((n, HISTOGRAM_BINS), np.int64)
    slow, fast, first = map(np.ascontiguousarray, products)  # a kernel counts elements as they lie in memory
    _gather(
        slow,
        fast,
        first,
        columns,
        sizes,
        triangles,
        row_sum,
        scratch.array("largest", (length,)),
        scratch.array("counters", (pairs.COUNTERS,), np.int64),
        sums,
        histogram,
    )
    square, cube, drift, first_square, first_product, nearest, form = sums.T
    return triangles, PairStatistics(
        row_sum[:, :width], form, nearest, square, cube, histogram, drift, first_square, first_product
    )


def dual_spectra(factor: np.ndarray, index: np.ndarray, sizes: np.ndarray, scratch: Scratch) -> np.ndarray:
    """Spectra of universes of more assets than T - 1 from their T x T Gram matrices, see `spectrum.dual_spectrum`.

    Parameters
    ----------
    factor : float64 array of shape (m, T)
    index, sizes, scratch
        See `gather_universes`.

    Returns
    -------
    array of shape (n, N)
        Ascending, none negative, zeros in front.
    """
    n, n_obs = len(sizes), factor.shape[1]
    triangles = scratch.array("triangles", (n, triangle_size(n_obs) + SPARE))
    for k, size in enumerate(sizes.tolist()):
        own = factor.take(index[k, :size], axis=0, out=scratch.array("factor", (size, n_obs)), mode="clip")
        fold(own.T @ own, triangles[k])
    eigenvalues = np.zeros((n, int(sizes[0])))
    found = eigenvalues_of_triangles(triangles, np.full(n, n_obs), scratch)
    eigenvalues[:, eigenvalues.shape[1] - n_obs + 1 :] = found[:, 1:]
    return eigenvalues


def eigenvalues_of_stack(stack: np.ndarray, scratch: Scratch) -> np.ndarray:
    """Eigenvalues of symmetric matrices, shape (n, N, N) -> (n, N), ascending, none negative."""
    n, size = stack.shape[:2]
    triangles = scratch.array("triangles", (n, triangle_size(size) + SPARE))
    for matrix, triangle in zip(stack, triangles, strict=True):
        fold(matrix, triangle)
    return eigenvalues_of_triangles(triangles, np.full(n, size), scratch)


@compiled_for((float64[:, ::1], float64[::1]))
def fold(matrix: np.ndarray, triangle: np.ndarray) -> None:
    """The lower triangle of a symmetric matrix, row after row."""
    base = 0
    for r in range(len(matrix)):
        for c in range(r + 1):
            triangle[base + c] = matrix[r, c]
        base += r + 1


@compiled_for(
    (
        float64[:, ::1],
        float64[:, ::1],
        float64[:, ::1],
        int64[:, ::1],
        int64[::1],
        float64[:, ::1],
        float64[:, ::1],
        float64[::1],
        int64[::1],
        float64[:, ::1],
        int64[:, ::1],
    )
)
def _gather(
    slow: np.ndarray,
    fast: np.ndarray,
    first: np.ndarray,
    columns: np.ndarray,
    sizes: np.ndarray,
    triangles: np.ndarray,
    row_sum: np.ndarray,
    largest: np.ndarray,
    counters: np.ndarray,
    sums: np.ndarray,
    histogram: np.ndarray,
) -> None:
    for k in range(len(sizes)):
        n = sizes[k]
        columns[k, n:] = 0
        gather_pairs(
            slow, fast, first, columns[k], n, triangles[k], row_sum[k], largest, counters, sums[k], histogram[k]
        )
        sums[k, FORM] = quadratic_form(triangles[k], n, row_sum[k])
