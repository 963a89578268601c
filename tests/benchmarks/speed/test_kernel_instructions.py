# SPDX-License-Identifier: Apache-2.0
"""What the page of the kernels' times is computed from: of the kernels that there are, and by what bounds it says."""

from __future__ import annotations

import json

import pytest

from benchmarks.speed.kernel_instructions import OUT, arithmetic_of, digest, label
from docs import make_kernel_times
from sigmahat_kernels.cuda.kernels import PROGRAMS


def test_the_instructions_are_those_of_the_kernels_that_there_are() -> None:
    counted = json.loads(OUT.read_text())["figures"]
    found = {name: of_program["text"] for name, of_program in counted.items()}
    again = "a kernel was changed: count again by python -m benchmarks.speed.kernel_instructions, see its first lines"
    assert found == {label(program): digest(program) for program in PROGRAMS}, again


def test_arithmetic_is_of_floating_point_alone() -> None:
    assert arithmetic_of(["DFMA", "FADD.FTZ", "FMUL", "IMAD.MOV.U32", "DSETP.GT.AND", "F2F.F64.F32", "LDS.64"]) == 3


CLOCK = 132 * 1.98e9


def test_bounds_of_tridiagonalise() -> None:
    """By a loop over what it does down to 64 rows: N = 100, four warps; a pass by four rows and 32 columns."""
    groups = masked = unmasked = 0
    for m in range(64, 100):
        for top in range(0, m, 4):
            groups += 1
            for first in range(0, top + 4, 32):
                masked, unmasked = (masked + 1, unmasked) if first + 32 > top else (masked, unmasked + 1)
    counted = {"registers": 98, "around": 400}
    work = make_kernel_times.tridiagonalise(100, counted)
    found = make_kernel_times.seconds(work, counted, 4.8e12)
    assert make_kernel_times.resident(work, 98) == 4  # 104 registers of 128 threads, 46.8 KB of 228
    issued = 78 * groups + 55 * masked + 30 * unmasked + 36 * (400 + 3 * 150)
    issued += sum(60 + 9 * (i // 32 + 1) for i in range(100)) + 64 * 110
    assert found["arithmetic"] == pytest.approx(16 * 32 * (masked + unmasked) / 64 / CLOCK)
    assert found["instructions"] == pytest.approx(issued / 4 / CLOCK)
    assert found["shared memory"] == pytest.approx((16 * (masked + unmasked) + 6 * groups) / CLOCK)
    assert found["device memory"] == pytest.approx((100 * 100 / 2 * 32 + 64 * 65 / 2 * 8) / 4.8e12)


@pytest.mark.parametrize("size", [20, 50])
def test_instructions_of_small_matrices(size: int) -> None:
    """By a loop over what a step does: of the eight groups of rows that its loop has, it skips some."""
    chunks = 1 if size <= 32 else 2
    held, skipped = (22, 35) if chunks == 1 else (34, 47)
    loop = {"instructions": 53, "arithmetic": 24}
    counted = {"around": 600, "loop": loop} if chunks == 2 else {"around": 0, "loop": {"instructions": 450}}
    issued = size * (48 if chunks == 1 else 118)
    for m in range(1, size):
        issued += (450 if chunks == 1 else 600) - 8 * skipped
        for top in range(0, m, 4):
            issued += 53 if top >= 32 else held if m > 32 else 22
        issued += 13 if m <= 32 else 0
    work = make_kernel_times.tridiagonalise(size, counted)
    assert work.instructions == issued
    assert work.threads == 32


def test_bounds_of_complete() -> None:
    """By a loop over warps' columns: N = 50 over 252 rows, each asset missing 2.52 of them."""
    counted = {"registers": 80, "loop": {"instructions": 320, "arithmetic": 108}}
    doubles = words = broadcasts = 0.0
    for first in (0, 32):
        for _ in range(252):
            doubles += 32 * (3 + 5)
            broadcasts += 2
        for _ in range(50):
            doubles += 32 * 6 * 2.52
            broadcasts += 2 * 2.52
        words += 2 * 252 * min(32, 50 - first) + 50 * 2.52 * min(32, 50 - first)
    for i in range(50):
        doubles += 32 * 10 * (1 if i < 32 else 2)
    work = make_kernel_times.complete(50, counted)
    found = make_kernel_times.seconds(work, counted, 4.8e12)
    assert make_kernel_times.resident(work, 80) == 3  # 80 registers of 256 threads
    assert found["arithmetic"] == pytest.approx(doubles / 64 / CLOCK)
    assert found["instructions"] == pytest.approx(doubles / 32 * 320 / 108 / 4 / CLOCK)
    assert found["shared memory"] == pytest.approx(broadcasts / CLOCK)
    assert found["device memory"] == pytest.approx((32 * (words + 2 * 50 * 50 / 2) + 6 * 50 * 50 * 8) / 4.8e12)


def test_what_was_read_from_machine_code_adds_up_to_its_loops() -> None:
    counted = json.loads(OUT.read_text())["figures"]
    times = make_kernel_times
    for chunks in (4, 8):
        loop = counted[f"tridiagonalise REAL=double WARPS={chunks} CHUNKS={chunks} LEADING=64"]["loop"]["instructions"]
        assert loop == pytest.approx(times.GROUP + chunks * (times.MASKED + times.UNMASKED), rel=0.05)
    assert counted["sturm"]["loop"]["instructions"] == 4 * times.DOUBLE_ROW
