# SPDX-License-Identifier: Apache-2.0
"""A step's signs of life, which its supervisor reads: two numbers in a small file that the step has mapped.

A process has one heartbeat. `beat` does nothing in a process that has none.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple

FOLDER = "SIGMAHAT_HEARTBEATS"
"""Environment variable that names the folder of the files."""

_BEATS, _WORKING = 0, 1
_NBYTES = 16

_own: list[memoryview] = []
_lock = Lock()


class Sign(NamedTuple):
    """What a step has said last."""

    beats: int  # grows while it gets on
    working: bool


def start(name: str) -> None:
    """Give this process a heartbeat under the name of its model, if its environment names a folder for it."""
    folder = os.environ.get(FOLDER)
    if folder is None or _own:
        return
    with open(Path(folder, f"{name}.{os.getpid()}"), "w+b") as file:
        file.truncate(_NBYTES)
        _own.append(memoryview(mmap.mmap(file.fileno(), _NBYTES)).cast("Q"))


def beat() -> None:
    """Say that the work gets on. To be called at least every few seconds; costs less than a microsecond."""
    for words in _own:
        words[_BEATS] += 1  # a beat that another thread overwrites is no loss


@contextmanager
def working() -> Iterator[None]:
    """Say that there is work, inside the block; blocks of several threads may overlap."""
    _count(1)
    beat()
    try:
        yield
    finally:
        beat()
        _count(-1)


def _count(change: int) -> None:
    with _lock:
        for words in _own:
            words[_WORKING] += change


def read(folder: Path) -> dict[str, list[Sign]]:
    """Model -> the signs of its processes, one each."""
    signs: dict[str, list[Sign]] = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        if len(content) == _NBYTES:
            words = memoryview(content).cast("Q")
            signs.setdefault(path.stem, []).append(Sign(words[_BEATS], bool(words[_WORKING])))
    return signs
