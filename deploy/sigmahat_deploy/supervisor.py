# SPDX-License-Identifier: Apache-2.0
"""Keep a server answering: notice what Triton does not, start again what has died, give up on what keeps dying."""

from __future__ import annotations

import resource
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

from sigmahat_deploy.certificates import Tls
from sigmahat_deploy.command_line import shows
from sigmahat_deploy.exporter import Metrics, exported
from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.probe import BUSY, ProbeTimeout, probe_shrinkage
from sigmahat_deploy.processes import Process, Processes
from sigmahat_deploy.progress import Progress, Unreachable, read_states
from sigmahat_deploy.releases import Releases
from sigmahat_deploy.server import (
    CONNECTION_AGE_S,
    LocalServer,
    check_repository,
    close_shared_memory,
    describe_exit,
    local_server,
    swept_if_killed,
)
from sigmahat_deploy.swap import Log, Swap

_TICK_S = 0.2
"""How long a wait may be: now and then Python handles a signal only after it, see `local_server`."""

_LOOK_S = 1.0

_FEW_FILES = 4096

_KEYS_SHOWN = (
    "the server's keys stand on its command line, which other users of this machine can read, and the system lets "
    "nobody hide them: set kernel.yama.ptrace_scope to 1 or less, or mount /proc with hidepid=2"
)


class GaveUp(ServerError):
    """The server died too often in too short a time."""


class _CertificatesChanged(Exception):
    """The server has to be started again, when it has answered what it accepted."""


@dataclass(frozen=True)
class Endurance:
    """When a server counts as dead, and how often it may die."""

    probe_interval_s: float = 5.0
    probe_timeout_s: float = 90.0  # longer than a busy server keeps a request in its queue
    max_restarts: int = 5
    within_s: float = 300.0
    stuck_after_s: float = 20.0  # a step beats oftener than this, also on a machine with other work
    busy_after_s: float = 5.0


@dataclass(frozen=True)
class Address:
    """Where and how to serve; a port of 0 picks a free one, which is kept after a restart."""

    host: str
    grpc_port: int
    http_port: int
    metrics_port: int
    tls: Tls | None = None
    connection_age_s: float = CONNECTION_AGE_S


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

    The server is killed and started again when Triton or a Python model's process ends, when a step is stuck, and when
    twice in a row a real inference goes wrong. On SIGHUP the files of the repository are taken anew, without a gap
    (`Releases.swap`), and so are certificates, which takes a restart.

    Parameters
    ----------
    model_repository : Path
    address : Address
    log : Log
        Gets every event.
    published : callable
        Makes a context manager that is entered while the server answers.
    startup_timeout_s : float
        Seconds until the first inference, after each start; and that a new release may take to load.
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
    metrics = Metrics(log)
    log = metrics.log
    with (
        _on_hangup() as swap_wanted,
        tempfile.TemporaryDirectory(prefix="sigmahat-models-") as folder,
        swept_if_killed(Path(folder)),
        exported(metrics, "127.0.0.1" if address.tls else address.host, address.metrics_port) as metrics_url,
    ):
        releases = Releases(check_repository(model_repository), Path(folder))
        while True:
            try:
                releases.settle()
                for warning in _warnings(address):
                    log("warning", level="warning", reason=warning)
                with _started(releases, address, startup_timeout_s) as (server, seconds):
                    if shows(server.process.pid, server.model_control.keys):
                        log("warning", level="warning", reason=_KEYS_SHOWN)
                    shown = replace(server, metrics_url=metrics_url)
                    log("ready", startup_s=seconds, release=releases.current, restarts=len(deaths), **urls(shown))
                    answered, address = True, _keep_ports(address, server)
                    try:
                        with metrics.of_triton(server.metrics_url), published(shown):
                            _watch(server, releases, swap_wanted, endurance, startup_timeout_s, log)
                    except ServerError:
                        raise
                    except BaseException:
                        log("draining")
                        raise
            except _CertificatesChanged:
                log("restarting", level="warning", reason="the certificates have changed")
            except ServerError as error:
                if not answered:
                    raise
                _bury(str(error), deaths, endurance, log)


def _warnings(address: Address) -> list[str]:
    """What is allowed, and better otherwise."""
    warnings = address.tls.check() if address.tls else []
    if address.tls is None and not ip_address(socket.gethostbyname(address.host)).is_loopback:
        warnings.append(
            f"--host {address.host} without --tls-certificate: whoever reaches it can read and ask anything"
        )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < _FEW_FILES:
        warnings.append(f"this process may open {most:,} files, one a connection: raise ulimit -Hn to {_FEW_FILES:,}")
    return warnings


@contextmanager
def _started(releases: Releases, address: Address, startup_timeout_s: float) -> Iterator[tuple[LocalServer, float]]:
    """A server that answers, and the seconds until it did. Its own metrics are for this machine: see `exporter`."""
    begin = time.monotonic()
    with local_server(
        releases.folder,
        address.grpc_port,
        address.http_port,
        metrics_port=0,
        host=address.host,
        probe=probe_shrinkage,
        startup_timeout_s=startup_timeout_s,
        tls=address.tls,
        metrics_host="127.0.0.1",
        connection_age_s=address.connection_age_s,
    ) as server:
        yield server, round(time.monotonic() - begin, 3)


def urls(server: LocalServer) -> dict[str, str]:
    """Where the server answers, as fields of a record."""
    return {"grpc_url": server.grpc_url, "http_url": server.http_url, "metrics_url": server.metrics_url}


def _keep_ports(address: Address, server: LocalServer) -> Address:
    grpc, http = (int(url.rpartition(":")[2]) for url in (server.grpc_url, server.http_url))
    return replace(address, grpc_port=grpc, http_port=http)


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
    server: LocalServer,
    releases: Releases,
    swap_wanted: threading.Event,
    endurance: Endurance,
    load_timeout_s: float,
    log: Log,
) -> NoReturn:
    """Return never; raise ServerError as soon as the server must be started again."""
    certificates = server.tls and server.tls.digest()
    server.log.new_messages()  # of the start, which was well
    with (
        _health(server, releases, endurance, log) as failure,
        ExitStack() as open_files,
        ExitStack() as swap_ends,
    ):
        swap: Swap | None = None
        processes = Processes(server.process.pid, open_files)
        while True:
            ended = processes.ended(_TICK_S)
            close_shared_memory(server)  # regions that a swap has made
            for message in server.log.new_messages():
                log("triton", level="warning", message=message)
            replacing = swap is not None and swap.recent()
            if replacing:
                processes.look()
            dead = _dead(ended, processes, releases, replacing)
            if dead or server.process.poll() is not None:
                raise ServerError(_describe_death(server, dead))
            if failure:
                raise ServerError(failure[-1])
            if swap is not None:
                swap.enforce_limit(processes)
            if swap_wanted.is_set() and not (swap and swap.running()):
                if server.tls is not None and _renewed(server.tls, certificates, log):
                    raise _CertificatesChanged
                swap_wanted.clear()
                swap = swap_ends.enter_context(Swap(server, releases, load_timeout_s, log, processes))


def _renewed(tls: Tls, digest: str | None, log: Log) -> bool:
    """Whether other certificates than those in use lie there, and are good."""
    try:
        if tls.digest() == digest:
            return False
        tls.check()
    except ServerError as error:
        log("certificates_refused", level="error", reason=str(error))
        return False
    return True


def _dead(ended: list[Process], processes: Processes, releases: Releases, replacing: bool) -> list[str]:
    """What has ended that the current release needs. Triton replaces processes only in a swap."""
    serving = releases.serving()
    return [
        f"the process of model {process.program.parts[-3]}"
        for process in ended
        if process.program is not None
        and process.program.parent in serving
        and not (replacing and processes.runs(process.program.parts[-3]))
    ]


def _describe_death(server: LocalServer, ended: list[str]) -> str:
    code = server.process.poll()
    if code is None:
        return f"{' and '.join(sorted(ended))} ended by itself"
    server.log.close()
    return f"Triton ended by itself with {describe_exit(code)}; its log ends with:\n{server.log.tail()}"


@contextmanager
def _health(server: LocalServer, releases: Releases, endurance: Endurance, log: Log) -> Iterator[list[str]]:
    """Probe, and look whether the steps get on, in the background; the list is empty until the server is unwell."""
    failure: list[str] = []
    asked: list[float] = []  # when the first probe was sent that has no good answer yet
    stop = threading.Event()

    def keep_probing() -> None:
        last = ""
        while not stop.wait(0.0 if last else endurance.probe_interval_s):
            if not asked:
                asked.append(time.monotonic())
            error = _probe(server, releases, endurance.probe_timeout_s)
            if not error:
                asked.clear()
            if error and last:
                failure.append(f"the server lives but does not answer as it should: {error}")
                return
            last = error

    def keep_looking() -> None:
        progress, busy = Progress(endurance.stuck_after_s), False
        while not stop.wait(_LOOK_S):
            waited_s = max((time.monotonic() - begin for begin in list(asked)), default=0.0)
            try:
                states = read_states(server)
            except Unreachable:
                states = {}
            serving = {folder.parent.name for folder in releases.serving()}
            if stuck := progress.look(states, serving, waited_s):
                log("stuck", level="error", reason=stuck)
                failure.append(f"the server is stuck: {stuck}")
                return
            if busy != (waited_s > endurance.busy_after_s):
                busy = not busy
                if busy:
                    log("busy", level="warning", waited_s=round(waited_s, 1), steps=progress.busy(serving))

    for work in (keep_probing, keep_looking):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield failure
    finally:
        stop.set()


def _probe(server: LocalServer, releases: Releases, timeout_s: float) -> str:
    """What is wrong; no answer in time is not, nor is a refusal: `Progress` tells whether the server is stuck."""
    try:
        for model in releases.probed():
            probe_shrinkage(server, timeout_s, model)
    except ProbeTimeout:
        return ""
    except Exception as error:  # whatever a probe raises is a failure
        return "" if BUSY.search(str(error)) else str(error) or type(error).__name__
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
