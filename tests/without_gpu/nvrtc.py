# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels compiled to machine code by NVRTC, which needs neither a GPU nor a driver."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sigmahat_kernels.cuda.kernels import Program


class Resources(NamedTuple):
    """What ptxas reports of one kernel."""

    registers: int  # per thread
    spilled: int  # bytes per thread that did not fit into registers, and the stack frame
    static_shared: int  # bytes per block, beside what a launch asks for


def compile_for(program: Program, architecture: str) -> Resources:
    """Compile one kernel for an architecture such as ``sm_90``; raises AssertionError with the log if that fails."""
    return compiled(program, architecture)[0]


def compiled(program: Program, architecture: str) -> tuple[Resources, bytes]:
    """The same, and the machine code (a cubin)."""
    from cuda.bindings import nvrtc

    def checked(result: tuple[Any, ...]) -> Any:
        assert result[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS, result[0]
        return result[1] if len(result) == 2 else None

    source = checked(nvrtc.nvrtcCreateProgram(program.text.encode(), f"{program.name}.cu".encode(), 0, None, None))
    # CuPy adds the second one to the options that it is given: float32 below the smallest normal number becomes zero.
    options = [f"-arch={architecture}", "-ftz=true", "--std=c++17", "--ptxas-options=-v", *program.options]
    (failed,) = nvrtc.nvrtcCompileProgram(source, len(options), [option.encode() for option in options])
    buffer = b" " * checked(nvrtc.nvrtcGetProgramLogSize(source))
    checked(nvrtc.nvrtcGetProgramLog(source, buffer))
    log = buffer.decode().rstrip("\0 ")
    assert not failed, log
    code = b" " * checked(nvrtc.nvrtcGetCUBINSize(source))
    assert code
    checked(nvrtc.nvrtcGetCUBIN(source, code))
    checked(nvrtc.nvrtcDestroyProgram(source))

    def total(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, log))

    (registers,) = re.findall(r"Used (\d+) registers", log)
    used = Resources(int(registers), total(r"(\d+) bytes (?:stack frame|spill)"), total(r"(\d+) bytes smem"))
    return used, code
