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


def test_bounds_of_tridiagonalise() -> None:
    """By hand: N = 100 has 166,667 elements; four operations on each; eight bytes read and written."""
    counted = {"registers": 98, "loop": {"instructions": 300, "arithmetic": 75}}
    work = make_kernel_times.tridiagonalise(100)
    found = make_kernel_times.seconds(work, counted, 4.8e12)
    clock = 132 * 1.98e9
    assert make_kernel_times.resident(work, 98) == 4  # 104 registers of 128 threads, 46.8 KB of 228
    elements = 100**3 / 6
    assert found["arithmetic"] == pytest.approx(4 * elements / 64 / clock)
    assert found["instructions"] == pytest.approx(4 * elements / 32 * 4 / 4 / clock)
    assert found["shared memory"] == pytest.approx(elements * 16 / 128 / clock)
    assert found["device memory"] == pytest.approx(100 * 100 / 2 * 32 / 4.8e12)
