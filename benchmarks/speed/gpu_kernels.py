# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels that compute spectra and sums, against cuSOLVER, CuPy and torch: ``results/gpu_kernels.json``.

``python -m benchmarks.speed.gpu_kernels`` runs on one GPU in a few minutes, with numpy, threadpoolctl, rich, cupy and
(for its rows) torch, and the sources on PYTHONPATH (``feature_kernels:trainer``) where the package is not installed.
A part that fails is named under "failed", and the others are still written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import RESULTS
from benchmarks.speed.gpu_measurement import GpuLimits, Measurement, draw_panel, draw_universes, needs_gpu, options
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.cuda import cusolver, device, kernels
from sigmahat_kernels.solvers import OwnKernels, choose_solver

SIZES = (20, 50, 100, 150, 250, 340, 500)
DUAL = ((100, 60), (250, 60), (500, 60), (500, 252))  # assets, observations
WARPS_AT = (50, 100, 150, 250)
CHECKED = 4  # universes compared with LAPACK
PRECISIONS = (np.float64, np.float32)


def bound_seconds(size: int, precision: type[np.floating], gpu: GpuLimits) -> float:
    """Time of one universe with all multiprocessors busy, as in the table that the targets were set by.

    Tridiagonalisation moves N^3 elements through shared memory at 128 bytes a clock (two passes over the remaining
    matrix a step); the eigenvalues take 50 passes of N^2 steps of 7.4 double operations. The kernels do somewhat less.
    """
    moved = size**3 * np.dtype(precision).itemsize
    double_rate = gpu.n_multiprocessors * gpu.clock_hz * 2 * 128 / gpu.single_to_double
    return moved / (gpu.n_multiprocessors * gpu.clock_hz * 128) + 50 * 7.4 * size**2 / double_rate


class Problem(NamedTuple):
    """Universes of one size, drawn from one product."""

    product: Any  # (m, m) on the device
    indices: list[Any]  # `Scale.rotations` of (n, size)
    expected: np.ndarray  # (CHECKED, size) LAPACK's eigenvalues of the first ones
    size: int


def correlations(m: Measurement, panel: np.ndarray) -> tuple[Any, Any]:
    """Z', (columns, rows), and Z'Z of all columns of a panel, on the device."""
    centred = m.cupy.asarray(panel).astype(m.cupy.float64)
    centred -= centred.mean(axis=0)
    factor = m.cupy.ascontiguousarray((centred / m.cupy.sqrt((centred**2).sum(axis=0))).T)
    return factor, factor @ factor.T


def measure_solvers(m: Measurement, product: Any, size: int, seconds: float) -> None:
    """Values only, universes per second of every solver in both precisions."""
    cupy = m.cupy
    batch = m.scale.universes // (4 if size >= 340 else 1)
    drawn = [draw_universes(batch, size, len(product), seed) for seed in range(m.scale.rotations)]
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
                lambda turn: problem.indices[turn % len(problem.indices)],
                lambda index: kernels.pair_statistics(device.launch, products, index, device.shared_memory_limit()),
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
        lambda turn: problem.indices[turn % len(problem.indices)], lambda rows: own.eigvalsh(problem.product, rows)
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
        rows = problem.indices[turn % len(problem.indices)][:n]
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
        if 4 * (m.scale.repeats + 2) * once > seconds:
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
    n = m.scale.universes // 2
    index = m.cupy.asarray(draw_universes(n, size, len(product), 0))
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
                m.record(f"warps{warps}_{kind}_n{size}_per_second", n / seconds)


def measure_dual(m: Measurement, factor: Any, n_assets: int, n_obs: int) -> None:
    """Fewer observations than assets: the T x T Gram matrices, products included."""
    cupy = m.cupy
    z = factor[:, :n_obs] - factor[:, :n_obs].mean(axis=1, keepdims=True)
    z /= cupy.sqrt((z**2).sum(axis=1, keepdims=True))
    product = z @ z.T
    n = max(1, m.scale.universes // 4)
    indices = [cupy.asarray(draw_universes(n, n_assets, len(z), seed)) for seed in range(m.scale.rotations)]
    solver = choose_solver(product)
    seconds = m.seconds_of(lambda turn: indices[turn % len(indices)], lambda rows: solver.eigenvalues(product, z, rows))
    m.record(f"dual_n{n_assets}_t{n_obs}_per_second", n / seconds, f"({', '.join(sorted(solver.used))})")


def measure_ceilings(m: Measurement) -> None:
    """Device copy and matrix products, against which the rest is to be read."""
    cupy = m.cupy
    source = cupy.random.default_rng(0).random(m.scale.cells)
    target = cupy.empty_like(source)
    seconds = m.seconds_of(lambda turn: None, lambda _: cupy.copyto(target, source))
    m.record("copy_tb_per_second", 2 * source.nbytes / seconds / 1e12)
    for precision in PRECISIONS:
        size = min(4_096, int(m.scale.cells**0.5))
        a = source[: size**2].reshape(size, size).astype(precision)
        seconds = m.seconds_of(lambda turn: None, partial(_squared, a))
        m.record(f"gemm_{np.dtype(precision).name}_tflops", 2 * size**3 / seconds / 1e12)


def _squared(a: Any, prepared: None) -> Any:
    return a @ a


def main() -> int:
    """Measure, print, write; 1 if a part failed."""
    parser = options(__doc__, RESULTS / "gpu_kernels.json", seconds=420.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="assets of a universe")
    parser.add_argument("--library-seconds", type=float, default=2.0, help="for all repeats of one library at one size")
    arguments = parser.parse_args()
    needs_gpu(parser)
    m = Measurement(arguments)
    factor, product = correlations(m, draw_panel(m.scale.rows, m.scale.columns))
    m.part("ceilings", measure_ceilings, m)
    for size in arguments.sizes:
        m.part(f"n{size}", measure_solvers, m, product, size, arguments.library_seconds)
    for n_assets, n_obs in DUAL:
        if n_assets <= m.scale.columns:
            m.part(f"dual_n{n_assets}_t{n_obs}", measure_dual, m, factor, n_assets, n_obs)
    for size in WARPS_AT:
        if size <= max(arguments.sizes):
            m.part(f"warps_n{size}", measure_warps, m, product, size)
    return m.finish()


if __name__ == "__main__":
    sys.exit(main())
