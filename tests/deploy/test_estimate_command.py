# SPDX-License-Identifier: Apache-2.0
"""`sigmahat estimate` writes whole files or none, and its exit code tells how it went."""

from __future__ import annotations

import io
import itertools
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from client.fake_server import FakeServer, fake_server
from pyarrow import feather, parquet

from sigmahat_deploy.cli import main
from sigmahat_deploy.progress_line import progress_of

TICKERS = ["AAA", "BBB", "CCC", "DDD"]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    returns = 0.01 * np.random.default_rng(0).standard_normal((30, 4))
    dates = np.arange("2020-01-01", "2020-01-31", dtype="datetime64[D]")
    np.savez(tmp_path / "returns.npz", dates=dates, tickers=np.array(TICKERS), ret=returns)
    return tmp_path


def run(folder: Path, url: str, *options: str, universes: object = None) -> Result:
    if universes is not None:
        (folder / "universes.json").write_text(json.dumps(universes))
        options = (*options, "--universes", str(folder / "universes.json"))
    arguments = ["estimate", str(folder / "returns.npz"), "--out", str(folder / "out.parquet"), "--url", url, *options]
    return CliRunner().invoke(main, arguments)


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"returns.npz", "universes.json"}


def test_all_assets_are_one_universe(folder: Path, server: FakeServer):
    result = run(folder, server.url)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"wrote {folder / 'out.parquet'}: 1 of 1 universes to 2020-01-30",
        "next: the same with --covariances covariances.npz for the matrices, which sigmahat report shows",
    ]
    table = pd.read_parquet(folder / "out.parquet")
    assert table.index.tolist() == ["all"]
    assert table.loc["all", "n_assets"] == 4
    assert table.loc["all", "memory"] == 4000  # the first asset's column, and the fake's offset
    assert written(folder) == {"out.parquet"}


def test_windows_and_covariances(folder: Path, server: FakeServer):
    universes = {"file": ["DDD", "BBB"], "b/c": {"assets": ["CCC", "BBB", "AAA"], "start": "2020-01-03", "stop": 28}}
    result = run(folder, server.url, "--classic", "--covariances", str(folder / "matrices.npz"), universes=universes)
    assert result.exit_code == 0
    *said, to_look = result.stderr.splitlines()
    assert said == [
        f"wrote {folder / 'out.parquet'} and {folder / 'matrices.npz'}: 2 of 2 universes to 2020-01-30",
        f"next, in Python: numpy.load('{folder / 'matrices.npz'}')['covariance/file']",
    ]
    assert to_look.startswith("next, to look at it: sigmahat report ")
    np.testing.assert_array_equal(server.received[-1].tensors["WINDOWS"], [[0, 30], [2, 28]])
    assert server.received[-1].parameters["classic"] is True
    assert pd.read_parquet(folder / "out.parquet").index.tolist() == ["file", "b/c"]
    with np.load(folder / "matrices.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"covariance/file", "assets/file", "covariance/b/c", "assets/b/c"}
        assert arrays["assets/b/c"].tolist() == ["CCC", "BBB", "AAA"]
        np.testing.assert_array_equal(arrays["covariance/file"], [[3003, 3001], [1003, 1001]])
    assert written(folder) == {"out.parquet", "matrices.npz"}


def test_failed_universes_are_told_apart(folder: Path, server: FakeServer):
    universes = {"good": ["AAA", "BBB"], **{f"bad {i}": ["AAA", f"X{i}"] for i in range(12)}}
    result = run(folder, server.url, "--covariances", str(folder / "matrices.npz"), universes=universes)
    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert lines[0] == "universe 'bad 0', asset 'X0': the asset is not a column of the panel"
    assert lines[9].startswith("universe 'bad 9'")
    assert lines[10:12] == ["... and 2 more", "12 of 13 universes failed"]
    assert lines[12].startswith("wrote ")
    table = pd.read_parquet(folder / "out.parquet")
    assert table["status"].tolist() == [0] + [2] * 12
    assert table["message"].iloc[1] == lines[0]
    with np.load(folder / "matrices.npz") as arrays:
        assert set(arrays) == {"covariance/good", "assets/good"}


READERS = {
    ".csv": lambda path: pd.read_csv(path, index_col="universe"),
    ".parquet": pd.read_parquet,
    ".feather": lambda path: pd.read_feather(path).set_index("universe"),
    ".json": lambda path: pd.DataFrame.from_dict(json.loads(path.read_text()), orient="index"),
}


@pytest.mark.parametrize("ending", READERS)
def test_the_ending_of_out_decides(folder: Path, server: FakeServer, ending: str):
    out = folder / f"table{ending}"
    universes = {"good": ["DDD", "BBB"], "bad": ["AAA", "X"]}
    result = run(folder, server.url, "--out", str(out), universes=universes)
    assert result.exit_code == 3
    table = READERS[ending](out)
    assert table.index.tolist() == ["good", "bad"]
    assert table.loc["good", "memory"] == 4003
    assert np.isnan(table["memory"].astype(float).loc["bad"])
    assert table["status"].tolist() == [0, 2]
    assert written(folder) == {out.name}


def test_a_dash_is_standard_output(folder: Path, server: FakeServer):
    result = run(folder, server.url, "--out", "-")
    assert result.exit_code == 0
    assert pd.read_csv(io.StringIO(result.stdout), index_col="universe").loc["all", "memory"] == 4000
    assert written(folder) == set()


def test_what_is_odd_is_said_in_the_closing_lines(folder: Path):
    def odd(answer: dict[str, np.ndarray]) -> None:
        answer["WARNINGS"] = np.array([4 | 32], np.int32)
        answer["ASSET_WARNINGS"] = np.array([[0, 2, 4]], np.int32)

    with fake_server(change=odd) as server:
        result = run(folder, server.url)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[:-2] == [
        "'CCC': one return makes up most of the variance: a split that was not adjusted?",
        "1 of 1 universes: not 5 to 500 assets, with which the networks were trained",
    ]
    assert pd.read_parquet(folder / "out.parquet").loc["all", "warnings"] == "DOMINANT_RETURN: CCC; UNUSUAL_SIZE"


def test_assets_that_cannot_be_used_are_dropped_and_named(folder: Path, server: FakeServer):
    arrays = dict(np.load(folder / "returns.npz"))
    arrays["ret"][:, 1] = np.nan
    np.savez(folder / "returns.npz", **arrays)
    universes = {"one": ["BBB", "CCC", "AAA"], "two": ["DDD", "CCC"], "three": ["XXX", "AAA", "CCC"]}
    result = run(folder, server.url, "--drop-bad-assets", universes=universes)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[:-2] == [
        "universe 'one' is estimated without 1 assets: 'BBB' (SHORT_HISTORY, 0 of 30 rows)",
        "universe 'three' is estimated without 1 assets: 'XXX' (UNKNOWN_ASSET)",
    ]
    np.testing.assert_array_equal(server.received[-1].tensors["UNIVERSES"], [[2, 0], [3, 2], [0, 2]])
    table = pd.read_parquet(folder / "out.parquet")
    assert table[["n_assets", "n_dropped"]].to_numpy().tolist() == [[2, 1], [2, 0], [2, 1]]


def test_local_needs_no_server(folder: Path):
    pytest.importorskip("onnxruntime", reason="needs sigmahat[serve]")
    repository = Path(__file__).parents[2] / "model_repository"
    arguments = ["estimate", str(folder / "returns.npz"), "--out", str(folder / "out.csv"), "--local"]
    result = CliRunner().invoke(main, [*arguments, "--model-repository", str(repository)])
    small = "1 of 1 universes: not 5 to 500 assets, with which the networks were trained\n"
    assert (result.exit_code, result.stderr.startswith(small)) == (0, True)
    assert pd.read_csv(folder / "out.csv").loc[0, "status"] == 0
    (folder / "empty").mkdir()
    result = CliRunner().invoke(main, [*arguments, "--model-repository", str(folder / "empty")])
    assert (result.exit_code, "no member at" in result.stderr) == (1, True)


def test_no_server_leaves_what_was_there(folder: Path):
    (folder / "out.parquet").write_text("yesterday's")
    result = run(folder, "127.0.0.1:1", "--retry-s", "0")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: 127.0.0.1:1: ")
    assert (folder / "out.parquet").read_text() == "yesterday's"


@pytest.mark.parametrize("speaks", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_what_is_no_grpc_server_is_told_within_seconds(folder: Path, speaks: bytes):
    """A port of HTTP, and one that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    taken.append(connection)
                    connection.sendall(speaks)

        taken: list[socket.socket] = []
        Thread(target=answer, daemon=True).start()
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        result = run(folder, url, "--deadline-s", "4")
        listener.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()
    assert result.exit_code == 1
    if speaks:
        assert result.stderr.startswith(
            f"Error: {url}: what is there speaks no plain gRPC: name the server's gRPC port"
        )
    else:
        hint = (
            f"{url}: no answer yet; if no server is there, start one with `sigmahat serve`, name another with --url, or"
        )
        assert result.stderr.startswith(hint)


def test_a_certificate_needs_its_key(folder: Path, server: FakeServer):
    (folder / "chain.pem").write_text("")
    result = run(folder, server.url, "--certificate-chain", str(folder / "chain.pem"))
    assert (result.exit_code, "go together" in result.stderr) == (1, True)


def test_a_write_that_fails_leaves_no_half_files(folder: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch):
    def full(table: pd.DataFrame, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    result = run(folder, server.url, "--covariances", str(folder / "matrices.npz"))
    assert (result.exit_code, result.stderr) == (1, "Error: [Errno 28] No space left on device\n")
    assert written(folder) == set()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--out", "{folder}/nowhere/out.parquet"], 2, "{folder}/nowhere is not a folder: create it first"),
        (["--covariances", "{folder}/matrices.csv"], 2, "must end with .npz, got {folder}/matrices.csv"),
        (["--out", "{folder}/out.xlsx"], 2, "must end with .csv, .parquet, .feather, .json, or be -"),
        (["--out", "{folder}/out"], 2, "must end with .csv"),
        (["--local"], 2, "--local computes in this process: leave --url"),
        (["--model-repository", "{folder}"], 2, "--model-repository is for --local"),
        (["--classic"], 2, "--classic changes covariances only"),
        (["--deadline-s", "0"], 2, "0.0 is not in the range"),
        (["--universes", "{folder}/nonesuch.json"], 2, "does not exist"),
        (["--universes", "{folder}/returns.npz"], 1, "returns.npz is no readable JSON"),
        (["--url", "localhost"], 1, "url must be host:port"),
    ],
)
def test_errors_come_before_the_work(folder: Path, server: FakeServer, options: list[str], code: int, words: str):
    before = len(server.received)
    result = run(folder, server.url, *[option.format(folder=folder) for option in options])
    assert result.exit_code == code
    assert words.format(folder=folder) in result.stderr
    assert "Traceback" not in result.output
    assert len(server.received) == before
    assert written(folder) == set()


@pytest.mark.parametrize(("option", "name"), [("--covariances", "returns.npz"), ("--out", "universes.json")])
def test_what_is_read_is_not_written_over(folder: Path, server: FakeServer, option: str, name: str):
    universes = {"one": TICKERS}
    result = run(folder, server.url, option, str(folder / "." / name), universes=universes)
    assert result.exit_code == 2
    assert f"must not be {folder / name}, which is read: name another file" in result.stderr
    assert json.loads((folder / "universes.json").read_text()) == universes


def test_local_finds_its_members_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["estimate", "returns.npz", "--local", "--out", "out.csv"])
    assert result.exit_code == 0
    assert pd.read_csv("out.csv")["status"].tolist() == [0]


def test_local_without_its_runtime_says_what_to_type(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    arguments = ["estimate", str(folder / "returns.npz"), "--local", "--out", str(folder / "out.csv")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: estimating in this process needs onnxruntime, which is not installed: pip install 'sigmahat[local]'\n"
    )
    assert written(folder) == set()


def test_returns_that_are_none_are_an_error(folder: Path, server: FakeServer):
    arrays = dict(np.load(folder / "returns.npz"))
    np.savez(folder / "returns.npz", **{**arrays, "tickers": np.array(["AAA", "BBB", "AAA", "DDD"])})
    result = run(folder, server.url)
    assert result.exit_code == 1
    assert "assets must have one column each, but ['AAA'] have several" in result.stderr


def test_market_indicators_are_put_to_the_rows_of_the_returns(folder: Path, server: FakeServer):
    """In capitals or not, in any order; a date that the file lacks is missing, one that it has more is not used."""
    (folder / "vix.csv").write_text("date,Turnover,VIX\n2019-12-31,9,99\n2020-01-02,2.5,14\n2020-01-30,,16\n")
    result = run(folder, server.url, "--market", str(folder / "vix.csv"))
    assert result.exit_code == 0, result.stderr
    sent = server.received[-1].tensors["MARKET"]
    wanted = np.full((30, 4), np.nan)
    wanted[1, :2], wanted[29, 0] = (14, 2.5), 16
    np.testing.assert_array_equal(sent, wanted.astype(np.float32))


def test_blocks_from_the_shell_are_those_from_python(folder: Path, server: FakeServer):
    (folder / "sectors.csv").write_text("ticker,sector\nAAA,tech\nBBB, banks\n\nCCC,tech\nDDD,banks\n")
    (folder / "sectors.json").write_text('{"AAA": "tech", "BBB": "banks", "CCC": "tech", "DDD": "banks"}')
    for name in ("sectors.csv", "sectors.json"):
        result = run(folder, server.url, "--blocks", str(folder / name))
        assert result.exit_code == 0, result.stderr
        np.testing.assert_array_equal(server.received[-1].tensors["BLOCKS"], [[0, 1, 0, 1]])
        table = pd.read_parquet(folder / "out.parquet")
        assert {"block_intensity_tech", "block_intensity_banks"} <= set(table)


@pytest.mark.parametrize(
    ("option", "name", "content", "words"),
    [
        ("--market", "m.csv", "date,VIX,oil\n2020-01-02,14,60\n", "columns should be among vix, turnover, illiquidity"),
        (
            "--market",
            "m.csv",
            "date,VIX\n2021-01-02,14\n2021-01-03,15\n",
            "holds 2021-01-02 to 2021-01-03, and no",
        ),
        ("--market", "m.csv", "date,VIX\nmonday,14\n", "should hold dates such as 2019-01-31"),
        ("--blocks", "b.csv", "asset,block\nAAA,tech\n", "blocks must give every asset a block; ['BBB', 'CCC', 'DDD']"),
        ("--blocks", "b.csv", "asset,block\nAAA,tech\nBBB\n", "line 3 should hold an asset and its block, got 'BBB'"),
        ("--blocks", "b.csv", "asset,block\nAAA,tech\nAAA,banks\n", "['AAA'] occur more than once"),
        ("--blocks", "b.json", '["AAA"]', 'it should hold {"AAPL": "tech", ...}'),
    ],
)
def test_a_market_or_blocks_that_cannot_be_meant_are_refused(
    folder: Path, server: FakeServer, option: str, name: str, content: str, words: str
):
    (folder / name).write_text(content)
    result = run(folder, server.url, option, str(folder / name))
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_json_says_what_was_done_where_nothing_else_is_written(folder: Path, server: FakeServer):
    universes = {"good": ["AAA", "BBB"], "bad": ["AAA", "XXX"]}
    result = run(folder, server.url, "--json", universes=universes)
    assert result.exit_code == 3
    done = json.loads(result.stdout)
    assert done.pop("seconds") > 0
    assert done == {
        "out": str(folder / "out.parquet"),
        "covariances": None,
        "universes": 2,
        "failed": {"bad": "universe 'bad', asset 'XXX': the asset is not a column of the panel"},
        "warnings": [],
        "last_date": "2020-01-30",
    }
    result = run(folder, server.url, "--out", "-", "--json")
    assert len(pd.read_csv(io.StringIO(result.stdout))) == 1
    assert json.loads(result.stderr)["out"] is None


def test_results_have_dates_and_units(folder: Path, server: FakeServer):
    universes = {"all": {"assets": ["AAA", "BBB"], "start": "2020-01-05", "stop": "2020-01-29"}}
    for ending, read in ((".parquet", parquet.read_schema), (".feather", lambda path: feather.read_table(path).schema)):
        assert run(folder, server.url, "--out", str(folder / f"out{ending}"), universes=universes).exit_code == 0
        assert read(folder / f"out{ending}").field("condition").metadata[b"unit"] == b"log10"
    table = pd.read_parquet(folder / "out.parquet").loc["all"]
    assert (table["n_rows"], table["first_date"], table["last_date"]) == (
        24,
        pd.Timestamp("2020-01-05"),
        pd.Timestamp("2020-01-28"),
    )
    assert run(folder, server.url, "--out", str(folder / "out.json")).exit_code == 0
    assert json.loads((folder / "out.json").read_text())["all"]["last_date"].startswith("2020-01-30")
    assert run(folder, server.url, "--out", str(folder / "out.csv")).exit_code == 0
    assert pd.read_csv(folder / "out.csv").loc[0, "last_date"] == "2020-01-30"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    clock = itertools.count(0.0, 12.0)
    monkeypatch.setattr("sigmahat_deploy.progress_line.time.monotonic", lambda: next(clock))
    with progress_of("universes") as progress:
        for done in range(1_000, 7_000, 1_000):
            progress(done, 6_000)
    said = ["3,000 of 6,000 universes, 36 s", "6,000 of 6,000 universes, 72 s"]
    assert capsys.readouterr().err.splitlines() == said
