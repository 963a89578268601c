# SPDX-License-Identifier: Apache-2.0
"""`fast_factors.leading_factors` for the CPU: one universe at a time, from one half of its correlation."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from sigmahat_kernels.backend import Array
from sigmahat_kernels.fast_factors import DEPENDENT, N_FACTORS, PASSES
from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.products import LANES, PRODUCT, ROWS, VECTOR, multiply_rows
from sigmahat_kernels.lanes.vectors import WIDTH, fma, load, splat, store, sum_lanes, sums_of_four

Three: TypeAlias = tuple[Any, Any, Any]
"""Lanes of each of the three factors."""


@compiled
def row_start(i: int) -> int:
    """Where row i of a triangle begins: rows up to the diagonal, in whole vectors, one after the other.

    So the triangle of 100 assets fits in 48 KB, which a core's first cache has: it is read `PASSES` times.
    """
    whole = i // LANES
    return LANES * (whole + 1) * (LANES * whole // 2 + i % LANES)


@compiled
def _multiply_three(triangle: Array, row: int, length: int, i: int, factors: Array) -> None:
    """`products.multiply_rows` to the bit, all three vectors at once: faster where registers hold what that takes."""
    own_0, own_1, own_2, own_3 = _own(factors, i), _own(factors, i + 1), _own(factors, i + 2), _own(factors, i + 3)
    zero, width = splat(0.0, LANES), factors.shape[2]
    total_0 = total_1 = total_2 = total_3 = (zero, zero, zero)
    for j in range(0, length, LANES):
        others, found = _block(factors, VECTOR, j), _block(factors, PRODUCT, j)
        entries = load(triangle, row + j, LANES)
        total_0, found = _add(entries, others, total_0), _add(entries, own_0, found)
        entries = load(triangle, row + length + j, LANES)
        total_1, found = _add(entries, others, total_1), _add(entries, own_1, found)
        entries = load(triangle, row + 2 * length + j, LANES)
        total_2, found = _add(entries, others, total_2), _add(entries, own_2, found)
        entries = load(triangle, row + 3 * length + j, LANES)
        total_3, found = _add(entries, others, total_3), _add(entries, own_3, found)
        for k in range(N_FACTORS):
            store(factors, (2 * k + PRODUCT) * width + j, found[k])
    for k in range(N_FACTORS):
        at = (2 * k + PRODUCT) * width + i
        rows = sums_of_four(total_0[k], total_1[k], total_2[k], total_3[k])
        store(factors, at, load(factors, at, ROWS) + rows)


@compiled
def _own(factors: Array, i: int) -> Three:
    return (
        splat(factors[0, VECTOR, i], LANES),
        splat(factors[1, VECTOR, i], LANES),
        splat(factors[2, VECTOR, i], LANES),
    )


@compiled
def _block(factors: Array, row: int, j: int) -> Three:
    width = factors.shape[2]
    return (
        load(factors, row * width + j, LANES),
        load(factors, (2 + row) * width + j, LANES),
        load(factors, (4 + row) * width + j, LANES),
    )


@compiled
def _add(entries: Any, x: Three, y: Three) -> Three:
    """entries x + y for each of three vectors."""
    return fma(entries, x[0], y[0]), fma(entries, x[1], y[1]), fma(entries, x[2], y[2])


@compiled
def _divide(factors: Array, divisor: Array) -> None:
    """V <- R V C'^-1, see `fast_factors._divide`; `divisor` holds C, and 1 / C_kk on its diagonal."""
    width = factors.shape[2]
    for k in range(N_FACTORS):
        x = (2 * k + VECTOR) * width
        for j in range(k + 1):
            total = splat(0.0, LANES)
            for at in range(0, width, LANES):
                total = fma(load(factors, x + at, LANES), load(factors, (2 * j + PRODUCT) * width + at, LANES), total)
            divisor[k, j] = sum_lanes(total)
        left = own = divisor[k, k]
        for j in range(k):
            for i in range(j):
                divisor[k, j] -= divisor[k, i] * divisor[j, i]
            divisor[k, j] *= divisor[j, j]
            left -= divisor[k, j] ** 2
        divisor[k, k] = 1.0 / math.sqrt(left) if left > DEPENDENT * own else 0.0
        for at in range(0, width, LANES):
            column = load(factors, (2 * k + PRODUCT) * width + at, LANES)
            for j in range(k):
                column = column - splat(divisor[k, j], LANES) * load(factors, (2 * j + VECTOR) * width + at, LANES)
            store(factors, x + at, splat(divisor[k, k], LANES) * column)


_multiply_rows = _multiply_three if WIDTH == LANES else multiply_rows


@compiled
def leading_factors(triangle: Array, sums: Array, n: int, factors: Array, divisor: Array) -> None:
    """Loadings of n assets on the leading factors of their correlation, see `fast_factors.leading_factors`.

    Parameters
    ----------
    triangle : float64 array of any shape, room for whole vectors of as many rows
        The correlation below its diagonal, rows as `row_start` says, zero from the diagonal on; rows behind the last
        asset's, to a multiple of `ROWS`, are made zero.
    sums : float64 array of shape (width,)
        Of each row off the diagonal.
    n : int
    factors : float64 array of shape (N_FACTORS, 2, width)
        Filled: the loadings are in rows `VECTOR`, zero behind the last asset.
    divisor : float64 array of shape (N_FACTORS, N_FACTORS)
        Used inside.
    """
    width = factors.shape[2]
    for at in range(row_start(n), row_start(-(-n // ROWS) * ROWS), LANES):
        store(triangle, at, splat(0.0, LANES))
    factors[:] = 0.0
    for i in range(n):
        mean = (sums[i] + 1.0) / n
        factors[0, VECTOR, i], factors[1, VECTOR, i], factors[2, VECTOR, i] = 1.0, mean, mean * mean
    for _ in range(PASSES):
        for k in range(N_FACTORS):
            for at in range(0, width, LANES):  # the diagonal's part
                store(factors, (2 * k + PRODUCT) * width + at, load(factors, (2 * k + VECTOR) * width + at, LANES))
        for i in range(0, n, ROWS):
            _multiply_rows(triangle, row_start(i), (i // LANES + 1) * LANES, i, factors)
        _divide(factors, divisor)
