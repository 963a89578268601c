# SPDX-License-Identifier: Apache-2.0
"""`covariance.estimate_covariance` for the CPU: entries are gathered, mixed, scaled, then written or multiplied, once.

A universe's numbers are made by one loop over its own entries, so they are the same to the bit whatever its neighbours,
and sums run over eight lanes on every processor. Only the lower triangle is computed: a matrix is symmetric to the bit.
What an entry is, `_estimate` and `_scale_row` say alone: to matrices and to their products with portfolios.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import float32, float64, int64, types

from sigmahat_kernels.asset_statistics import ASSET_STATISTICS, LEAST_UNSHARED, N_ASSET_STATISTICS, STATISTIC_LIMIT
from sigmahat_kernels.backend import Array
from sigmahat_kernels.lanes.compiled import compiled, compiled_for
from sigmahat_kernels.lanes.vectors import (
    absolute,
    count_up,
    gather,
    load,
    load_strided,
    max_lanes,
    select,
    splat,
    store,
    store_first,
    sum_lanes,
)
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.targets import STILL

_LANES = 8
_SCALES = tuple(ASSET_STATISTICS.values())
_SLOW, _FAST, _SQUARES, _NEAREST = range(4)
"""Rows of `sums`: of an asset's correlations with the others, of the fast ones, of their squares; the largest size."""
_KEPT, _SHRUNK, _FACTOR, _LOG_VOLATILITY, _LOG_SCALE = range(5)
"""Rows of `assets`: an entry is kept_i kept_j r_ij + shrunk_i shrunk_j r_bar + factor_i factor_j, and a number."""
_WEIGHTS, _ROWS, _COLUMNS = range(3)
"""Rows of each of `portfolios`: w; of S w what rows below the diagonal have part in, and these as columns above it."""


class Universes(NamedTuple):
    """What the covariance matrices of n universes of N assets are estimated from; all arrays contiguous."""

    slow: Array  # (1, m, m) or (n, N, N) float64, equal-weighted correlation, of a window's columns or of each universe
    fast: Array  # the same exponentially weighted; symmetric, and only one half is read
    columns: Array  # (n, N in whole vectors) int64, columns of each universe among those of the correlations
    logs: Array  # (4, n, N) float64, ln of the volatilities in the order of `VOLATILITY_BASES`, and of the kurtosis
    parameters: Parameters  # one row a universe, float64
    intensity: Array  # (n, N) float64, what each asset's intensity is tilted from


class _Memory(NamedTuple):
    """What belongs to one universe at a time."""

    mixed: Array  # (width, width), correlations below the diagonal, then what `_scale_row` makes of them
    sums: Array  # (4, width)
    statistics: Array  # (N_ASSET_STATISTICS, N)
    assets: Array  # (5, width)


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
    portfolios = scratch.array("portfolios", (n_portfolios, 3, universes.columns.shape[1]))
    _multiply(weights, marginal, covariance, diagonal, universes, _memory(universes, scratch), portfolios)
    return marginal, covariance, diagonal


def _whole(n_assets: int) -> int:
    """Numbers in as many whole vectors as hold one of each asset."""
    return -(-n_assets // _LANES) * _LANES


def _memory(universes: Universes, scratch: Scratch) -> _Memory:
    width = universes.columns.shape[1]
    return _Memory(
        scratch.array("mixed", (width, width)),
        scratch.array("sums", (4, width)),
        scratch.array("statistics", (N_ASSET_STATISTICS, universes.intensity.shape[1])),
        scratch.array("assets", (5, width)),
    )


@compiled
def _mix(slow: Array, fast: Array, columns: Array, n: int, memory: float, mixed: Array, sums: Array) -> None:
    """Gather the lower triangle of both correlations; mix them into `mixed`, and sum over each asset's others."""
    width = len(columns)
    zero = splat(0.0, _LANES)
    share = splat(memory, _LANES)
    for k in range(0, sums.size, _LANES):
        store(sums, k, zero)
    for i in range(n):
        slow_row = slow[columns[i]]
        fast_row = fast[columns[i]]
        diagonal = splat(float(i), _LANES)
        slow_sum = fast_sum = squares = nearest = zero
        for j in range(0, i, _LANES):
            below = count_up(j, _LANES) < diagonal
            r = select(below, gather(slow_row, 0, columns, j, _LANES), zero)
            f = select(below, gather(fast_row, 0, columns, j, _LANES), zero)
            square, size = r * r, absolute(r)
            slow_sum = slow_sum + r
            fast_sum = fast_sum + f
            squares = squares + square
            nearest = select(size > nearest, size, nearest)
            store(sums, _SLOW * width + j, load(sums, _SLOW * width + j, _LANES) + r)
            store(sums, _FAST * width + j, load(sums, _FAST * width + j, _LANES) + f)
            store(sums, _SQUARES * width + j, load(sums, _SQUARES * width + j, _LANES) + square)
            known = load(sums, _NEAREST * width + j, _LANES)
            store(sums, _NEAREST * width + j, select(size > known, size, known))
            store(mixed, i * width + j, r + share * (f - r))
        sums[_SLOW, i] = sum_lanes(slow_sum)
        sums[_FAST, i] = sum_lanes(fast_sum)
        sums[_SQUARES, i] = sum_lanes(squares)
        sums[_NEAREST, i] = max_lanes(nearest)


@compiled
def _measure(sums: Array, logs: Array, q: int, statistics: Array) -> None:
    """See `asset_statistics.asset_statistics`."""
    n = statistics.shape[1]
    others = n - 1
    for i in range(n):
        mean = sums[_SLOW, i] / others
        statistics[0, i] = mean
        statistics[1, i] = sums[_FAST, i] / others - mean
        statistics[2, i] = math.log(max(1.0 - sums[_NEAREST, i] ** 2, LEAST_UNSHARED))
        statistics[3, i] = logs[0, q, i]
        statistics[4, i] = logs[1, q, i] - logs[0, q, i]
        statistics[5, i] = logs[2, q, i] - logs[0, q, i]
        statistics[6, i] = logs[3, q, i]
        statistics[7, i] = math.sqrt(sums[_SQUARES, i] / others)
    for k in range(len(statistics)):
        mean = 0.0
        for i in range(n):
            mean += statistics[k, i]
        mean /= n
        for i in range(n):
            statistics[k, i] = min(max((statistics[k, i] - mean) / _SCALES[k], -STATISTIC_LIMIT), STATISTIC_LIMIT)


@compiled
def _scale(statistics: Array, logs: Array, parameters: Parameters, intensity: Array, q: int, assets: Array) -> None:
    """Roots of what each asset's intensity keeps and shrinks; its blended ln volatility, and what is added to it.

    See `covariance.tilt_intensity` and `covariance.blend_volatility`.
    """
    blend = parameters.volatility[q]
    for i in range(statistics.shape[1]):
        odds = raised = 0.0
        for k in range(len(statistics)):
            odds += statistics[k, i] * parameters.intensity_tilt[q, k]
            raised += statistics[k, i] * parameters.volatility_tilt[q, k]
        shrunk = intensity[q, i] * math.exp(odds)
        shrunk /= shrunk + max(1.0 - intensity[q, i], 0.0)
        assets[_KEPT, i] = math.sqrt(max(1.0 - shrunk, 0.0))
        assets[_SHRUNK, i] = math.sqrt(shrunk)
        assets[_LOG_VOLATILITY, i] = logs[0, q, i] * blend[0] + logs[1, q, i] * blend[1] + logs[2, q, i] * blend[2]
        assets[_LOG_SCALE, i] = raised + parameters.level[q, 0]


@compiled
def _combine(sums: Array, parameters: Parameters, q: int, n: int, assets: Array) -> tuple[float, float]:
    """Factors of the three terms of an entry, in `assets`; the common variance, and the constant correlation's part.

    See `targets.mix_targets` and `covariance.add_common_variance`.
    """
    weights = parameters.target_weights[q] * parameters.target_intensity[q]
    weight = weights.sum()
    constant, factor = 1.0 / 3.0, 1.0 / 3.0
    if weight > 0.0:
        constant, factor = weights[1] / weight, weights[2] / weight
    off_diagonal = log_volatility = 0.0
    for i in range(n):
        off_diagonal += sums[_SLOW, i]
        log_volatility += assets[_LOG_VOLATILITY, i]
    log_volatility /= n
    total = off_diagonal + n
    moves = total > STILL * n * n
    loading = math.sqrt(factor / total) if moves else 0.0
    precision = 0.0
    for i in range(n):
        own = assets[_LOG_VOLATILITY, i]
        pull = parameters.volatility[q, 3] * (log_volatility - own)
        volatility = math.exp(own + pull + assets[_LOG_SCALE, i])
        assets[_KEPT, i] *= volatility
        assets[_SHRUNK, i] *= volatility
        assets[_FACTOR, i] = assets[_SHRUNK, i] * (sums[_SLOW, i] + 1.0) * loading
        precision += 1.0 / (assets[_KEPT, i] ** 2 + assets[_SHRUNK, i] ** 2)
    return parameters.level[q, 1] * n / precision, constant * off_diagonal / (n * (n - 1.0))


@compiled
def _estimate(of: Universes, q: int, memory: _Memory) -> tuple[float, float]:
    """Put into `memory` what the entries of a universe are made of; return the two numbers that `_combine` does."""
    mixed, sums, statistics, assets = memory
    source = q if len(of.slow) > 1 else 0
    n = of.intensity.shape[1]
    _mix(of.slow[source], of.fast[source], of.columns[q], n, of.parameters.memory[q, 0], mixed, sums)
    _measure(sums, of.logs, q, statistics)
    _scale(statistics, of.logs, of.parameters, of.intensity, q, assets)
    return _combine(sums, of.parameters, q, n, assets)


@compiled
def _scale_row(mixed: Array, assets: Array, common: float, constant: float, i: int) -> float:
    """Turn row i of the mixed correlations into entries of the matrix, zero from the diagonal on, which is returned."""
    width = mixed.shape[1]
    zero = splat(0.0, _LANES)
    kept = splat(assets[_KEPT, i], _LANES)
    shrunk = splat(assets[_SHRUNK, i], _LANES) * splat(constant, _LANES)
    factor = splat(assets[_FACTOR, i], _LANES)
    common_part = splat(common, _LANES)
    diagonal = splat(float(i), _LANES)
    for j in range(0, i + 1, _LANES):
        entries = kept * load(assets, _KEPT * width + j, _LANES) * load(mixed, i * width + j, _LANES)
        entries = entries + shrunk * load(assets, _SHRUNK * width + j, _LANES)
        entries = entries + factor * load(assets, _FACTOR * width + j, _LANES)
        entries = entries + common_part
        store(mixed, i * width + j, select(count_up(j, _LANES) < diagonal, entries, zero))
    return assets[_KEPT, i] ** 2 + assets[_SHRUNK, i] ** 2 + common


@compiled
def _write(mixed: Array, assets: Array, common: float, constant: float, n: int, out: Array, row: int) -> None:
    """Write the lower triangle, eight rows at a time; then what was written of these as columns."""
    width, out_width = mixed.shape[1], out.shape[1]
    start = row * out_width * out_width
    for first in range(0, n, _LANES):
        count = min(_LANES, n - first)
        for i in range(first, first + count):
            out[row, i, i] = _scale_row(mixed, assets, common, constant, i)
            for j in range(0, i, _LANES):
                store_first(out, start + i * out_width + j, min(_LANES, i - j), load(mixed, i * width + j, _LANES))
        for j in range(first):
            column = load_strided(mixed, first * width + j, width, _LANES)
            store_first(out, start + j * out_width + first, count, column)
        for j in range(first, first + count):
            for i in range(j + 1, first + count):
                out[row, j, i] = mixed[i, j]


@compiled
def _multiply_rows(mixed: Array, i: int, portfolios: Array) -> None:
    """Multiply rows i and i + 1 below the diagonal with all weights: as rows, and as columns above the diagonal."""
    width = mixed.shape[1]
    upper, lower = i * width, (i + 1) * width
    for p in range(len(portfolios)):
        weights, columns = (3 * p + _WEIGHTS) * width, (3 * p + _COLUMNS) * width
        own = splat(portfolios[p, _WEIGHTS, i], _LANES)
        own_lower = splat(portfolios[p, _WEIGHTS, i + 1], _LANES)
        total = total_lower = splat(0.0, _LANES)
        for j in range(0, i + 1, _LANES):
            others = load(portfolios, weights + j, _LANES)
            entries, entries_lower = load(mixed, upper + j, _LANES), load(mixed, lower + j, _LANES)
            total = total + entries * others
            total_lower = total_lower + entries_lower * others
            found = load(portfolios, columns + j, _LANES) + (entries * own + entries_lower * own_lower)
            store(portfolios, columns + j, found)
        portfolios[p, _ROWS, i], portfolios[p, _ROWS, i + 1] = sum_lanes(total), sum_lanes(total_lower)


@compiled
def _multiply_out(portfolios: Array, covariance: Array) -> None:
    """w_a'S w_b of all portfolios, of which S w stands where the columns stood."""
    width = portfolios.shape[2]
    for a in range(len(portfolios)):
        for b in range(a + 1):
            weights, marginal = (3 * a + _WEIGHTS) * width, (3 * b + _COLUMNS) * width
            total = splat(0.0, _LANES)
            for j in range(0, width, _LANES):
                total = total + load(portfolios, weights + j, _LANES) * load(portfolios, marginal + j, _LANES)
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
_MEMORY = types.NamedUniTuple(float64[:, ::1], len(_Memory._fields), _Memory)


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
        portfolios[:, _WEIGHTS, :n] = weights[q]
        for first in range(0, n, 2):
            for i in range(first, min(first + 2, n)):
                diagonal[q, i] = _scale_row(memory.mixed, memory.assets, common, constant, i)
            _multiply_rows(memory.mixed, first, portfolios)
        for p in range(len(portfolios)):
            for i in range(n):
                portfolios[p, _COLUMNS, i] += portfolios[p, _ROWS, i] + diagonal[q, i] * portfolios[p, _WEIGHTS, i]
        marginal[q] = portfolios[:, _COLUMNS, :n]
        _multiply_out(portfolios, covariance[q])
