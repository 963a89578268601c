# SPDX-License-Identifier: Apache-2.0
"""A universe's correlations out of those of its window, and all sums over its pairs, in one pass."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.vectors import (
    count,
    count_up,
    fma,
    gather,
    load,
    max_lanes,
    select,
    splat,
    store,
    sum_lanes,
)
from sigmahat_kernels.pairs import HISTOGRAM_BINS

LANES = 8
"""Elements of a row at a time, on every machine: sums run over every eighth."""

COUNTERS = LANES * 64
"""int64 numbers of work for the histogram: each lane counts by itself, and what is no pair is counted apart."""

N_SUMS = 7
"""square, cube, drift, first_square, first_product, nearest and form, see `sigmahat_kernels.pairs.PairStatistics`."""

NEAREST, FORM = 5, 6

_STRIDE = 64
_NO_PAIR = float(HISTOGRAM_BINS)
_HALF_BINS = HISTOGRAM_BINS / 2


@compiled
def gather_pairs(
    slow: np.ndarray,
    fast: np.ndarray,
    first: np.ndarray,
    columns: np.ndarray,
    n: int,
    triangle: np.ndarray,
    row_sum: np.ndarray,
    largest: np.ndarray,
    counters: np.ndarray,
    sums: np.ndarray,
    histogram: np.ndarray,
) -> None:
    """Measure the pairs of one universe.

    Parameters
    ----------
    slow, fast, first : float64 arrays, (m, m)
        See `shared_window.Products`.
    columns : int64 array, (at least n up to the next multiple of 8,)
        Columns of the universe, any others behind.
    n : int
        Its assets.
    triangle : float64 array, (at least n (n + 1) / 2 + 8,)
        Filled: its correlations' lower triangle, row after row, ones on the diagonal; then zeros.
    row_sum : float64 array, (at least n up to the next multiple of 8,)
        Filled: sums of the rows of its correlation matrix; then zeros.
    largest : float64 array, as long
    counters : int64 array, (`COUNTERS`,)
        Work.
    sums, histogram : float64 array, (`N_SUMS`,), and int64 array, (HISTOGRAM_BINS,)
        Filled, but for `FORM`.
    """
    m = slow.shape[1]
    zero, least = splat(0.0, LANES), splat(-2.0, LANES)
    # A hair less than half the bins, so that a correlation of 1 stays below the upper end of the last bin.
    scale, middle, no_pair = splat(_HALF_BINS * (1.0 - 1e-12), LANES), splat(_HALF_BINS, LANES), splat(_NO_PAIR, LANES)
    square, cube, drift, first_square, first_product = zero, zero, zero, zero, zero
    for c in range(0, n, LANES):
        store(row_sum, c, zero)
        store(largest, c, least)
    for b in range(COUNTERS):
        counters[b] = 0
    base = 0
    for r in range(n):
        row = columns[r] * m
        total, most, end = zero, least, splat(float(r), LANES)
        for c in range(0, r, LANES):
            held = count_up(c, LANES) < end
            x = select(held, gather(slow, row, columns, c, LANES), zero)
            f = select(held, gather(fast, row, columns, c, LANES), zero)
            h = select(held, gather(first, row, columns, c, LANES), zero)
            store(triangle, base + c, x)
            squared, moved = x * x, f - x
            square = square + squared
            cube = fma(squared, x, cube)
            drift = fma(moved, moved, drift)
            first_square = fma(h, h, first_square)
            first_product = fma(h, x, first_product)
            total = total + x
            store(row_sum, c, load(row_sum, c, LANES) + x)
            count(counters, _STRIDE, select(held, fma(x, scale, middle), no_pair))
            x = select(held, x, least)
            most = select(x > most, x, most)
            before = load(largest, c, LANES)
            store(largest, c, select(x > before, x, before))
        triangle[base + r] = 1.0
        row_sum[r] = sum_lanes(total) + 1.0
        largest[r] = max_lanes(most)
        base += r + 1
    store(triangle, base, zero)
    sums[0], sums[1], sums[2] = sum_lanes(square), sum_lanes(cube), sum_lanes(drift)
    sums[3], sums[4] = sum_lanes(first_square), sum_lanes(first_product)
    for b in range(HISTOGRAM_BINS):
        number = 0
        for k in range(LANES):
            number += counters[_STRIDE * k + b]
        histogram[b] = number
    nearest = zero
    for c in range(0, n, LANES):
        nearest = nearest + select(count_up(c, LANES) < splat(float(n), LANES), load(largest, c, LANES), zero)
    sums[NEAREST] = sum_lanes(nearest)


@compiled
def quadratic_form(triangle: np.ndarray, n: int, row_sum: np.ndarray) -> float:
    """s'R s of the row sums s of a correlation matrix R, its `triangle` and `row_sum` as `gather_pairs` fills them."""
    zero = splat(0.0, LANES)
    products, squares = zero, zero
    base = 0
    for r in range(n):
        total, end = zero, splat(float(r), LANES)
        for c in range(0, r, LANES):
            x = select(count_up(c, LANES) < end, load(triangle, base + c, LANES), zero)
            total = fma(x, load(row_sum, c, LANES), total)
        products = fma(total, splat(row_sum[r], LANES), products)
        base += r + 1
    for c in range(0, n, LANES):
        s = load(row_sum, c, LANES)
        squares = fma(s, s, squares)
    return 2.0 * sum_lanes(products) + sum_lanes(squares)
