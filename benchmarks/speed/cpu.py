# SPDX-License-Identifier: Apache-2.0
"""``make bench``: how far the CPU features are from LAPACK alone, as ratios of one run, into ``results/cpu.json``."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits

from sigmahat_kernels.features import _measure_part, _prepare_group, compute_features
from sigmahat_kernels.groups import group_by_window, parts_of
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.scratch import Scratch, keep_freed_memory, take_blocks
from sigmahat_kernels.solvers import choose_solver
from sigmahat_kernels.spectrum import correlation_spectrum, dual_spectrum
from sigmahat_trainer.data.simulate import sector_design
from sigmahat_trainer.provenance import provenance

RESULT = Path(__file__).parents[1] / "results" / "cpu.json"
N_COLUMNS, N_OBS, N_UNIVERSES, ROUNDS = 500, 252, 1_000, 11


def main() -> None:
    """Measure, print, write."""
    keep_freed_memory()  # as the server does
    figures: dict[str, float] = {}
    for n_assets in (100, 250):
        request = draw_request(n_assets, N_OBS)
        correlations = np.corrcoef(request.panel.T)
        stacks = [correlations[u[:, :, None], u[:, None, :]] for u in np.array_split(request.universes, 50)]
        features, bare = paired(
            lambda request=request: compute_features(request, threads=1),
            lambda stacks=stacks: [np.linalg.eigvalsh(stack) for stack in stacks],
        )
        figures[f"features_over_eigvalsh_n{n_assets}"] = bare / features
        figures[f"features_us_per_universe_n{n_assets}"] = 1e6 * features / N_UNIVERSES
        del stacks

    request = draw_request(100, N_OBS)
    mixed = draw_request(range(20, 201), N_OBS)
    few = request.universes[:100]
    one, loop = paired(
        lambda: compute_features(request, threads=1), lambda: [LedoitWolf().fit(request.panel[:, u]) for u in few]
    )
    figures["features_over_sklearn_lw_n100"] = (loop / len(few)) / (one / N_UNIVERSES)
    for name, work in (("two_threads_over_one", request), ("two_threads_over_one_mixed_sizes", mixed)):
        two, one = paired(
            lambda work=work: compute_features(work, threads=2), lambda work=work: compute_features(work, threads=1)
        )
        figures[name] = one / two

    # T - 1 < N takes the dual form: alone, and with everything else that the features of such universes need. For the
    # latter, one more row than assets: the same universes are solved directly.
    dual_request, direct_request = draw_request(500, 60, n_universes=60), draw_request(500, 501, n_universes=60)
    factor = correlation_factor(prepare_window(dual_request.panel))
    product, transposed = factor.T @ factor, np.ascontiguousarray(factor.T)
    blocks = [universes.astype(np.int64) for universes in np.array_split(dual_request.universes, 30)]
    scratch = Scratch(np)
    dual, direct = paired(
        lambda: [dual_spectrum(transposed[index]) for index in blocks],
        lambda: [correlation_spectrum(take_blocks(product, index, scratch, "blocks")) for index in blocks],
    )
    figures["dual_over_direct_n500_t60"] = direct / dual
    dual, direct = paired(
        lambda: compute_features(dual_request, threads=1), lambda: compute_features(direct_request, threads=1)
    )
    figures["features_dual_over_direct_n500_t60"] = direct / dual
    figures["peak_memory_ratio"] = peak_memory_ratio()

    RESULT.parent.mkdir(exist_ok=True)
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    RESULT.write_text(json.dumps({**provenance(), "figures": rounded}, indent=1) + "\n")
    table = Table("figure", "value")
    for name, value in rounded.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)


def draw_request(sizes: int | Sequence[int], n_obs: int, n_universes: int = N_UNIVERSES) -> Request:
    """Random universes of the given sizes from a panel of sectors with fat tails; the widest take every column."""
    rng = np.random.default_rng(0)
    panel = sector_design(rng, n_obs, N_COLUMNS).astype(np.float32)
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


def peak_memory_ratio() -> float:
    """Peak of the features of 1,000 universes over what they share plus twice the peak of one part of them.

    Bytes of arrays, as NumPy reports them to `tracemalloc`; one thread.
    """
    request = draw_request(100, N_OBS)
    group = next(group_by_window(request, np.arange(N_UNIVERSES)))
    tracemalloc.start()
    summands = _prepare_group(request, group, None)
    panel, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    _measure_part(request, next(parts_of(request, group)), summands, choose_solver(request.panel))
    _, with_part = tracemalloc.get_traced_memory()
    del summands
    tracemalloc.reset_peak()
    compute_features(request, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / (panel + 2 * (with_part - panel))


if __name__ == "__main__":
    main()
