# SPDX-License-Identifier: Apache-2.0
"""A running `sigmahat serve`, on a copy of the model repository, to do something to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import ROOT
from sigmahat_kernels import heartbeat

REPOSITORY = ROOT / "model_repository"


@dataclass
class Service:
    """A running `sigmahat serve`."""

    process: subprocess.Popen[bytes]
    url: str
    repository: Path
    log: Path
    ready_file: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """The records of one kind that it has written."""
        lines = self.log.read_text().splitlines()
        return [event for event in map(json.loads, (x for x in lines if x.startswith("{"))) if event["event"] == name]

    def processes(self) -> dict[str, int]:
        """Process ids by what they are: "triton", or the folder of a Python model; Triton leads their group."""
        running = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
                command = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if state not in "ZX":
                    running.append((int(stat.parent.name), int(parent), int(group), command))
        triton = [p for p, parent, _, c in running if parent == self.process.pid and c[0].endswith("/tritonserver")]
        found = {}
        for pid, _, leader, words in running:
            model = next((Path(word) for word in words if word.endswith("/model.py")), None)
            if model is not None and triton and leader == triton[0]:
                found[model.parts[-3]] = pid
        return found | dict(zip(["triton"], triton, strict=False))

    def at_work(self, model: str) -> bool:
        """Whether a Python step computes, by its own sign of life."""
        folders = Path(tempfile.gettempdir()).glob("sigmahat-server-*/heartbeats")
        own = set(self.processes().values())
        return any(
            sign.working
            for folder in folders
            if {int(path.suffix[1:]) for path in folder.iterdir()} & own
            for name, signs in heartbeat.read(folder).items()
            if name.startswith(model)
            for sign in signs
        )

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of Triton and of all Python models, and its files in /dev/shm."""
        resident = {}
        for name, pid in self.processes().items():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident[name] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        files = list(Path("/dev/shm").glob(f"sigmahat_{self.process.pid}_*"))
        return {
            "server": resident["triton"],
            "models": sum(mb for name, mb in resident.items() if name != "triton"),
            "shared_memory": sum(file.stat().st_blocks * 512 for file in files) / 1e6,
        }


@contextmanager
def served(*options: str, prefix: Sequence[str] = ()) -> Iterator[Service]:
    """Run `sigmahat serve` on a copy of the model repository; `prefix` may put another command in front."""
    with tempfile.TemporaryDirectory(prefix="sigmahat-faults-") as folder:
        repository, ready_file, log = Path(folder, "models"), Path(folder, "ready.json"), Path(folder, "log")
        shutil.copytree(REPOSITORY, repository)
        command = [*prefix, sys.executable, "-c", "from sigmahat_deploy.cli import main; main()", "serve"]
        command += ["--grpc-port=0", "--http-port=0", "--metrics-port=0", "--max-restarts=100"]
        command += [f"--model-repository={repository}", f"--ready-file={ready_file}", *options]
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            wait_for(lambda: ready_file.exists() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield Service(process, json.loads(ready_file.read_text())["grpc_url"], repository, log, ready_file)
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=90)
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Return the first value of `condition` that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain")
        time.sleep(0.01)
    return value
