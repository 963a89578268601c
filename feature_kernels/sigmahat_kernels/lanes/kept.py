# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept between processes.

numba's own files know the source of the kernel alone, not of what it calls, and one that is broken stops the process.
Here a folder belongs to everything that the machine code depends on: all sources of this package, the versions beneath
it, and the processor. So an upgrade, a second environment and another node of a shared home never meet each other's
files, and whoever writes a file that is there already writes the same again.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from sigmahat_kernels.files import write_whole

_PACKAGE = Path(__file__).parents[1]
_NEWEST = 16
"""So many folders are left where a new one is made: an old one is some 2 MB that nobody asks for again."""

_LOG = logging.getLogger("sigmahat")


class KeptKernels(NullCache):
    """The compiled forms of one function, each in a file that begins with its own checksum."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was kept for these argument types; None if there is nothing, or nothing that can be used."""
        target_context.refresh()
        folder = kept_in()
        if folder is None:
            _say_once("compiling kernels for this CPU, in every process that uses them, some 15 s: %s", _UNWRITABLE)
            return None
        try:
            content = (folder / self._file(sig)).read_bytes()
        except OSError:
            content = b""
        checksum, code = content[:32], content[32:]
        if sha256(code).digest() != checksum:
            _say_once("compiling kernels for this CPU, once, some 15 s; they are kept in %s", folder)
            return None
        # As of Python's own __pycache__: this user's, or root's, see `_is_trusted`.
        return CompileResult._rebuild(target_context, *pickle.loads(code))  # noqa: S301

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if it can be."""
        folder = kept_in()
        if folder is None:
            return
        code = dumps(data._reduce())
        try:
            write_whole(folder / self._file(sig), lambda file: file.write(sha256(code).digest() + code))
        except OSError as error:
            _say_once("compiled kernels cannot be kept, every process compiles them anew: %s", error)

    def _file(self, sig: Any) -> str:
        return f"{self._name}-{sha256(repr(sig).encode()).hexdigest()[:16]}"


_UNWRITABLE = "no folder to keep them in can be written, NUMBA_CACHE_DIR names one"


@cache
def kept_in() -> Path | None:
    """The folder of this process's kernels: of two the one that has them, or else that can be written.

    One is in ``NUMBA_CACHE_DIR``, as an image sets it that brings kernels; the other in the user's cache, for where the
    first is read-only and was made for another processor.
    """
    key = _key()
    folders = [parent / key for parent in _parents()]
    for folder in folders:
        if _is_trusted(folder):
            return folder
    for folder in folders:
        if _made(folder):
            return folder
    return None


def _parents() -> Iterator[Path]:
    settings: Any = numba.config  # whose names are made when it is imported
    if settings.CACHE_DIR:
        yield Path(settings.CACHE_DIR)
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if user.is_absolute():  # else nobody knows where this user is at home
        yield user / "sigmahat"


def _key() -> str:
    """Of all that the machine code depends on; kernels take constants from the whole package."""
    digest = sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_PACKAGE)} {len(content)}\n".encode() + content)
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, platform.machine())
    digest.update(repr((versions, cpu_target.target_context.codegen().magic_tuple())).encode())
    return f"kernels-{digest.hexdigest()[:24]}"


def _is_trusted(folder: Path) -> bool:
    """Whether a folder is there, and nobody but this user and root can have filled it."""
    try:
        return folder.is_dir() and folder.stat().st_uid in (0, getattr(os, "getuid", int)())
    except OSError:
        return False


def _made(folder: Path) -> bool:
    """Whether a new folder could be made; older ones beside it go."""
    try:
        folder.mkdir(parents=True)
    except OSError:
        return _is_trusted(folder)  # another process was faster
    others = sorted(folder.parent.glob("kernels-*"), key=lambda other: other.lstat().st_mtime)
    for old in others[:-_NEWEST]:
        shutil.rmtree(old, ignore_errors=True)
    return True


@cache
def _say_once(message: str, what: object) -> None:
    """A line for whoever waits: shown without any set-up of logging."""
    _LOG.warning(message, what)
