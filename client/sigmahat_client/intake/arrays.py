# SPDX-License-Identifier: Apache-2.0
"""Arrays as people have them -> plain NumPy arrays of the wanted type and shape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sigmahat_kernels.status import InvalidRequest

_MOST_SHOWN = 100
_MISSING = {"NAType", "NaTType"}  # pandas' own; named, so that pandas is not imported


def require(condition: bool, message: str) -> None:
    """Refuse the request with this message unless the condition holds."""
    if not condition:
        raise InvalidRequest(message)


def shown(value: Any) -> str:
    """A value in one short line."""
    plain = value.item() if isinstance(value, np.generic) else value  # NumPy 2 writes np.True_
    text = " ".join(repr(plain).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def as_array(name: str, value: Any) -> np.ndarray:
    """Make an array of anything that NumPy takes for one."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a torch tensor that wants its gradient
        raise InvalidRequest(f"{name} must be an array: {error}") from None


def floats(name: str, value: Any) -> np.ndarray:
    """Make an array of floating point numbers: masked cells, None and the like are NaN, Decimal is a number.

    Raises
    ------
    InvalidRequest
        If it holds anything else; names the first such cell. Integers are refused: they are no returns.
    """
    if isinstance(value, np.ma.MaskedArray) and value.dtype.kind in "fO":
        value = np.where(value.mask, np.nan, value.data)
    array = as_array(name, value)
    if array.dtype.kind == "O":
        array = _from_objects(name, array)
    require(array.dtype.kind == "f", f"{name} must be floating point (0.01 is 1 %), got {array.dtype}")
    return array


def objects_as_floats(values: Iterable[Any]) -> tuple[np.ndarray, int | None]:
    """Numbers of any class, None and NA -> float64, and the place of the first value that is none of these."""
    numbers, wrong = [], None
    for place, value in enumerate(values):
        number = _number(value)
        if number is None:
            wrong = place if wrong is None else wrong
            number = np.nan
        numbers.append(number)
    return np.array(numbers, float), wrong


def integers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Make an int32 array of this shape."""
    array = as_array(name, value)
    require(
        array.dtype.kind in "iu" and array.shape == shape,
        f"{name} must be integers of shape {shape}, got {array.dtype} of shape {array.shape}",
    )
    limits = np.iinfo(np.int32)
    require(bool(((array >= limits.min) & (array <= limits.max)).all()), f"{name} must be integers that fit in 32 bits")
    return array.astype(np.int32)


def float32(values: np.ndarray) -> np.ndarray:
    """Narrow; what overflows becomes infinite, and its asset is refused by name."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def _from_objects(name: str, array: np.ndarray) -> np.ndarray:
    numbers, wrong = objects_as_floats(array.flat)
    if wrong is not None:
        cell = ", ".join(map(str, np.unravel_index(wrong, array.shape)))
        raise InvalidRequest(f"{name} must be floating point, got {shown(array.flat[wrong])} in cell ({cell})")
    return numbers.reshape(array.shape)


def _number(value: Any) -> float | None:
    if value is None or type(value).__name__ in _MISSING:
        return np.nan
    if isinstance(value, bool | np.bool_ | str | bytes | np.ndarray):  # some of these NumPy would take for numbers
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
