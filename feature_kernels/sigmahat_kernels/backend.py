# SPDX-License-Identifier: Apache-2.0
"""The one place that knows there are two array libraries, NumPy and CuPy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A ``numpy.ndarray`` or a ``cupy.ndarray``; results live where inputs live.

To the type checker it is NumPy's: CuPy has no stubs, and a Protocol of what both offer would repeat NumPy's. What it
finds are tuples, numbers and None in an array's place, and attributes that no array has; arrays on the wrong side are
found by ``tests/without_gpu``, which refuses host arrays as CuPy does.
"""

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


def to_numpy(x: Array) -> numpy.ndarray:
    """Copy `x` to the host if it lives on a device; a NumPy array is returned as it is."""
    return x.get() if hasattr(x, "get") else numpy.asarray(x)


def joined(arrays: Sequence[Array]) -> Array:
    """Arrays one after the other along their last axis; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else array_namespace(arrays[0]).concatenate(arrays, axis=-1)
