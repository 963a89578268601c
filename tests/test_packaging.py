# SPDX-License-Identifier: Apache-2.0
"""The wheel holds every module of the four packages and the models that a CPU serves, and nothing else; its extras
bring what they say."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from sigmahat_client import ShrinkageClient
from sigmahat_kernels.released import released_repository

ROOT = Path(__file__).parents[1]
SOURCES = ("client", "feature_kernels", "trainer", "deploy")
MODELS = "sigmahat_kernels/model_repository"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel installs, without the checkout anywhere near."""
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def run(unpacked: Path, program: str, *, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}  # comes before the editable install of these tests
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {
        str(path.relative_to(ROOT / source))
        for source in SOURCES
        for path in (ROOT / source).glob("sigmahat_*/**/*")
        if path.suffix in {".py", ".cu", ".cuh", ".jinja"} or path.name == "py.typed"
    }
    assert code
    assert {name for name in packed if not name.startswith(MODELS)} == code


def test_the_wheel_holds_what_a_cpu_serves(wheel: Path) -> None:
    """Every model's configuration and version, the members that the manifest names, and their card."""
    packed = zipfile.ZipFile(wheel)
    models = {name.removeprefix(f"{MODELS}/") for name in packed.namelist() if name.startswith(MODELS)}
    repository = ROOT / "model_repository"
    listed = subprocess.run(["git", "ls-files", "."], cwd=repository, capture_output=True, text=True, check=True)
    left_out = {name for name in listed.stdout.split() if "/configs/" in name or "fp16" in name or ".gitkeep" in name}
    assert models == set(listed.stdout.split()) - left_out - {"make_configurations.py"}
    for name in models:
        assert packed.read(f"{MODELS}/{name}") == (repository / name).read_bytes(), name


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 2_000_000


def test_an_editable_install_uses_the_models_of_its_checkout() -> None:
    assert released_repository() == ROOT / "model_repository"


def test_the_installed_wheel_estimates_as_the_checkout_does(unpacked: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")
    returns = np.random.default_rng(5).normal(0, 0.01, (60, 6))
    np.save(tmp_path / "returns.npy", returns)
    program = (
        "import numpy as np, sigmahat_client, sigmahat_kernels\n"
        "with sigmahat_client.ShrinkageClient.local() as client:\n"
        "    found = client.estimate(np.load('returns.npy'), covariance=True)\n"
        "np.save('covariance.npy', found.covariance_of('all'))\n"
        "print(sigmahat_client.__file__, sigmahat_kernels.__file__)\n"
    )
    assert run(unpacked, program, cwd=tmp_path).count(str(unpacked)) == 2
    with ShrinkageClient.local(ROOT / "model_repository") as client:
        expected = client.estimate(returns, covariance=True).covariance_of("all")
    np.testing.assert_array_equal(np.load(tmp_path / "covariance.npy"), expected)


@pytest.mark.parametrize(
    ("extra", "brings"),
    [("", False), ("cli", False), ("sklearn", False), ("lanes", True), ("local", True), ("serve", True)],
)
def test_who_brings_the_compiler(wheel: Path, extra: str, brings: bool) -> None:
    assert ("numba" in required(wheel, extra)) == brings


def required(wheel: Path, extra: str) -> set[str]:
    """What an extra brings, that of the extras that it names too."""
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA"))
    found = set()
    for line in email.message_from_bytes(zipfile.ZipFile(wheel).read(name)).get_all("Requires-Dist", []):
        match = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?[^;]*(?:; extra == '(\w+)')?", line)
        if match is not None and (match[3] or "") == extra:
            found |= {match[1]}.union(*(required(wheel, named) for named in (match[2] or "").split(",") if named))
    return found


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-numpy2.txt"])
def test_the_compiler_is_pinned_as_it_is_tested(name: str) -> None:
    pinned = dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
    for package in ("numba", "llvmlite"):
        assert pinned[package] == metadata.version(package)
