# SPDX-License-Identifier: Apache-2.0
"""The wheel holds every module of the four packages, and nothing else; its extras bring what they say."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("client", "feature_kernels", "trainer", "deploy")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT / source))
        for source in SOURCES
        for path in (ROOT / source).glob("sigmahat_*/**/*")
        if path.suffix in {".py", ".cu", ".jinja"} or path.name == "py.typed"
    }
    assert wanted
    assert packed == wanted


@pytest.mark.parametrize(
    ("extra", "brings"),
    [("", False), ("cli", False), ("sklearn", False), ("lanes", True), ("local", True), ("serve", True)],
)
def test_who_brings_the_compiler(wheel: zipfile.ZipFile, extra: str, brings: bool) -> None:
    assert ("numba" in required(wheel, extra)) == brings


def required(wheel: zipfile.ZipFile, extra: str) -> set[str]:
    """What an extra brings, that of the extras that it names too."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    found = set()
    for line in email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist", []):
        match = re.fullmatch(r"([\w-]+)(?:\[([\w,]+)\])?[^;]*(?:; extra == '(\w+)')?", line)
        if match is not None and (match[3] or "") == extra:
            found |= {match[1]}.union(*(required(wheel, named) for named in (match[2] or "").split(",") if named))
    return found


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-numpy2.txt"])
def test_the_compiler_is_pinned_as_it_is_tested(name: str) -> None:
    pinned = dict(line.split("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
    for package in ("numba", "llvmlite"):
        assert pinned[package] == metadata.version(package)
