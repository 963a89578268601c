# SPDX-License-Identifier: Apache-2.0
"""`sigmahat risk` in process: files in, files out, and words where they cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from sigmahat_client import ShrinkageClient
from sigmahat_client.intake.csv_table import UnreadableFile
from sigmahat_deploy.cli import main
from sigmahat_deploy.portfolios_file import read_portfolios

REPOSITORY = Path(__file__).parents[2] / "model_repository"
TICKERS = ["AAA", "BBB", "CCC", "NA", "EEE", "FFF"]
LONG = "portfolio,asset,weight\nbook,AAA,10\nbook,NA,-5\ndesk,CCC,1e3\n"
DATES = np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]")
BOOKS = {"book": {"AAA": 10.0, "NA": -5.0}, "desk": {"CCC": 1000.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    returns = 0.01 * (rng.standard_normal((60, 1)) + rng.standard_normal((60, 6)))
    np.savez(tmp_path / "returns.npz", dates=DATES, tickers=np.array(TICKERS), ret=returns)
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
            "1 of 4 portfolios in 2 universes failed",
            f"wrote {folder / 'out.parquet'} and {parts}: 3 of 4 portfolios in 2 universes to 2020-02-29",
        ],
    )
    table = pd.read_parquet(folder / "out.parquet")
    with np.load(folder / "returns.npz") as arrays, ShrinkageClient.local(REPOSITORY) as client:
        returns = pd.DataFrame(arrays["ret"], pd.DatetimeIndex(arrays["dates"]), TICKERS)
        expected = client.risk(returns, universes, BOOKS, annualise=252)
    pd.testing.assert_frame_equal(table, expected.to_frame())
    fields = {field.name: field.metadata for field in parquet.read_schema(folder / "out.parquet")}
    assert fields["volatility"][b"unit"] == b"that of the weights"
    assert [name for name, metadata in fields.items() if b"meaning" not in (metadata or {})] == []
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
    assert (result.exit_code, result.stderr.splitlines()) == (
        0,
        [
            f"wrote {folder / 'out.json'}: 10 of 10 portfolios in 5 universes to 2020-02-29",
            "next: the same with --contributions contributions.csv for what each asset adds",
        ],
    )
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


def test_one_line_of_json_says_what_was_done(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    (folder / "vix.csv").write_text("date,vix\n" + "".join(f"{d},20.0\n" for d in DATES))
    (folder / "blocks.csv").write_text("asset,block\n" + "".join(f"{t},{t < 'CCC'}\n" for t in TICKERS))
    files = ["--market", str(folder / "vix.csv"), "--blocks", str(folder / "blocks.csv")]
    (folder / "p.csv").write_text(LONG + "none,AAA,0\n")
    result = run(folder, "--json", *files, out="out.csv")
    assert result.exit_code == 3, result.stderr
    done = json.loads(result.stdout)
    assert done.pop("seconds") > 0
    assert done == {
        "out": str(folder / "out.csv"),
        "contributions": None,
        "universes": 1,
        "portfolios": 3,
        "failed": [
            {
                "universe": "all",
                "portfolio": "none",
                "message": "universe 'all', portfolio 'none': all weights of the universe's assets are zero",
            }
        ],
        "warnings": [],
        "last_date": "2020-02-29",
    }
    plain = run(folder, out="plain.csv")
    assert "wrote" in plain.stderr
    volatility = [pd.read_csv(folder / name)["volatility"][0] for name in ("out.csv", "plain.csv")]
    assert volatility[0] != volatility[1]  # the networks read VIX, the blocks have an intensity of their own


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
        (["--contributions", str(folder / "out.parquet")], "which is written too"),
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
