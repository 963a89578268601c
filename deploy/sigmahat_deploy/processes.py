# SPDX-License-Identifier: Apache-2.0
"""The processes of a server's group, and when one of them ends."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process of the group."""

    pid: int
    program: Path | None  # a Python model's, MODEL/VERSION/model.py


class Processes:
    """Those of the process group `group`; their files are closed with `open_files`."""

    def __init__(self, group: int, open_files: ExitStack) -> None:
        self._group = group
        self._running: dict[int, Process] = {}  # a file that becomes readable when the process ends
        open_files.callback(self._close)
        self.look()

    def look(self) -> None:
        """Find those that are new, and those that have become a Python model's since: a fork looks like Triton."""
        known = {process.pid: file for file, process in self._running.items()}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            pid = int(stat.parent.name)
            with suppress(FileNotFoundError, ProcessLookupError):
                if pid in known and self._running[known[pid]].program is not None:
                    continue
                if int(stat.read_text().rpartition(")")[2].split()[2]) != self._group:
                    continue
                words = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
                program = next((Path(word) for word in words if word.endswith("/model.py")), None)
                file = known[pid] if pid in known else os.pidfd_open(pid)
                self._running[file] = Process(pid, program)

    def ended(self, timeout_s: float) -> list[Process]:
        """Wait for the end of any of them; return those that have ended, once."""
        files, _, _ = select.select(self._running, [], [], timeout_s)
        for file in files:
            os.close(file)
        return [self._running.pop(file) for file in files]

    def runs(self, model: str) -> bool:
        """Whether a process of a Python model is there."""
        return any(p.program is not None and p.program.parts[-3] == model for p in self._running.values())

    def kill(self, folders: Collection[Path]) -> None:
        """End the Python models whose programs lie in one of `folders`."""
        self.look()
        for process in self._running.values():
            if process.program is not None and process.program.parent in folders:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def _close(self) -> None:
        while self._running:
            os.close(self._running.popitem()[0])
