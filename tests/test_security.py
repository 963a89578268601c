# SPDX-License-Identifier: Apache-2.0
"""Nothing that is read can run code, no secret is committed, and what is installed is what was pinned."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("client", "feature_kernels", "trainer", "deploy", "model_repository", "benchmarks")

RUN_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
"""Modules whose files run code when they are read."""

RUNS_ANYWAY = {"feature_kernels/sigmahat_kernels/lanes/kept.py"}
"""Files that read machine code, which runs however it is read: of this user's or root's own folders alone."""


def unsafe(source: str) -> Iterator[str]:
    """What in a module could run code that a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in RUN_CODE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in RUN_CODE:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name.rpartition(".")[2] in ("read_pickle", "to_pickle"):
                yield name
            elif name == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only=True"
            elif given.get("allow_pickle", "False") != "False":
                yield f"{name} with allow_pickle"


def test_nothing_is_unpickled() -> None:
    files = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    found = {str(path.relative_to(ROOT)): list(unsafe(path.read_text())) for path in files}
    assert {path for path, words in found.items() if words} == RUNS_ANYWAY


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "import joblib.hashing", "pd.read_pickle('x')"),
        *("torch.load('x')", "torch.load('x', weights_only=False)", "np.load('x', allow_pickle=True)"),
        "numpy.save('x', y, allow_pickle=flag)",
    ],
)
def test_each_way_to_unpickle_is_seen(source: str) -> None:
    assert len(list(unsafe(source))) == 1


@pytest.mark.parametrize("source", ["torch.load('x', weights_only=True)", "np.load('x', allow_pickle=False)"])
def test_safe_ways_are_not(source: str) -> None:
    assert not list(unsafe(source))


def committed() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def secrets_in(path: Path) -> list[str]:
    """Kinds of secret that detect-secrets finds, on whichever line."""
    detect_secrets = pytest.importorskip("detect_secrets", reason="needs sigmahat[dev]")
    found = detect_secrets.SecretsCollection()
    # Its entropy detectors take every digest for a secret; those here look for forms of keys and passwords.
    plugins = [
        {"name": name}
        for name in (
            *("ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector"),
            *("GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "KeywordDetector", "NpmDetector"),
            *("OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SlackDetector", "StripeDetector"),
        )
    ]
    with detect_secrets.settings.transient_settings({"plugins_used": plugins}):
        found.scan_file(str(path))
    return [f"{secret.type} in line {secret.line_number}" for _, secret in found]


def test_no_secret_is_committed() -> None:
    names = committed()
    assert len(names) > 100
    found = {name: secrets_in(ROOT / name) for name in names if not name.endswith((".npz", ".onnx", ".npy"))}
    assert not {name: kinds for name, kinds in found.items() if kinds}


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "settings.py"
    file.write_text("AWS_KEY = '" + "AKIA" + "IOSFODNN7" + "ABCDEFG'\n" + "-----BEGIN RSA " + "PRIVATE KEY-----\n")
    assert len(secrets_in(file)) >= 2


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_what_is_installed_is_what_was_pinned() -> None:
    wanted = {canonical(name): version for name, version in pins().items()}
    installed = {canonical(d.name): d.version.partition("+")[0] for d in metadata.distributions()}
    assert len(wanted.keys() & installed.keys()) > 50
    wrong = {name: (installed[name], wanted[name]) for name in wanted.keys() & installed.keys()}
    assert not {name: versions for name, versions in wrong.items() if versions[0] != versions[1]}


def test_no_pinned_version_has_a_known_vulnerability(tmp_path: Path) -> None:
    pytest.importorskip("pip_audit", reason="needs sigmahat[dev]")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--output", str(report), "--timeout", "5", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*command, "--cache-dir", str(tmp_path)], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("the vulnerability database did not answer in time: no package was audited")
    if not report.is_file():
        pytest.skip(f"no vulnerability database can be reached, no package was audited: {done.stderr[-200:].strip()}")
    packages = json.loads(report.read_text())["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        pytest.skip(f"the package index has no vulnerability data: none of {len(packages)} packages was audited")
    assert not {package["name"]: package["vulns"] for package in audited if package["vulns"]}
