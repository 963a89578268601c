# SPDX-License-Identifier: Apache-2.0
"""What ptxas makes of each CUDA kernel for a Hopper GPU, into ``results/kernel_instructions.json``; needs no GPU.

``PYTHONPATH=tests python -m benchmarks.speed.kernel_instructions`` needs NVRTC, from `sigmahat[dev]` (LD_LIBRARY_PATH
must name the folder of its library where the loader does not find it), and ``nvdisasm``, from CUDA's toolkit or ``pip
install nvidia-cuda-nvdisasm`` (`--nvdisasm` says where). Then ``python -m docs.make_kernel_times`` writes the page.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from without_gpu.nvrtc import compiled

from benchmarks.figures import RESULTS, write_figures
from sigmahat_kernels.cuda.kernels import PROGRAMS, Program

ARCHITECTURE = "sm_90"
OUT = RESULTS / "kernel_instructions.json"
_ARITHMETIC = re.compile(r"[DF](ADD|MUL|FMA)(\.|$)")


def label(program: Program) -> str:
    """Name and constants of a program, as one word a reader knows."""
    return " ".join([program.name, *(option.removeprefix("-D") for option in program.options)])


def digest(program: Program) -> str:
    """Of the text that was compiled."""
    return hashlib.sha256(program.text.encode()).hexdigest()[:16]


def measure(program: Program, nvdisasm: str) -> dict[str, Any]:
    """Registers, instructions, and those of the innermost loop that has most arithmetic and of what is around it."""
    used, code = compiled(program, ARCHITECTURE)
    instructions, loops = disassembled(code, nvdisasm)
    innermost = [loop for loop in loops if not any(_within(other, loop) for other in loops)]
    own = {loop: _own(instructions, loop, loops) for loop in loops}
    busiest = max(innermost, key=lambda loop: arithmetic_of(own[loop]))
    around = min((loop for loop in loops if _within(busiest, loop)), key=lambda loop: loop[1] - loop[0], default=None)
    return {
        "text": digest(program),
        "registers": used.registers,
        "instructions": len(instructions),
        "around": len(own[around]) if around else 0,  # of the next loop around it, inner ones left out
        "loop": {
            "instructions": len(own[busiest]),
            "arithmetic": arithmetic_of(own[busiest]),
            "shared": sum(operation.startswith(("LDS", "STS")) for operation in own[busiest]),
            "global": sum(operation.startswith(("LDG", "STG")) for operation in own[busiest]),
        },
    }


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def _own(instructions: Sequence[str], loop: tuple[int, int], loops: Sequence[tuple[int, int]]) -> list[str]:
    inner = [other for other in loops if _within(other, loop)]
    places = range(loop[0], loop[1] + 1)
    return [instructions[at] for at in places if not any(first <= at <= last for first, last in inner)]


def arithmetic_of(operations: Sequence[str]) -> int:
    """Additions, products and fused ones, in float32 or float64."""
    return sum(_ARITHMETIC.match(operation) is not None for operation in operations)


def disassembled(code: bytes, nvdisasm: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The operations of a kernel in order, and the first and last one of each loop: of each jump backwards."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True)
    operations: list[str] = []
    targets: dict[str, int] = {}
    jumps: list[tuple[str, int]] = []
    for line in done.stdout.splitlines():
        if place := re.match(r"^(\.L_\S+):", line):
            targets[place[1]] = len(operations)
        elif found := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*?);", line):
            if jump := re.search(r"`\((\.L_\S+?)\)", found[2]) if found[1].startswith("BRA") else None:
                jumps.append((jump[1], len(operations)))
            operations.append(found[1])
    loops = [(targets[to], at) for to, at in jumps if to in targets and targets[to] < at]
    return operations, loops


def main() -> None:
    """Compile, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--nvdisasm", default="nvdisasm", help="the program (default %(default)s)")
    arguments = parser.parse_args()
    from cuda.bindings import nvrtc

    figures = {label(program): measure(program, arguments.nvdisasm) for program in PROGRAMS}
    _, major, minor = nvrtc.nvrtcVersion()
    write_figures(arguments.out, figures, versions={"nvrtc": f"{major}.{minor}"}, architecture=ARCHITECTURE)


if __name__ == "__main__":
    main()
