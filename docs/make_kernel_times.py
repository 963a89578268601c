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
SIZES = (20, 50, 100, 200)

MULTIPROCESSORS, CLOCK_HZ = 132, 1.98e9  # H100 SXM and H200
BANDWIDTH = {"H100": 3.35e12, "H200": 4.8e12}  # bytes a second, of the data sheets
WARPS_ISSUED, SINGLES, DOUBLES = 4, 128, 64  # a clock and multiprocessor: instructions of warps, operations of threads
THREADS, REGISTERS, SHARED_BYTES = 2_048, 65_536, 228 * 1_024  # of a multiprocessor
SECTOR = 32  # bytes that are read where one word of them is wanted
ROWS, MISSING = 252, 0.01  # of the windows that `complete` is asked for; share of the returns that is missing
CACHE_BYTES, CACHE_RATE = 50 * 10**6, 5_120  # what all multiprocessors share, bytes and bytes a clock (of an A100)


class Work(NamedTuple):
    """What one universe asks of a multiprocessor."""

    instructions: float  # of warps
    doubles: float  # additions, products and fused ones, 32 for each instruction, whether its threads are idle or not
    singles: float
    wavefronts: float  # of shared memory: 128 bytes, or one word for all threads of a warp
    bytes: float  # of device memory
    chain: float  # clocks that its longest chain of dependent instructions takes, waiting included
    threads: int  # of its block
    shared_bytes: int
    cached: float = 0  # bytes of the cache that all multiprocessors share, beside those of device memory


# Instructions that machine code for sm_90 spends, read from it where the page's counts hold branches of which one is
# taken; in float64.
GROUP, MASKED, UNMASKED = 78, 55, 30  # tridiagonalise: four rows, without columns; 32 columns on the diagonal; others
OTHER_WARPS = 150  # a step's, of warps that do not build the reflector
READ_ROW, READ_COLUMNS, LEFT_ROW = 60, 9, 110  # a row to gather, 32 columns of it; a row of what is left to one warp
HELD_GROUP, HELD_COLUMNS, NEXT_ROW = 22, 12, 13  # tridiagonalise_small: the same four rows; 32 further columns
GATHERED_ROW = (48, 118)  # with one chunk of columns and with two
FLOAT_ROW, DOUBLE_ROW, BOUNDS_ROW = 9.75, 32.5, 17  # sturm: a row of one count, and of Gershgorin's bounds
PAIR, ROW_CELL, FORM_CELL, PAIR_ROW = 38, 20, 17, 100  # pair_statistics: for 32 cells of a row; for a row


LEFT_BYTES = 8 * kernels.LARGEST_IN_REGISTERS * (kernels.LARGEST_IN_REGISTERS + 1) / 2


def _chunks_below(n: int) -> int:
    """Of 32 columns, in the rows of a lower triangle."""
    return sum(-(-(i + 1) // 32) for i in range(n))


def _groups(rows: int) -> int:
    """Of four rows, the last one not full."""
    return -(-rows // 4)


def tridiagonalise(n: int, counted: dict[str, Any]) -> Work:
    """Each step passes over the remaining triangle by four rows and 32 columns, down to what a warp takes; float64."""
    size_class = kernels.size_class_of(n)
    assert size_class
    shared = kernels.tridiagonal_shared_bytes(n, size_class.warps, np.float64)
    if kernels.in_registers(size_class.largest, size_class.warps):
        return _in_registers(n, counted, shared)
    left = kernels.LARGEST_IN_REGISTERS
    steps = range(left, n)
    groups = sum(_groups(m) for m in steps)
    unmasked = sum(_groups(m - before) for m in steps for before in range(32, m, 32))
    reflectors = len(steps) * (counted["around"] + OTHER_WARPS * (size_class.warps - 1))
    instructions = groups * (GROUP + MASKED) + unmasked * UNMASKED + reflectors
    instructions += n * READ_ROW + _chunks_below(n) * READ_COLUMNS + left * LEFT_ROW
    # A row of 32 columns is read and written in four wavefronts; a group reads six vectors of what is its rows'.
    wavefronts = 16 * (groups + unmasked) + 6 * groups
    # A step: three barriers, four sums over a warp, a root and two divisions, and the pass by one warp's rows.
    chain = len(steps) * 1_000
    doubles = 32 * 16 * (groups + unmasked)
    traffic = n**2 / 2 * SECTOR + LEFT_BYTES
    return Work(instructions, doubles, 0, wavefronts, traffic, chain, 32 * size_class.warps, shared)


def remainder(counted: dict[str, Any]) -> Work:
    """What is left of a larger matrix, read as it lies."""
    left = kernels.LARGEST_IN_REGISTERS
    return _in_registers(left, counted, kernels.tridiagonal_shared_bytes(left, 1, np.float64))._replace(
        bytes=LEFT_BYTES
    )


def _in_registers(n: int, counted: dict[str, Any], shared: int) -> Work:
    """Both triangles, so that nothing is masked or summed over the lanes; 32 rows in registers, others in memory."""
    of_step = counted["around"] or counted["loop"]["instructions"]
    chunks = 2 if counted["around"] else 1
    group = HELD_GROUP + (chunks - 1) * HELD_COLUMNS
    instructions = n * GATHERED_ROW[chunks - 1]
    doubles = wavefronts = 0
    for m in range(1, n):
        held, others, wide = _groups(min(m, 32)), _groups(max(0, m - 32)), m > 32
        instructions += of_step - 8 * (group + NEXT_ROW) + (0 if wide else NEXT_ROW)
        instructions += held * (group if wide else HELD_GROUP) + others * counted["loop"]["instructions"]
        doubles += 32 * (49 + 12 * (held + others) * (1 + wide))
        wavefronts += 6 * (held + others) + 32 * others + 6 * chunks
    # A step: four sums over a warp or exchanges, a root and two divisions, and the pass.
    return Work(instructions, doubles, 0, wavefronts, n**2 / 2 * SECTOR, n * 700, 32, shared)


def sturm(n: int, counted: dict[str, Any]) -> Work:
    """For each eigenvalue counts in float32, those of 22 that the grid does not spare, and 4.3 in float64, emulated."""
    single, double = 23 - np.floor(np.log2(n + 1)), 4.3
    warps = -(-n // 32)
    counts = n * warps
    instructions = counts * (single * FLOAT_ROW + double * DOUBLE_ROW + BOUNDS_ROW)
    waits = n * (single * 45 + double * 110)
    return Work(
        instructions,
        *(32 * counts * double * 11, 32 * counts * single * 2),
        *((single + double) * counts, 24 * n, waits, 32 * warps, 36 * n),
    )


def pair_statistics(n: int, counted: dict[str, Any]) -> Work:
    """Half of three products is gathered; what is kept of one of them is read twice, whole and half."""
    shared = kernels.pair_shared_bytes(n, held=True)
    half, whole = _chunks_below(n), n * -(-n // 32)
    instructions = half * (PAIR + FORM_CELL) + whole * ROW_CELL + n * PAIR_ROW
    doubles = 32 * (half * (8 + 4) + whole * 2)
    wavefronts = 6 * half + 2 * whole
    return Work(instructions, doubles, 0, wavefronts, 1.5 * n**2 * SECTOR, 20_000, 32 * kernels.PAIR_WARPS, shared)


def matrix_features(n: int, counted: dict[str, Any]) -> Work:
    """Two logarithms for each eigenvalue, then some fifty numbers of which all lanes of the warp know."""
    loop, chunks = counted["loop"], -(-n // 32)
    instructions = counted["instructions"] + (chunks - 1) * loop["instructions"]
    doubles = 32 * instructions * loop["arithmetic"] / loop["instructions"]
    # Some forty sums over the warp, and a chain of as many logarithms, roots and divisions.
    return Work(instructions, doubles, 0, 0, 8 * (2 * n + 7 + 49) + 4 * 32, 40 * (5 * 30 + 100), 32, 0)


def assemble(n: int, counted: dict[str, Any]) -> Work:
    """Two correlations are gathered, and the fast one is written side by side, for six products with three columns.

    In the end both are read again, of either triangle the same half; a cell is written.
    """
    passes, columns = 6, 3
    shared = int(kernels.assemble_shared_bytes(np.array(n)))
    products = passes * 8 * n**2
    again = n**2 * SECTOR + n**2 * (8 + SECTOR) / 2
    # The blocks at work share the cache; what does not fit there is read from device memory each time.
    held = MULTIPROCESSORS * 4 * 8 * n**2 <= CACHE_BYTES
    doubles = (20 + passes * columns) * n**2
    return Work(
        instructions=doubles / 32 * counted["loop"]["instructions"] / counted["loop"]["arithmetic"],
        doubles=doubles,
        singles=0,
        wavefronts=n**2 / 16 * (4 + columns + passes * columns),
        bytes=2 * n**2 * SECTOR + (8 + 4) * n**2 + (0 if held else products),
        # Of a pass: a warp's rows, with three sums over it, then a Cholesky factor of three columns.
        chain=20_000 + passes * (n / kernels.PAIR_WARPS * 500 + 1_500),
        threads=32 * kernels.PAIR_WARPS,
        shared_bytes=shared,
        cached=again + (products if held else 0),
    )


def complete(n: int, counted: dict[str, Any]) -> Work:
    """Returns are gathered twice, and those of all assets in each row that an asset misses; both correlations once."""
    shared = int(kernels.complete_shared_bytes(ROWS, np.array(n)))
    gaps = MISSING * ROWS * n  # rows that some asset misses
    chunks = -(-n // 32)
    cells, added, pairs = ROWS * n, gaps * n, n**2 / 2
    doubles = 32 * (ROWS * chunks * (3 + 5) + gaps * chunks * 6 + _chunks_below(n) * 10)
    # A warp's rows: what is gathered, three sums over it, waited for once; then all rows, four at a time; then for each
    # missed row its number and, with that, the return; then rows of pairs.
    items = n * chunks / kernels.PAIR_WARPS
    chain = ROWS / kernels.PAIR_WARPS * 1_100 + ROWS / 4 * chunks / kernels.PAIR_WARPS * 700
    chain += items * MISSING * ROWS * 1_200 + n / kernels.PAIR_WARPS * chunks * 700
    return Work(
        instructions=doubles / 32 * counted["loop"]["instructions"] / counted["loop"]["arithmetic"],
        doubles=doubles,
        singles=0,
        wavefronts=ROWS * chunks * 2 + gaps * chunks * 2,
        # Of the completed ones what is added is written and read, then they themselves are written.
        bytes=(2 * cells + added + 2 * pairs) * SECTOR + 2 * n**2 * 8 * 3,
        chain=chain,
        threads=32 * kernels.PAIR_WARPS,
        shared_bytes=shared,
    )


MODELS: dict[str, Callable[[int, dict[str, Any]], Work]] = {
    model.__name__: model for model in (tridiagonalise, sturm, pair_statistics, matrix_features, assemble, complete)
}


def seconds(work: Work, counted: dict[str, Any], bandwidth: float) -> dict[str, float]:
    """What each bound alone would take for one universe, all multiprocessors being busy."""
    clocks = {
        "arithmetic": work.doubles / DOUBLES + work.singles / SINGLES,
        "instructions": work.instructions / WARPS_ISSUED,
        "shared memory": work.wavefronts,
        "waiting": work.chain / resident(work, counted["registers"]),
    }
    found = {name: value / (MULTIPROCESSORS * CLOCK_HZ) for name, value in clocks.items()}
    found["cache"] = (work.bytes + work.cached) / (CACHE_RATE * CLOCK_HZ)
    return found | {"device memory": work.bytes / bandwidth}


def parts(name: str, n: int, counted: dict[str, Any]) -> list[tuple[Work, dict[str, Any]]]:
    """What one kernel does, or two one after the other."""
    own = counted[program_of(name, n, counted)]
    done = [(MODELS[name](n, own), own)]
    left = kernels.LARGEST_IN_REGISTERS
    if name == "tridiagonalise" and n > left:
        of_left = counted[program_of(name, left, counted)]
        done.append((remainder(of_left), of_left))
    return done


def resident(work: Work, registers: int) -> int:
    """Blocks that a multiprocessor holds; registers are handed out in eights, and 1 KB of a block is the system's."""
    by_registers = REGISTERS // (work.threads * (-(-registers // 8) * 8))
    return min(32, THREADS // work.threads, by_registers, SHARED_BYTES // (work.shared_bytes + 1_024))


def program_of(name: str, n: int, counted: dict[str, Any]) -> str:
    """The compiled form that an H100 or H200 takes."""
    if name == "tridiagonalise":
        size_class = kernels.size_class_of(n)
        assert size_class
        program = kernels.tridiagonal_program(size_class, np.float64)
        return " ".join([program.name, *(option.removeprefix("-D") for option in program.options)])
    return next(label for label in counted if label.split()[0] == name)


INTRODUCTION = """\
# What the kernels should take

By arithmetic, and not measured: no card has run them yet ([kernels](kernels.md)). Instructions are counted in the
machine code that NVRTC {nvrtc} makes for {architecture}; the rest is counted from the algorithms, for an H100 SXM or
H200 (132 multiprocessors at 1.98 GHz; 3.35 and 4.8 TB/s), all of it busy with universes of one size. To do again after
a change of a kernel: `python -m benchmarks.speed.kernel_instructions`, then `python -m docs.make_kernel_times`.

## Machine code

Of the innermost loop with most arithmetic, and of what lies around it in the next loop (*around*); where there are
branches for a matrix's edge or for a rare case, both are counted.

| kernel | registers | instructions | around | of the loop | arithmetic | shared memory | device memory |
| --- | --: | --: | --: | --: | --: | --: | --: |
"""

BOUNDS = """
## Bounds of one universe

Nanoseconds with all multiprocessors busy; the largest is the bound. *Arithmetic*: 64 float64 or 128 float32 operations
a clock and multiprocessor, idle threads of a warp included. *Instructions*: four a clock, those of the branches that
are taken, what is around the loops included (`docs/make_kernel_times.py` says how many). *Shared*: memory, 128 bytes a
clock. *Waiting*: the longest chain of dependent instructions, estimated, shared by the blocks that a multiprocessor
holds (*held*). *Cache*: the one that all multiprocessors share, 5,120 bytes a clock, which is published of an A100
only. *Device*: memory, 32 bytes for each word that is gathered, as if none were in the cache. The bound is that of an
H200; rates are universes a second. `tridiagonalise` is of both kernels of that name, one after the other; `complete`
has windows of {rows} rows of which {missing:.0%} of the returns are missing, in each column alike.

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
        cells = (found["registers"], found["instructions"], found["around"], *(loop[name] for name in _COLUMNS))
        text += f"| {label} | {' | '.join(f'{cell:,}' for cell in cells)} |\n"
    text += BOUNDS.format(rows=ROWS, missing=MISSING)
    taken: dict[tuple[str, int], float] = {}
    for name in MODELS:
        for n in SIZES:
            done = parts(name, n, counted)
            on = {}
            for card, bandwidth in BANDWIDTH.items():
                each = [seconds(work, of_program, bandwidth) for work, of_program in done]
                on[card] = {bound: sum(found[bound] for found in each) for bound in each[0]}
            alike = [on["H200"][bound] for bound in on["H200"] if bound != "device memory"]
            times = [*alike, *(each["device memory"] for each in on.values())]
            taken[name, n] = max(on["H200"].values())
            bound = max(on["H200"], key=lambda bound: on["H200"][bound])
            rates = (_rounded(1 / max(each.values())) for each in on.values())
            nanoseconds = " | ".join(f"{1e9 * time:.3g}" for time in times)
            held = " and ".join(str(resident(work, of_program["registers"])) for work, of_program in done)
            text += f"| {name} | {n} | {held} | {nanoseconds} | {bound} | {' | '.join(rates)} |\n"
    spectra = taken["tridiagonalise", 100] + taken["sturm", 100]
    return text + AIMS.format(
        spectra=_rounded(1 / spectra),
        features=_rounded(1 / (spectra + taken["pair_statistics", 100] + taken["matrix_features", 100])),
        matrices=_rounded(1 / taken["assemble", 100]),
    )


_COLUMNS = ("instructions", "arithmetic", "shared", "global")


def _rounded(value: float) -> str:
    """Two digits."""
    return f"{float(f'{value:.2g}'):,.0f}"


if __name__ == "__main__":
    PAGE.write_text(page())
