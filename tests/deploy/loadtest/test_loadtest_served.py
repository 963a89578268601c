# SPDX-License-Identifier: Apache-2.0
"""A whole load test, small, of the real server by the real perf_analyzer."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from sigmahat_deploy.certificates import Tls
from sigmahat_deploy.loadtest import binary
from sigmahat_deploy.loadtest.command import loadtest
from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import LocalServer, local_server

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
RETURNS = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"
REPOSITORY = ROOT / "model_repository"


@pytest.fixture(scope="module")
def perf_analyzer() -> binary.PerfAnalyzer:
    try:
        return binary.find()
    except LoadTestError as error:
        pytest.skip(str(error))


def test_a_small_run(running_server: LocalServer, perf_analyzer: binary.PerfAnalyzer, tmp_path: Path) -> None:
    arguments = [
        "--url",
        running_server.grpc_url,
        "--metrics",
        urlsplit(running_server.metrics_url).netloc,
        "--returns",
        str(RETURNS),
        "--out",
        str(tmp_path),
    ]
    arguments += ["--requests", "4", "--assets", "5", "20", "--universes", "1", "4", "--seconds", "1.5"]
    arguments += ["--in-flight", "1", "--poisson", "0.2", "--open-loop", "0.2", "--objective-ms", "60000"]
    arguments += ["--perf-analyzer", str(perf_analyzer.binary), "--no-process-pool"]
    result = CliRunner().invoke(loadtest, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("capacity at p99 <= 60000 ms: ")

    test = json.loads((tmp_path / "loadtest.json").read_text())
    assert [(level["tool"], level["load"]) for level in test["levels"]] == [
        ("perf_analyzer", "closed"),
        ("perf_analyzer", "poisson"),
        ("open loop", "poisson"),
    ]
    assert test["status"].keys() == {"GOOD"}
    mean = test["status"]["GOOD"] / 8  # universes of a request; each of the 4 was asked for 2 models
    for level in test["levels"]:
        assert {latency["model"] for latency in level["latencies"]} == {"shrinkage", "covariance"}
        rate = sum(latency["requests_per_s"] for latency in level["latencies"])
        exactly = 1e-9 if level["tool"] == "perf_analyzer" else 0.5
        assert level["universes_per_s"] / rate == pytest.approx(mean, rel=exactly)
        assert {step["step"] for step in level["steps"]} >= {"features", "assemble"}
        assert (level["refused"], level["failed"], level["problem"]) == (0, 0, "")
    assert sum(test["servers"][0]["instances"].values()) >= 1
    assert len(list(csv.DictReader((tmp_path / "loadtest.csv").read_text().splitlines()))) == 6

    # The script for those who trust perf_analyzer alone writes the same reports again.
    reports = set((tmp_path / "perf_analyzer").glob("*.csv"))
    for written in reports:
        written.unlink()
    subprocess.run(["sh", str(tmp_path / "perf_analyzer" / "again.sh")], check=True, stdout=subprocess.DEVNULL)
    assert set((tmp_path / "perf_analyzer").glob("*.csv")) == reports


def test_a_server_with_mutual_tls(perf_analyzer: binary.PerfAnalyzer, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="needs sigmahat[dev]")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = {
        "--root-certificates": authority.cert_pem,
        "--certificate-chain": issued.cert_chain_pems[0],
        "--private-key": issued.private_key_pem,
    }
    paths = {flag: tmp_path / f"{flag}.pem" for flag in files}
    for flag, content in files.items():
        content.write_to_path(paths[flag])
    ca, certificate, key = paths.values()
    arguments = ["--returns", str(RETURNS), "--out", str(tmp_path), "--perf-analyzer", str(perf_analyzer.binary)]
    arguments += ["--requests", "4", "--assets", "5", "20", "--universes", "1", "4", "--seconds", "1"]
    arguments += ["--in-flight", "1", "--poisson", "0.2", "--open-loop", "0.2", "--no-process-pool"]
    with local_server(REPOSITORY, 0, 0, 0, probe=probe_shrinkage, tls=Tls(certificate, key, ca)) as server:
        arguments += ["--url", server.grpc_url]
        certificates = [str(word) for pair in paths.items() for word in pair]
        result = CliRunner().invoke(loadtest, [*arguments, *certificates])
        assert result.exit_code == 0, result.output
        without = CliRunner().invoke(loadtest, [*arguments, *certificates[:2]])
        assert without.exit_code == 1
        assert "does not say what it serves" in without.output
    levels = json.loads((tmp_path / "loadtest.json").read_text())["levels"]
    assert all(level["universes_per_s"] > 0 and not level["problem"] for level in levels)


def test_one_certificate_without_its_key_is_one_line(perf_analyzer: binary.PerfAnalyzer, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").touch()
    arguments = ["--returns", str(RETURNS), "--out", str(tmp_path), "--perf-analyzer", str(perf_analyzer.binary)]
    result = CliRunner().invoke(loadtest, [*arguments, "--certificate-chain", str(tmp_path / "chain.pem")])
    assert result.exit_code == 1
    assert result.output == "Error: certificate_chain and private_key go together, got only one of them\n"


def test_a_server_that_is_not_there_is_one_line(perf_analyzer: binary.PerfAnalyzer, tmp_path: Path) -> None:
    arguments = ["--url", "127.0.0.1:1", "--returns", str(RETURNS), "--out", str(tmp_path)]
    result = CliRunner().invoke(loadtest, [*arguments, "--perf-analyzer", str(perf_analyzer.binary)])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: 127.0.0.1:1 does not say what it serves: ")
    assert line.endswith("start it with `sigmahat serve`, or name it with --url")
