# SPDX-License-Identifier: Apache-2.0
"""The one place that knows there are two array libraries, NumPy and CuPy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import numpy
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A ``numpy.ndarray`` or a ``cupy.ndarray``; results live where inputs live.

To the type checker it is NumPy's: CuPy has no stubs, and a Protocol of what both offer would repeat NumPy's. What it
finds are tuples, numbers and None in an array's place, and attributes that no array has; arrays on the wrong side are
found by ``tests/without_gpu``, which refuses host arrays as CuPy does.
"""

T = TypeVar("T")

AnyArray: TypeAlias = Any
"""An `Array` or a ``torch.Tensor``, of which the kernels know nothing."""


def array_namespace(x: Array) -> ModuleType:
    """Return the library that `x` belongs to, ``numpy`` or ``cupy``.

    Never imports CuPy: if it was not imported, `x` cannot be one of its arrays.

    >>> array_namespace(numpy.zeros(3)).__name__
    'numpy'
    """
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else numpy


def current_device(xp: ModuleType) -> int:
    """Number of the device that `xp` works on in this thread; 0 for NumPy."""
    return 0 if xp is numpy else int(xp.cuda.runtime.getDevice())


def kept_for_each_device(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """`functools.lru_cache` for a function that makes arrays of the library `xp`, its first argument.

    What was made on one device is of no use on another.
    """

    def decorate(make: Callable[..., T]) -> Callable[..., T]:
        kept = lru_cache(maxsize)(lambda device, xp, *arguments: make(xp, *arguments))

        @wraps(make)
        def made(xp: ModuleType, *arguments: Any) -> T:
            return kept(current_device(xp), xp, *arguments)

        return made

    return decorate


def to_numpy(x: Array) -> numpy.ndarray:
    """Copy `x` to the host if it lives on a device; a NumPy array is returned as it is."""
    return x.get() if hasattr(x, "get") else numpy.asarray(x)


def joined(arrays: Sequence[Array]) -> Array:
    """Arrays one after the other along their last axis; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else array_namespace(arrays[0]).concatenate(arrays, axis=-1)
