# SPDX-License-Identifier: Apache-2.0
"""Secrets on the command line of a process that takes them nowhere else: Linux shows it to everyone on the machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_ARG_START = 45
"""Place in ``/proc/PID/stat``, counted from the state, of the address of the command line; its end is the next."""


def hide(pid: int, secrets: Iterable[str]) -> None:
    """Overwrite secrets on the command line of a child of this process, which must have read it.

    Raises
    ------
    OSError
        If the system lets nobody write there: ``kernel.yama.ptrace_scope`` above 1.
    """
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    begin, end = map(int, after_name[_ARG_START : _ARG_START + 2])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        shown = memory.read(end - begin)
        for secret in secrets:
            shown = shown.replace(secret.encode(), b"x" * len(secret))
        memory.seek(begin)
        memory.write(shown)


def shows(pid: int, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets still stands there."""
    shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    return any(secret.encode() in shown for secret in secrets)
