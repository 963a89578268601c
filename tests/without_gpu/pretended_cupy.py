# SPDX-License-Identifier: Apache-2.0
"""CuPy's manners on NumPy's arithmetic: arrays that refuse to meet those of the host or of another device.

What would start work on a device, cross the bus, or make the host wait is counted.
"""

from __future__ import annotations

import threading
import types
from collections import Counter
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

array_calls: Counter[str] = Counter()
"""How often each function or operator of an array ran on the device since it was last cleared; views do not."""

host_copies: Counter[str] = Counter()
"""How often arrays went to the device, and came back."""

waits: Counter[str] = Counter()
"""How often each kind of wait for the device happened since it was last cleared."""

H200 = {"MaxSharedMemoryPerBlockOptin": 232_448, "SingleToDoublePrecisionPerfRatio": 2}

_NO_WORK = {"empty", "empty_like", "broadcast_to", "reshape", "transpose", "moveaxis", "ravel"}

_LENGTH_UNKNOWN = {"nonzero", "flatnonzero", "argwhere", "unique"}
"""The host waits to be told how much memory the result needs."""

_METHODS = ("sum", "mean", "max", "min", "std", "any", "all", "argmax", "cumsum", "astype", "copy", "take", "fill")

_thread = threading.local()


class CUDARuntimeError(RuntimeError):
    """Stands in for `cupy.cuda.runtime.CUDARuntimeError`."""


class Device:
    """Stands in for `cupy.cuda.Device`; every thread begins on device 0."""

    attributes: Mapping[str, int] = H200
    broken = False  # by a sticky error

    def __init__(self, number: int | None = None) -> None:
        self.id = current_device() if number is None else number

    def use(self) -> None:
        """Make it the current device of this thread."""
        _thread.device = self.id

    def synchronize(self) -> None:
        """Wait, and raise what went wrong before."""
        waits["synchronize"] += 1
        if self.broken:
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")


class MemoryPool:
    """Stands in for CuPy's default pool: takes note of what it is told."""

    def __init__(self) -> None:
        self.limits: dict[int, float] = {}  # device -> share of its memory
        self.freed = 0

    def set_limit(self, *, fraction: float) -> None:
        """Of the current device."""
        self.limits[current_device()] = fraction

    def free_all_blocks(self) -> None:
        """Give back what is not in use."""
        self.freed += 1


def current_device() -> int:
    """The device of this thread."""
    return getattr(_thread, "device", 0)


class DeviceArray(np.ndarray):
    """Stands in for `cupy.ndarray`."""

    device_id: int

    def __array_finalize__(self, source: Any) -> None:
        self.device_id = getattr(source, "device_id", current_device())

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        return _call(getattr(ufunc, method), inputs, keywords)

    def __array_function__(self, function: Any, _types: Any, inputs: Any, keywords: Any) -> Any:
        return _call(function, inputs, keywords)

    def __getitem__(self, index: Any) -> Any:
        _refuse_strangers((self, index))
        found = _to_host(self)[_to_host(index)]
        if not (isinstance(found, np.ndarray) and found.base is not None):  # no view
            array_calls["getitem"] += 1
        return _to_device(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse_strangers((self, index, value))
        array_calls["setitem"] += 1
        _to_host(self)[_to_host(index)] = _to_host(value)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        waits["get"] += 1
        host_copies["from the device"] += 1
        if out is None:
            return np.array(_to_host(self))
        out[...] = _to_host(self)
        return out

    def __bool__(self) -> bool:
        waits["bool"] += 1
        return bool(_to_host(self))

    def __float__(self) -> float:
        waits["float"] += 1
        return float(_to_host(self))

    def __index__(self) -> int:
        waits["int"] += 1
        return int(_to_host(self))

    __int__ = __index__

    def item(self, *index: Any) -> Any:
        waits["item"] += 1
        return _to_host(self).item(*index)


class _Module(types.ModuleType):
    """NumPy's functions, whose results live on the pretended device; only `asarray` and `array` take host arrays."""

    def __init__(self, name: str, real: types.ModuleType) -> None:
        super().__init__(name)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if isinstance(found, type) or not callable(found):
            return found
        if name in ("asarray", "array"):
            return partial(_taken_over, found)
        return lambda *inputs, **keywords: _call(found, inputs, keywords)


def pretended_cupy() -> Any:
    """What ``import cupy`` gives."""
    module: Any = _Module("cupy", np)
    module.ndarray = DeviceArray
    module.linalg = _Module("cupy.linalg", np.linalg)
    pool = MemoryPool()
    module.get_default_memory_pool = lambda: pool
    module.cuda = SimpleNamespace(
        Device=Device,
        get_current_stream=Device,
        alloc_pinned_memory=bytearray,
        runtime=SimpleNamespace(getDevice=current_device, CUDARuntimeError=CUDARuntimeError),
        driver=SimpleNamespace(CUDADriverError=CUDARuntimeError),
    )
    return module


def clear_counts() -> None:
    """Begin to count anew."""
    for counter in (array_calls, host_copies, waits):
        counter.clear()


def _taken_over(function: Any, value: Any, *inputs: Any, **keywords: Any) -> Any:
    """`asarray` and `array`: a copy from the host, or from another device."""
    if not isinstance(value, DeviceArray):
        host_copies["to the device"] += 1
    elif value.device_id != current_device():
        host_copies["between devices"] += 1
    elif function is np.asarray and (not inputs or value.dtype == inputs[0]):
        return value
    else:
        array_calls["astype"] += 1
    found = np.array(function(_to_host(value), *inputs, **keywords)).view(DeviceArray)
    found.device_id = current_device()
    return found


def _method(name: str) -> Any:
    def call(self: DeviceArray, *inputs: Any, **keywords: Any) -> Any:
        return _call(getattr(np.ndarray, name), (self, *inputs), keywords)

    return call


for _name in _METHODS:
    setattr(DeviceArray, _name, _method(_name))


def _call(function: Any, inputs: Any, keywords: dict[str, Any]) -> Any:
    _refuse_strangers((inputs, keywords))
    name = getattr(function, "__name__", type(function).__name__)
    if name not in _NO_WORK:
        array_calls[name] += 1
    if name in _LENGTH_UNKNOWN:
        waits[name] += 1
    result = function(*_to_host(inputs), **_to_host(keywords))
    out = keywords.get("out")
    return _to_device(result) if out is None else out[0] if isinstance(out, tuple) else out


def _refuse_strangers(value: Any) -> None:
    """Raise, in CuPy's words, where a value holds an array of the host or of another device."""
    if type(value) is np.ndarray:
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, DeviceArray) and value.device_id != current_device():
        places = f"array device = {value.device_id} while current = {current_device()}"
        raise ValueError(f"Array device must be same as the current device: {places}")
    if isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_strangers(part)


def _to_host(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, dict):
        return {name: _to_host(part) for name, part in value.items()}
    return type(value)(_to_host(part) for part in value) if type(value) in (list, tuple) else value


def _to_device(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).view(DeviceArray)
    return type(value)(_to_device(part) for part in value) if type(value) in (list, tuple) else value
