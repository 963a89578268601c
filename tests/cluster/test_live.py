# SPDX-License-Identifier: Apache-2.0
"""Two real servers behind the chart's Envoy, with mutual TLS, watched by a real Prometheus."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import trustme
import yaml
from cluster.conftest import CHART, ROOT, helm_template, only, tool
from cluster.test_images import free_ports
from cluster.test_monitoring import expressions
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sigmahat_client import ShrinkageClient, Tls

pytestmark = [pytest.mark.live, pytest.mark.server, pytest.mark.timeout(600)]

OTHERS = ("DCGM_",)
"""Beginnings of the metrics of programs that are not here."""


class Stack(NamedTuple):
    """What runs."""

    ports: list[int]  # gRPC and metrics of each server
    servers: list[ExitStack]
    envoy: str
    envoy_metrics: str
    prometheus: str
    certificates: Path
    folder: Path

    def healthy(self) -> bool:
        """Envoy sends to both servers."""
        return 'envoy_cluster_membership_healthy{envoy_cluster_name="servers"} 2' in read(self.envoy_metrics)


def start(ports: list[int], folder: Path) -> ExitStack:
    """Run `sigmahat serve`, as a CPU pod does; closing what this gives ends it by SIGTERM, and wants exit code 0."""
    ready_file = folder / f"ready-{ports[0]}.json"
    command = [Path(sys.executable).with_name("sigmahat"), "serve", "--model-repository", ROOT / "model_repository"]
    command += [f"--grpc-port={ports[0]}", "--http-port=0", f"--metrics-port={ports[1]}", "--connection-age-s=5"]
    command += ["--startup-timeout-s=240", f"--ready-file={ready_file}"]
    log = folder / f"serve-{ports[0]}.log"
    server = ExitStack()
    process = server.enter_context(running(*command, log=log))
    server.callback(lambda: ended(process, log))
    wait_until(lambda: ready_file.exists() or process.poll() is not None, f"a server at {ports[0]}", 240.0)
    assert process.poll() is None, log.read_text()
    return server


def ended(process: subprocess.Popen[bytes], log: Path) -> None:
    process.terminate()
    assert process.wait(timeout=90) == 0, log.read_text()


def write_certificates(folder: Path, authority: trustme.CA) -> None:
    """One certificate for both sides, each file put in place by a rename, as Kubernetes does it."""
    issued = authority.issue_cert("localhost")
    contents = {
        "tls.crt": issued.cert_chain_pems[0].bytes(),
        "tls.key": issued.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }
    for name, content in contents.items():
        draft = folder.parent / name
        draft.write_bytes(content)
        draft.rename(folder / name)


def envoy_configuration(folder: Path, ports: list[int], grpc: int, metrics: int, admin: int) -> Path:
    """The chart's, with addresses of this machine."""
    options = ["--set", "envoy.enabled=true,tls.certificate=tls,tls.clientCa=true"]
    data = only(
        list(filter(None, yaml.safe_load_all(helm_template(*options).stdout))), "ConfigMap", "rel-sigmahat-envoy"
    )["data"]
    for name, text in data.items():
        (folder / name).write_text(text.replace("/etc/envoy", str(folder)))
    configuration = yaml.safe_load((folder / "envoy.yaml").read_text())

    def address(port: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}

    configuration["admin"] = address(admin)
    resources = configuration["static_resources"]
    for listener, port in zip(resources["listeners"], (grpc, metrics), strict=True):
        listener |= address(port)
    for cluster, where in zip(resources["clusters"], (ports, [admin]), strict=True):
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": address(port)} for port in where]}]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(configuration))
    return folder / "envoy.yaml"


@contextmanager
def running(*command: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file, subprocess.Popen([str(w) for w in command], stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=90)


def wait_until(passes: Callable[[], bool], what: str | Callable[[], str], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if passes():
                return
        except (OSError, AssertionError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what if isinstance(what, str) else what()} did not happen in {timeout_s:g} s")


def read(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    envoy, prometheus = tool("envoy"), tool("prometheus")
    tool("helm")
    folder = tmp_path_factory.mktemp("stack")
    certificates = folder / "tls"
    certificates.mkdir()
    authority = trustme.CA()
    write_certificates(certificates, authority)
    a, b, c, d, front, envoy_metrics, admin, prometheus_port = free_ports(8)
    configuration = envoy_configuration(folder, [a, c], front, envoy_metrics, admin)
    scrapes = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(CHART / "monitoring" / "rules.yaml")],
        "scrape_configs": [
            scrape("sigmahat", "/metrics", b, d),
            scrape("sigmahat-envoy", "/stats/prometheus", envoy_metrics),
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrapes))
    with ExitStack() as all_of_it:
        servers = [all_of_it.enter_context(start(pair, folder)) for pair in ([a, b], [c, d])]
        all_of_it.enter_context(running(envoy, "-c", configuration, "--disable-hot-restart", log=folder / "envoy.log"))
        all_of_it.enter_context(
            running(
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
                log=folder / "prometheus.log",
            )
        )
        found = Stack(
            [a, b, c, d],
            servers,
            f"localhost:{front}",
            f"http://127.0.0.1:{envoy_metrics}/stats/prometheus",
            f"http://127.0.0.1:{prometheus_port}",
            certificates,
            folder,
        )
        wait_until(found.healthy, "both servers healthy for Envoy")
        yield found
        for server in found.servers:  # those of a restart
            server.close()


def scrape(job: str, path: str, *ports: int) -> dict[str, Any]:
    targets = {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"namespace": "risk"}}
    return {"job_name": job, "metrics_path": path, "static_configs": [targets]}


def client(stack: Stack) -> ShrinkageClient:
    names = ("ca.crt", "tls.crt", "tls.key")
    ca, certificate, key = (stack.certificates / name for name in names)
    return ShrinkageClient(stack.envoy, tls=Tls(ca, certificate, key), retry_s=0)


def ask(stack: Stack, n_calls: int, n_threads: int, until: threading.Event | None = None) -> tuple[int, list[str]]:
    """Count calls and collect failures; no call is tried again by the client."""
    returns = (0.01 * np.random.default_rng(0).standard_normal((64, 8))).astype(np.float32)
    failures: list[str] = []
    counts: list[int] = []

    def work() -> None:
        done = 0
        with client(stack) as connected:
            while done < n_calls and not (until is not None and until.is_set()):
                done += 1
                try:
                    connected.estimate(returns)
                except Exception as error:  # whatever a call raises is a failed call
                    failures.append(repr(error))
        counts.append(done)

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), failures


def give_trouble(stack: Stack) -> None:
    """A request that cannot be read, one whose time is over, and one with bad and odd universes: before the first of a
    kind its series are not there."""

    def golden_request(name: str) -> service_pb2.ModelInferRequest:
        content = json.loads((ROOT / "docs" / "golden" / f"{name}.request.json").read_text())
        return ParseDict(content, service_pb2.ModelInferRequest())

    overdue = golden_request("shrinkage")
    overdue.parameters["timeout"].int64_param = 1  # microseconds
    with grpc.insecure_channel(f"127.0.0.1:{stack.ports[0]}", [("grpc.enable_http_proxy", 0)]) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        infer(golden_request("some_bad"))
        for request in (golden_request("refused"), overdue):
            with pytest.raises(grpc.RpcError):
                infer(request)


def golden(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, CHART / "golden" / "golden_inference.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_golden_answer_comes_through_envoy_to_those_with_a_certificate(stack: Stack, tmp_path: Path) -> None:
    done = golden(stack.envoy, stack.certificates)
    assert done.returncode == 0, done.stderr
    (tmp_path / "ca.crt").write_bytes((stack.certificates / "ca.crt").read_bytes())
    with socket.create_connection(("localhost", int(stack.envoy.split(":")[1]))) as plain:
        context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
        with pytest.raises(ssl.SSLError), context.wrap_socket(plain, server_hostname="localhost") as encrypted:
            encrypted.recv(1)  # in TLS 1.3 a server refuses after the handshake


def answered(metrics_port: int) -> float:
    text = read(f"http://127.0.0.1:{metrics_port}/metrics")
    return sum(float(n) for n in re.findall(r'(?m)^nv_inference_request_success\{model="shrinkage".*\} (\S+)$', text))


def test_servers_get_the_same_share(stack: Stack) -> None:
    """Envoy draws two servers and takes the one with fewer requests in flight, so that shares differ by chance: where
    300 calls are too few, 300 more are made. Few at a time: a server that happens to be slow should get less."""
    before = [answered(port) for port in stack.ports[1::2]]
    asked, apart = 0, 1.0
    for _ in range(5):
        n_calls, failures = ask(stack, n_calls=150, n_threads=2)
        assert not failures
        asked += n_calls
        shares = [answered(port) - old for port, old in zip(stack.ports[1::2], before, strict=True)]
        assert sum(shares) >= asked
        apart = abs(shares[0] - shares[1]) / sum(shares)
        if apart <= 0.1:
            break
    assert apart <= 0.1, f"after {asked} calls shares are {shares}"


def query(stack: Stack, expression: str) -> list[dict[str, Any]]:
    answer = json.loads(read(f"{stack.prometheus}/api/v1/query?query={urllib.parse.quote(expression)}"))
    return list(answer["data"]["result"])


def without_data(stack: Stack, expressions: list[str]) -> list[str]:
    return [expression for expression in expressions if not query(stack, expression)]


def test_every_metric_of_rules_and_dashboard_is_on_the_real_servers(stack: Stack) -> None:
    ask(stack, n_calls=5, n_threads=2)
    give_trouble(stack)
    selectors = {
        selector for e in expressions() for selector in re.findall(r"\b([a-zA-Z_]\w*\{[^}]*\})", e) if "{" in selector
    }
    ours = sorted(s for s in selectors if not s.startswith(OTHERS))
    assert len(ours) > 20
    wait_until(lambda: not without_data(stack, ours), lambda: f"data for {without_data(stack, ours)}")


def test_every_picture_of_the_dashboard_has_data(stack: Stack) -> None:
    dashboard = json.loads((CHART / "monitoring" / "dashboard.json").read_text())
    n_panels = sum(len(panel.get("targets", [])) for panel in dashboard["panels"])
    pictures = [e for e in expressions()[:n_panels] if not e.startswith(OTHERS)]

    def drawn() -> bool:
        ask(stack, n_calls=2, n_threads=1)
        give_trouble(stack)
        return not without_data(stack, pictures)

    wait_until(drawn, lambda: f"data for {without_data(stack, pictures)}")


def test_new_certificates_are_taken_without_a_restart(stack: Stack) -> None:
    def shown() -> str:
        context = ssl.create_default_context(cafile=stack.certificates / "ca.crt")
        context.load_cert_chain(stack.certificates / "tls.crt", stack.certificates / "tls.key")
        host, _, port = stack.envoy.partition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            certificate = encrypted.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    before = shown()
    write_certificates(stack.certificates, trustme.CA())
    wait_until(lambda: shown() != before, "a new certificate")
    done = golden(stack.envoy, stack.certificates)
    assert done.returncode == 0, done.stderr


def test_a_rolling_restart_fails_no_request(stack: Stack) -> None:
    end = threading.Event()
    results: list[tuple[int, list[str]]] = []
    load = threading.Thread(target=lambda: results.append(ask(stack, 10**9, 3, end)))
    load.start()
    try:
        time.sleep(1)
        for i in range(2):
            stack.servers[i].close()
            stack.servers[i] = start(stack.ports[2 * i : 2 * i + 2], stack.folder)
            wait_until(stack.healthy, "both servers healthy again")
            time.sleep(1)
    finally:
        end.set()
        load.join()
    ((total, failures),) = results
    assert total > 50
    assert failures == []
