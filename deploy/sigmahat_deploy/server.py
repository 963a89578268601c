# SPDX-License-Identifier: Apache-2.0
"""Start the pip-installed Triton on a model repository, wait until it really answers, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from sigmahat_client.shared_memory import key_file
from sigmahat_deploy.certificates import Tls
from sigmahat_deploy.command_line import hide
from sigmahat_deploy.installation import ServerError, build_tree, check_installation, environment
from sigmahat_deploy.model_control import ModelControl
from sigmahat_deploy.triton_log import TritonLog
from sigmahat_kernels.heartbeat import FOLDER as HEARTBEATS

_DRAIN_S = 57.0
"""Accepted requests may take this long after the block has ended: the minute that is promised, less what follows. Work
that outlasts Triton's own exit timeout hangs Triton 2.51 for good, so that one is longer and never reached."""

_ENSEMBLE = re.compile(r'^\s*platform:\s*"ensemble"', re.MULTILINE)

_SHARED_MEMORY = Path("/dev/shm")

_ALIVE = {
    "keepalive-time": 60_000,
    "keepalive-timeout": 20_000,
    "keepalive-permit-without-calls": 1,
    "http2-max-pings-without-data": 0,
    "http2-min-recv-ping-interval-without-data": 10_000,
}
"""Options of gRPC, in milliseconds: a caller that has vanished is let go after 80 s; the client's pings, one every
20 s, are no offence."""

CONNECTION_AGE_S = 300.0
"""Everyone connects anew so often, give or take a tenth, and finds servers that are new behind a name."""

_ANSWERS_S = 600.0
"""What was asked through a connection may be answered for so long after its time is over."""


@dataclass(frozen=True)
class LocalServer:
    """A running server, as `local_server` yields it."""

    grpc_url: str  # host:port, as tritonclient.grpc takes it
    http_url: str  # host:port, as tritonclient.http takes it
    metrics_url: str  # a whole address, for Prometheus or a browser
    process: subprocess.Popen[bytes]  # leads its own session and process group, to which the Python models belong
    log: TritonLog
    shm_prefix: str  # its files in /dev/shm begin with this
    heartbeats: Path  # folder of its Python models' signs of life
    repository: Path
    model_control: ModelControl
    tls: Tls | None


@contextmanager
def local_server(
    model_repository: str | os.PathLike[str],
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    host: str = "127.0.0.1",
    probe: Callable[[LocalServer], object] | None = None,
    startup_timeout_s: float = 120.0,
    tls: Tls | None = None,
    metrics_host: str | None = None,
    connection_age_s: float = CONNECTION_AGE_S,
    extra_args: Sequence[str] = (),
) -> Iterator[LocalServer]:
    """Run Triton on `model_repository` for as long as the ``with`` block lasts.

    When the block ends, accepted requests are finished, unless it ends with a `ServerError`: then the server is known
    to be beyond that. Either way every process of the server, its shared memory and its temporary files are removed,
    even if this process is killed. In the main thread SIGTERM ends the block with ``SystemExit(143)``, unless the
    caller has a handler of its own; a second SIGTERM or SIGINT, while the server stops, kills it at once. A block that
    only waits should poll: with gRPC in the process, Python now and then (1 in 60, measured) handles a signal only once
    the call that it waits in has returned.

    Parameters
    ----------
    model_repository : path
        One folder a model, each with its ``config.pbtxt``.
    grpc_port, http_port, metrics_port : int
        0 picks a free port.
    host : str
        Name or IPv4 address to listen on, of this machine alone by default. Whatever it is, callers without a key may
        neither load models, change settings of log and trace, nor register shared memory; the key for that last one is
        in a file that only this user can read, where `ShrinkageClient` looks for it.
    probe : callable, optional
        Gets the server and makes a real inference; whatever it raises means "not yet". Triton calls itself
        ready while a Python model is dead, so without a probe readiness promises little. It must not block for long.
    startup_timeout_s : float
        Seconds until every model must be loaded and the probe have passed.
    tls : Tls, optional
        Encrypts gRPC. HTTP and metrics, which Triton never encrypts, then listen on loopback alone.
    metrics_host : str, optional
        Address for metrics alone.
    connection_age_s : float
        Seconds after which a gRPC connection takes no new requests, so that its client connects anew.
    extra_args : sequence of str
        More options of ``tritonserver``, placed last; all three ports must stay open.

    Raises
    ------
    ServerError
        If something that the server needs is missing, a port is taken, or it does not get ready; says what to do.

    Examples
    --------
    >>> with local_server("model_repository", grpc_port=0, http_port=0, metrics_port=0) as server:  # doctest: +SKIP
    ...     client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    """
    repository = check_repository(model_repository)
    if tls is not None:
        tls.check()
    libpython = check_installation()
    plaintext_host = host if tls is None else "127.0.0.1"
    hosts = {"grpc": host, "http": plaintext_host, "metrics": metrics_host or plaintext_host}
    wanted = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
    addresses = _reserve_ports({name: (hosts[name], port) for name, port in wanted.items()})
    with _terminate_as_exit(), tempfile.TemporaryDirectory(prefix="sigmahat-server-") as folder:
        binary = build_tree(Path(folder), libpython)
        interrupted: list[int] = []
        with on_signals(interrupted.append):  # a process that Popen has not returned yet could not be stopped
            options = [*_transport_options(addresses, tls, connection_age_s), *extra_args]
            server = _start(binary, Path(folder), repository, addresses, tls, options)
        drain = False
        with swept_if_killed(Path(folder), server.process.pid, server.shm_prefix, key_file(server.grpc_url)):
            try:
                for signum in interrupted:
                    signal.raise_signal(signum)
                _wait_until_ready(server, probe, startup_timeout_s)
                close_shared_memory(server)
                drain = True
                with published_key(server.grpc_url, server.model_control.shared_memory_key):
                    yield server
            except ServerError:
                drain = False
                raise
            finally:
                _stop(server, drain)


@contextmanager
def swept_if_killed(folder: Path, group: int = 0, shm_prefix: str = "", key: Path | None = None) -> Iterator[None]:
    """If this process is killed inside the block, kill the process group `group` and remove the files named here.

    Nothing in this process can do that: a shell waits for the end of a pipe, which comes with the end of this process.
    """
    command = [
        "sh",
        "-c",
        _SWEEP,
        "sigmahat-sweep",
        str(group),
        str(folder),
        shm_prefix and f"{_SHARED_MEMORY}/{shm_prefix}",
        str(key or ""),
    ]
    sweeper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        sweeper.kill()
        sweeper.communicate()


_SWEEP = """
cat
[ "$1" = 0 ] || kill -s KILL -- "-$1"
[ -z "$3" ] || rm -f -- "$3"*
[ -z "$4" ] || rm -f -- "$4"
rm -rf -- "$2"
"""


@contextmanager
def on_signals(action: Callable[[int], object]) -> Iterator[None]:
    """Answer SIGTERM and SIGINT with `action(signum)` inside the block; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.signal(s, lambda signum, frame: action(signum)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def describe_exit(code: int) -> str:
    """Say how a process ended.

    >>> describe_exit(1), describe_exit(-9)
    ('exit code 1', 'signal SIGKILL')
    """
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def check_repository(model_repository: str | os.PathLike[str]) -> Path:
    """Return the whole path of a folder that holds at least one model."""
    repository = Path(model_repository).resolve()
    if not repository.is_dir():
        raise ServerError(f"model repository {repository} is not a folder: name it with --model-repository")
    if not any(repository.glob("*/config.pbtxt")):
        raise ServerError(
            f"model repository {repository} holds no model: wanted one folder a model, each with a config.pbtxt; "
            "name the right one with --model-repository"
        )
    return repository


def _reserve_ports(wanted: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Return where to listen, port 0 replaced by a free one; all are held until the last is known, so they differ."""
    addresses = {}
    with ExitStack() as held:
        for name, (host, port) in wanted.items():
            try:
                listener = held.enter_context(socket.create_server((host, port)))
            except socket.gaierror as error:
                raise ServerError(f"--host {host} is no name of this machine: {error.strerror}") from error
            except OSError as error:
                remedy = (
                    f"choose another port with --{name}-port (0 picks a free one)"
                    if error.errno in (errno.EADDRINUSE, errno.EACCES)
                    else "name an IPv4 address of this machine with --host"
                )
                reason = str(error.strerror).partition(" (while")[0]  # create_server repeats the address there
                raise ServerError(f"cannot listen on {host}:{port} for {name}: {reason}; {remedy}") from error
            addresses[name] = listener.getsockname()  # in numbers: Triton does not resolve names
    return addresses


def _start(
    binary: Path,
    folder: Path,
    repository: Path,
    addresses: dict[str, tuple[str, int]],
    tls: Tls | None,
    options: Sequence[str],
) -> LocalServer:
    urls = {name: f"{host}:{port}" for name, (host, port) in addresses.items()}
    control = ModelControl(urls["http"])
    shm_prefix = f"sigmahat_{os.getpid()}_{secrets.token_hex(4)}_"
    command = [
        str(binary),
        f"--model-repository={repository}",
        f"--backend-directory={binary.parent.parent / 'backends'}",
        "--disable-auto-complete-config",
        "--metrics-config=summary_latencies=true",
        f"--exit-timeout-secs={2 * _DRAIN_S:.0f}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=explicit",
        # Not what is for a GPU alone; several that share steps load these once.
        *(f"--load-model={config.parent.name}" for config in sorted(repository.glob("*/config.pbtxt"))),
        *control.restrict(),
        *options,
    ]
    heartbeats = folder / "heartbeats"
    heartbeats.mkdir()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(**{HEARTBEATS: str(heartbeats)}),
            start_new_session=True,
        )
    except PermissionError as error:
        raise ServerError(
            f"cannot execute {binary}: {error.strerror}; if its file system is mounted noexec, "
            "set TMPDIR to a folder elsewhere"
        ) from error
    assert process.stdout is not None  # it is a pipe
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ProcessLookupError):  # every connection is a file, and the soft limit is often 1,024
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
    return LocalServer(
        grpc_url=urls["grpc"],
        http_url=urls["http"],
        metrics_url=f"http://{urls['metrics']}/metrics",
        process=process,
        log=TritonLog(process.stdout),
        heartbeats=heartbeats,
        shm_prefix=shm_prefix,
        repository=repository,
        model_control=control,
        tls=tls,
    )


def _transport_options(addresses: dict[str, tuple[str, int]], tls: Tls | None, connection_age_s: float) -> list[str]:
    """Where Triton listens, how long connections live, and with what it encrypts."""
    options = []
    for name, (host, port) in addresses.items():
        options += [f"--allow-{name}=true", f"--{name}-address={host}", f"--{name}-port={port}"]
    ages = {"max-connection-age": connection_age_s, "max-connection-age-grace": _ANSWERS_S}
    milliseconds = _ALIVE | {name: round(1000 * seconds) for name, seconds in ages.items()}
    options += [f"--grpc-{name}={value}" for name, value in milliseconds.items()]
    if tls is not None:
        options += ["--grpc-use-ssl=true", f"--grpc-server-cert={tls.certificate}", f"--grpc-server-key={tls.key}"]
        if tls.client_ca is not None:
            options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tls.client_ca}"]
    return options


def _wait_until_ready(server: LocalServer, probe: Callable[[LocalServer], object] | None, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    hidden = False
    while server.process.poll() is None:
        if not hidden and server.log.begun():  # so it has read its command line
            with suppress(OSError):  # `command_line.shows` tells
                hide(server.process.pid, server.model_control.keys)
            hidden = True
        failure = _try_once(server, probe)
        if failure is None:
            return
        if time.monotonic() > deadline:
            raise ServerError(
                f"Triton was not ready after {timeout_s:g} s ({failure}); its log ends with:\n{server.log.tail()}"
            )
        time.sleep(0.1)
    raise ServerError(
        f"Triton could not start, it ended with {describe_exit(server.process.returncode)}; "
        f"its log ends with:\n{server.log.tail()}"
    )


def _try_once(server: LocalServer, probe: Callable[[LocalServer], object] | None) -> str | None:
    """Return what still stands between the server and its first answer, None once it has answered."""
    try:
        # Triton opens its ports once all models are loaded. Before that a gRPC channel would only learn to back off.
        for address in (server.grpc_url, server.http_url, urlsplit(server.metrics_url).netloc):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError as error:
        return f"the models are not loaded yet: {address} says {error.strerror or error}"
    try:
        connection = HTTPConnection(server.http_url, timeout=2.0)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status != HTTPStatus.OK:
                return "not every model is ready"
        finally:
            connection.close()
        if probe is not None:
            probe(server)
    except Exception as error:  # whatever a probe raises means "not yet"
        return str(error) or type(error).__name__
    return None


def _stop(server: LocalServer, drain: bool) -> None:
    """End the server's whole process group and remove its shared memory; one that was never ready has no requests."""
    group = server.process.pid
    interrupted: list[int] = []

    def hurry(signum: int) -> None:
        interrupted.append(signum)
        _kill_group(group)

    with on_signals(hurry):
        if drain:
            deadline = time.monotonic() + _DRAIN_S
            _finish_ensembles(server, deadline)
            server.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(timeout=max(deadline - time.monotonic(), 0))
        _kill_group(group)  # after a crash the Python models live on, and so may Triton itself after its time limit
        server.process.wait()
        _wait_until_gone(group)
        server.log.close()
        for leftover in _SHARED_MEMORY.glob(f"{server.shm_prefix}*"):
            leftover.unlink(missing_ok=True)
    if not drain:  # nobody has asked for the end yet: this may be a restart
        for signum in interrupted:
            signal.raise_signal(signum)


def _finish_ensembles(server: LocalServer, deadline: float) -> None:
    """Let requests inside an ensemble go through all of its steps, and take no new ones.

    On SIGTERM Triton 2.51 refuses them their next step. An ensemble that is unloaded refuses new requests (NOT_FOUND,
    "has no available versions") and keeps its steps until the last of its own has been answered.
    """
    # In the order in which `Releases` loads them: Triton 2.51 loads the one that it loaded first anew when it unloads
    # another that shares steps with it, and then no longer says that the first has requests to answer.
    configs = sorted(server.repository.glob("*/config.pbtxt"))
    with suppress(ServerError):  # a server that does not answer gets its SIGTERM
        for config in configs:
            if _ENSEMBLE.search(config.read_text()):
                server.model_control.unload(config.parent.name, timeout_s=max(deadline - time.monotonic(), 1.0))
        while server.process.poll() is None and server.model_control.unloading() and time.monotonic() < deadline:
            time.sleep(0.05)


def close_shared_memory(server: LocalServer) -> None:
    """Let only this user read the server's regions, which hold panels and matrices: Triton makes them 0644."""
    for region in _SHARED_MEMORY.glob(f"{server.shm_prefix}*"):
        with suppress(FileNotFoundError):
            region.chmod(0o600)


@contextmanager
def published_key(grpc_url: str, key: str) -> Iterator[None]:
    """Keep the key of shared memory where this user's clients find it, inside the block."""
    path = key_file(grpc_url)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError:  # another user's file, a folder that cannot be written: matrices go through gRPC
        yield
        return
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(key)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _wait_until_gone(group: int, timeout_s: float = 2.0) -> None:
    """Wait for orphans to be reaped, for a while: where nothing reaps them they stay as zombies, which hold nothing."""
    deadline = time.monotonic() + timeout_s
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit inside the block: Python's default would die without any clean-up."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
