# SPDX-License-Identifier: Apache-2.0
"""What perf_analyzer wrote is read as it stands there; its files here are recorded from real runs."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

import numpy as np
import pytest

from sigmahat_client import Tls
from sigmahat_deploy.loadtest import binary, perf_analyzer
from sigmahat_deploy.loadtest.arrivals import poisson
from sigmahat_deploy.loadtest.binary import PerfAnalyzer
from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.levels import Latency
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import Snapshot

RECORDED = Path(__file__).parent / "recorded"
TOOL = PerfAnalyzer(Path("/opt/perf_analyzer"), "2.51.0")
ASKED = Servers(("a:1",)), ("shrinkage", "covariance")


def test_a_recorded_level() -> None:
    output = perf_analyzer.read_output(RECORDED / "closed-2-1-covariance.csv", "covariance")
    assert output.latency == Latency("covariance", 17.7501, 35.650, 143.077, 206.715)  # there in microseconds
    assert output.delayed == 0.0
    throughputs = [
        float(line.split("throughput: ")[1].split(" ")[0])
        for line in (RECORDED / "closed-2-1-covariance.txt").read_text().splitlines()
        if "Pass [" in line
    ]
    assert len(throughputs) == 3
    assert output.spread == pytest.approx(np.ptp(throughputs) / np.mean(throughputs))


def test_what_the_tool_delayed_is_read() -> None:
    (line,) = [line for line in (RECORDED / "late.txt").read_text().splitlines() if "were delayed" in line]
    output = perf_analyzer.read_output(RECORDED / "late.csv", "shrinkage")
    assert output.delayed > 0.5
    assert f" {100 * output.delayed:.2f}% of" in line


def test_a_report_of_another_form_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "x.csv"
    report.with_suffix(".txt").write_text("")
    report.write_text("Concurrency,Inferences/Second\n")
    with pytest.raises(LoadTestError, match=r"x\.csv should hold one row, perf_analyzer wrote 0: see x\.txt"):
        perf_analyzer.read_output(report, "shrinkage")
    report.write_text("Concurrency,Inferences/Second\n1,20\n")
    with pytest.raises(LoadTestError, match=r"has no column 'p50 latency': is this perf_analyzer 2\.51"):
        perf_analyzer.read_output(report, "shrinkage")


def test_streams_share_what_is_asked() -> None:
    closed = perf_analyzer.level_commands(TOOL, *ASKED, "closed", 8, 6.0)
    assert [("--concurrency-range=4" in command, command[2]) for command in closed] == [
        (True, "shrinkage"),
        (True, "covariance"),
    ]
    reports = [perf_analyzer.report_name(command) for command in closed]
    assert reports == ["closed-8-0-shrinkage.csv", "closed-8-1-covariance.csv"]
    assert all("--measurement-interval=2000" in command for command in closed)


def test_certificates_are_named_as_whole_paths() -> None:
    servers = Servers(("a:1",), Tls("ca.pem", "chain.pem", "key.pem"))
    (command,) = perf_analyzer.level_commands(TOOL, servers, ("shrinkage",), "closed", 1, 6.0)
    here = Path.cwd()
    assert [word for word in command if "ssl" in word] == [
        "--ssl-grpc-use-ssl",
        f"--ssl-grpc-root-certifications-file={here / 'ca.pem'}",
        f"--ssl-grpc-private-key-file={here / 'key.pem'}",
        f"--ssl-grpc-certificate-chain-file={here / 'chain.pem'}",
    ]


def test_the_script_runs_every_command_of_a_level_at_once() -> None:
    commands = perf_analyzer.level_commands(TOOL, *ASKED, "poisson", 10, 6.0)
    *_, line = perf_analyzer.script(TOOL, [commands]).splitlines()
    assert [shlex.split(part) for part in line.split(" & ")] == [*commands, ["wait"]]


def fake(folder: Path, source: str) -> PerfAnalyzer:
    path = folder / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{source}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return PerfAnalyzer(path, "")


def test_a_level_that_was_not_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_analyzer, "snapshot", lambda servers: Snapshot({}, {}))
    said = "Thread [0] had error: in ensemble 'covariance', [request id: 25] Exceeds maximum queue size"
    tool = fake(tmp_path, f'echo "{said}"; exit 99')
    level = perf_analyzer.measure(tool, *ASKED, "closed", 4, 0.1, 0, tmp_path)
    assert level.problem == f"perf_analyzer ended with code 99: {said.partition(': ')[2]}"
    assert level.latencies == ()
    assert not level.meets(1e9)


def test_poisson_times_differ_between_streams_and_are_those_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_analyzer, "snapshot", lambda servers: Snapshot({}, {}))
    perf_analyzer.measure(fake(tmp_path, "exit 1"), *ASKED, "poisson", 100, 6.0, 5, tmp_path)
    first, second = (np.loadtxt(tmp_path / f"poisson-100-{k}-{model}.gaps") for k, model in enumerate(ASKED[1]))
    np.testing.assert_allclose(np.cumsum(first) / 1e6, poisson(50.0, 120.0, [5, 0]), atol=0.01)
    assert first[:10].tolist() != second[:10].tolist()
    assert len(second) == pytest.approx(50 * 120, rel=0.1)


def test_how_to_get_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match=r"was not found: get it with `sigmahat loadtest --install-perf-analyzer`"):
        binary.find()


def test_one_that_does_not_run_is_refused(tmp_path: Path) -> None:
    tool = fake(tmp_path, "echo 'libb64.so.0d: cannot open shared object file' >&2; exit 127")
    with pytest.raises(LoadTestError, match=r"does not run: libb64.*; its libraries are Debian's libb64-0d"):
        binary.find(tool.binary)


def test_the_one_that_is_named_comes_first(tmp_path: Path) -> None:
    tool = fake(tmp_path, "echo 'Perf Analyzer Version 2.51.0 (commit unknown)' >&2")
    assert binary.find(tool.binary) == (tool.binary, "2.51.0 (commit unknown)")
