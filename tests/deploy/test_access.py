# SPDX-License-Identifier: Apache-2.0
"""Who may reach the server, and what of it: certificates, loopback, the owner's controls."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as triton
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from sigmahat_client.shared_memory import key_file, key_headers
from sigmahat_client.transport import Connection
from sigmahat_deploy import installation
from sigmahat_deploy import server as server_module
from sigmahat_deploy.certificates import Tls
from sigmahat_deploy.installation import MAX_MESSAGE_BYTES, ServerError
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.serve_command import serve
from sigmahat_deploy.server import LocalServer, local_server

trustme = pytest.importorskip("trustme", reason="needs sigmahat[dev]")

CONFIG = """
backend: "python"
max_batch_size: 0
input [
  { name: "PANEL" data_type: TYPE_FP32 dims: [ -1, -1 ] },
  { name: "UNIVERSES" data_type: TYPE_INT32 dims: [ -1, -1 ] }
]
output [
  { name: "STATUS" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "INTENSITY" data_type: TYPE_FP32 dims: [ -1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(len(pb_utils.get_input_tensor_by_name(r, "UNIVERSES").as_numpy())) for r in requests]

    def answer(self, n):
        outputs = {"STATUS": np.zeros(n, np.int32), "INTENSITY": np.full(n, 0.5, np.float32)}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model `shrinkage` that satisfies the probe."""
    repository = tmp_path_factory.mktemp("models")
    (repository / "shrinkage" / "1").mkdir(parents=True)
    (repository / "shrinkage" / "config.pbtxt").write_text(CONFIG)
    (repository / "shrinkage" / "1" / "model.py").write_text(MODEL)
    return repository


class Papers(NamedTuple):
    """Certificates as files."""

    ca: Path
    certificate: Path
    key: Path


def papers(folder: Path, name: str) -> Papers:
    """A certificate for 127.0.0.1, of an authority of its own."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = Papers(*(folder / f"{name}-{part}.pem" for part in Papers._fields))
    authority.cert_pem.write_to_path(str(files.ca))
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.fixture(scope="module")
def secured(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalServer, Papers, Papers]]:
    """A server that wants certificates of `callers`, and shows one of its own."""
    folder = tmp_path_factory.mktemp("papers")
    own, callers = papers(folder, "server"), papers(folder, "client")
    tls = Tls(own.certificate, own.key, client_ca=callers.ca)
    with local_server(repository, 0, 0, 0, probe=probe_shrinkage, tls=tls) as server:
        yield server, own, callers


def ask(url: str, **tls: Any) -> list[float]:
    inputs = [triton.InferInput("PANEL", [30, 2], "FP32"), triton.InferInput("UNIVERSES", [1, 2], "INT32")]
    inputs[0].set_data_from_numpy(np.zeros((30, 2), np.float32))
    inputs[1].set_data_from_numpy(np.zeros((1, 2), np.int32))
    with triton.InferenceServerClient(
        url, **{name: str(v) if name != "ssl" else v for name, v in tls.items()}
    ) as client:
        return client.infer("shrinkage", inputs, client_timeout=5).as_numpy("INTENSITY").tolist()


@pytest.mark.server
def test_a_caller_with_a_certificate_of_the_right_authority_is_served(
    secured: tuple[LocalServer, Papers, Papers],
) -> None:
    server, own, callers = secured
    tls = {"root_certificates": own.ca, "certificate_chain": callers.certificate, "private_key": callers.key}
    assert ask(server.grpc_url, ssl=True, **tls) == [0.5]


@pytest.mark.server
@pytest.mark.parametrize(
    "kind", ["plaintext", "no certificate", "another authority's", "a server of another authority"]
)
def test_everyone_else_is_refused(secured: tuple[LocalServer, Papers, Papers], kind: str, tmp_path: Path) -> None:
    server, own, callers = secured
    stranger = papers(tmp_path, "stranger")
    tls: dict[str, Any] = {
        "plaintext": {},
        "no certificate": {"ssl": True, "root_certificates": own.ca},
        "another authority's": {
            **{"ssl": True, "root_certificates": own.ca},
            **{"certificate_chain": stranger.certificate, "private_key": stranger.key},
        },
        "a server of another authority": {
            **{"ssl": True, "root_certificates": stranger.ca},
            **{"certificate_chain": callers.certificate, "private_key": callers.key},
        },
    }[kind]
    with pytest.raises(InferenceServerException) as raised:
        ask(server.grpc_url, **tls)
    assert raised.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


CONTROLS: dict[str, Callable[[Any], object]] = {
    "load": lambda client: client.load_model("shrinkage"),
    "unload": lambda client: client.unload_model("shrinkage"),
    "index": lambda client: client.get_model_repository_index(),
}
REACHES_OUT: dict[str, Callable[[Any], object]] = {
    "shared memory": lambda client: client.register_system_shared_memory("x", "/x", 8),
    "tracing": lambda client: client.update_trace_settings(settings={"trace_level": "TIMESTAMPS"}),
    "logging": lambda client: client.update_log_settings({"log_file": "/tmp/x"}),
}


def refused(url: str, action: Callable[[Any], object]) -> bool:
    with triton.InferenceServerClient(url) as client:
        try:
            action(client)
        except InferenceServerException as error:
            return "protocol is restricted" in str(error)
    return False


@pytest.mark.server
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0"])
def test_the_owner_alone_controls_the_server(repository: Path, host: str) -> None:
    with local_server(repository, 0, 0, 0, host=host, probe=probe_shrinkage) as server:
        url = server.grpc_url.replace("0.0.0.0", "127.0.0.1")
        for name, action in {**CONTROLS, **REACHES_OUT}.items():
            assert refused(url, action), name
        for path in ("repository/index", "repository/models/shrinkage/unload", "logging", "trace/setting"):
            connection = HTTPConnection(server.http_url, timeout=10)
            connection.request("POST", f"/v2/{path}", body="{}")
            assert connection.getresponse().status == 403, path
            connection.close()
        assert ask(url) == [0.5]
        for key in server.model_control.keys:
            assert key not in repr(server)
            assert key.encode() not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert f"--grpc-port={url.rpartition(':')[2]}" in Path(f"/proc/{server.process.pid}/cmdline").read_text()


@pytest.mark.server
def test_this_users_clients_find_the_key_of_shared_memory_and_nothing_is_open_to_others(repository: Path) -> None:
    with local_server(repository, 0, 0, 0, probe=probe_shrinkage) as server:
        key = key_file(server.grpc_url)
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        regions = list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))
        assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}
        connection = Connection(server.grpc_url)
        region = connection.pool.take(1 << 20)
        assert region is not None
        connection.pool.give(region)
        connection.close()
        with triton.InferenceServerClient(server.grpc_url) as client:
            assert client.get_system_shared_memory_status(headers=key_headers(server.grpc_url)).regions == {}
        assert not refused(server.grpc_url, lambda client: client.is_server_live())
    assert not key.exists()
    stranger = Connection(server.grpc_url)
    assert stranger.pool.take(1 << 20) is None  # without the file, matrices go through gRPC
    stranger.close()


@pytest.mark.server
def test_a_message_above_the_limits_is_refused_before_it_is_received(repository: Path) -> None:
    with local_server(repository, 0, 0, 0, probe=probe_shrinkage) as server:
        panel = triton.InferInput("PANEL", [1, MAX_MESSAGE_BYTES // 4 + 1], "FP32")
        panel.set_data_from_numpy(np.zeros((1, MAX_MESSAGE_BYTES // 4 + 1), np.float32))
        with (
            triton.InferenceServerClient(server.grpc_url) as client,
            pytest.raises(InferenceServerException, match=f"larger than max .*{MAX_MESSAGE_BYTES}") as raised,
        ):
            client.infer("shrinkage", [panel])
        assert raised.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") < MAX_MESSAGE_BYTES
        assert ask(server.grpc_url) == [0.5]


@pytest.mark.server
def test_a_body_above_the_limits_ends_its_connection(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 1_000_000
    monkeypatch.setattr(installation, "MAX_MESSAGE_BYTES", most)
    with local_server(repository, 0, 0, 0, probe=probe_shrinkage) as server:
        connection = HTTPConnection(server.http_url, timeout=10)

        def post(body: Any) -> bytes:
            connection.request("POST", "/v2/models/shrinkage/infer", body)
            return connection.getresponse().read()

        for _ in range(4):  # on one connection: the limit is each body's
            assert b"failed to parse" in post(b" " * (most // 2))
        connection.close()
        for body in (b" " * (most + 1), iter([b" " * (most // 2)] * 3)):  # the second comes in chunks
            with pytest.raises(ConnectionError):
                post(body)
            connection.close()
        assert ask(server.grpc_url) == [0.5]


@pytest.mark.server
def test_an_idle_connection_is_closed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_ANSWERS_S", 0.5)
    with local_server(repository, 0, 0, 0, probe=probe_shrinkage, connection_age_s=0.5) as server:
        host, _, port = server.grpc_url.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as idle:
            idle.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # the preface, SETTINGS
            with suppress(ConnectionResetError):
                while idle.recv(1 << 16):
                    pass


# --- certificates


def dated(folder: Path, begin: timedelta, end: timedelta) -> Papers:
    """A certificate that is valid between two times from now."""
    now = datetime.now(UTC)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", not_before=now + begin, not_after=now + end)
    files = Papers(*(folder / f"dated-{part}.pem" for part in Papers._fields))
    authority.cert_pem.write_to_path(str(files.ca))
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (-timedelta(days=9), -timedelta(days=1), r"dated-certificate\.pem expired at 20.* UTC: renew it"),
        (timedelta(days=1), timedelta(days=9), r"dated-certificate\.pem is not valid before 20"),
    ],
)
def test_a_certificate_that_is_not_valid_today_is_refused(
    tmp_path: Path, begin: timedelta, end: timedelta, words: str
) -> None:
    files = dated(tmp_path, begin, end)
    with pytest.raises(ServerError, match=words):
        Tls(files.certificate, files.key).check()


def test_one_that_expires_within_30_days_is_warned_of(tmp_path: Path) -> None:
    files = dated(tmp_path, -timedelta(days=1), timedelta(days=29))
    (warning,) = Tls(files.certificate, files.key).check()
    assert re.search(r"dated-certificate\.pem expires at 20", warning)
    files = dated(tmp_path, -timedelta(days=1), timedelta(days=31))
    assert Tls(files.certificate, files.key).check() == []


def test_what_is_no_certificate_or_anothers_key_is_named(tmp_path: Path) -> None:
    own, other = papers(tmp_path, "own"), papers(tmp_path, "other")
    with pytest.raises(ServerError, match=r"other-key\.pem is not the key of .*own-certificate\.pem"):
        Tls(own.certificate, other.key).check()
    with pytest.raises(ServerError, match=r"own-key\.pem must hold certificates in PEM format"):
        Tls(own.key, own.key).check()
    with pytest.raises(ServerError, match=r"own-ca\.pem must hold a private key in PEM format"):
        Tls(own.certificate, own.ca).check()
    with pytest.raises(ServerError, match=r"cannot read .*none\.pem: No such file"):
        Tls(tmp_path / "none.pem", own.key).check()


def test_loopback_is_the_default() -> None:
    (host,) = (option for option in serve.params if option.name == "host")
    assert host.default == "127.0.0.1"


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    given = papers(tmp_path, "server")
    result = CliRunner().invoke(serve, ["--tls-certificate", str(given.certificate)])
    assert result.exit_code == 2
    assert re.search("both --tls-certificate and --tls-key", result.stderr)
