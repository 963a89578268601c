# SPDX-License-Identifier: Apache-2.0
"""Products of a symmetric matrix with vectors, of which one half is read: an entry once, for both its places."""

from __future__ import annotations

from sigmahat_kernels.backend import Array
from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.vectors import fma, load, splat, store, sums_of_four

LANES = 8
ROWS = 4
"""Rows of a triangle are multiplied so many at a time; `LANES` is a multiple."""

VECTOR, PRODUCT = range(2)
"""Rows of each of `vectors`: x, and what A x is so far."""


@compiled
def multiply_rows(triangle: Array, row: int, stride: int, i: int, vectors: Array) -> None:
    """Add to all A x what rows i to i + 3 of A have part in: as rows, and as columns above the diagonal.

    Parameters
    ----------
    triangle : float64 array
        A below its diagonal, zero from there to the end of a row's last whole vector.
    row, stride : int
        Where row i begins, counted as elements lie in memory, and how far each next one is behind it.
    i : int
        A multiple of `ROWS`.
    vectors : float64 array of shape (P, 2, width)
    """
    width = vectors.shape[2]
    for p in range(len(vectors)):
        x, product = (2 * p + VECTOR) * width, (2 * p + PRODUCT) * width
        own_0, own_1 = splat(vectors[p, VECTOR, i], LANES), splat(vectors[p, VECTOR, i + 1], LANES)
        own_2, own_3 = splat(vectors[p, VECTOR, i + 2], LANES), splat(vectors[p, VECTOR, i + 3], LANES)
        total_0 = total_1 = total_2 = total_3 = splat(0.0, LANES)
        for j in range(0, i + 1, LANES):
            others, found = load(vectors, x + j, LANES), load(vectors, product + j, LANES)
            entries = load(triangle, row + j, LANES)
            total_0 = fma(entries, others, total_0)
            found = fma(entries, own_0, found)
            entries = load(triangle, row + stride + j, LANES)
            total_1 = fma(entries, others, total_1)
            found = fma(entries, own_1, found)
            entries = load(triangle, row + 2 * stride + j, LANES)
            total_2 = fma(entries, others, total_2)
            found = fma(entries, own_2, found)
            entries = load(triangle, row + 3 * stride + j, LANES)
            total_3 = fma(entries, others, total_3)
            found = fma(entries, own_3, found)
            store(vectors, product + j, found)
        rows = load(vectors, product + i, ROWS) + sums_of_four(total_0, total_1, total_2, total_3)
        store(vectors, product + i, rows)
