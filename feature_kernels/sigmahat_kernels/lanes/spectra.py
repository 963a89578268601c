# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of symmetric matrices, of one size or of many: each gets the bits that it would get alone."""

from __future__ import annotations

import numpy as np
from numba import float64, int64

from sigmahat_kernels.lanes.compiled import compiled, compiled_for
from sigmahat_kernels.lanes.ql import eigenvalues_of_tridiagonals
from sigmahat_kernels.lanes.tridiagonal import tridiagonalise_across, tridiagonalise_lanes
from sigmahat_kernels.lanes.vectors import WIDTH, load_strided, splat, store
from sigmahat_kernels.scratch import Scratch

GROUP = 16
"""Matrices whose eigenvalues are found together: their steps hide each other's latency."""

SPARE = 8
"""Elements that are read, and not used, behind the last one of a triangle."""

_FEW = 4
"""So many matrices or fewer are done sooner in narrower vectors."""

_REGISTER_COST = 4.0
"""A matrix in each lane takes as long as so many of them one by one, whether the lanes are used or not."""


def triangle_size(n: int) -> int:
    """Elements of a lower triangle of n rows, diagonal included."""
    return n * (n + 1) // 2


def eigenvalues_of_triangles(triangles: np.ndarray, sizes: np.ndarray, scratch: Scratch) -> np.ndarray:
    """Eigenvalues of n symmetric matrices, in ascending order, with zeros in front of a smaller matrix's.

    Parameters
    ----------
    triangles : float64 array of shape (n, at least `triangle_size` of the largest + `SPARE`)
        Lower triangles, row after row.
    sizes : int64 array of shape (n,)
        Rows of each matrix, the largest first.
    scratch : Scratch
        Of this thread.

    Raises
    ------
    numpy.linalg.LinAlgError
        If eigenvalues were not found.
    """
    largest = int(sizes[0])
    eigenvalues = np.zeros((len(sizes), largest))
    length = -(-largest // 8) * 8
    matrices = scratch.array("matrices", (max(triangle_size(largest) * WIDTH, length * length),))
    work = scratch.array("reflections", (4 * length * WIDTH,))
    tridiagonals = scratch.array("tridiagonals", (2, largest * max(WIDTH, GROUP)))
    ends = scratch.array("ends", (2, largest * WIDTH))
    found = scratch.array("found", (GROUP * largest,))
    _solve(triangles, sizes, matrices, work, ends, tridiagonals, found, eigenvalues)
    if np.isnan(eigenvalues).any():
        raise np.linalg.LinAlgError("eigenvalues did not converge")
    eigenvalues.sort(axis=1)
    return eigenvalues


@compiled
def _tridiagonalise(
    triangles: np.ndarray,
    sizes: np.ndarray,
    matrices: np.ndarray,
    work: np.ndarray,
    ends: np.ndarray,
    d: np.ndarray,
    e: np.ndarray,
) -> None:
    """Tridiagonalise a group, in whichever form is sooner done; into d and e, where each ends at the last row."""
    n_group, largest = len(sizes), len(d)
    k = 0
    while k < n_group:
        n = sizes[k]
        one_by_one = 0.0
        for other in range(k, min(k + WIDTH, n_group)):
            one_by_one += (sizes[other] / n) ** 3
        count = 1
        if one_by_one > _REGISTER_COST:
            count = min(WIDTH, n_group - k)
            diagonal, squares = ends[0, : n * WIDTH].reshape(n, WIDTH), ends[1, : n * WIDTH].reshape(n, WIDTH)
            lanes = matrices[: n * (n + 1) // 2 * WIDTH].reshape(n * (n + 1) // 2, WIDTH)
            _spread(triangles, sizes, k, lanes)
            tridiagonalise_lanes(lanes, n, work[: 4 * n * WIDTH].reshape(4, n, WIDTH), diagonal, squares)
        else:
            diagonal, squares = ends[0, :n].reshape(n, 1), ends[1, :n].reshape(n, 1)
            length = (n + 7) // 8 * 8
            matrix = matrices[: length * length].reshape(length, length)
            _unfold(triangles[k], n, matrix)
            tridiagonalise_across(matrix, n, work[: 4 * length].reshape(4, length), ends[0, :n], ends[1, :n])
        for lane in range(count):
            before = largest - sizes[k + lane]
            for i in range(sizes[k + lane]):
                d[before + i, k + lane] = diagonal[i, lane]
                e[before + i, k + lane] = squares[i, lane]
        k += count


@compiled
def _spread(triangles: np.ndarray, sizes: np.ndarray, k: int, lanes: np.ndarray) -> None:
    """The triangles from k on, one a lane; zeros where a lane has none, and behind a smaller one, there too."""
    n_group, stride = triangles.shape
    end = sizes[k] * (sizes[k] + 1) // 2
    count = min(WIDTH, n_group - k)
    for lane in range(count):
        triangles[k + lane, sizes[k + lane] * (sizes[k + lane] + 1) // 2 : end] = 0.0
    if count == WIDTH:
        for at in range(end):
            store(lanes, at * WIDTH, load_strided(triangles, k * stride + at, stride, WIDTH))
    else:
        lanes[:end] = 0.0
        for lane in range(count):
            for at in range(end):
                lanes[at, lane] = triangles[k + lane, at]


@compiled
def _unfold(triangle: np.ndarray, n: int, matrix: np.ndarray) -> None:
    """Both triangles of a matrix, and zeros around it."""
    length = len(matrix)
    base = 0
    for r in range(n):
        for c in range(r + 1):
            matrix[r, c] = triangle[base + c]
        matrix[r, r + 1 :] = 0.0
        base += r + 1
    matrix[n:] = 0.0
    for r in range(0, length, 8):
        for c in range(r):
            store(matrix, c * length + r, load_strided(matrix, r * length + c, length, 8))
        for c in range(r, r + 8):
            for above in range(r, c):
                matrix[above, c] = matrix[c, above]


@compiled_for(
    (
        float64[:, ::1],
        int64[::1],
        float64[::1],
        float64[::1],
        float64[:, ::1],
        float64[:, ::1],
        float64[::1],
        float64[:, ::1],
    )
)
def _solve(
    triangles: np.ndarray,
    sizes: np.ndarray,
    matrices: np.ndarray,
    work: np.ndarray,
    ends: np.ndarray,
    tridiagonals: np.ndarray,
    found: np.ndarray,
    eigenvalues: np.ndarray,
) -> None:
    n_all, width = eigenvalues.shape
    for start in range(0, n_all, GROUP):
        n_group = min(GROUP, n_all - start)
        largest = sizes[start]
        n_lanes = GROUP if n_group > _FEW else _FEW
        d = tridiagonals[0, : largest * n_lanes].reshape(largest, n_lanes)
        e = tridiagonals[1, : largest * n_lanes].reshape(largest, n_lanes)
        d[:] = 0.0
        e[:] = 0.0
        group = slice(start, start + n_group)
        _tridiagonalise(triangles[group], sizes[group], matrices, work, ends, d, e)
        first = np.full(n_lanes, largest - 1)
        for k in range(n_group):
            first[k] = largest - sizes[start + k]
        out = found[: n_lanes * largest].reshape(n_lanes, largest)
        marks = np.empty((5, n_lanes))
        if n_lanes == GROUP:
            eigenvalues_of_tridiagonals(d, e, first, marks, out, splat(0.0, GROUP))
        else:
            eigenvalues_of_tridiagonals(d, e, first, marks, out, splat(0.0, _FEW))
        for k in range(n_group):
            for i in range(largest - sizes[start + k], largest):
                x = out[k, i]
                eigenvalues[start + k, width - largest + i] = 0.0 if x < 0.0 else x  # NaN stays
