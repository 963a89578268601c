# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles, the compose file and the KServe example; the CPU image is built and asked for a golden answer."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.conftest import CHART, ROOT, Render, only, run, tool

from sigmahat_kernels.cuda.device import RESULTS_BYTES

BUILDAH = ("buildah", "--storage-driver", "vfs")
BASE = "localhost/sigmahat-base"


@pytest.mark.parametrize("name", ["Dockerfile", "cpu.Dockerfile"])
def test_hadolint(name: str) -> None:
    run(tool("hadolint"), ROOT / "deploy" / "docker" / name)


def test_the_gpu_image_wants_a_digest() -> None:
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert re.findall(r"(?m)^(?:ARG|FROM) .*", text)[:3] == [
        "ARG DIGEST=give-its-digest",  # no digest: the build stops, and says this word
        "ARG BASE=nvcr.io/nvidia/tritonserver@${DIGEST}",
        "FROM ${BASE}",
    ]
    args = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["server"]["build"]["args"]
    assert args == {"DIGEST": "${TRITON_DIGEST:-give-its-digest}"}


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("26.09", ""),
        ("26.10", ""),
        ("27.01", ""),
        ("26.08", "got 26.08: give another"),
        ("", "got 0 (it names none)"),
    ],
)
def test_the_gpu_image_refuses_an_older_base(version: str, words: str) -> None:
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    (check,) = re.findall(r"RUN (base=(?:.*\\\n)+.*fi)\n", text)
    environment = {"PATH": os.environ["PATH"], "OLDEST": "26.09", "NVIDIA_TRITON_SERVER_VERSION": version}
    done = subprocess.run(["bash", "-c", check], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == bool(words)
    assert words in done.stderr


def test_the_context_of_a_build_holds_what_it_copies() -> None:
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / path).exists() for path in wanted)
    assert {"client", "feature_kernels", "trainer", "deploy/sigmahat_deploy"} <= wanted  # as the wheel's settings say


def test_compose_file() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    (device,) = services["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert all(service["read_only"] for service in services.values())
    run(tool("docker-compose"), "-f", ROOT / "compose.yaml", "config", "--quiet")


def test_triton_keeps_room_on_a_gpu_for_large_answers(render: Render) -> None:
    option = f"--cuda-memory-pool-byte-size=0:{RESULTS_BYTES}"
    assert option in only(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f'"{option}"]' in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


def test_kserve_example_is_a_pod_as_the_chart_makes_it(render: Render, tmp_path: Path) -> None:
    predictor = yaml.safe_load((ROOT / "deploy" / "kserve" / "inferenceservice.yaml").read_text())["spec"]["predictor"]
    ours = only(render(), "Deployment")["spec"]["template"]["spec"]
    (here,), (there,) = predictor["containers"], ours["containers"]
    for name in ("command", "image", "resources", "securityContext", "volumeMounts", "startupProbe", "lifecycle"):
        assert here[name] == there[name], name
    limits = [{v["name"]: v["emptyDir"] for v in pod["volumes"] if v.get("emptyDir")} for pod in (predictor, ours)]
    assert limits[0] == limits[1]
    keyed = {argument for argument in there["args"] if "CONTROL_KEY" not in argument}
    assert set(here["args"]) == keyed
    assert predictor["terminationGracePeriodSeconds"] == ours["terminationGracePeriodSeconds"]
    pod = {name: value for name, value in predictor.items() if name not in ("minReplicas", "maxReplicas")}
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}))
    run(tool("kubernetes-validate"), "-k", "1.33", "--strict", file)


@pytest.fixture(scope="module")
def cpu_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, on a Debian base made here, since registries cannot be reached from everywhere."""
    for name in ("buildah", "debootstrap"):
        tool(name)
    folder = tmp_path_factory.mktemp("base")
    if subprocess.run([*BUILDAH, "inspect", "--type", "image", BASE], capture_output=True, check=False).returncode:
        base = subprocess.run(
            ["debootstrap", "--variant=minbase", "bookworm", str(folder / "root")],
            capture_output=True,
            text=True,
            check=False,
        )
        if base.returncode:
            pytest.skip(f"debootstrap cannot make a Debian here: {base.stdout.splitlines()[-1:]}")
        run("tar", "-C", folder / "root", "-cf", folder / "root.tar", ".")
        authorities = folder / "authorities"  # what this machine trusts, the build should
        authorities.mkdir()
        for certificate in Path("/usr/local/share/ca-certificates").glob("*.crt"):
            (authorities / certificate.name).write_bytes(certificate.read_bytes())
        (folder / "Dockerfile").write_text(
            "FROM scratch\nADD root.tar /\nCOPY authorities /usr/local/share/ca-certificates\n"
            "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt\n"
        )
        (folder / ".dockerignore").write_text("root\n")
        run(*BUILDAH, "bud", "--isolation", "chroot", "-t", BASE, folder)
    image = "localhost/sigmahat:test"
    options = ["--isolation", "chroot", "--build-arg", f"BASE={BASE}"]
    run(*BUILDAH, "bud", *options, "-f", ROOT / "deploy/docker/cpu.Dockerfile", "-t", image, ROOT)
    return image


@pytest.fixture
def container(cpu_image: str) -> Iterator[str]:
    name = run(*BUILDAH, "from", cpu_image).stdout.strip()
    yield name
    run(*BUILDAH, "rm", name)


@pytest.mark.live
@pytest.mark.server
@pytest.mark.timeout(600)
def test_the_cpu_image_gives_the_golden_answer(container: str) -> None:
    ports = free_ports(3)
    inside = [*BUILDAH, "run", "--isolation", "chroot", container, "--"]
    options = [f"--{name}-port={port}" for name, port in zip(("grpc", "http", "metrics"), ports, strict=True)]
    assert run(*inside, "id", "-u").stdout.strip() == "10001"
    with subprocess.Popen([*inside, "sigmahat", "serve", *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith("ready:")
            run(*inside, "sigmahat", "probe", "--http", f"127.0.0.1:{ports[1]}", "--metrics", f"127.0.0.1:{ports[2]}")
            run(sys.executable, CHART / "golden" / "golden_inference.py", f"127.0.0.1:{ports[0]}")
        finally:
            stop_inside(inside)
            server.wait(timeout=90)


def stop_inside(inside: list[str]) -> None:
    """SIGTERM to the supervisor, as an orchestrator sends it."""
    program = (
        "import os, pathlib, signal\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    words = p.read_bytes().split(b'\\0')\n"
        "    if b'/opt/sigmahat/bin/sigmahat' in words and b'serve' in words and os.stat(p).st_uid == 10001:\n"
        "        os.kill(int(p.parent.name), signal.SIGTERM)\n"
    )
    run(*inside, "python3", "-c", program)


def free_ports(n: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports: list[Any] = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
