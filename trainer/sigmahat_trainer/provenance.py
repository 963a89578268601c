# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from: machine, versions, commit, source."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import platform
import subprocess
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """What every results file says of itself."""
    return {
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **_installed("numpy", "torch")},
        "commit": _commit(),
    }


def code_digest(*modules: str) -> str:
    """SHA-256 of the source of modules and of all of sigmahat that they import, wherever the statement stands.

    It changes with whatever code decides a result, and with no other: a commit does neither.
    """
    sources: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in sources or not (path := _source(name)):
            continue
        sources[name] = path.read_bytes()
        waiting += _imports(sources[name])
    digest = hashlib.sha256()
    for name, source in sorted(sources.items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of a tree for all threads together: two that parse at once raise SystemError."""


def _imports(source: bytes) -> list[str]:
    """Names of what a source imports: modules, and whatever it takes from them, which may be modules too."""
    with _PARSING:
        tree = ast.parse(source)
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _source(module: str) -> Path | None:
    """The file of a module of sigmahat; None for others, and for names that are no modules."""
    package, _, rest = module.partition(".")
    if not package.startswith("sigmahat_") or not (found := importlib.util.find_spec(package)) or not found.origin:
        return None
    path = Path(found.origin).parent.joinpath(*rest.split("."))
    files = [Path(found.origin)] if not rest else [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in files if file.is_file()), None)


def _installed(*packages: str) -> dict[str, str]:
    """Versions of those that are installed: the speed of serving is measured without torch."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the source tree, with a mark if it was changed since; 'unknown' outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
