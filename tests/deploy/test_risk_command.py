# SPDX-License-Identifier: Apache-2.0
"""`sigmahat risk` in process: files in, files out, and words where they cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from sigmahat_client import ShrinkageClient
from sigmahat_deploy.cli import main
from sigmahat_deploy.csv_table import UnreadableFile
from sigmahat_deploy.portfolios_file import read_portfolios

REPOSITORY = Path(__file__).parents[2] / "model_repository"
TICKERS = ["AAA", "BBB", "CCC", "NA", "EEE", "FFF"]
LONG = "portfolio,asset,weight\nbook,AAA,10\nbook,NA,-5\ndesk,CCC,1e3\n"
BOOKS = {"book": {"AAA": 10.0, "NA": -5.0}, "desk": {"CCC": 1000.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    returns = 0.01 * (rng.standard_normal((60, 1)) + rng.standard_normal((60, 6)))
    dates = np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]")
    np.savez(tmp_path / "returns.npz", dates=dates, tickers=np.array(TICKERS), ret=returns)
    (tmp_path / "p.csv").write_text(LONG)
    return tmp_path


def run(folder: Path, *options: str, out: str = "out.parquet", universes: object = None) -> Result:
    if universes is not None:
        (folder / "universes.json").write_text(json.dumps(universes))
        options = (*options, "--universes", str(folder / "universes.json"))
    arguments = ["risk", str(folder / "returns.npz"), "--portfolios", str(folder / "p.csv"), "--out", str(folder / out)]
    where = ["--local", "--model-repository", str(REPOSITORY)]
    return CliRunner().invoke(main, [*arguments, *where, *options])


def test_files_hold_what_the_client_answers(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    universes = {"one": ["AAA", "BBB", "NA", "EEE", "FFF"], "two": ["BBB", "CCC", "EEE", "FFF", "NA"]}
    parts = str(folder / "parts.csv")
    result = run(folder, "--annualise", "252", "--contributions", parts, universes=universes)
    assert (result.exit_code, result.stderr.splitlines()) == (
        3,
        [
            "universe 'one', portfolio 'desk': all weights of the universe's assets are zero",
            "3 of 4 numbers were measured",
        ],
    )
    table = pd.read_parquet(folder / "out.parquet")
    with np.load(folder / "returns.npz") as arrays, ShrinkageClient.local(REPOSITORY) as client:
        returns = pd.DataFrame(arrays["ret"], pd.DatetimeIndex(arrays["dates"]), TICKERS)
        expected = client.risk(returns, universes, BOOKS, annualise=252)
    pd.testing.assert_frame_equal(table, expected.to_frame())
    held = pd.read_csv(parts, keep_default_na=False).set_index(["universe", "portfolio", "asset"])
    assert held.index.tolist() == [
        ("one", "book", "AAA"),
        ("one", "book", "NA"),
        ("two", "book", "NA"),
        ("two", "desk", "CCC"),
    ]
    np.testing.assert_allclose(held.loc["one"]["contribution"].sum(), expected.volatility[0, 0], rtol=1e-12)


def test_a_year_of_days_in_one_call(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = run(folder, "--window", "40", "--days", "5", out="out.json")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads((folder / "out.json").read_text())
    assert [(row["universe"], row["portfolio"]) for row in rows[:3]] == [
        ("all 2020-02-25", "book"),
        ("all 2020-02-25", "desk"),
        ("all 2020-02-26", "book"),
    ]
    assert len(rows) == 10
    assert len({row["volatility"] for row in rows}) == 10
    for options, words in (
        (["--window", "40"], "--window is of the days of --days"),
        (["--window", "61", "--days", "1"], "--window 61 is longer than the 60 rows of returns"),
    ):
        result = run(folder, *options)
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    windows = {"one": {"assets": ["AAA", "BBB"], "start": 10}}
    result = run(folder, "--days", "2", universes=windows)
    assert (result.exit_code, "--days makes the windows" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", LONG),
        ("p.csv", "Weight , Asset,Portfolio\n10,AAA,book\n-5,NA,book\n1000,CCC,desk\n"),
        ("p.json", json.dumps(BOOKS)),
    ],
)
def test_positions_one_by_one(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_portfolios(tmp_path / name) == BOOKS


def test_a_row_a_portfolio(tmp_path: Path) -> None:
    wide = pd.DataFrame([[10.0, 0.0, 0.0, -5.0]], ["book"], TICKERS[:4])
    expected = {"book": {"AAA": 10.0, "BBB": 0.0, "CCC": 0.0, "NA": -5.0}}
    wide.to_csv(tmp_path / "p.csv")
    wide.to_parquet(tmp_path / "p.parquet")
    wide.rename_axis("name").reset_index().to_feather(tmp_path / "p.feather")
    for name in ("p.csv", "p.parquet", "p.feather"):
        assert read_portfolios(tmp_path / name) == expected, name
    (tmp_path / "gap.csv").write_text("name,AAA,BBB\nbook,1,\n")
    assert np.isnan(read_portfolios(tmp_path / "gap.csv")["book"]["BBB"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "", "should end with .csv, .csv.gz, .parquet, .feather, .json"),
        ("p.csv", "portfolio,asset,weight\n", "there are no portfolios"),
        ("p.csv", "portfolio,asset,weight\na,X,1\na,X,2\n", "portfolio 'a' holds 'X' twice"),
        ("p.csv", "name,X,X\na,1,2\n", r"assets should have one column each, but \['X'\] have several"),
        ("p.csv", "name,X\na,1\na,2\n", "portfolios should have one row each, but 'a' has several"),
        ("p.csv", "name\na\n", "there should be columns portfolio, asset, weight"),
        ("p.csv", "", "is no readable file of portfolios"),
        ("p.parquet", "x", "is no readable file of portfolios"),
        ("p.json", "[]", "it should hold"),
        ("p.json", '{"a": 1}', "it should hold"),
        ("p.json", "{", "is no readable file of portfolios"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableFile, match=words):
        read_portfolios(tmp_path / name)


def test_options_are_checked_before_the_work(folder: Path) -> None:
    for options, words in (
        (["--contributions", str(folder / "x.txt")], "must end with .csv"),
        (["--contributions", str(folder / "out.parquet")], "which is --out"),
        (["--contributions", str(folder / "no" / "x.csv")], "is not a folder"),
        (["--url", "a:1"], "--local computes in this process"),
    ):
        result = run(folder, *options)
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    result = run(folder, out="p.csv")
    assert (result.exit_code, "which is read" in result.stderr) == (2, True)
    (folder / "p.csv").write_text("portfolio,asset,weight\nbook,GONE,1\n")
    result = run(folder)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: portfolio 'book' holds 'GONE', which are not in returns\n",
    )
    assert not (folder / "out.parquet").exists()
