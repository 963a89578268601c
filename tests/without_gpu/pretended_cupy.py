# SPDX-License-Identifier: Apache-2.0
"""CuPy's manners on NumPy's arithmetic: arrays that refuse to meet host arrays, and count what makes the host wait."""

from __future__ import annotations

import types
from collections import Counter
from typing import Any

import numpy as np

waits: Counter[str] = Counter()
"""How often each kind of wait for the device happened since it was last cleared."""


class DeviceArray(np.ndarray):
    """Stands in for `cupy.ndarray`."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        return _call(getattr(ufunc, method), inputs, keywords)

    def __array_function__(self, function: Any, _types: Any, inputs: Any, keywords: Any) -> Any:
        return _call(function, inputs, keywords)

    def __getitem__(self, index: Any) -> Any:
        _refuse_host_arrays(index)
        return _to_device(_to_host(self)[_to_host(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse_host_arrays((index, value))
        _to_host(self)[_to_host(index)] = _to_host(value)

    def get(self) -> np.ndarray:
        waits["get"] += 1
        return np.array(_to_host(self))

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
            return lambda *inputs, **keywords: _to_device(found(*_to_host(inputs), **keywords))
        return lambda *inputs, **keywords: _call(found, inputs, keywords)


def pretended_cupy() -> Any:
    """What ``import cupy`` gives."""
    module: Any = _Module("cupy", np)
    module.ndarray = DeviceArray
    module.linalg = _Module("cupy.linalg", np.linalg)
    return module


def _call(function: Any, inputs: Any, keywords: dict[str, Any]) -> Any:
    _refuse_host_arrays((inputs, keywords))
    result = function(*_to_host(inputs), **_to_host(keywords))
    out = keywords.get("out")
    return _to_device(result) if out is None else out[0] if isinstance(out, tuple) else out


def _refuse_host_arrays(value: Any) -> None:
    if type(value) is np.ndarray:
        raise TypeError(f"Unsupported type {type(value)}")  # CuPy's words
    if isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_host_arrays(part)


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
