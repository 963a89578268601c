# SPDX-License-Identifier: Apache-2.0
"""``make bench``: how far the CPU features are from LAPACK alone, as ratios of one run, into ``results/cpu.json``.

``python -m benchmarks.speed.cpu`` needs sigmahat[serve]; the figures that compare with scikit-learn need that too, and
those of single steps need numba: they are left out without it, which is said.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.figures import RESULTS, four_digits, print_figures, write_figures
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import _measure_parts, _summands, compute_features
from sigmahat_kernels.groups import group_by_window, group_returns, parts_of
from sigmahat_kernels.lanes.compiled import can_compile
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.scratch import Scratch, keep_freed_memory, take_blocks
from sigmahat_kernels.shared_window import share_windows
from sigmahat_kernels.solvers import choose_solver
from sigmahat_kernels.spectrum import correlation_spectrum, dual_spectrum
from sigmahat_trainer.data.simulate import sector_design

RESULT = RESULTS / "cpu.json"
N_COLUMNS, N_OBS, N_UNIVERSES, ROUNDS = 500, 252, 1_000, 11


def main() -> None:
    """Measure, print, write."""
    keep_freed_memory()  # as the server does
    figures = {**over_lapack(), **over_sklearn(), **over_one_thread(), **dual_over_direct(), **over_floor()}
    figures["assemble_over_before_n100"] = assemble_over_array_form()
    figures |= peak_memory()
    rounded = {name: four_digits(value) for name, value in figures.items()}
    write_figures(RESULT, rounded)
    print_figures(rounded)


def over_lapack() -> dict[str, float]:
    """All features over the eigenvalues alone."""
    figures = {}
    for n_assets in (100, 250):
        request = draw_request(n_assets, N_OBS)
        correlations = np.corrcoef(request.panel.T)
        stacks = [correlations[u[:, :, None], u[:, None, :]] for u in np.array_split(request.universes, 50)]
        features, bare = paired(
            partial(compute_features, request, threads=1),
            partial(eigenvalues, stacks),
        )
        figures[f"features_over_eigvalsh_n{n_assets}"] = bare / features
        figures[f"features_us_per_universe_n{n_assets}"] = 1e6 * features / N_UNIVERSES
    return figures


def eigenvalues(stacks: list[np.ndarray]) -> list[np.ndarray]:
    """LAPACK's, of each stack of matrices."""
    return [np.linalg.eigvalsh(stack) for stack in stacks]


def over_sklearn() -> dict[str, float]:
    """All features over a loop of scikit-learn's estimator, by universes a second; nothing where that is missing."""
    try:
        from sklearn.covariance import LedoitWolf
    except ModuleNotFoundError:
        Console(stderr=True).print("features_over_sklearn_lw are left out, scikit-learn is not installed")
        return {}
    figures = {}
    for n_assets in (20, 50, 100, 250):
        request = draw_request(n_assets, N_OBS)
        few = request.universes[:100]
        ours, loop = paired(
            partial(compute_features, request, threads=1),
            partial(lambda panel, few: [LedoitWolf().fit(panel[:, u]) for u in few], request.panel, few),
        )
        figures[f"features_over_sklearn_lw_n{n_assets}"] = (loop / len(few)) / (ours / N_UNIVERSES)
    return figures


def over_floor() -> dict[str, float]:
    """What the core can do and how long each step takes; nothing without numba."""
    if not can_compile():
        Console(stderr=True).print("the figures of single steps are left out, numba is not installed")
        return {}
    from benchmarks.speed.floor import floor_and_steps

    return floor_and_steps()


def over_one_thread() -> dict[str, float]:
    """Two threads over one, with universes of one size and of many."""
    figures = {}
    for name, sizes in (("two_threads_over_one", 100), ("two_threads_over_one_mixed_sizes", range(20, 201))):
        request = draw_request(sizes, N_OBS)
        two, one = paired(
            partial(compute_features, request, threads=2),
            partial(compute_features, request, threads=1),
        )
        figures[name] = one / two
    return figures


def dual_over_direct() -> dict[str, float]:
    """T - 1 < N takes the dual form: alone, and with everything else that the features of such universes need.

    For the latter, one more row than assets: the same universes are solved directly.
    """
    dual_request, direct_request = draw_request(500, 60, n_universes=60), draw_request(500, 501, n_universes=60)
    factor = correlation_factor(prepare_window(dual_request.panel))
    product, transposed = factor.T @ factor, np.ascontiguousarray(factor.T)
    blocks = [universes.astype(np.int64) for universes in np.array_split(dual_request.universes, 30)]
    scratch = Scratch(np)
    dual, direct = paired(
        lambda: [dual_spectrum(transposed[index]) for index in blocks],
        lambda: [correlation_spectrum(take_blocks(product, index, scratch, "blocks")) for index in blocks],
    )
    all_dual, all_direct = paired(
        partial(compute_features, dual_request, threads=1), partial(compute_features, direct_request, threads=1)
    )
    return {
        "dual_over_direct_n500_t60": direct / dual,
        "features_dual_over_direct_n500_t60": all_direct / all_dual,
    }


def assemble_over_array_form() -> float:
    """Covariance matrices of N = 100 by the compiled form over the array form, which was all there was before."""
    request, status = draw_request(100, N_OBS), np.zeros(N_UNIVERSES, np.int32)
    rng = np.random.default_rng(0)
    parameters = Parameters(*(rng.uniform(0.1, 0.3, (N_UNIVERSES, columns)) for columns in HEADS.values()))
    matrices = partial(assemble, request, parameters, status, threads=1)

    def array_form() -> None:
        with mock.patch("sigmahat_kernels.assemble.can_compile", return_value=False):
            matrices()

    compiled, arrays = paired(matrices, array_form)
    return arrays / compiled


def draw_request(sizes: int | Sequence[int], n_obs: int, n_universes: int = N_UNIVERSES) -> Request:
    """Random universes of the given sizes from a panel of sectors with fat tails; the widest take every column."""
    rng = np.random.default_rng(0)
    panel = sector_design(rng, n_obs, N_COLUMNS).returns.astype(np.float32)
    drawn = rng.choice([sizes] if isinstance(sizes, int) else sizes, n_universes)
    rows = np.full((n_universes, drawn.max()), PADDING, np.int32)
    for row, size in zip(rows, drawn, strict=True):
        row[:size] = np.sort(rng.choice(N_COLUMNS, size, replace=False))
    return read_request(panel, rows)


def paired(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of the first, and the second's by the median ratio of neighbours; in turn, one BLAS thread.

    A shared machine is fast and slow by turns; two runs next to each other see the same of it.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    with threadpool_limits(1):
        for turn in range(ROUNDS + 1):
            for work, times in zip((first, second), seconds, strict=True):
                started = time.perf_counter()
                work()
                if turn:
                    times.append(time.perf_counter() - started)
    own = float(np.median(seconds[0]))
    return own, own * float(np.median(np.divide(seconds[1], seconds[0])))


def peak_memory() -> dict[str, float]:
    """Peak of the features of 1,000 universes, and over what they share plus twice the peak of one part of them.

    Bytes of arrays, as NumPy reports them to `tracemalloc`; one thread.
    """
    request = draw_request(100, N_OBS)
    group = next(group_by_window(request, np.arange(N_UNIVERSES)))
    tracemalloc.start()
    solver = choose_solver(request.panel)
    summands = _summands(share_windows(group_returns(request, group), [slice(None)]), solver)
    panel, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    part = next(parts_of(request, group)), slice(None)
    _measure_parts(request, [part], summands, solver)
    _, with_part = tracemalloc.get_traced_memory()
    del summands
    tracemalloc.reset_peak()
    compute_features(request, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"peak_memory_ratio": peak / (panel + 2 * (with_part - panel)), "peak_memory_mb": 1e-6 * peak}


if __name__ == "__main__":
    main()
