# SPDX-License-Identifier: Apache-2.0
"""`sigmahat report` writes a whole page or nothing, from files as from the model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from deploy.report import studies

from sigmahat_deploy.cli import main

REPOSITORY = str(Path(__file__).parents[3] / "model_repository")
UNIVERSES = {
    "some": ["A0", "A1", "A2", "A3", "A4"],
    "late": {"assets": ["A5", "A4", "A3", "A2"], "start": 60, "stop": 200},
    "bad": ["A0", "NOPE"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns, universes, and what `sigmahat estimate` made of them."""
    folder = tmp_path_factory.mktemp("report")
    studies.panel(n_rows=240).rename_axis("date").to_csv(folder / "returns.csv")
    (folder / "universes.json").write_text(json.dumps(UNIVERSES))
    (folder / "weights.csv").write_text("asset,weight\nA4,0.5\nA2,0.5\n")
    done = run(
        folder, "estimate", "--universes", "universes.json", "--local", "--model-repository", REPOSITORY,
        "--out", "estimates.csv", "--covariances", "covariances.npz",
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    return folder


def run(folder: Path, command: str, *options: str) -> Result:
    """Run a command on the returns; names of files are those of the folder."""
    words = [str(folder / word) if re.fullmatch(r"[\w]+\.(csv|json|npz|html)", word) else word for word in options]
    return CliRunner().invoke(main, [command, str(folder / "returns.csv"), *words])


def local(folder: Path, *options: str) -> Result:
    return run(folder, "report", "--local", "--model-repository", REPOSITORY, *options)


def articles(page: str) -> list[str]:
    return re.findall(r"<article.*?</article>", page, re.DOTALL)


def test_a_page_from_the_model_and_one_from_files_say_the_same(folder: Path):
    shown = ["--universes", "universes.json", "--weights", "weights.csv", "--earlier", "covariances.npz"]
    done = local(folder, *shown, "--out", "model.html")
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.search(r"model\.html \([\d.]+ MB\): 2 of 3 universes whole, 1 failed$", done.output.strip())
    results = ["--estimates", "estimates.csv", "--covariances", "covariances.npz"]
    done = run(folder, "report", *shown, *results, "--out", "files.html")
    assert (done.exit_code, done.stderr) == (0, "")
    model, files = ((folder / name).read_text() for name in ("model.html", "files.html"))
    assert len(articles(model)) == 2
    assert articles(model) == articles(files)
    charts = r'<script type="application/json" id="report-charts">(.*?)</script>'
    assert re.findall(charts, model) == re.findall(charts, files)
    assert "of estimates.csv and covariances.npz" in files
    assert "taught on data up to <b>2012-12-31</b>" in model
    first, _ = articles(model)
    assert "Largest changes since the earlier result" in first
    assert re.search(r"<td>A0</td><td>[\d.]+ %</td><td>[\d.]+ %</td><td>\+0\.0 %</td>", first)  # of the same run
    assert "the asset is not a column of the panel" in model  # in the table


def test_json_says_what_was_done(folder: Path):
    done = local(folder, "--universes", "universes.json", "--out", "said.html", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said.pop("seconds") > 0
    assert said == {
        "out": str(folder / "said.html"),
        "bytes": (folder / "said.html").stat().st_size,
        "universes": 3,
        "whole": ["some", "late"],
        "failed": {"bad": "universe 'bad', asset 'NOPE': the asset is not a column of the panel"},
    }


def test_what_estimate_says_to_type_next_makes_the_page(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = [str(tmp_path / name) for name in ("estimates.csv", "covariances.npz")]
    done = run(
        folder, "estimate", "--universes", "universes.json", "--local", "--model-repository", REPOSITORY,
        "--out", files[0], "--covariances", files[1],
    )  # fmt: skip
    (line,) = [line for line in done.stderr.splitlines() if "sigmahat report" in line]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, shlex.split(line.partition("sigmahat ")[2]))
    assert done.exit_code == 0, done.output
    assert len(articles(Path("report.html").read_text())) == 2


def test_an_earlier_result_of_other_universes_is_told(folder: Path):
    done = local(folder, "--earlier", "covariances.npz", "--out", "other.html")  # which has no universe "all"
    assert done.exit_code == 0, done.output
    assert "The earlier result has nothing to compare this universe with." in (folder / "other.html").read_text()


def test_the_page_is_whole_in_itself(folder: Path):
    assert local(folder, "--out", "alone.html").exit_code == 0
    page = (folder / "alone.html").read_text()
    assert len(page.encode()) < 1_500_000
    # No element that fetches; the library's own texts name schemas and pages of its authors.
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "://" not in outside.replace("data:,", "")
    assert "default-src 'none'" in outside


def test_the_backtest_is_of_the_portfolio(folder: Path):
    done = local(
        folder, "--universes", "universes.json", "--weights", "weights.csv", "--backtest", "--backtest-window", "100",
        "--out", "tested.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    first, _ = articles((folder / "tested.html").read_text())
    assert "4 dates from" in first or "6 dates from" in first
    assert "The portfolio is mine, as above" in first


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--local", "--url", "x:1", "--out", "n.html"], 2, "leave --url and certificates out"),
        (["--local", "--out", "n.csv"], 2, "must end with .html"),
        (["--local", "--out", "/nowhere/at/all/n.html"], 2, "/nowhere/at/all is not a folder"),
        (["--estimates", "estimates.csv", "--out", "n.html"], 2, "--estimates and --covariances belong together"),
        (["--local", "--detail", "x", "--out", "n.html"], 1, "--detail x: there is no such universe"),
        (["--local", "--weights", "unknown.csv", "--out", "n.html"], 1, "the returns have no asset XYZ"),
        (["--local", "--backtest", "--out", "n.html"], 1, "needs 315 rows"),
        (["--local", "--universes", "narrow.json", "--weights", "weights.csv", "--out", "n.html"], 1, "no universe"),
        (["--local", "--universes", "failing.json", "--out", "n.html"], 1, "none of 1 universes was estimated"),
        (["--estimates", "estimates.csv", "--covariances", "other.npz", "--out", "n.html"], 1, "of one run?"),
        (["--url", "127.0.0.1:9", "--out", "n.html"], 1, "127.0.0.1:9"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line_and_leaves_nothing(folder: Path, options: list[str], code: int, words: str):
    (folder / "unknown.csv").write_text("asset,weight\nXYZ,1\n")
    (folder / "narrow.json").write_text(json.dumps({"two": ["A0", "A1"]}))
    (folder / "failing.json").write_text(json.dumps({"bad": ["A0", "NOPE"]}))
    np.savez(folder / "other.npz", **{"covariance/x": np.eye(1), "assets/x": np.array(["A0"])})
    repository = ["--model-repository", REPOSITORY] if "--local" in options else []
    done = run(folder, "report", *options, *repository)
    assert done.exit_code == code
    assert words in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".", "n."))]
