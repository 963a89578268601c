# SPDX-License-Identifier: Apache-2.0
"""All of CuPy that the programs for a GPU node call, pretended: kernels run in the emulator, and time is the host's.

With the folder `node` first on PYTHONPATH it is what ``import cupy`` finds, in every process that is started.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from without_gpu.emulator import Emulator
from without_gpu.pretended_cupy import DeviceArray, pretended_cupy

from sigmahat_kernels.cuda.kernels import Program

_TEN_GIB = 10 * 2**30


class RawModule:
    """Stands in for `cupy.RawModule`: the kernels in one text."""

    def __init__(self, *, code: str, options: Sequence[str]) -> None:
        self._code, self._options = code, tuple(options)

    def get_function(self, name: str) -> RawKernel:
        """The kernel of that name."""
        return RawKernel(self._code, Program(name, self._options))


class RawKernel:
    """Stands in for `cupy.RawKernel`."""

    max_dynamic_shared_size_bytes = 48 * 1024
    local_size_bytes, num_regs = 0, 64

    def __init__(self, code: str, program: Program) -> None:
        self._program = program
        self._emulator = Emulator(edit=lambda _: code)

    def __call__(self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], *, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes, "CUDA_ERROR_INVALID_VALUE"
        assert all(isinstance(value, DeviceArray | np.generic) for value in arguments), "Unsupported type"
        self._emulator(self._program, grid[0], block[0], shared_mem, arguments)


class Event:
    """Stands in for `cupy.cuda.Event`."""

    def record(self) -> None:
        """Take the time."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class Generator:
    """Stands in for `cupy.random.Generator`."""

    def __init__(self, seed: int) -> None:
        self._host = np.random.default_rng(seed)

    def random(self, shape: Any) -> DeviceArray:
        """Uniform numbers."""
        return self._host.random(shape).view(DeviceArray)


def cupy_of_the_node() -> Any:
    """The module; one H200, as far as it is asked."""
    cupy = pretended_cupy()
    cupy.__version__ = "0 (pretended)"
    cupy.RawModule = RawModule
    cupy.asnumpy = DeviceArray.get
    cupy.random = SimpleNamespace(default_rng=Generator)
    pool = cupy.get_default_memory_pool()
    pool.total_bytes = lambda: _TEN_GIB
    cuda = cupy.cuda
    cuda.is_available = lambda: True
    cuda.Event = Event
    cuda.get_elapsed_time = lambda begin, end: 1e3 * (end.at - begin.at)
    cuda.runtime.getDeviceProperties = lambda number: {
        "name": b"pretended",
        "multiProcessorCount": 132,
        "clockRate": 1_980_000,
        "major": 9,
        "minor": 0,
        "totalGlobalMem": 14 * _TEN_GIB,
    }
    cuda.runtime.getDeviceCount = lambda: 1
    cuda.runtime.driverGetVersion = cuda.runtime.runtimeGetVersion = lambda: 13_000
    cuda.nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    return cupy
