# SPDX-License-Identifier: Apache-2.0
"""The supervisor goes on watching while a release is swapped, and tells a stuck step from a busy one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from deploy.test_server import (
    ADD_ONE,
    SHRINKAGE,
    SLEEP_THEN_ADD_ONE,
    command_of,
    get,
    group_of,
    infer,
    serving,
    shared_memory,
    triton_of,
    wait_for,
    write_model,
)

from sigmahat_deploy.exporter import Metrics
from sigmahat_deploy.progress import Progress, State

ENDLESS = """
from sigmahat_kernels.triton import PythonModel

class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        x, = tensors["X"]
        while x < 0:
            pass
        for _ in range(int(x)):
            time.sleep(1.0)
            self.progress()
        return {"Y": tensors["X"] + 1}
"""


class Running:
    """A `sigmahat serve` under test."""

    def __init__(self, process: Any, stderr: Any, repository: Path, ready_file: Path) -> None:
        self.process, self.stderr, self.repository, self.ready_file = process, stderr, repository, ready_file
        self.url: str = json.loads(ready_file.read_text())["grpc_url"]
        self.triton = triton_of(process.pid)
        self.seen: list[dict[str, Any]] = []
        self._pool = ThreadPoolExecutor()
        self._pool.submit(self._read)

    def _read(self) -> None:
        for line in self.stderr:
            if line.startswith("{"):
                self.seen.append(json.loads(line))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [record for record in list(self.seen) if record["event"] == event]

    def model(self, name: str) -> int:
        (pid,) = (pid for pid in group_of(self.triton) if f"/{name}/" in command_of(pid))
        return pid

    def ends(self, within_s: float = 60.0) -> None:
        begin = time.monotonic()
        self.process.terminate()
        assert self.process.wait(timeout=within_s) == 0
        assert time.monotonic() - begin < within_s
        self._pool.shutdown()


def scraped(serve: Running) -> list[str]:
    where = urlsplit(json.loads(serve.ready_file.read_text())["metrics_url"])
    return get(where.netloc, where.path).splitlines()


@pytest.fixture
def running(tmp_path: Path) -> Callable[..., Any]:
    repository, ready_file = tmp_path / "models", tmp_path / "ready.json"
    write_model(repository, "shrinkage", SHRINKAGE)
    write_model(repository, "slow", SLEEP_THEN_ADD_ONE)

    @contextmanager
    def run(*options: str) -> Iterator[Running]:
        with serving(repository, ready_file, *options) as (process, _, stderr):
            wait_for(ready_file.exists)
            yield Running(process, stderr, repository, ready_file)

    run.repository = repository  # type: ignore[attr-defined]  # what is served, to be changed beforehand
    return run


# --- swaps


@pytest.mark.server
def test_a_swap_that_fails_leaves_the_old_release(running: Any) -> None:
    with running() as serve:
        (serve.repository / "manifest.json").write_text("{not json")
        (serve.repository / "slow" / "1" / "model.onnx").write_bytes(b"numbers")
        serve.process.send_signal(signal.SIGHUP)
        (failed,) = wait_for(lambda: serve.said("swap_failed"))
        assert "manifest.json must be JSON, file to SHA-256, but is none" in failed["reason"]
        assert failed["release"] == 1
        assert 'sigmahat_swaps_total{result="failed"} 1' in scraped(serve)
        (serve.repository / "slow" / "1" / "model.onnx").unlink()
        shutil.copytree(serve.repository / "slow", serve.repository / "unreadable")
        (serve.repository / "unreadable" / "config.pbtxt").write_bytes(b"\xff\xfe")
        serve.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(serve.said("swap_failed")) == 2)
        assert infer(serve.url, "slow", [0.0]) == [1.0]
        shutil.rmtree(serve.repository / "unreadable")
        serve.process.send_signal(signal.SIGHUP)
        (swapped,) = wait_for(lambda: serve.said("swapped"))
        assert swapped["release"] == 2
        said = scraped(serve)
        for line in ("sigmahat_ready 1", "sigmahat_release 2", 'sigmahat_swaps_total{result="ok"} 1'):
            assert line in said
        assert any(line.startswith('nv_inference_exec_count{model="slow"') for line in said)
        assert infer(serve.url, "slow", [0.0]) == [1.0]
        modes = {path.stat().st_mode & 0o777 for path in shared_memory(f"sigmahat_{serve.process.pid}_")}
        wait_for(lambda: modes == {0o600})
        serve.ends()
    assert serve.said("died") == []


@pytest.mark.server
def test_a_release_that_answers_wrongly_is_taken_back(running: Any) -> None:
    with running() as serve:
        shutil.rmtree(serve.repository / "shrinkage")
        write_model(serve.repository, "shrinkage", SHRINKAGE.replace("0.5", "np.nan"))
        serve.process.send_signal(signal.SIGHUP)
        (failed,) = wait_for(lambda: serve.said("swap_failed"))
        assert "INTENSITY in [0, 1], got [nan, nan]" in failed["reason"]
        time.sleep(6.0)  # a probe of the old release
        assert serve.said("died") == []
        serve.ends()


@pytest.mark.server
def test_a_swap_that_hangs_is_cut_short_and_the_old_release_watched_meanwhile(running: Any) -> None:
    with running("--startup-timeout-s=20") as serve:
        program = serve.repository / "slow" / "1" / "model.py"
        good = program.read_text()
        program.write_text(good.replace("        pass", "        time.sleep(300)", 1))
        serve.process.send_signal(signal.SIGHUP)
        wait_for(lambda: serve.said("swapping"))
        assert infer(serve.url, "slow", [0.0]) == [1.0]
        (failed,) = wait_for(lambda: serve.said("swap_failed"), 60)
        assert "it was not loaded within 20 s: Triton refused to load slow" in failed["reason"]
        assert infer(serve.url, "slow", [0.0]) == [1.0]
        assert serve.said("died") == []

        serve.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(serve.said("swapping")) == 2)
        time.sleep(2.0)
        os.kill(serve.model("shrinkage"), signal.SIGKILL)
        wait_for(lambda: serve.said("died"))
        assert "shrinkage" in serve.said("died")[0]["reason"]
        wait_for(lambda: len(serve.said("ready")) == 2)
        assert infer(serve.url, "slow", [0.0]) == [1.0]  # the old one, not the one that hangs

        serve.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(serve.said("swapping")) == 3)
        time.sleep(2.0)
        serve.ends(within_s=60)
    assert shared_memory(f"sigmahat_{serve.process.pid}_") == []


# --- progress


@pytest.mark.server
@pytest.mark.timeout(200)
def test_a_stuck_step_is_restarted_and_a_busy_one_is_not(running: Any) -> None:
    write_model(running.repository, "endless", ADD_ONE)
    (running.repository / "endless" / "1" / "model.py").write_text(f"import time\n{ENDLESS}")
    with running() as serve, ThreadPoolExecutor() as pool:
        busy = pool.submit(infer, serve.url, "endless", [25.0])  # longer than a step may be silent
        assert busy.result() == [26.0]
        assert serve.said("died") == []

        stuck = pool.submit(infer, serve.url, "endless", [-1.0])
        begin = time.monotonic()
        (said,) = wait_for(lambda: serve.said("stuck"), 40)
        assert time.monotonic() - begin < 30
        assert said["reason"] == "endless has work and has not got on for 20 s"
        assert stuck.exception(timeout=30) is not None
        wait_for(lambda: len(serve.said("ready")) == 2)

        serve.triton = triton_of(serve.process.pid)
        os.kill(serve.model("shrinkage"), signal.SIGSTOP)  # Triton notices: it answers for it with an error
        wait_for(lambda: len(serve.said("died")) == 2)
        wait_for(lambda: len(serve.said("ready")) == 3)

        os.kill(triton_of(serve.process.pid), signal.SIGSTOP)
        begin = time.monotonic()
        wait_for(lambda: len(serve.said("stuck")) == 2, 40)
        assert time.monotonic() - begin < 30
        assert serve.said("busy")
        wait_for(lambda: len(serve.said("ready")) == 4)
        serve.ends()


def test_a_step_is_stuck_when_it_has_work_and_does_not_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(stuck_after_s=20.0)
    steps = {"features": State((0.0, 1), True), "combine": State((0.0,), False), "old": State((0.0,), True)}
    for second in range(21):
        now = float(second)
        assert progress.look(steps, ["features", "combine"], unanswered_s=0.0) == ""
    assert progress.busy(["features", "combine"]) == ["features"]
    now = 21
    beaten = {**steps, "features": State((0.0, 2), True)}
    assert progress.look(beaten, ["features", "combine"], 60.0) == ""  # it got on, however long the probe waits
    for second in range(22, 42):
        now = float(second)
        assert progress.look(beaten, ["features", "combine"], 60.0) == ""
    now = 42
    assert progress.look(beaten, ["features", "combine"], 60.0) == "features has work and has not got on for 20 s"
    idle = {"features": State((0.0, 2), False)}
    assert "no step has got on" in progress.look(idle, ["features"], 60.0)
    assert progress.look(idle, ["features"], 3.0) == ""
    assert "no step has got on" in progress.look({}, ["features"], 60.0)  # Triton tells nothing


def test_steps_of_every_release_have_one_name() -> None:
    of_a_step, of_an_ensemble = b'{model="features-r2",version="1"} 7\n', b'{model="shrinkage",version="2"} 5\n'
    text = b"nv_inference_count" + of_a_step + b"nv_inference_count" + of_an_ensemble

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

    metrics = Metrics(lambda event, level="info", **fields: None)
    with HTTPServer(("127.0.0.1", 0), Handler) as triton:
        threading.Thread(target=triton.handle_request, daemon=True).start()
        with metrics.of_triton(f"http://127.0.0.1:{triton.server_port}/metrics"):
            said = metrics.text().splitlines()
    assert 'nv_inference_count{model="features",release="2"} 7' in said
    assert 'nv_inference_count{model="shrinkage",release="2"} 5' in said
    assert "sigmahat_ready 1" in said
    metrics.log("died")
    metrics.log("restarting")
    said = metrics.text().splitlines()
    assert {"sigmahat_ready 0", "sigmahat_deaths_total 1", "sigmahat_restarts_total 1"} <= set(said)


# --- certificates


@pytest.mark.server
def test_renewed_certificates_are_taken_at_sighup_and_bad_ones_are_not(running: Any, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="needs sigmahat[dev]")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def issue() -> None:
        issued = trustme.CA().issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)

    def shown() -> str:
        host, _, port = serve.url.rpartition(":")
        return ssl.get_server_certificate((host, int(port)))

    issue()
    with running(f"--tls-certificate={certificate}", f"--tls-key={key}") as serve:
        first = certificate.read_text()
        assert shown() == first
        certificate.write_text("-----BEGIN")
        serve.process.send_signal(signal.SIGHUP)
        (refused,) = wait_for(lambda: serve.said("certificates_refused"))
        assert "certificate.pem must hold certificates in PEM format" in refused["reason"]
        wait_for(lambda: serve.said("swapped"))
        assert shown() == first
        issue()
        serve.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(serve.said("ready")) == 2)
        assert shown() == certificate.read_text() != first
        wait_for(lambda: len(serve.said("swapped")) == 2)
        assert serve.said("died") == []
        serve.ends()
