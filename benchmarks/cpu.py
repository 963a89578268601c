# SPDX-License-Identifier: Apache-2.0
"""``make bench``: how far the CPU features are from LAPACK alone, as ratios of one run, into ``results/cpu.json``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.covariance import LedoitWolf
from threadpoolctl import threadpool_limits

from sigmahat_kernels.features import compute_features
from sigmahat_kernels.groups import CHUNK_CELLS
from sigmahat_kernels.request import Request, read_request
from sigmahat_trainer.provenance import provenance
from sigmahat_trainer.simulate import sector_design

RESULT = Path(__file__).parent / "results" / "cpu.json"
N_COLUMNS, N_OBS, N_UNIVERSES, ROUNDS = 500, 252, 1_000, 5


def main() -> None:
    """Measure, print, write."""
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
    few = request.universes[:100]
    one, loop = paired(
        lambda: compute_features(request, threads=1), lambda: [LedoitWolf().fit(request.panel[:, u]) for u in few]
    )
    figures["features_over_sklearn_lw_n100"] = (loop / len(few)) / (one / N_UNIVERSES)
    two, one = paired(lambda: compute_features(request, threads=2), lambda: compute_features(request, threads=1))
    figures["two_threads_over_one"] = one / two

    # T - 1 < N takes the dual form; one more row than assets, and the same universes are solved directly.
    dual_request, direct_request = draw_request(500, 60, n_universes=60), draw_request(500, 501, n_universes=60)
    dual, direct = paired(
        lambda: compute_features(dual_request, threads=1), lambda: compute_features(direct_request, threads=1)
    )
    figures["dual_over_direct_n500_t60"] = direct / dual
    figures["peak_memory_ratio"] = peak_memory_ratio()

    RESULT.parent.mkdir(exist_ok=True)
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    RESULT.write_text(json.dumps({**provenance(), "figures": rounded}, indent=1) + "\n")
    table = Table("figure", "value")
    for name, value in rounded.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)


def draw_request(n_assets: int, n_obs: int, n_universes: int = N_UNIVERSES) -> Request:
    """Random universes of one size from a panel of sectors with fat tails; the widest take every column."""
    rng = np.random.default_rng(0)
    panel = sector_design(rng, n_obs, N_COLUMNS).astype(np.float32)
    rows = [np.sort(rng.choice(N_COLUMNS, n_assets, replace=False)) for _ in range(n_universes)]
    return read_request(panel, np.array(rows, np.int32))


def paired(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, run in turn with one BLAS thread, after a warm-up of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with threadpool_limits(1):
        for turn in range(ROUNDS + 1):
            for work, times in zip((first, second), seconds, strict=True):
                started = time.perf_counter()
                work()
                if turn:
                    times.append(time.perf_counter() - started)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def peak_memory_ratio() -> float:
    """Growth of a fresh process's peak memory over the features of 1,000 universes, over panel + 2 chunks."""
    output = subprocess.run([sys.executable, __file__, "--memory"], capture_output=True, text=True, check=True).stdout
    return float(output) / (N_OBS * N_COLUMNS * 4 + 2 * CHUNK_CELLS * 8)


def print_memory_growth() -> None:
    """Bytes of resident memory that the features of 1,000 universes add at their peak."""
    request = draw_request(100, N_OBS)
    compute_features(request._replace(universes=request.universes[:2], windows=request.windows[:2]), threads=1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmHWM")
    compute_features(request, threads=1)
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    print_memory_growth() if "--memory" in sys.argv else main()
