# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels on the CPU: their text, compiled by g++ behind `cuda.h`, launched on NumPy arrays."""

from __future__ import annotations

import ctypes
import itertools
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
_counter = itertools.count()


@cache
def _compiled(text: str, name: str, options: tuple[str, ...]) -> ctypes.CDLL:
    assert COMPILER
    stem = Path(_folder.name) / f"{name}-{next(_counter)}"
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    launcher = (
        'extern "C" int launch(int blocks, int threads, int shared_bytes, int order, void** arguments) '
        f"{{ return emulator::launch({name}, blocks, threads, shared_bytes, order, arguments); }}\n"
    )
    source.write_text(f"{text}\n{launcher}")
    header = Path(__file__).parent / "cuda.h"
    # glibc's checked longjmp takes a switch between fibers for a fault.
    fixed = ["-std=c++17", "-O2", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-include", str(header)]
    subprocess.run([COMPILER, *fixed, *options, "-o", str(library), str(source)], check=True)
    return ctypes.CDLL(str(library))
