# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for the GPUs we name, within its budget of registers and shared memory."""

from __future__ import annotations

import numpy as np
import pytest
from without_gpu.nvrtc import compile_for

from sigmahat_kernels.cuda.kernels import PROGRAMS, Program, size_class_of, tridiagonal_shared_bytes
from sigmahat_kernels.solvers import OwnKernels

pytest.importorskip("cuda.bindings.nvrtc", reason="needs sigmahat[dev]: NVRTC and its binding")

# Registers per thread; the hardware hands them out in eights. Fewer of them let more blocks share a multiprocessor.
REGISTERS = {
    "sturm": 48,
    "pair_statistics": 48,
    "matrix_features": 96,
    ("float", "assembled"): 64,
    ("double", "assembled"): 80,
    "complete": 80,
    ("float", "in registers", 1): 80,
    ("float", "in registers", 2): 120,
    ("float", 4): 88,
    ("float", 8): 120,
    ("float", 16): 120,
    ("double", "in registers", 1): 120,
    ("double", "in registers", 2): 216,
    ("double", 4): 112,
    ("double", 8): 168,
}

# Largest matrix that one block can hold, by the shared memory that a block can have: A100, H100 and H200, RTX 50.
LARGEST = {
    163 * 1024: {np.float32: 269, np.float64: 192},
    227 * 1024: {np.float32: 320, np.float64: 228},
    99 * 1024: {np.float32: 212, np.float64: 147},
}


def budget(program: Program) -> int:
    options = dict(option.removeprefix("-D").split("=") for option in program.options)
    if program.name == "tridiagonalise_small":
        return REGISTERS[options["REAL"], "in registers", int(options["CHUNKS"])]
    if program.name == "assemble":
        return REGISTERS[options["REAL"], "assembled"]
    if program.name != "tridiagonalise":
        return REGISTERS[program.name]
    return REGISTERS[options["REAL"], int(options["WARPS"])]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: "".join((p.name, *p.options)))
def test_budget(program: Program, architecture: str) -> None:
    used = compile_for(program, architecture)
    assert used.registers <= budget(program)
    assert used.spilled == 0
    assert used.static_shared == 0  # all of it is asked for at launch, so that it can exceed 48 KB


def test_compile_errors_show_the_log() -> None:
    with pytest.raises(AssertionError, match="WARPS"):
        compile_for(Program("pair_statistics", ()), "sm_90")


def test_spills_are_seen() -> None:
    options = ("-DREAL=double", "-DWARPS=32", "-DCHUNKS=11", "-DLEADING=64")  # 1,024 threads leave 64 registers to each
    assert compile_for(Program("tridiagonalise", options), "sm_90").spilled > 0


@pytest.mark.parametrize("shared_limit", LARGEST)
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_largest_size(shared_limit: int, precision: type[np.floating]) -> None:
    kernels = OwnKernels(None, precision, shared_limit)
    largest = LARGEST[shared_limit][precision]
    assert all(kernels.takes(size) for size in range(2, largest + 1))
    assert not any(kernels.takes(size) for size in range(largest + 1, 1_001))
    size_class = size_class_of(largest)
    assert tridiagonal_shared_bytes(largest, size_class.warps, precision) <= shared_limit
