# SPDX-License-Identifier: Apache-2.0
"""`sigmahat probe` tells a well server from a busy one, and a busy one from one that is stuck."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sigmahat_deploy import probe_command

FULL = (503, '{"error":"Exceeds maximum queue size"}')
GOOD = (200, {"STATUS": [0, 0], "INTENSITY": [0.4, 0.5]})


class FakeTriton:
    """Answers what a test wants next, over HTTP; both ports are one."""

    def __init__(self) -> None:
        self.answer: tuple[int, object] = GOOD
        self.delay_s = 0.0
        self.done = 0  # what its counters say
        self.refused = 0
        self.request: dict = {}


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[FakeTriton, list[str]]]:
    fake = FakeTriton()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(
                200,
                f'nv_inference_exec_count{{model="features-r1",version="1"}} {fake.done}\n'
                f'nv_inference_request_failure{{model="features-r1",reason="REJECTED"}} {fake.refused}\n',
            )

        def do_POST(self) -> None:
            fake.request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.refused += 1
            time.sleep(fake.delay_s)
            status, answer = fake.answer
            if isinstance(answer, dict):
                answer = json.dumps({"outputs": [{"name": name, "data": data} for name, data in answer.items()]})
            self._send(status, str(answer))

        def _send(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setattr(probe_command, "_TIMEOUT_S", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        yield fake, ["--http", address, "--metrics", address, "--state", str(tmp_path / "progress.json")]
        server.shutdown()
        thread.join()


def probe(*options: str) -> Result:
    return CliRunner().invoke(probe_command.probe, options)


def test_a_right_answer_passes(triton: tuple[FakeTriton, list[str]]) -> None:
    fake, options = triton
    assert probe(*options).exit_code == 0
    assert [tensor["name"] for tensor in fake.request["inputs"]] == ["PANEL", "UNIVERSES"]
    assert fake.request["parameters"]["timeout"] == 5_000_000  # microseconds


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {"STATUS": [0, 9], "INTENSITY": [0.4, 0.5]}), "wanted STATUS [0, 0], got [0, 9]"),
        ((200, {"STATUS": [0, 0], "INTENSITY": [0.4, 1.5]}), "wanted 2 INTENSITY in [0, 1], got [0.4, 1.5]"),
        ((200, {"STATUS": [0, 0], "INTENSITY": [0.4]}), "wanted 2 INTENSITY in [0, 1], got [0.4]"),
        ((500, '{"error":"Stub process is not healthy"}'), "answered 500"),
        (FULL, "Exceeds maximum queue size"),
    ],
)
def test_everything_else_fails_and_says_why(
    triton: tuple[FakeTriton, list[str]], answer: tuple[int, object], words: str
) -> None:
    fake, options = triton
    fake.answer = answer
    result = probe(*options)
    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1


def test_a_server_that_is_down_fails_even_where_a_late_one_passes(tmp_path: Path) -> None:
    result = probe("--http", "127.0.0.1:1", "--or-progress-within-s", "60", "--state", str(tmp_path / "progress.json"))
    assert result.exit_code == 1
    assert "127.0.0.1:1 cannot be asked: [Errno 111]" in result.output


@pytest.mark.parametrize("busy", ["full", "late"])
def test_a_busy_server_passes_while_it_finishes_work(triton: tuple[FakeTriton, list[str]], busy: str) -> None:
    fake, options = triton
    if busy == "full":
        fake.answer = FULL
    else:
        fake.delay_s = 0.5
    patient = [*options, "--or-progress-within-s", "0.1"]
    for _ in range(3):
        fake.done += 1
        assert probe(*patient).exit_code == 0
        time.sleep(0.15)
    stuck = probe(*patient)  # its own refused probes are no progress
    assert stuck.exit_code == 1
    assert "got on with nothing for 0 s" in stuck.output
    fake.done += 1
    assert probe(*patient).exit_code == 0


def test_a_heartbeat_is_progress(triton: tuple[FakeTriton, list[str]], tmp_path: Path) -> None:
    fake, options = triton
    fake.answer = FULL
    folder = tmp_path / "heartbeats"
    folder.mkdir()
    patient = [*options, "--or-progress-within-s", "0.1", "--heartbeats", str(folder)]
    for beats in range(3):
        (folder / "features.7").write_bytes(beats.to_bytes(16, "little"))
        assert probe(*patient).exit_code == 0
        time.sleep(0.15)
    assert probe(*patient).exit_code == 1


def test_patience_begins_anew_after_an_answer(triton: tuple[FakeTriton, list[str]]) -> None:
    fake, options = triton
    patient = [*options, "--or-progress-within-s", "0.1"]
    fake.answer = FULL
    assert probe(*patient).exit_code == 0
    time.sleep(0.15)
    fake.answer = GOOD
    assert probe(*patient).exit_code == 0
    fake.answer = FULL
    assert probe(*patient).exit_code == 0


def test_a_file_that_is_no_state_is_replaced(triton: tuple[FakeTriton, list[str]]) -> None:
    fake, options = triton
    fake.answer = FULL
    Path(options[-1]).write_text("{")
    assert probe(*options, "--or-progress-within-s", "60").exit_code == 0
    assert json.loads(Path(options[-1]).read_text())["since"] <= time.monotonic()
