# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/kernel_times.md``, what the CUDA kernels should take: ``python -m docs.make_kernel_times``.

Instructions are those of ``benchmarks/results/kernel_instructions.json``; the rest is counted from the algorithms.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.cuda import kernels

PAGE = Path(__file__).with_name("kernel_times.md")
COUNTED = Path(__file__).parents[1] / "benchmarks" / "results" / "kernel_instructions.json"
SIZES = (50, 100, 200)

MULTIPROCESSORS, CLOCK_HZ = 132, 1.98e9  # H100 SXM and H200
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}  # bytes a second, of the data sheets
WARPS_ISSUED, SINGLES, DOUBLES = 4, 128, 64  # a clock and multiprocessor: instructions of warps, operations of threads
THREADS, REGISTERS, SHARED_BYTES = 2_048, 65_536, 228 * 1_024  # of a multiprocessor
SECTOR = 32  # bytes that are read where one word of them is wanted
CACHE_BYTES, CACHE_RATE = 50 * 10**6, 5_120  # what all multiprocessors share, bytes and bytes a clock (of an A100)


class Work(NamedTuple):
    """What one universe asks of a multiprocessor."""

    doubles: float  # additions, products and fused ones, of threads
    singles: float
    wavefronts: float  # of shared memory: 128 bytes, or one word for all threads of a warp
    bytes: float  # of device memory
    chain: float  # clocks that its longest chain of dependent instructions takes, waiting included
    threads: int  # of its block
    shared_bytes: int
    cached: float = 0  # bytes of the cache that all multiprocessors share, beside those of device memory


def tridiagonalise(n: int) -> Work:
    """Four fused operations for each of the N^3 / 6 elements, which are read and written once a step; float64."""
    elements = n**3 / 6
    size_class = kernels.size_class_of(n)
    assert size_class
    shared = kernels.tridiagonal_shared_bytes(n, size_class.warps, np.float64)
    # A step: three barriers, four sums over a warp, a root and two divisions, and the pass by one warp's rows.
    chain = n * 1_000
    return Work(4 * elements, 0, 4 * elements / 32, n**2 / 2 * SECTOR, chain, 32 * size_class.warps, shared)


def sturm(n: int) -> Work:
    """22 passes of 7 operations a row in float32, then 4 to 5 of 11 in float64, for each eigenvalue."""
    single, double = 22, 4.5
    rows = n**2
    waits = n * (single * 45 + double * 110)
    warps = -(-n // 32)
    return Work(double * rows * 11, single * rows * 7, (single + double) * n * warps, 24 * n, waits, 32 * warps, 32 * n)


def pair_statistics(n: int) -> Work:
    """Three products are gathered; about 8 operations a cell."""
    shared = 12 * n + 4_544
    return Work(8 * n**2, 0, n**2 / 16, 3 * n**2 * SECTOR, 20_000, 32 * kernels.PAIR_WARPS, shared)


def assemble(n: int) -> Work:
    """Two correlations are gathered, and the fast one is written side by side, for six products with three columns.

    In the end both are read again, of either triangle the same half; a cell is written.
    """
    passes, columns = 6, 3
    shared = int(kernels.assemble_shared_bytes(np.array(n)))
    products = passes * 8 * n**2
    again = n**2 * SECTOR + n**2 * (8 + SECTOR) / 2
    # The blocks at work share the cache; what does not fit there is read from device memory each time.
    held = MULTIPROCESSORS * 4 * 8 * n**2 <= CACHE_BYTES
    return Work(
        doubles=(20 + passes * columns) * n**2,
        singles=0,
        wavefronts=n**2 / 16 * (4 + columns + passes * columns),
        bytes=2 * n**2 * SECTOR + (8 + 4) * n**2 + (0 if held else products),
        # Of a pass: a warp's rows, with three sums over it, then a Cholesky factor of three columns.
        chain=20_000 + passes * (n / kernels.PAIR_WARPS * 500 + 1_500),
        threads=32 * kernels.PAIR_WARPS,
        shared_bytes=shared,
        cached=again + (products if held else 0),
    )


MODELS: dict[str, Callable[[int], Work]] = {
    model.__name__: model for model in (tridiagonalise, sturm, pair_statistics, assemble)
}


def seconds(work: Work, counted: dict[str, Any], bandwidth: float) -> dict[str, float]:
    """What each bound alone would take for one universe, all multiprocessors being busy."""
    loop = counted["loop"]
    issued = (work.doubles + work.singles) / 32 * loop["instructions"] / loop["arithmetic"]
    clocks = {
        "arithmetic": work.doubles / DOUBLES + work.singles / SINGLES,
        "instructions": issued / WARPS_ISSUED,
        "shared memory": work.wavefronts,
        "waiting": work.chain / resident(work, counted["registers"]),
    }
    found = {name: value / (MULTIPROCESSORS * CLOCK_HZ) for name, value in clocks.items()}
    found["cache"] = (work.bytes + work.cached) / (CACHE_RATE * CLOCK_HZ)
    return found | {"device memory": work.bytes / bandwidth}


def resident(work: Work, registers: int) -> int:
    """Blocks that a multiprocessor holds; registers are handed out in eights, and 1 KB of a block is the system's."""
    by_registers = REGISTERS // (work.threads * (-(-registers // 8) * 8))
    return min(32, THREADS // work.threads, by_registers, SHARED_BYTES // (work.shared_bytes + 1_024))


def program_of(name: str, n: int, counted: dict[str, Any]) -> str:
    """The compiled form that an H100 or H200 takes."""
    if name == "tridiagonalise":
        size_class = kernels.size_class_of(n)
        assert size_class
        options = kernels.tridiagonal_program(size_class, np.float64).options
        return " ".join([name, *(option.removeprefix("-D") for option in options)])
    return next(label for label in counted if label.split()[0] == name)


INTRODUCTION = """\
# What the kernels should take

By arithmetic, and not measured: no card has run them yet ([kernels](kernels.md)). Instructions are counted in the
machine code that NVRTC {nvrtc} makes for {architecture}; the rest is counted from the algorithms, for an H100 SXM or
H200 (132 multiprocessors at 1.98 GHz; 3.35 and 4.8 TB/s), all of it busy with universes of one size. To do again after
a change of a kernel: `python -m benchmarks.speed.kernel_instructions`, then `python -m docs.make_kernel_times`.

## Machine code

Of the innermost loop with most arithmetic; where it has branches for a matrix's edge, both are counted.

| kernel | registers | instructions | of the loop | arithmetic | shared memory | device memory |
| --- | --: | --: | --: | --: | --: | --: |
"""

BOUNDS = """
## Bounds of one universe

Nanoseconds with all multiprocessors busy; the largest is the bound. *Arithmetic*: 64 float64 or 128 float32 operations
a clock and multiprocessor. *Instructions*: four a clock, as many for each operation as in the loop above. *Shared*:
memory, 128 bytes a clock. *Waiting*: the longest chain of dependent instructions, estimated, shared by the blocks that
a multiprocessor holds (*held*). *Cache*: the one that all multiprocessors share, 5,120 bytes a clock, which is
published of an A100 only. *Device*: memory, 32 bytes for each word that is gathered, as if none were in the cache. The
bound is that of an H200; rates are universes a second.

| kernel | N | held | arithmetic | instructions | shared | waiting | cache | device, H100 | H200 | bound \
| rate, H100 | H200 |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- | --: | --: |
"""

AIMS = """
## Aims on an H200

| | aim | bound |
| --- | --: | --: |
| spectra a second, N = 100 | 1,500,000 | {spectra} |
| universes a second with all features, N = 100, a panel of 3,000 | 300,000 | {features} |
| matrices a second, N = 100 | | {matrices} |
| time of mixed sizes over equal ones | 1.3 | 1 |
| over `cusolverDnXsyevBatched`, N = 50 to 250 | 3 | to be measured |

Bounds are of the kernels alone, one after the other. Products, moments and what the host does between launches come on
top; `benchmarks/speed/first_gpu_call.sh` measures them together and apart, and its figures belong beside these.
"""


def page() -> str:
    """The whole page."""
    content = json.loads(COUNTED.read_text())
    counted = content["figures"]
    text = INTRODUCTION.format(nvrtc=content["versions"]["nvrtc"], architecture=content["architecture"])
    for label, found in counted.items():
        loop = found["loop"]
        cells = (found["registers"], found["instructions"], *(loop[name] for name in _COLUMNS))
        text += f"| {label} | {' | '.join(f'{cell:,}' for cell in cells)} |\n"
    text += BOUNDS
    taken: dict[tuple[str, int], float] = {}
    for name, model in MODELS.items():
        for n in SIZES:
            work, of_program = model(n), counted[program_of(name, n, counted)]
            on = {card: seconds(work, of_program, bandwidth) for card, bandwidth in BANDWIDTH.items()}
            alike = [on["H200"][bound] for bound in on["H200"] if bound != "device memory"]
            times = [*alike, *(each["device memory"] for each in on.values())]
            taken[name, n] = max(on["H200"].values())
            bound = max(on["H200"], key=lambda bound: on["H200"][bound])
            rates = (_rounded(1 / max(each.values())) for each in on.values())
            nanoseconds = " | ".join(f"{1e9 * time:.3g}" for time in times)
            held = resident(work, of_program["registers"])
            text += f"| {name} | {n} | {held} | {nanoseconds} | {bound} | {' | '.join(rates)} |\n"
    spectra = taken["tridiagonalise", 100] + taken["sturm", 100]
    return text + AIMS.format(
        spectra=_rounded(1 / spectra),
        features=_rounded(1 / (spectra + taken["pair_statistics", 100])),
        matrices=_rounded(1 / taken["assemble", 100]),
    )


_COLUMNS = ("instructions", "arithmetic", "shared", "global")


def _rounded(value: float) -> str:
    """Two digits."""
    return f"{float(f'{value:.2g}'):,.0f}"


if __name__ == "__main__":
    PAGE.write_text(page())
