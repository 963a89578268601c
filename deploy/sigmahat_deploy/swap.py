# SPDX-License-Identifier: Apache-2.0
"""A new release is taken in a thread of its own, for a limited time, while the server is watched on."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Protocol, Self

from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.probe import BUSY, ProbeTimeout, probe_shrinkage
from sigmahat_deploy.processes import Processes
from sigmahat_deploy.releases import Releases
from sigmahat_deploy.server import LocalServer, close_shared_memory

_SETTLES_S = 15.0
"""Triton lets the processes that it has replaced end in their own time."""

_GIVES_UP_S = 60.0
"""Triton notices that a process has ended which it waits for, after up to half a minute where it had hung on import."""


class Log(Protocol):
    """Receives what happened, as one record."""

    def __call__(self, event: str, /, level: str = "info", **fields: Any) -> None: ...


class Swap:
    """Begins with the block and ends by itself; the end of the block ends what has not been loaded until then.

    A model that hangs cannot be called off, but its process can be killed: Triton then says that it failed.
    """

    def __init__(
        self, server: LocalServer, releases: Releases, load_timeout_s: float, log: Log, processes: Processes
    ) -> None:
        self._server = server
        self._releases = releases
        self._load_timeout_s = load_timeout_s
        self._log = log
        self._processes = processes
        self._begin = time.monotonic()
        self._end: float | None = None
        self._cut_short = ""  # why
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._log("swapping", release=self._releases.current + 1)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._releases.coming:
            self._cut_short = self._cut_short or "the server ended meanwhile"
            self._processes.kill(self._releases.coming)
            self._thread.join(timeout=5.0)

    def running(self) -> bool:
        """Whether it still runs."""
        return self._end is None

    def recent(self) -> bool:
        """Whether Triton may still be replacing processes."""
        return self._end is None or time.monotonic() - self._end < _SETTLES_S

    def enforce_limit(self, processes: Processes) -> None:
        """Kill what is being loaded when that has taken too long.

        Raises
        ------
        ServerError
            If that does not help.
        """
        overdue_s = time.monotonic() - self._begin - self._load_timeout_s
        if not self._releases.coming or overdue_s < 0:
            return
        self._cut_short = f"it was not loaded within {self._load_timeout_s:g} s"
        processes.kill(self._releases.coming)
        if overdue_s > _GIVES_UP_S:
            raise ServerError(f"Triton does not come back from loading a release that took {self._load_timeout_s:g} s")

    def _run(self) -> None:
        try:
            self._releases.swap(self._server.model_control, self._check, self._load_timeout_s + 2 * _GIVES_UP_S)
        except Exception as error:  # whatever it is, the old release serves on
            reason = ": ".join(filter(None, (self._cut_short, str(error) or type(error).__name__)))
            self._log("swap_failed", level="error", reason=reason, release=self._releases.current)
        else:
            seconds = round(time.monotonic() - self._begin, 3)
            self._log("swapped", seconds=seconds, release=self._releases.current)
        self._end = time.monotonic()

    def _check(self, models: list[str]) -> None:
        """Ask models of the new release; that they are busy is no fault of it."""
        close_shared_memory(self._server)
        try:
            for model in models:
                probe_shrinkage(self._server, model=model)
        except ProbeTimeout:
            return
        except ServerError as error:
            if not BUSY.search(str(error)):
                raise
