# SPDX-License-Identifier: Apache-2.0
"""Keep a server answering: notice what Triton does not, start again what has died, give up on what keeps dying."""

from __future__ import annotations

import os
import re
import select
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.releases import Releases
from sigmahat_deploy.server import (
    NOISE,
    LocalServer,
    Tls,
    check_repository,
    describe_exit,
    local_server,
    swept_if_killed,
)

_TICK_S = 0.2
"""How long a wait may be: now and then Python handles a signal only after it, see `local_server`."""

_BUSY = re.compile(r"maximum queue size|timeout expired", re.IGNORECASE)
"""What a probe gets from a server that has more work than it can do, and is well otherwise."""


class GaveUp(ServerError):
    """The server died too often in too short a time."""


class Log(Protocol):
    """Receives what happened, as one record."""

    def __call__(self, event: str, /, level: str = "info", **fields: Any) -> None: ...


@dataclass(frozen=True)
class Endurance:
    """When a server counts as dead, and how often it may die."""

    probe_interval_s: float = 5.0
    probe_timeout_s: float = 90.0  # longer than a busy server keeps a request in its queue
    max_restarts: int = 5
    within_s: float = 300.0


@dataclass(frozen=True)
class Address:
    """Where to serve; a port of 0 picks a free one, which is kept after a restart."""

    host: str
    grpc_port: int
    http_port: int
    metrics_port: int
    tls: Tls | None = None


def supervise(
    model_repository: Path,
    address: Address,
    *,
    log: Log,
    published: Callable[[LocalServer], AbstractContextManager[object]],
    startup_timeout_s: float = 120.0,
    endurance: Endurance = Endurance(),
) -> NoReturn:
    """Serve `model_repository` until an exception, such as a signal handler raises, ends it.

    The server is killed and started again when Triton or a Python model's process ends, and when twice in a row a real
    inference fails. On SIGHUP the files of the repository are taken anew, without a gap (`Releases.swap`).

    Parameters
    ----------
    model_repository : Path
    address : Address
    log : Log
        Gets every event.
    published : callable
        Makes a context manager that is entered while the server answers.
    startup_timeout_s : float
        Seconds until the first inference, after each start.
    endurance : Endurance

    Raises
    ------
    ServerError
        If the server cannot be started at all.
    GaveUp
        If it died more than `endurance.max_restarts` times in `endurance.within_s` seconds.
    """
    deaths: deque[float] = deque()
    answered = False
    with (
        _on_hangup() as swap_wanted,
        tempfile.TemporaryDirectory(prefix="sigmahat-models-") as folder,
        swept_if_killed(Path(folder)),
    ):
        releases = Releases(check_repository(model_repository), Path(folder))
        while True:
            try:
                with _started(releases, address, startup_timeout_s, len(deaths), log) as server:
                    answered, address = True, _keep_ports(address, server)
                    try:
                        with published(server):
                            _watch(server, releases, swap_wanted, endurance, log)
                    except ServerError:
                        raise
                    except BaseException:
                        log("draining")
                        raise
            except ServerError as error:
                if not answered:
                    raise
                _bury(str(error), deaths, endurance, log)


@contextmanager
def _started(
    releases: Releases, address: Address, startup_timeout_s: float, n_restarts: int, log: Log
) -> Iterator[LocalServer]:
    begin = time.monotonic()
    with local_server(
        releases.folder,
        address.grpc_port,
        address.http_port,
        address.metrics_port,
        host=address.host,
        probe=probe_shrinkage,
        startup_timeout_s=startup_timeout_s,
        tls=address.tls,
    ) as server:
        seconds = round(time.monotonic() - begin, 3)
        log("ready", startup_s=seconds, release=releases.current, restarts=n_restarts, **urls(server))
        yield server


def urls(server: LocalServer) -> dict[str, str]:
    """Where the server answers, as fields of a record."""
    return {"grpc_url": server.grpc_url, "http_url": server.http_url, "metrics_url": server.metrics_url}


def _keep_ports(address: Address, server: LocalServer) -> Address:
    grpc, http, metrics = (
        int(url.removesuffix("/metrics").rpartition(":")[2])
        for url in (server.grpc_url, server.http_url, server.metrics_url)
    )
    return Address(address.host, grpc, http, metrics, address.tls)


def _bury(reason: str, deaths: deque[float], endurance: Endurance, log: Log) -> None:
    """Note a death; wait before the next start, not at all after the first, then ever longer; or give up."""
    deaths.append(time.monotonic())
    while deaths[0] < deaths[-1] - endurance.within_s:
        deaths.popleft()
    log("died", level="error", reason=reason, deaths=len(deaths))
    if len(deaths) > endurance.max_restarts:
        raise GaveUp(f"Triton died {len(deaths)} times in {endurance.within_s:g} s, the last time like this: {reason}")
    pause_s = 0.0 if len(deaths) == 1 else min(0.1 * 2 ** len(deaths), 10.0)
    log("restarting", level="warning", pause_s=pause_s)
    end = time.monotonic() + pause_s
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _TICK_S))


def _watch(
    server: LocalServer, releases: Releases, swap_wanted: threading.Event, endurance: Endurance, log: Log
) -> NoReturn:
    """Return never; raise ServerError as soon as the server must be started again."""
    messages = _Messages(server.log_path)
    with _health(server, endurance) as failure, ExitStack() as open_files:
        processes = _open_processes(server, open_files)
        while True:
            ended, _, _ = select.select(processes, [], [], _TICK_S)
            for message in messages.new():
                log("triton", level="warning", message=message)
            if ended or server.process.poll() is not None:
                raise ServerError(_describe_death(server, [processes[file] for file in ended]))
            if failure:
                raise ServerError(f"the server lives but does not answer as it should: {failure[-1]}")
            if swap_wanted.is_set():
                swap_wanted.clear()
                n_processes = len(processes)
                _swap(server, releases, log)
                processes = _open_again(server, n_processes, open_files)


def _swap(server: LocalServer, releases: Releases, log: Log) -> None:
    begin = time.monotonic()
    log("swapping", release=releases.current + 1)
    try:
        releases.swap(server.model_control)
        probe_shrinkage(server)
    except ServerError as error:
        log("swap_failed", level="error", reason=str(error), release=releases.current)
    else:
        log("swapped", seconds=round(time.monotonic() - begin, 3), release=releases.current)


def _open_processes(server: LocalServer, open_files: ExitStack) -> dict[int, str]:
    """File descriptors that become readable when a process of the server ends, and what each process is.

    A Python model's process names its file, ``MODEL/VERSION/model.py``; where that is gone, it is about to end itself.
    """
    processes = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = int(stat.read_text().rpartition(")")[2].split()[2])
            if group != server.process.pid:
                continue
            words = (stat.parent / "cmdline").read_bytes().decode(errors="replace").split("\0")
            model = next((Path(word) for word in words if word.endswith("/model.py")), None)
            if model is not None and not model.exists():
                continue
            file = os.pidfd_open(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
        open_files.callback(os.close, file)
        processes[file] = "Triton" if model is None else f"the process of model {model.parts[-3]}"
    return processes


def _open_again(server: LocalServer, n_expected: int, open_files: ExitStack, timeout_s: float = 15.0) -> dict[int, str]:
    """Open the processes once those that a swap has replaced are gone: Triton lets them end in their own time."""
    deadline = time.monotonic() + timeout_s
    while True:
        open_files.close()
        processes = _open_processes(server, open_files)
        if len(processes) <= n_expected or time.monotonic() > deadline:
            return processes
        time.sleep(_TICK_S)


def _describe_death(server: LocalServer, ended: list[str]) -> str:
    code = server.process.poll()
    if code is None:
        return f"{' and '.join(sorted(ended))} ended by itself"
    return f"Triton ended by itself with {describe_exit(code)}; its log ends with:\n{server.log_tail()}"


@contextmanager
def _health(server: LocalServer, endurance: Endurance) -> Iterator[list[str]]:
    """Probe in the background; the list that this gives is empty until two probes in a row have failed."""
    failure: list[str] = []
    stop = threading.Event()

    def keep_probing() -> None:
        last = ""
        while not stop.wait(0.0 if last else endurance.probe_interval_s):
            error = _probe(server, endurance.probe_timeout_s)
            if error and last:
                failure.append(error)
                return
            last = error

    threading.Thread(target=keep_probing, daemon=True).start()
    try:
        yield failure
    finally:
        stop.set()


def _probe(server: LocalServer, timeout_s: float) -> str:
    try:
        probe_shrinkage(server, timeout_s)
    except Exception as error:  # whatever a probe raises is a failure
        return "" if _BUSY.search(str(error)) else str(error) or type(error).__name__
    return ""


@contextmanager
def _on_hangup() -> Iterator[threading.Event]:
    """The event is set by SIGHUP, inside the block."""
    asked = threading.Event()
    previous = signal.signal(signal.SIGHUP, lambda signum, frame: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGHUP, previous)


class _Messages:
    """Warnings and errors in Triton's log, as they come."""

    def __init__(self, log_path: Path) -> None:
        self._path = log_path
        self._offset = log_path.stat().st_size

    def new(self) -> list[str]:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            text = log.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        messages = re.split(r"(?m)^(?=[IWEF]\d{4} )", complete.decode(errors="replace"))
        return [m.strip() for m in messages if m[:1] not in ("", "I") and not NOISE.search(m)]
