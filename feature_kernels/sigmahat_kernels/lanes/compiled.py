# SPDX-License-Identifier: Apache-2.0
"""How every kernel of this package is compiled, and whether it can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def can_compile() -> bool:
    """Whether numba is here; without it nothing of this package but this module can be imported."""
    try:
        import numba  # noqa: F401  whether it can be imported is the question
    except ImportError:
        return False
    return True


def compiled(function: Function) -> Function:
    """Compile a kernel of a module: at its first call, once for each combination of types, and kept on disk.

    Without the GIL. Arithmetic is done as it is written (no reassociation, no contraction, no flush to zero), so that
    a number has the same bits in every kernel that computes it by the same operations in the same order. A division by
    zero gives what IEEE 754 says.
    """
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "boundscheck": False}
    kernel: Function = njit(fastmath=False, **options)(function)
    return kernel
