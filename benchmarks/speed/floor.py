# SPDX-License-Identifier: Apache-2.0
"""What one core can do at most, and how near to it each step of the CPU's features is: a part of ``make bench``.

Billions of floating-point operations a second by fused multiply-adds in registers and by dgemm, bytes a second from
each level of the cache, and microseconds of each step for one universe. Needs numba.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from sigmahat_kernels.groups import Memberships
from sigmahat_kernels.lanes.spectra import GROUP, eigenvalues_of_triangles, triangle_size
from sigmahat_kernels.lanes.tridiagonal import tridiagonalise_lanes
from sigmahat_kernels.lanes.universes import gather_universes
from sigmahat_kernels.lanes.vectors import WIDTH, fma, load, splat, sum_lanes
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.solvers import choose_solver
from sigmahat_trainer.data.simulate import sector_design

N_COLUMNS, N_OBS, ROUNDS = 500, 252, 21
LEVELS = {"l1": 16 * 2**10, "l2": 320 * 2**10, "l3": 4 * 2**20}
"""Bytes that are read again and again."""


def floor_and_steps() -> dict[str, float]:
    """Figures by name; minima of many runs in turn, one thread."""
    with threadpool_limits(1):
        return {**core(), **steps(20), **steps(100), **steps(250)}


def core() -> dict[str, float]:
    """What the core can do, whatever is computed."""
    n_steps, size = 2_000_000, 768
    matrix = np.random.default_rng(0).standard_normal((size, size))
    other = matrix[::-1].copy()
    arrays = {name: np.ones(n_bytes // 8) for name, n_bytes in LEVELS.items()}
    passes = {name: max(1, 64 * 2**20 // array.nbytes) for name, array in arrays.items()}
    seconds = least(
        {
            "fma": lambda: _multiply_and_add(n_steps),
            "dgemm": lambda: matrix @ other,
            **{name: partial(_read, arrays[name], passes[name]) for name in arrays},
        }
    )
    return {
        "fma_gflops": 2e-9 * _CHAINS * WIDTH * n_steps / seconds["fma"],
        "dgemm_gflops": 2e-9 * size**3 / seconds["dgemm"],
        **{f"{name}_gb_per_s": 1e-9 * arrays[name].nbytes * passes[name] / seconds[name] for name in arrays},
    }


def steps(n_assets: int) -> dict[str, float]:
    """Microseconds of each step for one universe of so many assets; the tridiagonalisation's operations too."""
    rng = np.random.default_rng(0)
    shared = share_window(sector_design(rng, N_OBS, N_COLUMNS).returns)
    index = np.array([np.sort(rng.choice(N_COLUMNS, n_assets, replace=False)) for _ in range(GROUP)])
    sizes, scratch = np.full(GROUP, n_assets), Scratch(np)
    membership = np.zeros((N_COLUMNS, GROUP))
    membership[index.T, np.arange(GROUP)] = 1.0
    lanes = choose_solver(shared.factor, "lanes")
    series = lanes.asset_series(shared.window, shared.factor)
    triangles, _ = gather_universes(shared.products, index, sizes, scratch)
    kept = triangles.copy()
    register = np.ascontiguousarray(kept[:WIDTH, : triangle_size(n_assets)].T)
    work, ends = np.empty((4, n_assets, WIDTH)), np.empty((2, n_assets, WIDTH))
    overwritten = register.copy()

    def tridiagonalise() -> None:
        overwritten[...] = register
        tridiagonalise_lanes(overwritten, n_assets, work, ends[0], ends[1])

    seconds = least(
        {
            "gather": lambda: gather_universes(shared.products, index, sizes, scratch),
            "tridiagonalise": tridiagonalise,
            "spectrum": lambda: eigenvalues_of_triangles(kept, sizes, scratch),
            "series": lambda: lanes.series_moments(series, Memberships([(slice(None), membership)]), index),
        }
    )
    each = {"gather": GROUP, "tridiagonalise": WIDTH, "spectrum": GROUP, "series": GROUP}
    operations = 4 / 3 * n_assets**3
    return {
        **{f"{name}_us_n{n_assets}": 1e6 * seconds[name] / count for name, count in each.items()},
        f"tridiagonalise_gflops_n{n_assets}": 1e-9 * operations * WIDTH / seconds["tridiagonalise"],
    }


def least(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least seconds of each, run in turn."""
    seconds = dict.fromkeys(works, np.inf)
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


_CHAINS = 10


@njit(nogil=True)
def _multiply_and_add(n_steps: int) -> float:
    a, b, c, d, e = splat(1.0, WIDTH), splat(1.1, WIDTH), splat(1.2, WIDTH), splat(1.3, WIDTH), splat(1.4, WIDTH)
    f, g, h, i, j = splat(1.5, WIDTH), splat(1.6, WIDTH), splat(1.7, WIDTH), splat(1.8, WIDTH), splat(1.9, WIDTH)
    scale, shift = splat(0.999, WIDTH), splat(0.001, WIDTH)
    for _ in range(n_steps):
        a, b, c = fma(a, scale, shift), fma(b, scale, shift), fma(c, scale, shift)
        d, e, f = fma(d, scale, shift), fma(e, scale, shift), fma(f, scale, shift)
        g, h, i, j = fma(g, scale, shift), fma(h, scale, shift), fma(i, scale, shift), fma(j, scale, shift)
    return sum_lanes(a + b + c + d + e + f + g + h + i + j)


@njit(nogil=True)
def _read(array: np.ndarray, passes: int) -> float:
    a, b, c, d = splat(0.0, WIDTH), splat(0.0, WIDTH), splat(0.0, WIDTH), splat(0.0, WIDTH)
    for _ in range(passes):
        for at in range(0, len(array), 4 * WIDTH):
            a, b = a + load(array, at, WIDTH), b + load(array, at + WIDTH, WIDTH)
            c, d = c + load(array, at + 2 * WIDTH, WIDTH), d + load(array, at + 3 * WIDTH, WIDTH)
    return sum_lanes(a + b + c + d)
