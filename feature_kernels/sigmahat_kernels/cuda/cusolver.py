# SPDX-License-Identifier: Apache-2.0
"""``cusolverDnXsyevBatched``, values only, which CuPy does not bind. Needs CuPy and cuSOLVER 11.7.1 or later."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any

from sigmahat_kernels.cuda import device

_LIBRARIES = ("libcusolver.so.12", "libcusolver.so.11")  # of CUDA 13 and 12
_NO_VECTORS, _LOWER = 0, 0
_REAL_TYPES = {"float32": 0, "float64": 1}  # cudaDataType
_LOCK = threading.Lock()  # one handle, one workspace


class CusolverError(RuntimeError):
    """cuSOLVER is missing or too old, or refused a call."""


def check_available() -> None:
    """Raise CusolverError if there is no ``cusolverDnXsyevBatched`` to call."""
    _library()


def eigvalsh(stack: Any) -> Any:
    """Eigenvalues of symmetric matrices, shape (n, N, N) -> (n, N), ascending; NaN where the method did not converge.

    Takes a CuPy array and overwrites it; it must be C-contiguous. n N^2 must stay below 2^31, and n below about 32,000.
    """
    import cupy

    n, size = stack.shape[:2]
    values = cupy.empty((n, size), stack.dtype)
    failed = cupy.empty(n, cupy.int32)
    real = _REAL_TYPES[stack.dtype.name]
    with _LOCK:
        library, params = _library()
        handle = ctypes.c_void_p(cupy.cuda.Device().cusolver_handle)
        _check("SetStream", library.cusolverDnSetStream(handle, ctypes.c_void_p(cupy.cuda.get_current_stream().ptr)))
        problem = (
            *(handle, params, ctypes.c_int(_NO_VECTORS), ctypes.c_int(_LOWER), ctypes.c_int64(size)),
            *(ctypes.c_int(real), ctypes.c_void_p(stack.data.ptr), ctypes.c_int64(size)),
            *(ctypes.c_int(real), ctypes.c_void_p(values.data.ptr), ctypes.c_int(real)),
        )
        on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
        _check(
            "XsyevBatched_bufferSize",
            library.cusolverDnXsyevBatched_bufferSize(
                *problem, ctypes.byref(on_device), ctypes.byref(on_host), ctypes.c_int64(n)
            ),
        )
        device_buffer = cupy.empty(on_device.value, cupy.uint8)  # from CuPy's pool, which gives the same memory again
        _check(
            "XsyevBatched",
            library.cusolverDnXsyevBatched(
                *problem,
                ctypes.c_void_p(device_buffer.data.ptr),
                on_device,
                ctypes.c_void_p(_host_buffer(on_host.value)),
                on_host,
                ctypes.c_void_p(failed.data.ptr),
                ctypes.c_int64(n),
            ),
        )
    return cupy.where(failed[:, None] == 0, values, cupy.nan)


_host_buffers: list[Any] = []


def _host_buffer(size: int) -> int:
    """Address of host memory that is never given back: the call may return before it has used it."""
    if not _host_buffers or len(_host_buffers[-1]) < size:
        _host_buffers.append(ctypes.create_string_buffer(max(size, 1)))
    return ctypes.addressof(_host_buffers[-1])


@cache
def _library() -> tuple[Any, ctypes.c_void_p]:
    import cupy

    try:
        _ = cupy.cuda.Device().cusolver_handle  # CuPy finds and loads the library, wherever it is installed
    except device.passing_errors():
        raise
    except (ImportError, OSError, RuntimeError) as error:
        raise CusolverError(f"cuSOLVER cannot be loaded: {error}") from error
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if not hasattr(library, "cusolverDnXsyevBatched"):
            raise CusolverError(f"{name} has no cusolverDnXsyevBatched: CUDA 12.6.2 or later is needed")
        params = ctypes.c_void_p()
        _check("CreateParams", library.cusolverDnCreateParams(ctypes.byref(params)))
        return library, params
    raise CusolverError(f"none of {', '.join(_LIBRARIES)} can be loaded")


def _check(call: str, status: int) -> None:
    if status:
        raise CusolverError(f"cusolverDn{call} returned status {status}")
