# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all, also after a kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file beside `path`; it takes that name once the disk holds all of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def check_new(path: Path) -> None:
    """Raise FileExistsError, which says what to do, if `path` is there already."""
    if path.exists():
        raise FileExistsError(f"{path} is there already: name a new folder, or remove it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, to be filled, that takes that name at the end; after an error nothing is left of it.

    Raises
    ------
    FileExistsError
        If `path` is there already.
    """
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp lets nobody else in
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
