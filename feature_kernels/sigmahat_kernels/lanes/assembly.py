# SPDX-License-Identifier: Apache-2.0
"""`covariance.estimate_covariance` for the CPU: entries are gathered, mixed, scaled, then written or multiplied, once.

A universe's numbers are made by one loop over its own entries, so they are the same to the bit whatever its neighbours,
and sums run over eight lanes on every processor. Only the lower triangle is computed: a matrix is symmetric to the bit.
What an entry is, `_estimate` and `_scale_row` say alone: to matrices and to their products with portfolios.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba import float32, float64, int64, types

from sigmahat_kernels.asset_statistics import ASSET_STATISTICS, LEAST_UNSHARED, N_ASSET_STATISTICS, STATISTIC_LIMIT
from sigmahat_kernels.backend import Array
from sigmahat_kernels.fast_factors import N_FACTORS
from sigmahat_kernels.lanes.compiled import compiled, compiled_for
from sigmahat_kernels.lanes.fast_factors import leading_factors, row_start
from sigmahat_kernels.lanes.products import LANES, PRODUCT, ROWS, VECTOR, multiply_rows
from sigmahat_kernels.lanes.vectors import (
    count_up,
    exp,
    fma,
    gather,
    load,
    load_columns,
    load_first,
    max_lanes,
    select,
    splat,
    sqrt,
    store,
    store_first,
    sum_lanes,
)
from sigmahat_kernels.parameters import HEADS, VOLATILITY_BASES, Parameters
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.targets import STILL

_UNITS = tuple(1.0 / size for size in ASSET_STATISTICS.values())
_RATIOS = (4, 5, 8, 9, 10, 11)
"""Statistics that are ln of a volatility over the window's, in the order of `panel.VOLATILITIES`."""
_SLOW, _FAST, _SQUARES, _NEAREST = range(4)
"""Rows of `sums`: of an asset's correlations with the others, of the fast ones, of their squares; the largest size."""
_KEPT, _SHRUNK, _FACTOR, _FAST_1, _FAST_2, _FAST_3, _LOG_VOLATILITY, _LOG_SCALE = range(8)
"""Rows of `assets`: an entry is kept_i kept_j r_ij + shrunk_i shrunk_j r_bar, a number, and of each factor f_i f_j."""

Lanes: TypeAlias = Any  # a vector of them
Four: TypeAlias = tuple[Lanes, Lanes, Lanes, Lanes]


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
    fast: Array  # (width, width), the fast ones, zero from the diagonal on
    sums: Array  # (4, width)
    statistics: Array  # (N_ASSET_STATISTICS, width)
    assets: Array  # (8, width)
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
        scratch.array("sums", (4, width)),
        scratch.array("statistics", (N_ASSET_STATISTICS, width)),
        scratch.array("assets", (8, width)),
        scratch.array("factors", (N_FACTORS, 2, width)),
        scratch.array("divisor", (N_FACTORS, N_FACTORS)),
    )


@compiled
def _mix(slow: Array, fast: Array, columns: Array, n: int, parameters: Parameters, q: int, to: _Memory) -> None:
    """Gather the lower triangle of both correlations; mix them, less the factors' part, and sum over asset's others."""
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
            store(sums, _SLOW * width + j, load(sums, _SLOW * width + j, LANES) + r)
            store(sums, _FAST * width + j, load(sums, _FAST * width + j, LANES) + f)
            store(sums, _SQUARES * width + j, load(sums, _SQUARES * width + j, LANES) + square)
            known = load(sums, _NEAREST * width + j, LANES)
            store(sums, _NEAREST * width + j, select(square > known, square, known))
            store(mixed, i * width + j, fma(slow_share, r, fast_share * f))
            store(triangle, row_start(i) + j, f)
        sums[_SLOW, i] = sum_lanes(slow_sum)
        sums[_FAST, i] = sum_lanes(fast_sum)
        sums[_SQUARES, i] = sum_lanes(squares)
        sums[_NEAREST, i] = max_lanes(nearest)


@compiled
def _sum_row(array: Array, row: int) -> float:
    """Sum of a row of whole vectors."""
    width = array.shape[1]
    total = splat(0.0, LANES)
    for j in range(0, width, LANES):
        total = total + load(array, row * width + j, LANES)
    return sum_lanes(total)


@compiled
def _measure(sums: Array, logs: Array, q: int, statistics: Array) -> None:
    """See `asset_statistics.asset_statistics`."""
    width, n = statistics.shape[1], logs.shape[2]
    others = splat(n - 1.0, LANES)
    for j in range(0, width, LANES):  # all numbers behind the last asset's are zero
        mean = load(sums, _SLOW * width + j, LANES) / others
        store(statistics, j, mean)
        store(statistics, width + j, load(sums, _FAST * width + j, LANES) / others - mean)
        store(statistics, 7 * width + j, sqrt(load(sums, _SQUARES * width + j, LANES) / others))
        window = load_first(logs, q * n + j, n - j, LANES)
        store(statistics, 3 * width + j, window)
        for k in range(len(_RATIOS)):
            log = load_first(logs, ((k + 1) * logs.shape[1] + q) * n + j, n - j, LANES)
            store(statistics, _RATIOS[k] * width + j, log - window)
        store(statistics, 6 * width + j, load_first(logs, (7 * logs.shape[1] + q) * n + j, n - j, LANES))
    for i in range(width):
        statistics[2, i] = math.log(max(1.0 - sums[_NEAREST, i], LEAST_UNSHARED))
    limit, least = splat(STATISTIC_LIMIT, LANES), splat(-STATISTIC_LIMIT, LANES)
    for k in range(N_ASSET_STATISTICS):
        mean, unit = splat(_sum_row(statistics, k) / n, LANES), splat(_UNITS[k], LANES)
        for j in range(0, width, LANES):
            x = (load(statistics, k * width + j, LANES) - mean) * unit
            x = select(x > limit, limit, x)
            store(statistics, k * width + j, select(x < least, least, x))


@compiled
def _scale(statistics: Array, logs: Array, parameters: Parameters, intensity: Array, q: int, assets: Array) -> None:
    """Roots of what each asset's intensity keeps and shrinks; its blended ln volatility, and what is added to it.

    See `covariance.tilt_intensity` and `covariance.blend_volatility`.
    """
    width, n, one = statistics.shape[1], logs.shape[2], splat(1.0, LANES)
    for j in range(0, width, LANES):
        odds, raised, log_volatility = splat(0.0, LANES), splat(parameters.level[q, 0], LANES), splat(0.0, LANES)
        for k in range(N_ASSET_STATISTICS):
            statistic = load(statistics, k * width + j, LANES)
            odds = fma(statistic, splat(parameters.intensity_tilt[q, k], LANES), odds)
            raised = fma(statistic, splat(parameters.volatility_tilt[q, k], LANES), raised)
        for k in range(len(VOLATILITY_BASES)):
            log = load_first(logs, (k * logs.shape[1] + q) * n + j, n - j, LANES)
            log_volatility = fma(log, splat(parameters.volatility[q, k], LANES), log_volatility)
        store(assets, _LOG_SCALE * width + j, raised)
        store(assets, _LOG_VOLATILITY * width + j, log_volatility)
        straight = load_first(intensity, q * n + j, n - j, LANES)
        shrunk = straight * exp(odds)
        shrunk = shrunk / (shrunk + _positive(one - straight))
        store(assets, _KEPT * width + j, sqrt(_positive(one - shrunk)))
        store(assets, _SHRUNK * width + j, sqrt(shrunk))


@compiled
def _positive(x: Lanes) -> Lanes:
    zero = splat(0.0, x)
    return select(x > zero, x, zero)


@compiled
def _combine(sums: Array, parameters: Parameters, q: int, n: int, assets: Array) -> tuple[float, float]:
    """Factors of the three terms of an entry, in `assets`; the common variance, and the constant correlation's part.

    See `targets.mix_targets` and `covariance.add_common_variance`.
    """
    weights, intensities = parameters.target_weights, parameters.target_intensity
    constant, factor = weights[q, 1] * intensities[q, 1], weights[q, 2] * intensities[q, 2]
    weight = weights[q, 0] * intensities[q, 0] + constant + factor
    constant, factor = (constant / weight, factor / weight) if weight > 0.0 else (1.0 / 3.0, 1.0 / 3.0)
    off_diagonal, log_volatility = _sum_row(sums, _SLOW), _sum_row(assets, _LOG_VOLATILITY) / n
    total = off_diagonal + n
    moves = total > STILL * n * n
    loading = math.sqrt(factor / total) if moves else 0.0
    pull, middle, one = splat(parameters.volatility[q, 3], LANES), splat(log_volatility, LANES), splat(1.0, LANES)
    precision, size = splat(0.0, LANES), splat(float(n), LANES)
    width = assets.shape[1]
    for j in range(0, width, LANES):
        own = load(assets, _LOG_VOLATILITY * width + j, LANES)
        volatility = exp(fma(pull, middle - own, own) + load(assets, _LOG_SCALE * width + j, LANES))
        kept = load(assets, _KEPT * width + j, LANES) * volatility
        shrunk = load(assets, _SHRUNK * width + j, LANES) * volatility
        row_sum = load(sums, _SLOW * width + j, LANES) + one
        store(assets, _KEPT * width + j, kept)
        store(assets, _SHRUNK * width + j, shrunk)
        store(assets, _FACTOR * width + j, shrunk * row_sum * splat(loading, LANES))
        known = count_up(j, LANES) < size
        precision = precision + select(known, one / (kept * kept + shrunk * shrunk), splat(0.0, LANES))
    return parameters.level[q, 1] * n / sum_lanes(precision), constant * off_diagonal / (n * (n - 1.0))


@compiled
def _estimate(of: Universes, q: int, memory: _Memory) -> tuple[float, float]:
    """Put into `memory` what the entries of a universe are made of; return the two numbers that `_combine` does."""
    mixed, fast, sums, statistics, assets, factors, divisor = memory
    source = q if len(of.slow) > 1 else 0
    n = of.intensity.shape[1]
    share = of.parameters.factor_memory[q, 0]
    _mix(of.slow[source], of.fast[source], of.columns[q], n, of.parameters, q, memory)
    _measure(sums, of.logs, q, statistics)
    _scale(statistics, of.logs, of.parameters, of.intensity, q, assets)
    constants = _combine(sums, of.parameters, q, n, assets)
    assets[_FAST_1 : _FAST_3 + 1] = 0.0
    if share > 0.0:
        for at in range(row_start(n), row_start(-(-n // ROWS) * ROWS), LANES):
            store(fast, at, splat(0.0, LANES))
        leading_factors(fast, sums[_FAST], n, factors, divisor)
        root, width = splat(math.sqrt(share), LANES), assets.shape[1]
        for j in range(0, width, LANES):
            kept = root * load(assets, _KEPT * width + j, LANES)
            for k in range(N_FACTORS):
                loadings = load(factors, (2 * k + VECTOR) * width + j, LANES)
                store(assets, (_FAST_1 + k) * width + j, kept * loadings)
    return constants


@compiled
def _scale_row(mixed: Array, assets: Array, common: float, constant: float, i: int) -> float:
    """Turn row i of the mixed correlations into entries of the matrix, zero from the diagonal on, which is returned."""
    own = (
        splat(assets[_KEPT, i], LANES),
        splat(assets[_SHRUNK, i] * constant, LANES),
        splat(assets[_FACTOR, i], LANES),
        splat(assets[_FAST_1, i], LANES),
        splat(assets[_FAST_2, i], LANES),
        splat(assets[_FAST_3, i], LANES),
        splat(common, LANES),
    )
    row, whole = i * mixed.shape[1], i // LANES * LANES
    for j in range(0, whole, LANES):
        store(mixed, row + j, _entries(mixed, assets, own, row, j))
    below = count_up(whole, LANES) < splat(float(i), LANES)
    store(mixed, row + whole, select(below, _entries(mixed, assets, own, row, whole), splat(0.0, LANES)))
    return assets[_KEPT, i] ** 2 + assets[_SHRUNK, i] ** 2 + common


@compiled
def _entries(mixed: Array, assets: Array, own: Any, row: int, j: int) -> Any:
    width = assets.shape[1]
    entries = fma(own[1], load(assets, _SHRUNK * width + j, LANES), own[6])
    entries = fma(own[2], load(assets, _FACTOR * width + j, LANES), entries)
    entries = fma(own[3], load(assets, _FAST_1 * width + j, LANES), entries)
    entries = fma(own[4], load(assets, _FAST_2 * width + j, LANES), entries)
    entries = fma(own[5], load(assets, _FAST_3 * width + j, LANES), entries)
    return fma(own[0] * load(assets, _KEPT * width + j, LANES), load(mixed, row + j, LANES), entries)


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
            multiply_rows(memory.mixed, first, portfolios)
        for p in range(len(portfolios)):
            for i in range(n):
                portfolios[p, PRODUCT, i] += diagonal[q, i] * portfolios[p, VECTOR, i]
        marginal[q] = portfolios[:, PRODUCT, :n]
        _multiply_out(portfolios, covariance[q])
