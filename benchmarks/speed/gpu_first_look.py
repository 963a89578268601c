# SPDX-License-Identifier: Apache-2.0
"""What a GPU node is, and whether every kernel works there: ``python -m benchmarks.speed.gpu_first_look``.

Each kernel is compiled, and compared with LAPACK and with the array form on the host; one that fails is named and the
others are still tried. Needs CuPy and NumPy, and of this project the sources.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.device_calls import draw_request
from benchmarks.speed.gpu_measurement import Lines, draw_panel, draw_universes
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.cuda import device, kernels
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.request import Request
from sigmahat_kernels.solvers import DEVICE_SOLVERS, OwnKernels, choose_solver

PACKAGES = ("cupy-cuda13x", "torch", "numpy", "scipy", "pytest", "threadpoolctl", "rich", "click", "pandas", "triton")
TOOLS = {
    "nvidia-smi": ("--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.sm,power.limit", "--format=csv"),
    "nvcc": ("--version",),
    "compute-sanitizer": ("--version",),
    "ncu": ("--version",),
}
ATTRIBUTES = (
    *("MultiProcessorCount", "ClockRate", "MemoryClockRate", "GlobalMemoryBusWidth", "L2CacheSize"),
    *("MaxSharedMemoryPerBlockOptin", "MaxSharedMemoryPerMultiprocessor", "MaxRegistersPerMultiprocessor"),
    *("SingleToDoublePrecisionPerfRatio", "AsyncEngineCount", "ComputeCapabilityMajor", "ComputeCapabilityMinor"),
)
SIZES = (2, 20, 32, 33, 64, 65, 100, 128, 129, 200, 228, 229, 256, 321)
N_COLUMNS, N_OBS = 400, 1_000


class Looks:
    """Tries one thing after another, and writes what came of each."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.failed = 0

    def at(self, name: str, work: Callable[[], Any]) -> None:
        """Write what `work()` returns, or what it raises."""
        try:
            self.lines.add(name, work())
        except Exception as error:  # whatever it is: the rest is still worth a look
            self.failed += 1
            self.lines.add(f"{name} failed", f"{type(error).__name__}: {error}")
            traceback.print_exc()


def look_at_node(looks: Looks) -> None:
    """Versions, tools, and what the device says of itself."""
    looks.at("python", platform.python_version)
    looks.at("system", platform.platform)
    looks.at("cores", lambda: len(os.sched_getaffinity(0)))
    looks.at("packages", lambda: {name: version for name in PACKAGES if (version := version_of(name))})
    for tool, options in TOOLS.items():
        looks.at(tool, partial(answer_of, tool, *options))
    looks.at("cuda", cuda_versions)
    looks.at("device", device_attributes)


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def answer_of(tool: str, *options: str) -> str:
    """What a program prints, or that it is not there."""
    path = shutil.which(tool) or shutil.which(tool, path="/usr/local/cuda/bin")
    if path is None:
        return "not found"
    done = subprocess.run([path, *options], capture_output=True, text=True, check=False, timeout=20)
    return f"{path}: {(done.stdout + done.stderr).strip()}"


def cuda_versions() -> dict[str, Any]:
    """Of CuPy, the driver, the runtime and the compiler."""
    import cupy

    runtime = cupy.cuda.runtime
    return {
        "cupy": cupy.__version__,
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "nvrtc": cupy.cuda.nvrtc.getVersion(),
        "devices": runtime.getDeviceCount(),
    }


def device_attributes() -> dict[str, Any]:
    """Those that bound the kernels; one that this CUDA does not know is left out."""
    import cupy

    found = cupy.cuda.Device().attributes
    properties = cupy.cuda.runtime.getDeviceProperties(device.current_device())
    named = {"name": properties["name"].decode(), "memory": properties["totalGlobalMem"]}
    return named | {name: found[name] for name in ATTRIBUTES if name in found}


def look_at_kernels(looks: Looks, sizes: tuple[int, ...], demo: tuple[int, tuple[int, int], int]) -> None:
    """Compile each, and compare it with the host."""
    import cupy

    for program in kernels.PROGRAMS:
        looks.at(f"compile {program.name} {' '.join(program.options)}".strip(), partial(compile_, program))
    standardised = draw_panel(N_OBS, N_COLUMNS).astype(np.float64)
    standardised -= standardised.mean(axis=0)
    factor = (standardised / np.linalg.norm(standardised, axis=0)).T.copy()
    product = factor @ factor.T
    there, z = cupy.asarray(product), cupy.asarray(factor)
    for precision in (np.float64, np.float32):
        own = OwnKernels(device.launch, precision, device.shared_memory_limit())
        for size in filter(own.takes, sizes):
            looks.at(f"error {own.name} n{size}", partial(error_of, product, size, partial(own.eigvalsh, there)))
    for name in DEVICE_SOLVERS:
        for size in sorted({sizes[0], sizes[-1]}):
            looks.at(f"error {name} n{size}", partial(error_of, product, size, partial(spectra_by, name, there, z)))
    request = draw_request(*demo)
    looks.at("difference of features", lambda: difference_of_features(request))
    looks.at("difference of matrices", lambda: difference_of_matrices(request))


def spectra_by(name: str, product: Any, factor: Any, index: Any) -> Any:
    """Eigenvalues by the solver of that name."""
    return choose_solver(product, name).eigenvalues(product, factor, index)


def compile_(program: kernels.Program) -> dict[str, Any]:
    """Seconds, and what of the device a block takes."""
    begin = time.perf_counter()
    kernel = device.compiled(program, device.current_device())
    used = {"registers": kernel.num_regs, "local_bytes": kernel.local_size_bytes}
    return {"seconds": round(time.perf_counter() - begin, 2), **used}


def error_of(product: np.ndarray, size: int, solve: Callable[[Any], Any]) -> float:
    """Largest difference from LAPACK, in largest eigenvalues; raises where a second run has other bits."""
    import cupy

    index = draw_universes(4, size, len(product), seed=size)
    expected = np.linalg.eigvalsh(product[index[:, :, None], index[:, None, :]])
    actual, again = (to_numpy(solve(cupy.asarray(index))) for _ in range(2))
    if not np.array_equal(actual, again):
        raise ArithmeticError(f"two runs differ by {np.abs(actual - again).max():g}")
    return float((np.abs(actual - expected).max(axis=1) / expected[:, -1]).max())


def difference_of_features(request: Request) -> dict[str, Any]:
    """Largest difference of any feature, in units of 1 + |feature|; mixed sizes and windows in one request."""
    import cupy

    expected = compute_features(request, solver="lapack")
    actual = compute_features(request._replace(panel=cupy.asarray(request.panel)))
    apart = np.abs(actual.features - expected.features) / (1.0 + np.abs(expected.features))
    same = bool((actual.status == expected.status).all())
    return {"largest": float(np.nanmax(apart)), "same_status": same, "solvers": list(actual.solvers)}


def difference_of_matrices(request: Request) -> float:
    """Largest difference of any cell, in largest cells."""
    import cupy

    n = len(request.universes)
    parameters = split_parameters(np.random.default_rng(0).uniform(0.1, 0.5, (n, N_PARAMETERS)))
    expected, actual = (
        to_numpy(assemble(request._replace(panel=panel), parameters, np.zeros(n, np.int32)))
        for panel in (request.panel, cupy.asarray(request.panel))
    )
    return float(np.nanmax(np.abs(actual - expected)) / np.nanmax(np.abs(expected)))


def main() -> int:
    """Look, print, write; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, help="file to which each figure is added as soon as it is known")
    parser.add_argument("--rehearsal", action="store_true", help="few small sizes, for an emulator")
    arguments = parser.parse_args()
    looks = Looks(Lines(arguments.lines))
    look_at_node(looks)
    if arguments.rehearsal:
        look_at_kernels(looks, (20,), (6, (5, 20), 2))
    else:
        look_at_kernels(looks, SIZES, (400, (20, 200), 8))
    return 1 if looks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
