# SPDX-License-Identifier: Apache-2.0
"""From sums over an asset's correlations and its ln volatilities to what its entries of the matrix are made of.

Numbers of all assets stand in rows of whole vectors, eight at a time; behind the last asset's they are of no use, and
zero where they are summed.
"""

from __future__ import annotations

import math
from typing import Any

from sigmahat_kernels.asset_statistics import ASSET_STATISTICS, LEAST_UNSHARED, N_ASSET_STATISTICS, STATISTIC_LIMIT
from sigmahat_kernels.backend import Array
from sigmahat_kernels.lanes.compiled import compiled
from sigmahat_kernels.lanes.products import LANES
from sigmahat_kernels.lanes.vectors import (
    count_up,
    exp,
    fma,
    load,
    load_first,
    select,
    splat,
    sqrt,
    store,
    sum_lanes,
)
from sigmahat_kernels.panel import VOLATILITIES
from sigmahat_kernels.parameters import VOLATILITY_BASES, Parameters
from sigmahat_kernels.targets import STILL

SLOW, FAST, SQUARES, NEAREST, N_SUMS = range(5)
"""Rows of `sums`: of an asset's correlations with the others, of the fast ones, of squares; the largest square."""

KEPT, SHRUNK, FACTOR, LEADING, _LOG_VOLATILITY, _LOG_SCALE, N_ROWS = 0, 1, 2, 3, 6, 7, 8
"""Rows of `assets`, three of them from `LEADING` on: an entry is kept_i kept_j r_ij + shrunk_i shrunk_j r_bar + the
common variance, and a product x_i x_j of each of the four factors."""

_UNITS = tuple(1.0 / size for size in ASSET_STATISTICS.values())
_RATIOS = (4, 5, 8, 9, 10, 11)
"""Rows of `statistics` that are ln of a volatility over the window's, in the order of `panel.VOLATILITIES`."""


@compiled
def _sum_row(array: Array, row: int) -> float:
    """Sum of a row of whole vectors."""
    width = array.shape[1]
    total = splat(0.0, LANES)
    for j in range(0, width, LANES):
        total = total + load(array, row * width + j, LANES)
    return sum_lanes(total)


@compiled
def measure(sums: Array, logs: Array, q: int, statistics: Array) -> None:
    """See `asset_statistics.asset_statistics`."""
    width, n = statistics.shape[1], logs.shape[2]
    others = splat(n - 1.0, LANES)
    for j in range(0, width, LANES):  # all numbers behind the last asset's are zero
        mean = load(sums, SLOW * width + j, LANES) / others
        store(statistics, j, mean)
        store(statistics, width + j, load(sums, FAST * width + j, LANES) / others - mean)
        store(statistics, 7 * width + j, sqrt(load(sums, SQUARES * width + j, LANES) / others))
        window = load_first(logs, q * n + j, n - j, LANES)
        store(statistics, 3 * width + j, window)
        for k in range(len(_RATIOS)):
            log = load_first(logs, ((k + 1) * logs.shape[1] + q) * n + j, n - j, LANES)
            store(statistics, _RATIOS[k] * width + j, log - window)
        store(
            statistics, 6 * width + j, load_first(logs, (len(VOLATILITIES) * logs.shape[1] + q) * n + j, n - j, LANES)
        )
    for i in range(width):
        statistics[2, i] = math.log(max(1.0 - sums[NEAREST, i], LEAST_UNSHARED))
    limit, least = splat(STATISTIC_LIMIT, LANES), splat(-STATISTIC_LIMIT, LANES)
    for k in range(N_ASSET_STATISTICS):
        mean, unit = splat(_sum_row(statistics, k) / n, LANES), splat(_UNITS[k], LANES)
        for j in range(0, width, LANES):
            x = (load(statistics, k * width + j, LANES) - mean) * unit
            x = select(x > limit, limit, x)
            store(statistics, k * width + j, select(x < least, least, x))


@compiled
def scale(statistics: Array, logs: Array, parameters: Parameters, intensity: Array, q: int, assets: Array) -> None:
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
        store(assets, KEPT * width + j, sqrt(_positive(one - shrunk)))
        store(assets, SHRUNK * width + j, sqrt(shrunk))


@compiled
def _positive(x: Any) -> Any:
    zero = splat(0.0, x)
    return select(x > zero, x, zero)


@compiled
def combine(sums: Array, parameters: Parameters, q: int, n: int, assets: Array) -> tuple[float, float]:
    """Factors of the three terms of an entry, in `assets`; the common variance, and the constant correlation's part.

    See `targets.mix_targets` and `covariance.add_common_variance`.
    """
    weights, intensities = parameters.target_weights, parameters.target_intensity
    constant, factor = weights[q, 1] * intensities[q, 1], weights[q, 2] * intensities[q, 2]
    weight = weights[q, 0] * intensities[q, 0] + constant + factor
    constant, factor = (constant / weight, factor / weight) if weight > 0.0 else (1.0 / 3.0, 1.0 / 3.0)
    off_diagonal, log_volatility = _sum_row(sums, SLOW), _sum_row(assets, _LOG_VOLATILITY) / n
    total = off_diagonal + n
    moves = total > STILL * n * n
    loading = math.sqrt(factor / total) if moves else 0.0
    pull, middle, one = splat(parameters.volatility[q, 3], LANES), splat(log_volatility, LANES), splat(1.0, LANES)
    precision, size = splat(0.0, LANES), splat(float(n), LANES)
    width = assets.shape[1]
    for j in range(0, width, LANES):
        own = load(assets, _LOG_VOLATILITY * width + j, LANES)
        volatility = exp(fma(pull, middle - own, own) + load(assets, _LOG_SCALE * width + j, LANES))
        kept = load(assets, KEPT * width + j, LANES) * volatility
        shrunk = load(assets, SHRUNK * width + j, LANES) * volatility
        row_sum = load(sums, SLOW * width + j, LANES) + one
        store(assets, KEPT * width + j, kept)
        store(assets, SHRUNK * width + j, shrunk)
        store(assets, FACTOR * width + j, shrunk * row_sum * splat(loading, LANES))
        known = count_up(j, LANES) < size
        precision = precision + select(known, one / (kept * kept + shrunk * shrunk), splat(0.0, LANES))
    return parameters.level[q, 1] * n / sum_lanes(precision), constant * off_diagonal / (n * (n - 1.0))
