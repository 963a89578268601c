# SPDX-License-Identifier: Apache-2.0
"""Series of universes: sums over the assets on each row of the window, and the moments that the features read."""

from __future__ import annotations

import numpy as np
from numba import float64, int64

from sigmahat_kernels.lanes.compiled import compiled_for
from sigmahat_kernels.lanes.vectors import (
    absolute,
    count_up,
    fma,
    load,
    load_first,
    select,
    splat,
    store,
    store_first,
    sum_lanes,
)
from sigmahat_kernels.panel import TINY
from sigmahat_kernels.regime import BLOCK, RECENT, SeriesMoments, row_weights
from sigmahat_kernels.scratch import Scratch

_LANES = 8
_STRIP = 2 * _LANES
"""Rows of the window whose sums stay in registers while the assets pass."""

_MOMENTS = 21


def measure_series(series: np.ndarray, index: np.ndarray, sizes: np.ndarray, scratch: Scratch) -> SeriesMoments:
    """Moments of the series of n universes of a window of T rows; see `regime.series_moments`.

    Parameters
    ----------
    series : float64 array of shape (2 or 3, m, T)
        Returns, factor Z' and, with gaps, 1.0 where there is a return; one row an asset.
    index : int64 array of shape (n, N)
        Columns of each universe, anything behind the last.
    sizes : int64 array of shape (n,)
        Assets of each.
    scratch : Scratch
        Of this thread.
    """
    n, n_obs = len(sizes), series.shape[2]
    sums = scratch.array("series", (n, 5, n_obs))
    _sum_assets(series, np.ascontiguousarray(index), sizes, sums)
    moments, blocks = np.empty((n, _MOMENTS)), np.empty((n, n_obs // BLOCK))
    weights = row_weights(np, n_obs)
    _measure(sums, weights, weights.sum(axis=1), scratch.array("rows", (2, n_obs + _LANES)), moments, blocks)
    columns = moments.T
    return SeriesMoments(
        mean_return=columns[0],
        variance=columns[1],
        recent_squares=columns[2:5],
        kurtosis=columns[5],
        blocks=blocks.T,
        recent=columns[6],
        fall=columns[7],
        autocorrelation=columns[8],
        clustering=columns[9],
        dispersion=columns[10],
        recent_dispersion=columns[11],
        total=columns[12:16],
        own=columns[16:20],
        norm_square=columns[20],
    )


@compiled_for((float64[:, :, ::1], int64[:, ::1], int64[::1], float64[:, :, ::1]))
def _sum_assets(series: np.ndarray, index: np.ndarray, sizes: np.ndarray, sums: np.ndarray) -> None:
    """Sums over assets of returns, their squares, factor, its squares, and numbers of returns."""
    n_kinds, n_columns, n_obs = series.shape
    n = len(index)
    zero = splat(0.0, _LANES)
    factor, observed = n_columns * n_obs, 2 * n_columns * n_obs
    # Strips outside: what one needs of all columns stays in the cache while the universes pass.
    for t in range(0, n_obs, _STRIP):
        here, there = min(_LANES, n_obs - t), max(0, min(_LANES, n_obs - t - _LANES))
        whole = there == _LANES
        for u in range(n):
            r0, r1, s0, s1, z0, z1, q0, q1 = zero, zero, zero, zero, zero, zero, zero, zero
            if whole:
                for i in range(sizes[u]):
                    at = index[u, i] * n_obs + t
                    x0, x1 = load(series, at, _LANES), load(series, at + _LANES, _LANES)
                    y0, y1 = load(series, factor + at, _LANES), load(series, factor + at + _LANES, _LANES)
                    r0, r1, s0, s1 = r0 + x0, r1 + x1, fma(x0, x0, s0), fma(x1, x1, s1)
                    z0, z1, q0, q1 = z0 + y0, z1 + y1, fma(y0, y0, q0), fma(y1, y1, q1)
            else:
                for i in range(sizes[u]):
                    at = index[u, i] * n_obs + t
                    x0, x1 = load_first(series, at, here, _LANES), load_first(series, at + _LANES, there, _LANES)
                    y0 = load_first(series, factor + at, here, _LANES)
                    y1 = load_first(series, factor + at + _LANES, there, _LANES)
                    r0, r1, s0, s1 = r0 + x0, r1 + x1, fma(x0, x0, s0), fma(x1, x1, s1)
                    z0, z1, q0, q1 = z0 + y0, z1 + y1, fma(y0, y0, q0), fma(y1, y1, q1)
            out = u * 5 * n_obs + t
            store_first(sums, out, here, r0)
            store_first(sums, out + _LANES, there, r1)
            store_first(sums, out + n_obs, here, s0)
            store_first(sums, out + n_obs + _LANES, there, s1)
            store_first(sums, out + 2 * n_obs, here, z0)
            store_first(sums, out + 2 * n_obs + _LANES, there, z1)
            store_first(sums, out + 3 * n_obs, here, q0)
            store_first(sums, out + 3 * n_obs + _LANES, there, q1)
            if n_kinds == 2:
                c0 = splat(float(sizes[u]), _LANES)
                c1 = c0
            else:
                c0, c1 = zero, zero
                for i in range(sizes[u]):
                    at = observed + index[u, i] * n_obs + t
                    c0 = c0 + load_first(series, at, here, _LANES)
                    c1 = c1 + load_first(series, at + _LANES, there, _LANES)
            store_first(sums, out + 4 * n_obs, here, c0)
            store_first(sums, out + 4 * n_obs + _LANES, there, c1)


@compiled_for((float64[:, :, ::1], float64[:, ::1], float64[::1], float64[:, ::1], float64[:, ::1], float64[:, ::1]))
def _measure(
    sums: np.ndarray,
    weights: np.ndarray,
    totals: np.ndarray,
    rows: np.ndarray,
    moments: np.ndarray,
    blocks: np.ndarray,
) -> None:
    n, _, n_obs = sums.shape
    market, dispersion = rows[0], rows[1]
    n_blocks = n_obs // BLOCK
    zero, one, tiny = splat(0.0, _LANES), splat(1.0, _LANES), TINY
    for u in range(n):
        own = moments[u]
        begin = u * 5 * n_obs
        # Of each row: the market, its mean over the window taken off later, and the dispersion.
        total = zero
        for t in range(0, n_obs, _LANES):
            count = min(_LANES, n_obs - t)
            held = load_first(sums, begin + 4 * n_obs + t, count, _LANES)
            held = select(held > one, held, one)
            mean = load_first(sums, begin + t, count, _LANES) / held
            total = total + mean
            spread = load_first(sums, begin + n_obs + t, count, _LANES) / held - mean * mean
            store(market, t, mean)
            store(dispersion, t, select(spread > zero, spread, zero))
        mean_return = sum_lanes(total) / n_obs
        own[0] = mean_return

        path, peak = 0.0, 0.0
        for t in range(n_obs):
            path += market[t]
            peak = max(peak, path)
        own[7] = peak - path

        centre, last = splat(mean_return, _LANES), splat(float(n_obs), _LANES)
        squares, w0, w1, w2, level, far = zero, zero, zero, zero, zero, zero
        calm, lately = zero, zero
        f, p, a, b, fo, po, ao, bo, noise = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for t in range(0, n_obs, _LANES):
            count = min(_LANES, n_obs - t)
            x = select(count_up(t, _LANES) < last, load(market, t, _LANES) - centre, zero)
            store(market, t, x)
            square, moved = x * x, load(dispersion, t, _LANES)
            v0 = load_first(weights, t, count, _LANES)
            v1 = load_first(weights, n_obs + t, count, _LANES)
            squares, level, far = squares + square, level + x, far + absolute(x)
            w0, w1 = fma(v0, square, w0), fma(v1, square, w1)
            w2 = fma(load_first(weights, 2 * n_obs + t, count, _LANES), square, w2)
            calm, lately = calm + moved, fma(v1, moved, lately)
            z = load_first(sums, begin + 2 * n_obs + t, count, _LANES)
            q = load_first(sums, begin + 3 * n_obs + t, count, _LANES)
            second = load_first(weights, 3 * n_obs + t, count, _LANES)
            first = load_first(weights, 4 * n_obs + t, count, _LANES)
            zz = z * z
            f, p, a, b = fma(v0, zz, f), p + zz, fma(second, zz, a), fma(first, zz, b)
            fo, po, ao, bo = fma(v0, q, fo), po + q, fma(second, q, ao), fma(first, q, bo)
            noise = fma(q, q, noise)
        variance = max(sum_lanes(squares) / n_obs, tiny)
        own[1] = variance
        own[2], own[3], own[4] = sum_lanes(w0) / totals[0], sum_lanes(w1) / totals[1], sum_lanes(w2) / totals[2]
        own[10], own[11] = max(sum_lanes(calm) / n_obs, tiny), sum_lanes(lately) / totals[1]
        own[12], own[13], own[14], own[15] = sum_lanes(f), sum_lanes(p), sum_lanes(a), sum_lanes(b)
        own[16], own[17], own[18], own[19] = sum_lanes(fo), sum_lanes(po), sum_lanes(ao), sum_lanes(bo)
        own[20] = sum_lanes(noise)

        # Products of neighbours, of the market and of its absolute value around their own means.
        middle, distance = splat(sum_lanes(level) / n_obs, _LANES), splat(sum_lanes(far) / n_obs, _LANES)
        scale = splat(variance, _LANES)
        fourth, same, sames, near, nears = zero, zero, zero, zero, zero
        for t in range(0, n_obs, _LANES):
            at = count_up(t, _LANES)
            x, y = load(market, t, _LANES), load(market, t + 1, _LANES)
            ratio = x * x / scale
            fourth = fma(ratio, ratio, fourth)
            dx, ax = x - middle, absolute(x) - distance
            dx, ax = select(at < last, dx, zero), select(at < last, ax, zero)
            dy = select(at + one < last, y - middle, zero)
            ay = select(at + one < last, absolute(y) - distance, zero)
            same, sames, near, nears = fma(dx, dx, same), fma(ax, ax, sames), fma(dx, dy, near), fma(ax, ay, nears)
        own[5] = sum_lanes(fourth) / n_obs
        own[8] = sum_lanes(near) / max(sum_lanes(same), tiny)
        own[9] = sum_lanes(nears) / max(sum_lanes(sames), tiny)

        late = 0.0
        for t in range(max(0, n_obs - RECENT), n_obs):
            late += market[t]
        own[6] = late / min(RECENT, n_obs)
        for k in range(n_blocks):
            squared = 0.0
            for t in range(n_obs - (n_blocks - k) * BLOCK, n_obs - (n_blocks - k - 1) * BLOCK):
                squared += market[t] * market[t]
            blocks[u, k] = squared / BLOCK
