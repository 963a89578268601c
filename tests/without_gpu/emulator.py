# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels on the CPU: their text, compiled by g++ behind `cuda.h`, launched on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sigmahat_kernels.cuda.kernels import Program

FORWARD, REVERSE, SHUFFLED = range(3)
COMPILER = shutil.which("g++")
_FAULTS = {1: "threads wait for each other at different barriers", 2: "a thread wrote beyond its shared memory"}


class KernelFault(RuntimeError):
    """A kernel did what a GPU would hang or be corrupted by."""


class Emulator:
    """Stands in for the GPU behind `Kernels`: the same call, on NumPy arrays.

    Parameters
    ----------
    order : int
        In which order the threads of a block go on after a barrier.
    edit : callable, optional
        Program -> text; changes the kernel's text before it is compiled, to break it.
    """

    def __init__(self, order: int = FORWARD, edit: Callable[[Program], str] | None = None) -> None:
        self.order = order
        self.edit = edit or (lambda program: program.text)

    def __call__(
        self, program: Program, blocks: int, threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        library = _compiled(self.edit(program), program.name, program.options)
        boxed = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else np.ctypeslib.as_ctypes_type(a.dtype)(a)
            for a in arguments
        ]
        pointers = (ctypes.c_void_p * len(boxed))(*(ctypes.addressof(value) for value in boxed))
        fault = library.launch(blocks, threads, shared_bytes, self.order, pointers)
        if fault:
            raise KernelFault(f"{program.name}: {_FAULTS[fault]}")


_folder = tempfile.TemporaryDirectory(prefix="sigmahat-emulator-")
_HEADER = Path(__file__).parent / "cuda.h"

KEPT = "SIGMAHAT_EMULATOR_KEEPS"
"""Environment variable: a folder that keeps what was compiled for other processes, as CuPy keeps its machine code."""


@cache
def _compiled(text: str, name: str, options: tuple[str, ...]) -> ctypes.CDLL:
    assert COMPILER
    of_what = hashlib.sha256("\0".join([_HEADER.read_text(), text, name, *options]).encode())
    library = Path(os.environ.get(KEPT, _folder.name)) / f"{name}-{of_what.hexdigest()}.so"
    if not library.exists():
        _compile(text, name, options, library)
    return ctypes.CDLL(str(library))


def _compile(text: str, name: str, options: tuple[str, ...], library: Path) -> None:
    source, unfinished = (library.with_suffix(f".{os.getpid()}.{ending}") for ending in ("cpp", "so"))
    launcher = (
        'extern "C" int launch(int blocks, int threads, int shared_bytes, int order, void** arguments) '
        f"{{ return emulator::launch({name}, blocks, threads, shared_bytes, order, arguments); }}\n"
    )
    source.write_text(f"{text}\n{launcher}")
    # glibc's checked longjmp takes a switch between fibers for a fault.
    fixed = ["-std=c++17", "-O2", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-include", str(_HEADER)]
    subprocess.run([str(COMPILER), *fixed, *options, "-o", str(unfinished), str(source)], check=True)
    unfinished.replace(library)
