# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("command_line.md", "make_command_line.py"),
        ("features.md", "make_features.py"),
        ("metrics.md", "make_metrics.py"),
        ("capacity.md", "make_capacity.py"),
        ("outputs.md", "make_outputs.py"),
        ("speed.md", "make_speed.py"),
        ("kernel_times.md", "make_kernel_times.py"),
        ("what_comes_in.md", "make_what_comes_in.py"),
        ("grpc_service.proto", "make_proto.py"),
    ],
)
def test_pages_made_from_code_are_current(name: str, script: str) -> None:
    assert (DOCS / name).read_text() == runpy.run_path(str(DOCS / script))["page"]()


def test_capacity_is_arithmetic_on_what_was_measured() -> None:
    results = json.loads((DOCS.parent / "benchmarks" / "results" / "loadtest.json").read_text())
    (shape,) = (shape for shape in results["figures"]["shapes"] if tuple(shape.values())[:3] == (64, 100, 252))
    rate, cores = shape["covariance"]["universes_per_s"], results["machine"]["cores"]
    page = (DOCS / "capacity.md").read_text()

    (row,) = re.findall(r"(?m)^\| 64 \| 100 \| 252 \|.*\|$", page)
    core_hours = float(row.split("|")[-2].replace(",", ""))
    assert core_hours * 3600 / cores * rate == pytest.approx(1e6, rel=0.01)

    replicas = re.findall(r"(?m)^\| 100 assets, 252 rows, matrices \| \S+ \| ([\d,]+) \| ([\d,]+) \|$", page)
    n_replicas, n_cores = (int(number.replace(",", "")) for number in replicas[0])
    assert n_cores == n_replicas * cores
    assert (n_replicas - 1) * 0.7 * rate * 86_400 < 10**9 <= n_replicas * 0.7 * rate * 86_400


def test_the_advice_on_windows_is_what_was_measured() -> None:
    results = json.loads((DOCS.parent / "benchmarks" / "results" / "accuracy_grid.json").read_text())
    gains = []
    for cells in results["figures"]["panels"].values():
        ours = {(cell["n_assets"], cell["n_obs"]): cell["methods"]["sigmahat"] for cell in cells}
        gains += [-method["versus"]["qis_correlation"]["gmv"]["difference"] for method in ours.values()]
    usual = sum(3 <= gain <= 10 for gain in gains)
    page = " ".join((DOCS / "window.md").read_text().split())
    assert f"the gain is 3 to 10 % in {usual} of the {len(gains)} [cells" in page
    assert min(gains) > 0
    lengths = json.loads((DOCS.parent / "benchmarks" / "results" / "history.json").read_text())["figures"]
    of = {length: f"{row['difference']:+.1f} %" for length, row in lengths["against_252_rows"].items()}
    assert f"504 change the volatility of minimum-variance portfolios by {of['504']} on average" in page
    assert f"1,008 by {of['1008']} and 126 by {of['126']}" in page


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Broken links and anchors, pages in no contents list, docstrings that cannot be read: each is a warning."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "ShrinkageClient" in (tmp_path / "api.html").read_text()


def test_the_risk_page_repeats_the_bias_of_the_accuracy_page() -> None:
    accuracy, risk = (DOCS / "accuracy.md").read_text(), (DOCS / "risk.md").read_text()
    bias = re.findall(
        r"^\| (\w+) \|(?:.*\|){3} ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|.*\|.*\|$", accuracy, flags=re.MULTILINE
    )
    assert bias == re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", risk, flags=re.MULTILINE)
    assert len(bias) == 16
    levels = re.search(
        r"([\d.]+) on the S&P 500\s+and ([\d.]+) on UK stocks.*?([\d.]+)\s+on the broad.*?([\d.]+) on the ETFs",
        accuracy,
        re.DOTALL,
    )
    assert levels is not None
    optimised = risk.split("*Optimised portfolios*")[1]
    assert [number for number in levels.groups() if number not in optimised] == []
    for said in ("Spearman 0.24", "bias on average"):
        assert said in accuracy
        assert said in optimised


def texts_of_the_code() -> set[str]:
    """Every text that a package may say, with `...` for what is put into it."""
    found = set()
    for path in DOCS.parent.glob("*/sigmahat_*/**/*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values))
    return found


MESSAGES = re.findall(r"(?m)^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text())


@pytest.fixture(scope="module")
def texts() -> set[str]:
    return texts_of_the_code()


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 10


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_the_troubleshooting_page_are_said(message: str, texts: set[str]) -> None:
    parts = [re.escape(part) for part in message.split("...")]
    assert any(re.search(".*".join(parts), text) for text in texts)
