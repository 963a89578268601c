# SPDX-License-Identifier: Apache-2.0
"""Memory that a server on this machine writes matrices into, so that they do not go through gRPC."""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

_FOLDER = Path("/dev/shm")

KEY_HEADER = "sigmahat-shared-memory"


def key_file(url: str) -> Path:
    """Where the server at host:port of this machine leaves the key for its shared memory, for this user alone."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return folder / f"sigmahat-{os.getuid()}-{url.rpartition(':')[2]}.key"


def key_headers(url: str) -> dict[str, str]:
    """Headers that let this process register memory with a server of this user.

    Raises
    ------
    OSError
        If there is no key that is this user's.
    """
    path = key_file(url)
    with path.open() as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            raise PermissionError(f"{path} is another user's")
        return {f"triton-grpc-protocol-{KEY_HEADER}": file.read()}


class Region:
    """Memory shared with the server, under a name that the server knows."""

    def __init__(self, nbytes: int, register: Callable[[str, int], object]) -> None:
        self.name = f"sigmahat_client_{os.getpid()}_{secrets.token_hex(4)}"
        self.nbytes = nbytes
        path = _FOLDER / self.name
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, nbytes)  # memory that is promised but not there would end in SIGBUS
            self._memory = mmap.mmap(file, nbytes)
            register(self.name, nbytes)
        finally:
            os.close(file)
            path.unlink()  # both sides have it mapped now, so nothing is left behind however this process ends

    def array(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """View of the first values as float32."""
        return np.ndarray(shape, np.float32, self._memory)


class Pool:
    """Regions of one server, used again and again.

    Parameters
    ----------
    register : callable
        Called with a region's name and size, makes the server map it; raises what it likes, and the pool stays empty.
    unregister : callable
        Called with a region's name.
    usable : bool
        False for a server that cannot share memory with this process: the pool stays empty.
    """

    def __init__(
        self, register: Callable[[str, int], object], unregister: Callable[[str], object], *, usable: bool = True
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._known: set[str] = set()
        self._usable = usable

    def take(self, nbytes: int) -> Region | None:
        """Return a region of at least `nbytes`; None where there is none to be had, and gRPC has to do."""
        with self._lock:
            if not self._usable:
                return None
            self._free.sort(key=lambda region: region.nbytes)
            for i, region in enumerate(self._free):
                if region.nbytes >= nbytes:
                    return self._free.pop(i)
            outgrown = self._free.pop() if self._free else None
        try:
            if outgrown is not None:
                self._drop(outgrown)
            region = Region(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE, self._register)
        except Exception:  # another machine, container, user or system, a restricted API, no room, nobody there ...
            self._usable = False
            return None
        with self._lock:
            self._known.add(region.name)
        return region

    def give(self, region: Region) -> None:
        """Give back a region that nobody reads any more, and that the server has finished with."""
        with self._lock:
            if region.name in self._known:
                self._free.append(region)

    def forget(self, region: Region) -> None:
        """Drop a region in use: the server was restarted and does not know it any more."""
        with self._lock:
            self._known.discard(region.name)

    def close(self) -> None:
        """Let the server unmap what it was given."""
        with self._lock:
            self._usable = False
            free, self._free = self._free, []
        for region in free:
            self._drop(region)

    def _drop(self, region: Region) -> None:
        with self._lock:
            self._known.discard(region.name)
        with suppress(Exception):  # a server that is gone has nothing mapped
            self._unregister(region.name)
