# SPDX-License-Identifier: Apache-2.0
"""What a page says is what was measured."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from sigmahat_deploy.loadtest import command, report
from sigmahat_deploy.loadtest.levels import Latency, Level, StepTime, capacity, knee
from sigmahat_deploy.loadtest.process_pool import PoolFigures
from sigmahat_deploy.loadtest.run import Settings
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import Counts, Snapshot, between, failures, snapshot, step_times

STEPS = (StepTime("features", 100, 1.0, 78.0, 20.0), StepTime("member_1", 100, 26.0, 1.0, 2.0))


def level(tool, load, asked, rate, p99, **more) -> Level:
    latencies = (
        Latency("shrinkage", rate / 2, p99 / 4, p99 / 2, p99 / 1.25),
        Latency("covariance", rate / 2, p99 / 4, p99 / 2, p99),
    )
    return Level(tool, load, asked, 6.0, latencies, 20.0 * rate, steps=STEPS, **more)


LEVELS = (
    level("perf_analyzer", "closed", 2, 40, 90),
    level("perf_analyzer", "closed", 4, 60, 110, spread=0.9),
    level("perf_analyzer", "closed", 8, 61, 230),
    level("perf_analyzer", "poisson", 18, 18, 120),
    level("perf_analyzer", "poisson", 42, 42, 240),
    level("perf_analyzer", "poisson", 43, 43, 200, delayed=0.05),
    Level("perf_analyzer", "poisson", 54, 6.0, failed=3, problem="perf_analyzer ended with code 99: <queue>"),
    level("open loop", "poisson", 44, 44, 249, failed=1),
    level("open loop", "poisson", 120, 62, 240, refused=181),
)
TEST = report.LoadTest(
    levels=LEVELS,
    objective_ms=250.0,
    mix={"returns": "us.npz"},
    status={"GOOD": 780, "SHORT_HISTORY": 4},
    pool=PoolFigures(2, 753.0, 46.0),
    machine={"processor": "a <fast> one", "cores": 2},
    servers=({"url": "127.0.0.1:8001", "instances": {"features": 2}},),
    command="sigmahat loadtest --seconds 6",
    bare="sh out/again.sh",
)


def test_capacity_is_the_highest_level_that_nothing_speaks_against() -> None:
    best = capacity(LEVELS, 250.0)
    assert best is not None
    assert best.asked == 42  # 43 was sent late, 44 failed once, 120 was refused
    assert capacity(LEVELS, 150.0).asked == 18
    assert capacity(LEVELS, 50.0) is None


def test_the_knee_is_where_more_requests_only_wait() -> None:
    assert knee(LEVELS).asked == 4
    assert knee(LEVELS[:2]) is None


def test_few_requests_may_differ_by_chance() -> None:
    assert replace(LEVELS[0], spread=0.3).steady  # 80 requests in a window: 3.3 / sqrt(80) is 0.37
    assert not replace(LEVELS[0], spread=0.4).steady


def test_page() -> None:
    page = report.page(TEST)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Capacity 840 universes a second (42.0 requests)" in text
    assert "Knee: 4 requests in flight" in text
    assert "in 2 processes on this machine, on the same requests: 753 universes a second" in text
    assert "universes with STATUS SHORT_HISTORY, of all requests once 4" in text
    assert "perf_analyzer ended with code 99: &lt;queue&gt;; 3 requests failed" in text
    assert "a &lt;fast&gt; one" in text
    assert page.count('class="doubt">5.0%') == 2  # a row a model
    assert page.count('class="doubt">90%') == 2
    assert "sigmahat loadtest --seconds 6" in text
    assert "sh out/again.sh" in text
    assert page.count("data:image/png;base64,iVBOR") == 3
    assert not re.search(r'(?:src|href)="(?!data:)', page)  # it needs nothing else


def test_page_without_a_capacity_says_so() -> None:
    page = report.page(replace(TEST, objective_ms=10.0, pool=None))
    assert "No Poisson load met the objective" in page
    assert "LedoitWolf" not in page


def test_files(tmp_path: Path) -> None:
    report.write(TEST, tmp_path)
    figures = json.loads((tmp_path / "loadtest.json").read_text())
    assert figures["capacity"] == {
        "asked": 42,
        "tool": "perf_analyzer",
        "requests_per_s": 42.0,
        "universes_per_s": 840.0,
        "p99_ms": 240,
    }
    assert figures["levels"][0]["steps"][0] == {
        "step": "features",
        "requests": 100,
        "batch": 1.0,
        "queue_ms": 78.0,
        "compute_ms": 20.0,
    }
    rows = list(csv.DictReader((tmp_path / "loadtest.csv").read_text().splitlines()))
    assert len(rows) == 2 * 8 + 1
    assert (rows[1]["model"], float(rows[1]["p99_ms"]), float(rows[1]["requests_per_s"])) == ("covariance", 90.0, 20.0)
    assert rows[12]["problem"] == "perf_analyzer ended with code 99: <queue>"


def test_times_of_steps_are_means_of_what_happened_between() -> None:
    before = Snapshot({"features": Counts(10, 0, 10, 10, 10**9, 10**9)}, {})
    models = {
        "features": Counts(14, 0, 14, 12, 10**9 + 8 * 10**6, 10**9 + 20 * 10**6),
        "member_1": Counts(4, 0, 100, 2, 0, 4 * 10**6),
        "shrinkage": Counts(3, 1, 4, 4, 0, 0),
        "covariance": Counts(1, 2, 1, 1, 0, 0),
        "combine": Counts(0, 0, 0, 0, 0, 0),
    }
    # Parts of the same names say nothing new.
    change = between(before, Snapshot(models, {"features": Counts(requests=4, compute_ns=10**9)}))
    assert step_times(change) == (StepTime("features", 4, 2.0, 2.0, 5.0), StepTime("member_1", 4, 50.0, 0.0, 1.0))
    assert failures(change) == 3


def test_the_time_of_one_step_that_does_all_is_that_of_its_parts() -> None:
    before = Snapshot({}, {"features": Counts(requests=6, compute_ns=10**9)})
    models = {"estimate": Counts(4, 0, 4, 4, 4 * 10**6, 80 * 10**6), "covariance": Counts(requests=4)}
    parts = {
        "estimate": Counts(requests=4, compute_ns=80 * 10**6),
        "features": Counts(requests=10, compute_ns=10**9 + 40 * 10**6),
        "assemble": Counts(requests=2, compute_ns=12 * 10**6),  # of those that asked for matrices
    }
    assert step_times(between(before, Snapshot(models, parts))) == (
        StepTime("estimate", 4, 1.0, 8.0, 0.0),  # 1 + 20 less 10 and 3, which is half of 6
        StepTime("features", 4, 1.0, 0.0, 10.0),
        StepTime("assemble", 2, 1.0, 0.0, 6.0),
    )


def test_metrics_are_read_of_every_server_that_lets_them_be_read() -> None:
    text = (
        'sigmahat_step_seconds_total{step="features"} 1.5\nsigmahat_step_requests_total{step="features"} 3\n'
        'sigmahat_cost_ms_total{step="features"} 7\n'
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        found = snapshot(Servers((), metrics=(address, address, "127.0.0.1:1")))
        server.shutdown()
        thread.join()
    assert found == Snapshot({}, {"features": Counts(requests=6, compute_ns=3 * 10**9)})


def test_the_command_line_gives_its_settings_again() -> None:
    settings = Settings(urls=("a:1", "b:2"), in_flight=(1.0, 3.0), assets=(5, 30), process_pool=False, out=Path("o x"))
    line = command._command(settings)
    assert line == ("sigmahat loadtest --url a:1 --url b:2 --assets 5 30 --in-flight 1,3 --no-process-pool --out 'o x'")
    assert command._command(Settings()) == "sigmahat loadtest"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--in-flight", "1,x"], "wanted numbers separated by commas, such as 1,2,4, got '1,x'"),
        (["--poisson", "0.5,0"], "wanted numbers above zero, got '0.5,0'"),
        (["--assets", "30", "20"], "wanted least and most, got 30 20"),
    ],
)
def test_wrong_options(arguments, words) -> None:
    result = CliRunner().invoke(command.loadtest, arguments)
    assert result.exit_code == 2
    assert words in result.output
