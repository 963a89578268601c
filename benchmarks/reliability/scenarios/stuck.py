# SPDX-License-Identifier: Apache-2.0
"""What does not end by itself: a stopped process, a release that hangs or finds no room."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.reliability.load import Load, probe, reference, right
from benchmarks.reliability.service import Service, served, wait_for


def stopped(service: Service, victim: str) -> Figures:
    """SIGSTOP "triton" or a Python model's process under load; callers that retry lose nothing."""
    load = Load(service.url, 60.0, right(reference(service.url)))
    deaths = len(service.events("died"))
    with load.running():
        processes = service.processes()
        os.kill(next(pid for name, pid in processes.items() if name.partition("-r")[0] == victim), signal.SIGSTOP)
        begin = time.monotonic()
        wait_for(lambda: len(service.events("died")) > deaths)
        noticed_s = time.monotonic() - begin
        wait_for(lambda: not probe(service.url, 1.0))
        recovery_s = time.monotonic() - begin
    return {"noticed_s": round(noticed_s, 1), "recovery_s": round(recovery_s, 1), **load.figures()}


def hung_release() -> Figures:
    """A release that never loads: the old one answers callers that retry, and SIGTERM does not wait."""
    with served("--startup-timeout-s=20") as service:
        program = service.repository / "estimate" / "1" / "model.py"
        program.write_text("while True:\n    pass\n")
        load = Load(service.url, 30.0, right(reference(service.url)))
        with load.running():
            service.process.send_signal(signal.SIGHUP)
            (failed,) = wait_for(lambda: service.events("swap_failed"), 90)
        service.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(service.events("swapping")) == 2)
        time.sleep(2.0)
        begin = time.monotonic()
        service.process.terminate()
        code = service.process.wait(timeout=90)
        return {
            "reason": failed["reason"][:160],
            **load.figures(),
            "server_deaths": len(service.events("died")),
            "ended_after_s": round(time.monotonic() - begin, 1),
            "exit_code": code,
        }


def full_disk() -> Figures:
    """A release that finds no room in the temporary folder: the old one stays, and the next is taken."""
    with tempfile.TemporaryDirectory(prefix="sigmahat-disk-") as folder:
        mounted = f'mount -t tmpfs -o size=512m tmpfs {folder} && exec env TMPDIR={folder} "$@"'
        with served(prefix=("unshare", "--mount", "sh", "-c", mounted, "sh")) as service:
            filler = Path(f"/proc/{service.process.pid}/root{folder}", "filler")
            load = Load(service.url, 0.0, right(reference(service.url)))
            with load.running():
                _fill(filler)
                service.process.send_signal(signal.SIGHUP)
                (failed,) = wait_for(lambda: service.events("swap_failed"))
                filler.unlink()
                service.process.send_signal(signal.SIGHUP)
                wait_for(lambda: service.events("swapped"))
            return {
                "reason": failed["reason"][-160:],
                **load.figures(),
                "server_deaths": len(service.events("died")),
            }


def _fill(filler: Path) -> None:
    room = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - 2**20)
