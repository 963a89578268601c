# SPDX-License-Identifier: Apache-2.0
"""The local server starts, answers, says why when it cannot, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sigmahat_deploy import installation
from sigmahat_deploy import probe as probe_module
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import LocalServer, ServerError, describe_exit, local_server

CONFIG = """
backend: "python"
max_batch_size: 0
input [ {inputs} ]
output [ {outputs} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""

MODEL = """
import json, os, sys, time
from pathlib import Path
from types import ModuleType
import numpy as np
import triton_python_backend_utils as pb_utils

def get(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        return [pb_utils.InferenceResponse(self.answer(request)) for request in requests]

    def answer(self, request):
        {answer}
"""

ADD_ONE = 'return [pb_utils.Tensor("Y", get(request, "X") + np.float32(1))]'
SLEEP_THEN_ADD_ONE = f'time.sleep(float(get(request, "X")[0])); {ADD_ONE}'
SHRINKAGE = (
    'n = len(get(request, "UNIVERSES")); assert get(request, "PANEL").dtype == np.float32; '
    'return [pb_utils.Tensor("STATUS", np.zeros(n, np.int32)), '
    'pb_utils.Tensor("INTENSITY", np.full(n, 0.5, np.float32))]'
)
SEEN = 'Path(__file__).with_name("seen.json").write_text(json.dumps({"prefix": sys.prefix, **os.environ}))'


def tensor(name: str, data_type: str, dims: str) -> str:
    return f'{{ name: "{name}" data_type: TYPE_{data_type} dims: [ {dims} ] }}'


def write_model(repository: Path, name: str, answer: str, initialize: str = "pass") -> None:
    if name == "shrinkage":
        inputs = ", ".join([tensor("PANEL", "FP32", "-1, -1"), tensor("UNIVERSES", "INT32", "-1, -1")])
        outputs = ", ".join([tensor("STATUS", "INT32", "-1"), tensor("INTENSITY", "FP32", "-1")])
    else:
        inputs, outputs = tensor("X", "FP32", "-1"), tensor("Y", "FP32", "-1")
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(inputs=inputs, outputs=outputs))
    (version / "model.py").write_text(MODEL.format(initialize=initialize, answer=answer))


def triton_of(pid: int) -> int:
    """The one child of `pid` that is Triton."""
    (triton_pid,) = (child for child in children_of(pid) if "tritonserver" in command_of(child))
    return triton_pid


def command_of(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def infer(grpc_url: str, name: str, values: list[float], timeout_s: float = 60.0) -> list[float]:
    x = triton.InferInput("X", [len(values)], "FP32")
    x.set_data_from_numpy(np.array(values, dtype=np.float32))
    with triton.InferenceServerClient(grpc_url) as client:
        return client.infer(name, [x], client_timeout=timeout_s).as_numpy("Y").tolist()


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


class Process(NamedTuple):
    pid: int
    parent: int
    group: int


def running() -> list[Process]:
    """Every process but zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.append(Process(int(stat.parent.name), int(parent), int(group)))
    return found


def group_of(pid: int) -> list[int]:
    return [process.pid for process in running() if process.group == pid]


def children_of(pid: int) -> list[int]:
    return [process.pid for process in running() if process.parent == pid]


def shared_memory(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


def assert_nothing_left(triton_pid: int, shm_prefix: str, temporary: Path) -> None:
    assert group_of(triton_pid) == []
    assert shared_memory(shm_prefix) == []
    assert list(temporary.glob("sigmahat-server-*")) == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which servers started by this test put their files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = tmp_path / "models"
    write_model(repository, "add_one", ADD_ONE)
    return repository


# --- a server that works


@pytest.fixture(scope="module")
def add_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalServer, dict[str, str]]]:
    """A running server, and the environment that its Python model saw, started from a hostile environment."""
    repository = tmp_path_factory.mktemp("add_one")
    write_model(repository, "add_one", ADD_ONE, initialize=SEEN)
    with pytest.MonkeyPatch.context() as environment:
        for name in ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"):
            environment.setenv(name, "/nonexistent")
        environment.setenv("PATH", "/usr/bin:/bin")
        environment.setenv("http_proxy", "http://127.0.0.1:9")
        started = local_server(repository, grpc_port=0, http_port=0, metrics_port=0, startup_timeout_s=30)
        server = started.__enter__()
    try:
        yield server, json.loads((repository / "add_one" / "1" / "seen.json").read_text())
    finally:
        started.__exit__(None, None, None)


@pytest.mark.parametrize(("platform", "version"), [("darwin", (3, 12)), ("linux", (3, 13)), ("win32", (3, 14))])
def test_another_system_or_python_is_told_where_the_server_runs(
    platform: str, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installation, "sys", SimpleNamespace(platform=platform, version_info=version))
    wanted = rf"on Linux with Python 3.11 or 3.12, got {platform} with 3.{version[1]}: the client and --local run here"
    with pytest.raises(ServerError, match=wanted):
        installation.check_installation()


@pytest.mark.server
def test_inference_works_through_it(add_one: tuple[LocalServer, dict[str, str]]) -> None:
    server, _ = add_one
    # Under numpy 2 every element would equal the first.
    assert infer(server.grpc_url, "add_one", [1.0, 2.0, 5.0]) == [2.0, 3.0, 6.0]


@pytest.mark.server
def test_each_request_is_let_go_once_whether_its_caller_waits_or_not(tmp_path: Path) -> None:
    """When its answer is sent, and nobody is told of a caller that goes: two threads that are told let it go twice."""
    write_model(tmp_path / "models", "slow", SLEEP_THEN_ADD_ONE)
    log = tmp_path / "log"
    options = ("--log-verbose=1", f"--log-file={log}")
    with local_server(tmp_path / "models", 0, 0, 0, extra_args=options) as server:
        for _ in range(5):
            assert infer(server.grpc_url, "slow", [0.0]) == [1.0]
            with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
                infer(server.grpc_url, "slow", [0.3], timeout_s=0.1)
    text = log.read_text()
    assert text.count("Process for ModelInferHandler, rpc_ok=1, 0 step START") == 10
    # Those that nobody has taken when the server stops are let go too.
    assert text.count("Done for ModelInferHandler") == text.count("New request handler for ModelInferHandler") > 10
    assert "Received notification for ModelInferHandler" not in text


@pytest.mark.server
def test_free_ports_are_picked_and_all_three_answer(add_one: tuple[LocalServer, dict[str, str]]) -> None:
    server, _ = add_one
    metrics = urlsplit(server.metrics_url)
    assert len({server.grpc_url, server.http_url, metrics.netloc}) == 3
    assert all(url.startswith("127.0.0.1:") for url in (server.grpc_url, server.http_url, metrics.netloc))
    assert get(server.http_url, "/v2/health/ready") == ""
    assert 'nv_inference_request_success{model="add_one"' in get(metrics.netloc, metrics.path)


def get(address: str, path: str) -> str:
    connection = HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


@pytest.mark.server
def test_models_run_in_this_python_with_a_clean_environment(add_one: tuple[LocalServer, dict[str, str]]) -> None:
    _, seen = add_one
    assert seen["prefix"] == sys.prefix
    assert not {"LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"} & set(seen)
    assert [seen[f"{library}_NUM_THREADS"] for library in ("OMP", "OPENBLAS", "MKL")] == ["1", "1", "1"]


@pytest.mark.server
def test_it_leads_its_own_session_and_names_its_shared_memory(add_one: tuple[LocalServer, dict[str, str]]) -> None:
    server, _ = add_one
    assert os.getsid(server.process.pid) == server.process.pid
    assert len(group_of(server.process.pid)) == 2  # Triton and the one Python model
    assert len(shared_memory(server.shm_prefix)) == 1


@pytest.mark.server
def test_a_probe_for_another_model_fails_with_its_name(add_one: tuple[LocalServer, dict[str, str]]) -> None:
    server, _ = add_one
    with pytest.raises(ServerError, match=r"shrinkage did not answer the probe: .*unknown model: 'shrinkage'"):
        probe_shrinkage(server.grpc_url)


@pytest.mark.server
def test_the_probe_is_retried_and_an_exception_in_the_block_leaves_nothing(repository: Path, temporary: Path) -> None:
    answers: list[list[float]] = []

    def probe(server: LocalServer) -> None:
        answers.append(infer(server.grpc_url, "add_one", [float(len(answers))]))
        if len(answers) < 3:
            raise ValueError("not yet")

    handler = signal.getsignal(signal.SIGTERM)
    port = free_port()
    with suppress(ZeroDivisionError), local_server(repository, port, 0, 0, probe=probe) as server:
        assert answers == [[1.0], [2.0], [3.0]]
        assert server.grpc_url == f"127.0.0.1:{port}"
        assert server.heartbeats.is_relative_to(temporary)
        raise ZeroDivisionError
    assert server.process.returncode == 0  # it stopped by itself, having finished its requests
    assert_nothing_left(server.process.pid, server.shm_prefix, temporary)
    assert signal.getsignal(signal.SIGTERM) is handler


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.server
def test_sigterm_runs_the_clean_up_of_any_script(repository: Path, temporary: Path) -> None:
    script = (
        "import sys, time\n"
        "from sigmahat_deploy.server import local_server\n"
        "with local_server(sys.argv[1], 0, 0, 0) as server:\n"
        "    print(server.process.pid, server.shm_prefix, flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.1)\n"
    )
    with started([sys.executable, "-c", script, str(repository)]) as (process, stdout, _):
        triton_pid, shm_prefix = stdout.readline().split()
        assert group_of(int(triton_pid))
        assert shared_memory(shm_prefix)
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert_nothing_left(int(triton_pid), shm_prefix, temporary)


# --- a server that cannot work


@pytest.mark.server
def test_a_model_that_fails_to_load_ends_at_once_with_the_log(repository: Path, temporary: Path) -> None:
    write_model(repository, "broken", ADD_ONE, initialize="raise RuntimeError('no such weights')")
    before = shared_memory(f"sigmahat_{os.getpid()}_")  # of the server that other tests share
    begin = time.monotonic()
    with (
        pytest.raises(ServerError, match=r"could not start, it ended with exit code 1") as caught,
        local_server(repository, 0, 0, 0, probe=pytest.fail, startup_timeout_s=100),
    ):
        pytest.fail("the block must not run")
    assert time.monotonic() - begin < 30
    message = str(caught.value)
    assert "failed to load 'broken' version 1: Internal: RuntimeError: no such weights" in message
    assert "strict_readiness" not in message  # the table of options, which hides the reason
    assert len(message.splitlines()) <= 31
    assert list(temporary.glob("sigmahat-server-*")) == []
    assert shared_memory(f"sigmahat_{os.getpid()}_") == before


@pytest.mark.server
def test_a_model_that_hangs_is_killed_after_the_time_limit(repository: Path, temporary: Path) -> None:
    write_model(repository, "hung", ADD_ONE, initialize="time.sleep(300)")
    begin = time.monotonic()
    before = set(children_of(os.getpid()))
    with (
        pytest.raises(ServerError, match=r"not ready after 2 s \(the models are not loaded yet") as caught,
        local_server(repository, 0, 0, 0, startup_timeout_s=2),
    ):
        pytest.fail("the block must not run")
    assert time.monotonic() - begin < 10  # not Triton's 60 s: there was nothing to finish
    assert 'loading: hung:1"' in str(caught.value)
    assert set(children_of(os.getpid())) == before
    assert list(temporary.glob("sigmahat-server-*")) == []


@pytest.mark.server
def test_a_server_that_never_passes_its_probe_says_what_the_probe_said(repository: Path) -> None:
    def probe(server: LocalServer) -> None:
        raise ValueError("the answer is 41")

    with (
        pytest.raises(ServerError, match=r"not ready after 1.5 s \(the answer is 41\)"),
        local_server(repository, 0, 0, 0, probe=probe, startup_timeout_s=1.5),
    ):
        pytest.fail("the block must not run")


def test_a_taken_port_names_the_option_that_moves_it(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        words = rf"cannot listen on 127.0.0.1:{port} for http: Address already in use; .*--http-port"
        with pytest.raises(ServerError, match=words), local_server(repository, 0, port, 0):
            pytest.fail("the block must not run")


def test_one_port_for_two_services_is_refused(repository: Path) -> None:
    port = free_port()
    with (
        pytest.raises(ServerError, match=f"{port} for metrics: Address already in use; .*--metrics-port"),
        local_server(repository, grpc_port=port, http_port=0, metrics_port=port),
    ):
        pytest.fail("the block must not run")


def test_an_address_of_another_machine_names_the_option_host(repository: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"192.0.2.1:.* Cannot assign requested address; .*--host"),
        local_server(repository, 0, 0, 0, host="192.0.2.1"),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(("name", "words"), [("absent", "is not a folder"), ("empty", "holds no model")])
def test_a_repository_without_models_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    with (
        pytest.raises(ServerError, match=f"{name} {words}.*--model-repository"),
        local_server(tmp_path / name, 0, 0, 0),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("version", ["2.0.0", "10.1"])
def test_numpy_2_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(metadata, "version", {"numpy": version, "nvidia-pytriton": "0.7.0"}.__getitem__)
    with (
        pytest.raises(ServerError, match=rf"numpy {version} would silently corrupt .*pip install 'numpy<2'"),
        local_server(repository, 0, 0, 0),
    ):
        pytest.fail("the block must not run")


def test_a_missing_triton_names_the_extra(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "nvidia-pytriton":
            raise metadata.PackageNotFoundError(name)
        return "1.26.4"

    monkeypatch.setattr(metadata, "version", version)
    with (
        pytest.raises(ServerError, match=r"nvidia-pytriton.*pip install 'sigmahat\[serve\]'"),
        local_server(repository, 0, 0, 0),
    ):
        pytest.fail("the block must not run")


def test_a_missing_libpython_names_the_package(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    monkeypatch.setattr(installation.sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with (
        pytest.raises(ServerError, match=rf"libpython{version}.so.1.0.*apt-get install libpython{version}\)"),
        local_server(repository, 0, 0, 0),
    ):
        pytest.fail("the block must not run")


def test_an_unresolved_library_is_named_before_triton_hangs_on_it(
    repository: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ldd = subprocess.CompletedProcess([], 0, "stub:\n\tlibz.so.1 => /lib/libz.so.1\n\tlibfoo.so.3 => not found\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: ldd)
    with (
        pytest.raises(ServerError, match=r"does not have, install them: libfoo.so.3 => not found "),
        local_server(repository, 0, 0, 0),
    ):
        pytest.fail("the block must not run")
    assert list(temporary.iterdir()) == []


# --- the probe's judgement


@pytest.mark.parametrize(
    ("status", "intensity", "words"),
    [
        ([0, 4], [0.5, 0.5], r"STATUS \[0, 0\], got \[0, 4\]"),
        ([0], [0.5], r"STATUS \[0, 0\], got \[0\]"),
        ([0, 0], [0.5, np.nan], r"INTENSITY in \[0, 1\], got \[0.5, nan\]"),
        ([0, 0], [0.5, np.inf], r"INTENSITY in \[0, 1\], got \[0.5, inf\]"),
        ([0, 0], [0.5, 1.5], r"INTENSITY in \[0, 1\], got \[0.5, 1.5\]"),
        ([0, 0], [-0.5, 0.5], r"INTENSITY in \[0, 1\], got \[-0.5, 0.5\]"),
        ([0, 0], [0.5], r"INTENSITY in \[0, 1\], got \[0.5\]"),
    ],
)
def test_the_probe_refuses_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch, status: list[int], intensity: list[float], words: str
) -> None:
    answer = np.array(status, np.int32), np.array(intensity, np.float32)
    monkeypatch.setattr(probe_module, "_infer", lambda *args, **options: answer)
    with pytest.raises(ServerError, match=words):
        probe_shrinkage("127.0.0.1:1")


def test_the_probe_sends_returns_and_a_padded_universe(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(
        protocol: ModuleType, client: Any, model: str, panel: np.ndarray, universes: np.ndarray, client_timeout: float
    ) -> tuple[np.ndarray, np.ndarray]:
        assert (protocol, client, model, client_timeout) == (triton, "127.0.0.1:1", "shrinkage", 3.0)
        assert panel.shape == (64, 5)
        assert panel.dtype == np.float32
        assert 0.005 < panel.std() < 0.015
        assert universes.tolist() == [[0, 1, 2, 3], [1, 2, 4, -1]]
        assert universes.dtype == np.int32
        return np.zeros(2, np.int32), np.array([0.0, 1.0], np.float32)

    monkeypatch.setattr(probe_module, "_infer", infer)
    monkeypatch.setattr(triton, "InferenceServerClient", lambda url, channel_args: url)
    probe_shrinkage("127.0.0.1:1", timeout_s=3.0)


def test_exits_are_described_in_words() -> None:
    assert [describe_exit(code) for code in (0, 3, -9)] == ["exit code 0", "exit code 3", "signal SIGKILL"]


# --- sigmahat serve


class Started(NamedTuple):
    process: subprocess.Popen[str]
    stdout: IO[str]
    stderr: IO[str]


@contextmanager
def started(command: list[str]) -> Iterator[Started]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        try:
            yield Started(process, process.stdout, process.stderr)
        finally:
            # All of them are gone, unless the test has failed: then it must neither wait nor leave a server behind.
            children = children_of(process.pid)
            process.kill()
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)


@contextmanager
def serving(repository: Path, ready_file: Path, *options: str) -> Iterator[Started]:
    ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
    command = [Path(sys.executable).with_name("sigmahat"), "serve", "--model-repository", repository, *ports]
    with started([str(part) for part in (*command, "--ready-file", ready_file, *options)]) as running_serve:
        yield running_serve


@pytest.fixture
def shrinkage(repository: Path) -> Path:
    """A repository with a model `shrinkage` that satisfies the probe, and one that takes its time."""
    write_model(repository, "shrinkage", SHRINKAGE)
    write_model(repository, "slow", SLEEP_THEN_ADD_ONE)
    return repository


@pytest.mark.server
def test_serve_is_ready_after_an_inference_and_finishes_accepted_requests(
    shrinkage: Path, tmp_path: Path, temporary: Path
) -> None:
    ready_file = tmp_path / "ready.json"
    options = ["--connection-age-s=77.5"]
    with ThreadPoolExecutor() as pool, serving(shrinkage, ready_file, *options) as (process, stdout, stderr):
        line = stdout.readline()
        ready = json.loads(ready_file.read_text())
        assert ready["pid"] == process.pid
        assert all(ready[f"{name}_url"] in line for name in ("grpc", "http", "metrics"))
        triton_pid = triton_of(process.pid)
        assert "--grpc-max-connection-age=77500" in command_of(triton_pid)

        answer = pool.submit(infer, ready["grpc_url"], "slow", [2.5])
        time.sleep(0.5)
        process.terminate()
        wait_for(lambda: not ready_file.exists())
        assert not answer.done()  # the file goes first, so that no one comes late
        assert answer.result(timeout=30) == [3.5]
        assert process.wait(timeout=30) == 0
        happened = [event["event"] for event in events(stderr)]
        assert [event for event in happened if event != "kernels"] == ["starting", "ready", "draining", "stopped"]
    assert_nothing_left(triton_pid, f"sigmahat_{ready['pid']}_", temporary)
    assert list(tmp_path.glob("*ready*")) == []


@pytest.mark.server
def test_a_second_signal_does_not_wait_for_requests(shrinkage: Path, tmp_path: Path, temporary: Path) -> None:
    ready_file = tmp_path / "ready.json"
    with ThreadPoolExecutor() as pool, serving(shrinkage, ready_file) as (process, _, _):
        ready = json.loads(wait_for(lambda: ready_file.exists() and ready_file.read_text()))
        triton_pid = triton_of(process.pid)
        answer = pool.submit(infer, ready["grpc_url"], "slow", [50.0])
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        wait_for(lambda: not ready_file.exists())
        time.sleep(0.5)
        assert process.poll() is None  # it waits for the request
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
        with pytest.raises(triton.InferenceServerException):
            answer.result(timeout=10)
    assert_nothing_left(triton_pid, f"sigmahat_{ready['pid']}_", temporary)


def events(stderr: IO[str]) -> list[dict[str, Any]]:
    """The records of a `sigmahat serve` that has ended."""
    return [json.loads(line) for line in stderr.read().splitlines() if line.startswith("{")]


@pytest.mark.server
def test_serve_starts_again_what_has_died_and_gives_up_on_what_keeps_dying(
    shrinkage: Path, tmp_path: Path, temporary: Path
) -> None:
    ready_file = tmp_path / "ready.json"
    with serving(shrinkage, ready_file, "--max-restarts=2") as (process, _, stderr):
        first = json.loads(wait_for(lambda: ready_file.exists() and ready_file.read_text()))
        assert infer(first["grpc_url"], "slow", [0.0]) == [1.0]
        prefixes = []
        for victim in ("model slow", "Triton", "Triton"):
            wait_for(lambda: ready_file.exists() and ready_file.read_text())
            triton_pid = triton_of(process.pid)
            prefixes += shared_memory(f"sigmahat_{process.pid}_")
            slow = next(pid for pid in group_of(triton_pid) if "/slow/" in command_of(pid))
            os.kill(triton_pid if victim == "Triton" else slow, signal.SIGKILL)
            wait_for(lambda pid=triton_pid: not group_of(pid))
            wait_for(lambda: process.poll() is not None or not ready_file.exists())  # the supervisor has noticed
            wait_for(lambda: process.poll() is not None or ready_file.exists())
            if process.poll() is None:
                assert json.loads(ready_file.read_text()) == first  # the same ports
                assert infer(first["grpc_url"], "slow", [0.0]) == [1.0]
        assert process.wait(timeout=30) == 3
        said = events(stderr)
    died = [event["reason"] for event in said if event["event"] == "died"]
    assert died[0] == "the process of model slow ended by itself"
    assert [reason.partition(";")[0] for reason in died[1:]] == ["Triton ended by itself with signal SIGKILL"] * 2
    assert [event["restarts"] for event in said if event["event"] == "ready"] == [0, 1, 2]
    assert said[-1]["event"] == "gave_up"
    assert said[-1]["reason"].startswith("Triton died 3 times in 300 s")
    assert all(event["time"] and event["level"] in ("info", "warning", "error") for event in said)
    assert not ready_file.exists()
    assert_nothing_left(triton_pid, f"sigmahat_{process.pid}_", temporary)
    assert list(temporary.iterdir()) == []


@pytest.mark.server
def test_serve_starts_again_a_server_that_lives_but_answers_wrongly(shrinkage: Path, tmp_path: Path) -> None:
    ready_file, wrong = tmp_path / "ready.json", tmp_path / "wrong"
    shutil.rmtree(shrinkage / "shrinkage")
    write_model(shrinkage, "shrinkage", SHRINKAGE.replace("0.5", f"np.nan if Path({str(wrong)!r}).exists() else 0.5"))
    with serving(shrinkage, ready_file) as (process, _, stderr):
        wait_for(ready_file.exists)
        triton_pid = triton_of(process.pid)
        wrong.touch()
        wait_for(lambda: not group_of(triton_pid))
        wrong.unlink()
        wait_for(ready_file.exists)
        process.terminate()
        assert process.wait(timeout=30) == 0
        said = events(stderr)
    (died,) = (event["reason"] for event in said if event["event"] == "died")
    assert died.startswith("the server lives but does not answer as it should: shrinkage should answer the probe with")
    assert [event["event"] for event in said[-2:]] == ["draining", "stopped"]


@pytest.mark.server
def test_a_killed_serve_leaves_nothing(shrinkage: Path, tmp_path: Path, temporary: Path) -> None:
    ready_file = tmp_path / "ready.json"
    with serving(shrinkage, ready_file) as (process, _, _):
        wait_for(ready_file.exists)
        triton_pid = triton_of(process.pid)
        assert shared_memory(f"sigmahat_{process.pid}_")
        process.kill()
        wait_for(lambda: not group_of(triton_pid) and not list(temporary.iterdir()))
        assert_nothing_left(triton_pid, f"sigmahat_{process.pid}_", temporary)


@pytest.mark.server
def test_a_signal_while_a_dead_server_is_buried_is_not_lost(shrinkage: Path, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    with serving(shrinkage, ready_file) as (process, _, _):
        wait_for(ready_file.exists)
        os.kill(triton_of(process.pid), signal.SIGKILL)
        wait_for(lambda: not ready_file.exists())
        process.terminate()
        assert process.wait(timeout=20) == 0


@pytest.mark.server
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_while_models_load(repository: Path, tmp_path: Path, temporary: Path, signum: int) -> None:
    write_model(repository, "hung", ADD_ONE, initialize="time.sleep(300)")
    ready_file = tmp_path / "ready.json"
    ready_file.write_text("stale")
    with serving(repository, ready_file) as (process, _, _):
        wait_for(lambda: len(shared_memory(f"sigmahat_{process.pid}_")) == 2)  # one for each Python model
        triton_pid = triton_of(process.pid)
        assert not ready_file.exists()
        process.send_signal(signum)
        assert process.wait(timeout=10) == 0
    assert not ready_file.exists()
    assert_nothing_left(triton_pid, f"sigmahat_{process.pid}_", temporary)


@pytest.mark.server
def test_serve_is_never_ready_without_a_right_answer(repository: Path, tmp_path: Path) -> None:
    write_model(repository, "shrinkage", SHRINKAGE.replace("0.5", "np.nan"))
    ready_file = tmp_path / "ready.json"
    with serving(repository, ready_file, "--startup-timeout-s=2") as (process, stdout, stderr):
        while process.poll() is None:
            assert not ready_file.exists()
            time.sleep(0.02)
        assert process.returncode == 1
        assert "INTENSITY in [0, 1], got [nan, nan]" in stderr.read()
        assert stdout.read() == ""


def test_serve_wants_the_folder_of_the_ready_file(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "absent" / "ready.json") as (process, _, stderr):
        assert process.wait(timeout=30) == 2
        assert "create it first" in stderr.read()
