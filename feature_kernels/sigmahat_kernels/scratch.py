# SPDX-License-Identifier: Apache-2.0
"""Reused memory for stacks of matrices: fresh memory costs the CPU more than the pass that fills it."""

from __future__ import annotations

import ctypes
import math
import sys
from types import ModuleType
from typing import Any

from sigmahat_kernels.backend import Array, array_namespace

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LINE = 64
"""Bytes of a cache line: a vector that lies across two is loaded, or stored, in twice the time."""

_LARGEST_KEPT_BLOCK, _KEPT_IN_ALL = 32 * 2**20, 256 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep freed blocks of up to 32 MB for its next arrays; for processes that this package owns.

    By default glibc hands them back to the system, and to be given the same pages anew costs up to half of the time of
    a call with small windows. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_ALL)


def _aligned(memory: Array) -> Array:
    """Without the elements in front of the first that begins a cache line; a GPU's memory begins with one."""
    if array_namespace(memory).__name__ != "numpy":
        return memory
    return memory[-memory.ctypes.data % _LINE // memory.itemsize :]


class Scratch:
    """Named arrays that one thread fills anew for every stack."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._memory: dict[str, Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = float) -> Array:
        """Uninitialised array; the one given out before under this name must no longer be in use."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size or memory.dtype != dtype:
            memory = self._memory[name] = _aligned(self._xp.empty(size + _LINE, dtype))[:size]
        return memory[:size].reshape(shape)


def take(source: Array, index: Array, out: Array, axis: int | None = None) -> Array:
    """Gather into `out`; every index must be in range."""
    # "clip" skips a check that would copy. CuPy knows neither the check nor the word.
    options: dict[str, Any] = {"mode": "clip"} if array_namespace(source).__name__ == "numpy" else {}
    return source.take(index, axis=axis, out=out, **options)


def take_blocks(source: Array, index: Array, scratch: Scratch, name: str) -> Array:
    """Rows and columns `index` (n, N) of a matrix, as a stack (n, N, N) in the array `name` of `scratch`.

    Of a stack of matrices (windows, m, m), `index` has positions among the columns of all.
    """
    n, n_assets = index.shape
    cells = scratch.array("cells", (n, n_assets, n_assets), index.dtype)
    column = index if source.ndim == 2 else index % source.shape[-1]
    array_namespace(index).add(index[:, :, None] * source.shape[-1], column[:, None, :], out=cells)
    return take(source, cells, scratch.array(name, cells.shape))
