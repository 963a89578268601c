# SPDX-License-Identifier: Apache-2.0
"""The current CUDA device: what it offers, and kernels compiled for it by NVRTC at first use. Needs CuPy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from sigmahat_kernels import backend
from sigmahat_kernels.cuda.kernels import Program

RESULTS_BYTES = 2 * 2**30
"""What Triton keeps on each GPU for results on their way, by ``--cuda-memory-pool-byte-size=GPU:BYTES``. Of its own
64 MB one large answer asks too much, and what finds no room is lost: triton-inference-server/server issue 7148."""

LARGEST_RESULT = RESULTS_BYTES // 4
"""A larger result goes to the host before it is handed out, and so does not depend on what others left of that room."""


def launch(program: Program, blocks: int, threads: int, shared_bytes: int, arguments: Sequence[Any]) -> None:
    """Run a kernel on CuPy arrays in CuPy's current stream; does not wait for it."""
    compiled(program, current_device())((blocks,), (threads,), tuple(arguments), shared_mem=shared_bytes)


@cache
def compiled(program: Program, device: int) -> Any:
    """The kernel as a ``cupy.RawKernel``, allowed all the shared memory that a block can have on this device.

    CuPy keeps the machine code on disk, so that only the first process of a machine compiles.
    """
    import cupy

    kernel = cupy.RawModule(code=program.text, options=("--std=c++17", *program.options)).get_function(program.name)
    kernel.max_dynamic_shared_size_bytes = shared_memory_limit()
    if program.name in ("tridiagonalise", "tridiagonalise_small", "pair_statistics"):
        # Their matrices live in shared memory, the more the better; what other kernels gather lives in the cache,
        # which is the rest of the same memory.
        kernel.preferred_shared_memory_carveout = 100
    return kernel


def use(number: int) -> None:
    """Make a device the current one of this thread."""
    import cupy

    cupy.cuda.Device(number).use()


def limit_memory(share: float) -> None:
    """Let CuPy's pool take no more than a share of the current device's memory."""
    import cupy

    cupy.get_default_memory_pool().set_limit(fraction=share)


def to_host(values: Any) -> np.ndarray:
    """Copy an array to pinned memory, which takes a fraction of the time; CuPy keeps that for the next copy."""
    pinned = backend.array_namespace(values).cuda.alloc_pinned_memory(values.nbytes)
    host: np.ndarray = np.frombuffer(pinned, values.dtype, values.size).reshape(values.shape)
    return values.get(out=host)


def current_device() -> int:
    """Number of the device that CuPy allocates on."""
    import cupy

    return backend.current_device(cupy)


def shared_memory_limit() -> int:
    """Bytes of shared memory that one block can have."""
    return _attribute("MaxSharedMemoryPerBlockOptin")


def single_to_double_ratio() -> int:
    """How many times as fast float32 arithmetic is as float64: 2 on data-centre GPUs, 32 or 64 on others."""
    return _attribute("SingleToDoublePrecisionPerfRatio")


def passing_errors() -> tuple[type[Exception], ...]:
    """What the device's memory, the runtime and the driver raise: the next call may succeed."""
    import cupy

    return MemoryError, cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError


def free_memory() -> None:
    """Give back what CuPy's pool keeps of the current device's memory for later arrays."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


def is_lost() -> bool:
    """Whether an earlier error on the current device is sticky: then every later call of this process fails too."""
    import cupy

    try:
        cupy.cuda.Device().synchronize()
    except cupy.cuda.runtime.CUDARuntimeError:
        return True
    return False


def _attribute(name: str) -> int:
    import cupy

    return cupy.cuda.Device().attributes[name]
