# SPDX-License-Identifier: Apache-2.0
"""How every kernel of this package is compiled, and whether it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

KERNELS = ("assembly", "series", "spectra", "universes")
"""Modules of this package with kernels that Python calls."""

_LOG = logging.getLogger("sigmahat")


@cache
def can_compile() -> bool:
    """Whether compiled kernels do the work: asked for the first time, it compiles them all, or loads what was kept.

    So a compiler that fails is found here, before any work, and NumPy and LAPACK do everything instead; that is logged,
    unless numba is not installed or switched off (``NUMBA_DISABLE_JIT``). Without numba nothing of this package but
    this module can be imported.
    """
    try:
        import numba

        settings: Any = numba.config  # whose names are made when it is imported
        if settings.DISABLE_JIT:
            return False
        for name in KERNELS:
            import_module(f"sigmahat_kernels.lanes.{name}")
    except Exception as error:  # whatever a compiler raises, it is no reason to give no answer
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return False
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _LOG.warning("kernels cannot be compiled, so NumPy and LAPACK do their work, slower: %s", reason)
        return False
    return True


def compiled(function: Function) -> Function:
    """Compile a kernel of a module where another kernel calls it, or at its first call; it is kept on disk, see `kept`.

    Without the GIL. Arithmetic is done as it is written (no reassociation, no contraction, no flush to zero), so that
    a number has the same bits in every kernel that computes it by the same operations in the same order. A division by
    zero gives what IEEE 754 says.
    """
    from numba import njit

    from sigmahat_kernels.lanes.kept import KeptKernels

    kernel: Any = njit(nogil=True, fastmath=False, error_model="numpy", boundscheck=False)(function)
    kernel._cache = KeptKernels(function)  # where cache=True puts numba's own
    done: Function = kernel
    return done


def compiled_for(*types: Any) -> Callable[[Function], Function]:
    """`compiled`, and at once: when its module is imported, for each of these tuples of argument types (of numba's).

    For what Python calls, so that `can_compile` finds a compiler that fails, and no call waits.
    """

    def decorate(function: Function) -> Function:
        kernel: Any = compiled(function)
        for arguments in types:
            kernel.compile(arguments)
        done: Function = kernel
        return done

    return decorate
