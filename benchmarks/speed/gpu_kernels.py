# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels against cuSOLVER, CuPy and torch, and the features end to end, into ``results/gpu_kernels.json``.

``python -m benchmarks.speed.gpu_kernels`` runs on one GPU in a few minutes, with numpy, threadpoolctl, rich, cupy and
(for its rows) torch, and the sources on PYTHONPATH (``feature_kernels:trainer``) where the package is not installed.
A part that fails is named under "failed", and the others are still written.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import RESULTS, four_digits, write_figures
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.cuda import cusolver, device, kernels
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.request import Request, read_request
from sigmahat_kernels.solvers import OwnKernels, choose_solver

SIZES = (20, 50, 100, 150, 250, 340, 500)
N_COLUMNS, N_OBS = 3_000, 756
REPEATS = 20
ROTATIONS = 4  # sets of universes taken in turn, so that no run finds its own in the cache
CHECKED = 4  # universes compared with LAPACK
PRECISIONS = (np.float64, np.float32)


class GpuLimits(NamedTuple):
    """What bounds the kernels."""

    n_multiprocessors: int
    clock_hz: float
    single_to_double: int


def bound_seconds(size: int, precision: type[np.floating], gpu: GpuLimits) -> float:
    """Time of one universe with all multiprocessors busy, as in the table that the targets were set by.

    Tridiagonalisation moves N^3 elements through shared memory at 128 bytes a clock (two passes over the remaining
    matrix a step); the eigenvalues take 50 passes of N^2 steps of 7.4 double operations. The kernels do somewhat less.
    """
    moved = size**3 * np.dtype(precision).itemsize
    double_rate = gpu.n_multiprocessors * gpu.clock_hz * 2 * 128 / gpu.single_to_double
    return moved / (gpu.n_multiprocessors * gpu.clock_hz * 128) + 50 * 7.4 * size**2 / double_rate


def draw_panel(n_obs: int, n_columns: int) -> np.ndarray:
    """Returns with a market, sectors and fat tails; (n_obs, n_columns) float32."""
    rng = np.random.default_rng(0)
    market = rng.standard_t(5, (n_obs, 1)) * rng.normal(1.0, 0.3, n_columns)
    sectors = rng.standard_normal((n_obs, 11))[:, rng.integers(11, size=n_columns)]
    own = rng.standard_t(4, (n_obs, n_columns))
    return (0.008 * market + 0.006 * sectors + 0.012 * own).astype(np.float32)


def draw_universes(n: int, size: int, n_columns: int, seed: int) -> np.ndarray:
    """Sorted columns of `n` universes; (n, size) int64."""
    rng = np.random.default_rng(seed)
    return np.array([np.sort(rng.choice(n_columns, size, replace=False)) for _ in range(n)])


class Measurement:
    """The figures, written after each part; and the parts that failed."""

    def __init__(self, out: Path, seconds: float, commit: str | None) -> None:
        import cupy

        self.cupy = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(device.current_device())
        self.gpu = GpuLimits(
            properties["multiProcessorCount"], 1e3 * _clock_khz(cupy, properties), device.single_to_double_ratio()
        )
        self.figures: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self.out, self._stop = out, time.monotonic() + seconds
        self._started = time.monotonic()
        self._facts: dict[str, Any] = {
            "machine": {
                "gpu": properties["name"].decode(),
                "multiprocessors": self.gpu.n_multiprocessors,
                "clock_mhz": round(self.gpu.clock_hz / 1e6),
                "shared_memory_per_block": device.shared_memory_limit(),
                "single_to_double_ratio": self.gpu.single_to_double,
            },
            "versions": {
                "cupy": cupy.__version__,
                "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
                "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
            },
            **({"commit": commit} if commit else {}),
        }

    def part(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        """Run `work(*arguments)`; what it raises is kept under its name, and the rest goes on."""
        if time.monotonic() > self._stop:
            self.failed[name] = "left out: no time left"
        else:
            try:
                work(*arguments)
            except Exception as error:  # a library may refuse a size; the others are still worth having
                self.failed[name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
                self.cupy.get_default_memory_pool().free_all_blocks()
        self.write()

    def record(self, name: str, value: float, remark: str = "") -> None:
        """Keep and print one figure."""
        self.figures[name] = four_digits(value)
        print(f"[{time.monotonic() - self._started:5.0f} s] {name}: {self.figures[name]:,g} {remark}", flush=True)

    def write(self) -> None:
        """Replace the result file by what is known so far."""
        write_figures(self.out, self.figures, **self._facts, **({"failed": self.failed} if self.failed else {}))

    def seconds_of(self, prepare: Callable[[int], Any], work: Callable[[Any], object], repeats: int = REPEATS) -> float:
        """Median device time of `work(prepare(turn))`, after two warm-ups; preparing is not timed."""
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        times = []
        for turn in range(repeats + 2):
            prepared = prepare(turn)
            begin.record()
            work(prepared)
            end.record()
            end.synchronize()
            times.append(1e-3 * self.cupy.cuda.get_elapsed_time(begin, end))
        return float(np.median(times[2:]))


class Problem(NamedTuple):
    """Universes of one size, drawn from one product."""

    product: Any  # (m, m) on the device
    indices: list[Any]  # ROTATIONS of (n, size)
    expected: np.ndarray  # (CHECKED, size) LAPACK's eigenvalues of the first ones
    size: int


def measure_solvers(m: Measurement, product: Any, size: int, largest_batch: int, seconds: float) -> None:
    """Values only, universes per second of every solver in both precisions."""
    cupy = m.cupy
    batch = min(largest_batch, 2_048 if size >= 340 else 8_192)
    drawn = [draw_universes(batch, size, N_COLUMNS, seed) for seed in range(ROTATIONS)]
    host = np.stack([cupy.asnumpy(product[rows[:, None], rows]) for rows in cupy.asarray(drawn[0][:CHECKED])])
    problem = Problem(product, [cupy.asarray(rows) for rows in drawn], np.linalg.eigvalsh(host), size)
    for precision in PRECISIONS:
        kind = np.dtype(precision).name
        own = OwnKernels(device.launch, precision, device.shared_memory_limit())
        if own.takes(size):
            name = f"kernels_{kind}_n{size}"
            m.part(name, measure_own, m, problem, own, name)
        libraries = {"xsyevbatched": cusolver.eigvalsh, "cupy": cupy.linalg.eigvalsh, "torch": torch_eigvalsh()}
        for library, solve in libraries.items():
            name = f"{library}_{kind}_n{size}"
            if solve is not None:
                m.part(name, measure_library, m, problem, solve, precision, name, seconds)
        best, rival = (f"{who}_{kind}_n{size}_per_second" for who in ("kernels", "xsyevbatched"))
        if best in m.figures and rival in m.figures:
            m.record(f"kernels_over_xsyevbatched_{kind}_n{size}", m.figures[best] / m.figures[rival])
    pair = "pair_statistics"
    products = (product, product, product)
    m.part(
        f"{pair}_n{size}",
        lambda: m.record(
            f"{pair}_n{size}_per_second",
            batch
            / m.seconds_of(
                lambda turn: problem.indices[turn % ROTATIONS],
                lambda index: kernels.pair_statistics(device.launch, products, index),
            ),
        ),
    )


def measure_own(m: Measurement, problem: Problem, own: OwnKernels, name: str) -> None:
    """The own kernels, with their share of the bound."""
    index = problem.indices[0]
    values = own.eigvalsh(problem.product, index)
    assert bool((values == own.eigvalsh(problem.product, index)).all()), "not repeatable"
    m.record(f"{name}_error", np.abs(to_numpy(values[:CHECKED]) - problem.expected).max())
    seconds = m.seconds_of(
        lambda turn: problem.indices[turn % ROTATIONS], lambda rows: own.eigvalsh(problem.product, rows)
    ) / len(index)
    share = bound_seconds(problem.size, np.float64 if own.exact else np.float32, m.gpu) / seconds
    m.record(f"{name}_per_second", 1 / seconds, f"({share:.0%} of the bound)")
    m.record(f"{name}_share_of_bound", share)
    (blocks,) = kernels.blocks_of(np.full(len(index), problem.size), index)
    flat = m.cupy.random.default_rng(0).random((2, len(index), problem.size))
    m.record(
        f"{name}_sturm_share",  # on other tridiagonal matrices of the same shape
        m.seconds_of(
            lambda turn: m.cupy.empty_like(values),
            lambda out: kernels.sturm(device.launch, blocks, flat[0] + 1.0, 0.1 * flat[1], out),
        )
        / (seconds * len(index)),
    )


def measure_library(
    m: Measurement, problem: Problem, solve: Any, precision: type[np.floating], name: str, seconds: float
) -> None:
    """A library on gathered stacks (gathering is not timed), in as large batches as the time allows."""
    cupy = m.cupy

    def stack(turn: int, n: int) -> Any:
        rows = problem.indices[turn % ROTATIONS][:n]
        return problem.product[rows[:, :, None], rows[:, None, :]].astype(precision)

    actual = cupy.asnumpy(solve(stack(0, CHECKED)))
    m.record(f"{name}_error", np.abs(actual - problem.expected).max())
    n, limit = CHECKED, min(len(problem.indices[0]), 2**31 // problem.size**2 - 1)
    while n < limit:  # as large as all repeats fit into the time, and as the library takes
        wider = min(4 * n, limit)
        try:
            once = m.seconds_of(partial(stack, n=wider), solve, repeats=1)
        except Exception as error:
            print(f"{name}: {wider:,} matrices refused: {error}", flush=True)
            break
        n = wider
        if 4 * (REPEATS + 2) * once > seconds:
            break
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    elapsed = m.seconds_of(partial(stack, n=n), solve)
    m.record(f"{name}_per_second", n / elapsed, f"(batches of {n:,})")
    m.record(f"{name}_batch", n)
    m.record(f"{name}_memory_gb", pool.total_bytes() / 1e9, "(with the stack, before and after its conversion)")
    pool.free_all_blocks()


def torch_eigvalsh() -> Callable[[Any], Any] | None:
    """torch's, on memory shared with CuPy; None where there is no torch with CUDA."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    import cupy

    def solve(stack: Any) -> Any:
        # torch works in CuPy's stream, so that CuPy's events stand around it.
        with torch.cuda.stream(torch.cuda.ExternalStream(cupy.cuda.get_current_stream().ptr)):
            return cupy.from_dlpack(torch.linalg.eigvalsh(torch.from_dlpack(stack)))

    return solve


def measure_warps(m: Measurement, product: Any, size: int) -> None:
    """Tridiagonalisation with other numbers of warps than `SIZE_CLASSES` says."""
    index = m.cupy.asarray(draw_universes(4_096, size, N_COLUMNS, 0))
    for precision in PRECISIONS:
        kind = np.dtype(precision).name
        known = kernels.size_class_of(size)
        assert known
        for warps in (1, 2, 4, 8, 16):
            size_class = known._replace(warps=warps)
            if kernels.tridiagonal_shared_bytes(size, warps, precision) <= device.shared_memory_limit():
                seconds = m.seconds_of(
                    lambda turn: index,
                    partial(kernels.eigvalsh, device.launch, product, precision=precision, size_class=size_class),
                    repeats=5,
                )
                m.record(f"warps{warps}_{kind}_n{size}_per_second", 4_096 / seconds)


def measure_dual(m: Measurement, factor: Any, n_assets: int, n_obs: int) -> None:
    """Fewer observations than assets: the T x T Gram matrices, products included."""
    cupy = m.cupy
    z = factor[:, :n_obs] - factor[:, :n_obs].mean(axis=1, keepdims=True)
    z /= cupy.sqrt((z**2).sum(axis=1, keepdims=True))
    product = z @ z.T
    indices = [cupy.asarray(draw_universes(2_048, n_assets, N_COLUMNS, seed)) for seed in range(ROTATIONS)]
    solver = choose_solver(product)
    seconds = m.seconds_of(lambda turn: indices[turn % ROTATIONS], lambda rows: solver.eigenvalues(product, z, rows))
    m.record(f"dual_n{n_assets}_t{n_obs}_per_second", 2_048 / seconds, f"({', '.join(sorted(solver.used))})")


def measure_features(m: Measurement, panel: np.ndarray, n_universes: int, n_obs: int) -> None:
    """All features of N = 100, from a panel in host memory to the table in host memory, wall clock."""
    returns = np.ascontiguousarray(panel[-n_obs:])
    sets = [draw_universes(n_universes, 100, N_COLUMNS, seed).astype(np.int32) for seed in range(ROTATIONS)]
    first = read_request(returns, sets[0][:2])

    def request_of(turn: int) -> Request:
        universes = sets[turn % ROTATIONS]
        return first._replace(
            panel=m.cupy.asarray(returns), universes=universes, windows=np.tile(first.windows[:1], (n_universes, 1))
        )

    times = []
    for turn in range(REPEATS + 2):
        started = time.perf_counter()
        table = compute_features(request_of(turn), threads=1)
        times.append(time.perf_counter() - started)
    assert np.isfinite(table.features).all()
    name = f"features_n100_t{n_obs}_u{n_universes}_per_second"
    m.record(name, n_universes / float(np.median(times[2:])), f"({', '.join(table.solvers)})")
    print("Where the host's time of one call goes:")
    with cProfile.Profile() as profile:
        compute_features(request_of(0), threads=1)
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(12)


def measure_ceilings(m: Measurement) -> None:
    """Device copy and matrix products, against which the rest is to be read."""
    cupy = m.cupy
    source = cupy.random.default_rng(0).random(2**27)
    target = cupy.empty_like(source)
    seconds = m.seconds_of(lambda turn: None, lambda _: cupy.copyto(target, source))
    m.record("copy_tb_per_second", 2 * source.nbytes / seconds / 1e12)
    for precision in PRECISIONS:
        a = source[: 4_096**2].reshape(4_096, 4_096).astype(precision)
        seconds = m.seconds_of(lambda turn: None, partial(_squared, a))
        m.record(f"gemm_{np.dtype(precision).name}_tflops", 2 * 4_096**3 / seconds / 1e12)


def _squared(a: Any, prepared: None) -> Any:
    return a @ a


def _clock_khz(cupy: Any, properties: dict[str, Any]) -> float:
    """The highest clock; CUDA 13 took it out of the properties."""
    return properties.get("clockRate") or cupy.cuda.Device().attributes["ClockRate"]


def main() -> int:
    """Measure, print, write; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_kernels.json")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="assets of a universe")
    parser.add_argument("--batch", type=int, default=8_192, help="most universes in one call")
    parser.add_argument("--seconds", type=float, default=420.0, help="no part is begun after so long")
    parser.add_argument("--library-seconds", type=float, default=2.0, help="for all repeats of one library at one size")
    parser.add_argument("--commit", help="commit of the checkout, where git cannot tell")
    arguments = parser.parse_args()
    try:
        import cupy

        found = cupy.cuda.is_available()
    except ImportError as error:
        parser.exit(2, f"needs CuPy on a machine with a CUDA device: {error}\n")
    if not found:
        parser.exit(2, "needs a CUDA device, and CuPy finds none\n")

    m = Measurement(arguments.out, arguments.seconds, arguments.commit)
    panel = draw_panel(N_OBS, N_COLUMNS)
    centred = cupy.asarray(panel, cupy.float64)
    centred -= centred.mean(axis=0)
    factor = cupy.ascontiguousarray((centred / cupy.sqrt((centred**2).sum(axis=0))).T)
    product = factor @ factor.T
    m.part("ceilings", measure_ceilings, m)
    for n_universes, n_obs in ((4_096, 252), (16_384, 252)):
        m.part(f"features_u{n_universes}_t{n_obs}", measure_features, m, panel, n_universes, n_obs)
    for size in arguments.sizes:
        m.part(f"n{size}", measure_solvers, m, product, size, arguments.batch, arguments.library_seconds)
    for n_assets, n_obs in ((100, 60), (250, 60), (500, 60), (500, 252)):
        m.part(f"dual_n{n_assets}_t{n_obs}", measure_dual, m, factor, n_assets, n_obs)
    for size in (50, 100, 150, 250):
        m.part(f"warps_n{size}", measure_warps, m, product, size)
    print(f"{len(m.figures)} figures in {arguments.out}")
    for name, reason in m.failed.items():
        print(f"failed: {name}: {reason}")
    return 1 if m.failed else 0


if __name__ == "__main__":
    sys.exit(main())
