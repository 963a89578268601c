# SPDX-License-Identifier: Apache-2.0
"""The first call of a GPU node, rehearsed from end to end on the pretended one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from without_gpu.emulator import COMPILER, KEPT

pytest.importorskip("torch", reason="needs sigmahat[train]")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator needs g++")

ROOT = Path(__file__).parents[3]
NODE = ROOT / "tests" / "without_gpu" / "node"


def on_the_node(folder: Path, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of benchmarks/speed on a node that has CuPy, PyTorch, NumPy and pytest, all pretended or bare."""
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    settings = {"PYTHON": sys.executable, "PYTHONPATH": str(NODE), "OMP_NUM_THREADS": "1", KEPT: str(kept)}
    return subprocess.run(
        [str(ROOT / "benchmarks" / "speed" / command[0]), *command[1:]],
        env={**os.environ, **settings, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def lines_of(path: Path) -> dict[str, Any]:
    """The last line of each name."""
    return {line["name"]: line for line in map(json.loads, path.read_text().splitlines())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


def test_every_step_of_the_first_call(folder: Path) -> None:
    done = on_the_node(folder, ["first_gpu_call.sh", str(folder / "out"), "--rehearsal"])
    found = {name: line["value"] for name, line in lines_of(folder / "out" / "figures.jsonl").items()}
    steps = {name.removeprefix("step "): value for name, value in found.items() if name.startswith("step ")}
    # 1: there is no cuSOLVER here, which is told, and all the rest is measured.
    told = {name: value["exit_status"] for name, value in steps.items()}
    assert told == {"first_look": 1, "tests": 0, "requests": 0, "training": 0, "kernels": 1}, done.stdout + done.stderr
    failed = {name for name in found if name.endswith("failed")}
    assert {name for name in failed if "cusolver" not in name and "xsyevbatched" not in name} == set()
    assert "1 skipped" in done.stdout  # the engines: no tritonclient, no TensorRT
    assert found["difference of features"]["largest"] < 1e-5
    assert found["difference of matrices"] < 1e-5
    assert found["error kernels-float64 n20"] < 1e-13
    wanted = [
        *("packages", "device", "compile sturm", "to_host_pinned_gb_per_second", "mixed_over_equal_w2"),
        *("expanding_over_one_length_w2", "risk_mixed_w1_per_second", "least_variance_mixed_w2_per_second"),
        *("features_mixed_w1_matrix_features_seconds", "matrices_mixed_w1_assemble_seconds"),
        "features_n20_w2_tridiagonalise_small_seconds",
        *("float32_first_over_float64_n20_t24", "training_step_cpu_seconds", "copy_tb_per_second"),
        *("kernels_float32_n20_per_second", "pair_statistics_n20_per_second"),
    ]
    assert [name for name in wanted if name not in found] == []
    results = json.loads((folder / "out" / "gpu_requests.json").read_text())
    assert results["machine"]["gpu"] == "pretended"
    assert sum(1 for _ in (folder / "out").iterdir()) <= 8  # as many as a node may send back


def test_what_is_known_when_time_is_up_stays(folder: Path) -> None:
    out = folder / "short"
    on_the_node(folder, ["first_gpu_call.sh", str(out), "--rehearsal"], LIMIT_S="5", PYTHON=str(_stops(folder)))
    steps = {name: line["value"] for name, line in lines_of(out / "figures.jsonl").items()}
    assert steps.pop("known") == 1
    assert steps.pop("step first_look")["exit_status"] == 124
    assert set(steps.values()) == {"left out: no time left"}
    assert len(steps) == 4


def _stops(folder: Path) -> Path:
    """A Python that writes one figure and then hangs."""
    program = folder / "python"
    known = '{"name": "known", "value": 1}'
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != --lines ]; do shift; done\necho \'{known}\' >>"$2"\nsleep 60\n')
    program.chmod(0o755)
    return program


def test_every_tool(folder: Path) -> None:
    tools = folder / "tools"
    tools.mkdir()
    for name in ("compute-sanitizer", "ncu"):  # as they are called: options, then the program
        program = tools / name
        program.write_text(f'#!/bin/sh\necho "{name} $*"\nwhile [ "$1" != "$PYTHON" ]; do shift; done\nexec "$@"\n')
        program.chmod(0o755)
    done = on_the_node(folder, ["gpu_tools.sh", str(folder / "of_tools"), "20"], PATH=f"{tools}:{os.environ['PATH']}")
    told = lines_of(folder / "of_tools" / "tools.jsonl")
    names = ["plain", "memcheck", "racecheck", "synccheck", "initcheck", "ncu"]
    assert {name: line["exit_status"] for name, line in told.items()} == dict.fromkeys(names, 0), done.stdout
    assert "every kernel ran" in (folder / "of_tools" / "racecheck.txt").read_text()
    counters = (folder / "of_tools" / "ncu.csv").read_text()
    assert all(word in counters for word in ("assemble", "tridiagonalise", "--clock-control none"))
