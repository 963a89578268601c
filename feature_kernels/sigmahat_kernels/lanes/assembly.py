# SPDX-License-Identifier: Apache-2.0
"""`covariance.estimate_covariance` for the CPU: entries are gathered, mixed, scaled, then written or multiplied, once.

A universe's numbers are made by one loop over its own entries, so they are the same to the bit whatever its neighbours,
and sums run over eight lanes on every processor. Only the lower triangle is computed: a matrix is symmetric to the bit.
What an entry is, `_estimate` and `_scale_row` say alone: to matrices and to their products with portfolios.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, int64, types

from sigmahat_kernels.asset_statistics import N_ASSET_STATISTICS
from sigmahat_kernels.backend import Array
from sigmahat_kernels.fast_factors import N_FACTORS
from sigmahat_kernels.lanes.assets import (
    FACTOR,
    FAST,
    KEPT,
    LEADING,
    N_ROWS,
    N_SUMS,
    NEAREST,
    SHRUNK,
    SLOW,
    SQUARES,
    combine,
    measure,
    scale,
)
from sigmahat_kernels.lanes.compiled import compiled, compiled_for
from sigmahat_kernels.lanes.fast_factors import leading_factors, row_start
from sigmahat_kernels.lanes.products import LANES, PRODUCT, ROWS, VECTOR, multiply_rows
from sigmahat_kernels.lanes.vectors import (
    count_up,
    fma,
    gather,
    load,
    load_columns,
    max_lanes,
    select,
    splat,
    store,
    store_first,
    sum_lanes,
)
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.scratch import Scratch


class Universes(NamedTuple):
    """What the covariance matrices of n universes of N assets are estimated from; all arrays contiguous."""

    slow: Array  # (1, m, m) or (n, N, N) float64, equal-weighted correlation, of a window's columns or of each universe
    fast: Array  # the same exponentially weighted; symmetric, and only one half is read
    columns: Array  # (n, N in whole vectors) int64, columns of each universe among those of the correlations
    logs: Array  # (8, n, N) float64, ln of the volatilities in the order of `panel.VOLATILITIES`, and of the kurtosis
    parameters: Parameters  # one row a universe, float64
    intensity: Array  # (n, N) float64, what each asset's intensity is tilted from


class _Memory(NamedTuple):
    """What belongs to one universe at a time."""

    mixed: Array  # (width, width), correlations below the diagonal, then what `_scale_row` makes of them
    fast: Array  # (width, width), room for the fast ones, row after row, see `row_start`
    sums: Array  # (N_SUMS, width), see `assets`
    statistics: Array  # (N_ASSET_STATISTICS, width)
    assets: Array  # (N_ROWS, width), see `assets`
    factors: Array  # (N_FACTORS, 2, width), see `leading_factors`
    divisor: Array  # (N_FACTORS, N_FACTORS), the same


def universes_of(
    slow: Array, fast: Array, index: Array, logs: Array, parameters: Parameters, intensity: Array
) -> Universes:
    """Lay out for the kernels what universes are estimated from.

    Parameters
    ----------
    slow, fast : float64 arrays of shape (m, m) or (n, N, N)
        Equal-weighted and exponentially weighted correlation: of a window's columns, from which each universe gathers
        its own, or of each universe.
    index : int64 array of shape (n, N)
        Columns of each universe; not read where the correlations are each universe's.
    logs, parameters, intensity
        See `Universes`.
    """
    n, n_assets = index.shape
    columns = np.zeros((n, _whole(n_assets)), np.int64)
    stack = slow.ndim == 3
    columns[:, :n_assets] = np.arange(n_assets) if stack else index
    return Universes(
        np.ascontiguousarray(slow if stack else slow[None]),
        np.ascontiguousarray(fast if stack else fast[None]),
        columns,
        np.ascontiguousarray(logs),
        Parameters(*map(np.ascontiguousarray, parameters)),
        np.ascontiguousarray(intensity),
    )


def fill_matrices(out: Array, rows: Array, universes: Universes, scratch: Scratch) -> None:
    """Estimate the covariance matrices of n universes of N assets.

    Parameters
    ----------
    out : contiguous float32 or float64 array of shape (universes, width, width)
        ``out[rows[q], :N, :N]`` is written.
    rows : int64 array of shape (n,)
    universes : Universes
    scratch : Scratch
    """
    _fill(out, rows, universes, _memory(universes, scratch))


def multiply(weights: Array, universes: Universes, scratch: Scratch) -> tuple[Array, Array, Array]:
    """What `risk.products` is of the covariance matrices of n universes, which are nowhere, and their diagonals.

    Parameters
    ----------
    weights : contiguous float64 array of shape (n, P, N)
    universes : Universes
    scratch : Scratch

    Returns
    -------
    marginal : array of shape (n, P, N)
    covariance : array of shape (n, P, P)
        Symmetric to the bit.
    diagonal : array of shape (n, N)
    """
    n, n_portfolios, n_assets = weights.shape
    marginal = np.empty(weights.shape)
    covariance = np.empty((n, n_portfolios, n_portfolios))
    diagonal = np.empty((n, n_assets))
    portfolios = scratch.array("portfolios", (n_portfolios, 2, universes.columns.shape[1]))
    _multiply(weights, marginal, covariance, diagonal, universes, _memory(universes, scratch), portfolios)
    return marginal, covariance, diagonal


def _whole(n_assets: int) -> int:
    """Numbers in as many whole vectors as hold one of each asset."""
    return -(-n_assets // LANES) * LANES


def _memory(universes: Universes, scratch: Scratch) -> _Memory:
    width = universes.columns.shape[1]
    return _Memory(
        scratch.array("mixed", (width, width)),
        scratch.array("fast_triangle", (width, width)),
        scratch.array("sums", (N_SUMS, width)),
        scratch.array("statistics", (N_ASSET_STATISTICS, width)),
        scratch.array("assets", (N_ROWS, width)),
        scratch.array("factors", (N_FACTORS, 2, width)),
        scratch.array("divisor", (N_FACTORS, N_FACTORS)),
    )


@compiled
def _mix(slow: Array, fast: Array, columns: Array, n: int, parameters: Parameters, q: int, to: _Memory) -> None:
    """Gather the lower triangle of both correlations, mix them less the factors' part, and sum each asset's others."""
    mixed, triangle, sums, width = to.mixed, to.fast, to.sums, len(columns)
    zero = splat(0.0, LANES)
    kept = 1.0 - parameters.factor_memory[q, 0]
    slow_share = splat(kept * (1.0 - parameters.memory[q, 0]), LANES)
    fast_share = splat(kept * parameters.memory[q, 0], LANES)
    for k in range(0, sums.size, LANES):
        store(sums, k, zero)
    for i in range(n):
        slow_row, fast_row = slow[columns[i]], fast[columns[i]]
        diagonal = splat(float(i), LANES)
        slow_sum = fast_sum = squares = nearest = zero
        for j in range(0, i + 1, LANES):
            below = count_up(j, LANES) < diagonal
            r = select(below, gather(slow_row, 0, columns, j, LANES), zero)
            f = select(below, gather(fast_row, 0, columns, j, LANES), zero)
            square = r * r
            slow_sum = slow_sum + r
            fast_sum = fast_sum + f
            squares = squares + square
            nearest = select(square > nearest, square, nearest)
            store(sums, SLOW * width + j, load(sums, SLOW * width + j, LANES) + r)
            store(sums, FAST * width + j, load(sums, FAST * width + j, LANES) + f)
            store(sums, SQUARES * width + j, load(sums, SQUARES * width + j, LANES) + square)
            known = load(sums, NEAREST * width + j, LANES)
            store(sums, NEAREST * width + j, select(square > known, square, known))
            store(mixed, i * width + j, fma(slow_share, r, fast_share * f))
            store(triangle, row_start(i) + j, f)
        sums[SLOW, i] = sum_lanes(slow_sum)
        sums[FAST, i] = sum_lanes(fast_sum)
        sums[SQUARES, i] = sum_lanes(squares)
        sums[NEAREST, i] = max_lanes(nearest)


@compiled
def _estimate(of: Universes, q: int, memory: _Memory) -> tuple[float, float]:
    """Put into `memory` what the entries of a universe are made of; return the two numbers that `combine` does."""
    _, fast, sums, statistics, assets, factors, divisor = memory
    source = q if len(of.slow) > 1 else 0
    n = of.intensity.shape[1]
    share = of.parameters.factor_memory[q, 0]
    _mix(of.slow[source], of.fast[source], of.columns[q], n, of.parameters, q, memory)
    measure(sums, of.logs, q, statistics)
    scale(statistics, of.logs, of.parameters, of.intensity, q, assets)
    constants = combine(sums, of.parameters, q, n, assets)
    assets[LEADING : LEADING + N_FACTORS] = 0.0
    if share > 0.0:
        leading_factors(fast, sums[FAST], n, factors, divisor)
        root, width = splat(math.sqrt(share), LANES), assets.shape[1]
        for j in range(0, width, LANES):
            kept = root * load(assets, KEPT * width + j, LANES)
            for k in range(N_FACTORS):
                loadings = load(factors, (2 * k + VECTOR) * width + j, LANES)
                store(assets, (LEADING + k) * width + j, kept * loadings)
    return constants


@compiled
def _scale_row(mixed: Array, assets: Array, common: float, constant: float, i: int) -> float:
    """Turn row i of the mixed correlations into entries of the matrix, zero from the diagonal on, which is returned."""
    own = (
        splat(assets[KEPT, i], LANES),
        splat(assets[SHRUNK, i] * constant, LANES),
        splat(assets[FACTOR, i], LANES),
        splat(assets[LEADING, i], LANES),
        splat(assets[LEADING + 1, i], LANES),
        splat(assets[LEADING + 2, i], LANES),
    )
    added, row, whole = splat(common, LANES), i * mixed.shape[1], i // LANES * LANES
    for j in range(0, whole, LANES):
        store(mixed, row + j, _entries(load(mixed, row + j, LANES), own, assets, added, j))
    below = count_up(whole, LANES) < splat(float(i), LANES)
    entries = _entries(load(mixed, row + whole, LANES), own, assets, added, whole)
    store(mixed, row + whole, select(below, entries, splat(0.0, LANES)))
    return assets[KEPT, i] ** 2 + assets[SHRUNK, i] ** 2 + common


@compiled
def _entries(mixed: Any, own: tuple[Any, ...], assets: Array, added: Any, j: int) -> Any:
    """Of a row whose own numbers are `own`, those of the assets j, j + 1, ..."""
    width, entries = assets.shape[1], added
    for k in range(SHRUNK, LEADING + N_FACTORS):
        entries = fma(own[k], load(assets, k * width + j, LANES), entries)
    return fma(own[KEPT] * load(assets, KEPT * width + j, LANES), mixed, entries)


@compiled
def _write(mixed: Array, assets: Array, common: float, constant: float, n: int, out: Array, row: int) -> None:
    """Write the lower triangle, eight rows at a time; then what was written of these as columns."""
    width, out_width = mixed.shape[1], out.shape[1]
    start = row * out_width * out_width
    for first in range(0, n, LANES):
        count = min(LANES, n - first)
        for i in range(first, first + count):
            out[row, i, i] = _scale_row(mixed, assets, common, constant, i)
            for j in range(0, i, LANES):
                store_first(out, start + i * out_width + j, min(LANES, i - j), load(mixed, i * width + j, LANES))
        for j in range(0, first, LANES):
            columns = load_columns(mixed, first * width + j, width, LANES)
            for k in range(LANES):
                store_first(out, start + (j + k) * out_width + first, count, columns[k])
        for j in range(first, first + count):
            for i in range(j + 1, first + count):
                out[row, j, i] = mixed[i, j]


@compiled
def _multiply_out(portfolios: Array, covariance: Array) -> None:
    """w_a'S w_b of all portfolios, of which S w is there."""
    width = portfolios.shape[2]
    for a in range(len(portfolios)):
        for b in range(a + 1):
            weights, marginal = (2 * a + VECTOR) * width, (2 * b + PRODUCT) * width
            total = splat(0.0, LANES)
            for j in range(0, width, LANES):
                total = total + load(portfolios, weights + j, LANES) * load(portfolios, marginal + j, LANES)
            covariance[a, b] = covariance[b, a] = sum_lanes(total)


_UNIVERSES = types.NamedTuple(
    (
        float64[:, :, ::1],
        float64[:, :, ::1],
        int64[:, ::1],
        float64[:, :, ::1],
        types.NamedUniTuple(float64[:, ::1], len(HEADS), Parameters),
        float64[:, ::1],
    ),
    Universes,
)
_MEMORY = types.NamedTuple(
    tuple(float64[:, :, ::1] if name == "factors" else float64[:, ::1] for name in _Memory._fields), _Memory
)


# Matrices that are answered are float32; what is computed from them wants all digits.
@compiled_for(
    (float32[:, :, ::1], int64[::1], _UNIVERSES, _MEMORY), (float64[:, :, ::1], int64[::1], _UNIVERSES, _MEMORY)
)
def _fill(out: Array, rows: Array, of: Universes, memory: _Memory) -> None:
    for q in range(len(rows)):
        common, constant = _estimate(of, q, memory)
        _write(memory.mixed, memory.assets, common, constant, of.intensity.shape[1], out, rows[q])


@compiled_for((*3 * [float64[:, :, ::1]], float64[:, ::1], _UNIVERSES, _MEMORY, float64[:, :, ::1]))
def _multiply(
    weights: Array,
    marginal: Array,
    covariance: Array,
    diagonal: Array,
    of: Universes,
    memory: _Memory,
    portfolios: Array,
) -> None:
    n = weights.shape[2]
    memory.mixed[n:] = 0.0
    for q in range(len(weights)):
        common, constant = _estimate(of, q, memory)
        portfolios[:] = 0.0
        portfolios[:, VECTOR, :n] = weights[q]
        for first in range(0, n, ROWS):
            for i in range(first, min(first + ROWS, n)):
                diagonal[q, i] = _scale_row(memory.mixed, memory.assets, common, constant, i)
            multiply_rows(memory.mixed, first * memory.mixed.shape[1], memory.mixed.shape[1], first, portfolios)
        for p in range(len(portfolios)):
            for i in range(n):
                portfolios[p, PRODUCT, i] += diagonal[q, i] * portfolios[p, VECTOR, i]
        marginal[q] = portfolios[:, PRODUCT, :n]
        _multiply_out(portfolios, covariance[q])
