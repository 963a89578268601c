# SPDX-License-Identifier: Apache-2.0
"""The tools of the deployment's tests, and charts as helm renders them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

collect_ignore = ["check_custom_resources.py"]  # imports what only the tools have

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "sigmahat"
TOOLS = Path(f"{sys.prefix}-deploy") / "bin"  # make test-deploy fills it


def tool(name: str) -> str:
    """Path of a program; skips the test where there is none."""
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: make test-deploy installs what PyPI and Debian have")
    return found


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that should succeed; its words are in the failure."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done


def helm_template(*options: str) -> subprocess.CompletedProcess[str]:
    """What helm says and prints, whether it likes the values or not."""
    command = [tool("helm"), "template", "rel", str(CHART), "--namespace", "risk", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def render() -> Render:
    """Documents of the chart for a file of values (or none) and settings as in ``gpu__count=2``."""

    def rendered(values: str = "", **settings: Any) -> list[dict[str, Any]]:
        options = ["--values", str(CHART / "values" / values)] if values else []
        for name, value in settings.items():
            options += ["--set-json", f"{name.replace('__', '.')}={json.dumps(value)}"]
        done = helm_template(*options)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered


def only(documents: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one document of a kind, and of a name if there are several."""
    found = [d for d in documents if d["kind"] == kind and name in ("", d["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} documents of kind {kind} {name}"
    return found[0]


def kinds(documents: list[dict[str, Any]]) -> set[str]:
    """Kinds of all documents."""
    return {document["kind"] for document in documents}
