# SPDX-License-Identifier: Apache-2.0
"""`make help` names every target, and versions of Python do not share a virtual environment."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def make(*arguments: str) -> str:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_names_every_target() -> None:
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())
    helped = re.findall(r"(?m)^  make (\S+) +\S", make("help"))
    assert [target for target in helped if "%" not in target] == phony.split()
    assert make() == make("help")


def test_the_matrix_keeps_versions_apart() -> None:
    lines = make("--dry-run", "matrix").splitlines()
    for version in ("3.11", "3.12"):
        assert f"python{version} -m venv .venv-{version}" in lines
        assert f"python{version} -m venv .venv-{version}-numpy2" in lines
        assert any(line.startswith(f".venv-{version}/bin/python -m pytest") for line in lines)
    assert not any(re.search(r"(^|\s)\.venv/", line) for line in lines)
