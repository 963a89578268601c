# SPDX-License-Identifier: Apache-2.0
"""Files of returns and universes are read as they are meant, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sigmahat_deploy.returns_file import UnreadableFile, read_returns, read_universes

DATES = pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-06", "2020-01-07"])
RETURNS = np.array([[0.01, np.nan], [-0.02, 0.03], [0.0, 0.01], [0.005, -0.01]])
TICKERS = ["AAPL", "BRK.B"]


def expected() -> pd.DataFrame:
    return pd.DataFrame(RETURNS, index=DATES, columns=TICKERS)


def write_csv(path: Path) -> None:
    path.write_text(
        "date,AAPL,BRK.B\n2020-01-01,0.01,\n2020-01-02,-0.02,0.03\n2020-01-06,0.0,0.01\n2020-01-07,0.005,-0.01\n"
    )


def write_npz(path: Path) -> None:
    np.savez(path, dates=DATES.to_numpy("datetime64[D]"), tickers=np.array(TICKERS), ret=RETURNS)


WRITERS = {
    "index.parquet": lambda path: expected().to_parquet(path),
    "column.parquet": lambda path: expected().rename_axis("date").reset_index().to_parquet(path),
    "text.parquet": lambda path: expected().set_axis(DATES.strftime("%Y-%m-%d")).to_parquet(path),
    "day.parquet": lambda path: expected().set_axis(pd.Index(DATES.date, dtype=object)).to_parquet(path),
    "zone.parquet": lambda path: expected().tz_localize("Asia/Tokyo").to_parquet(path),
    "plain.csv": write_csv,
    "panel.npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_reads_the_same_panel(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name)
    pd.testing.assert_frame_equal(read_returns(tmp_path / name), expected(), check_names=False, check_index_type=False)


def npz(**arrays: Any) -> Any:
    good = {"dates": DATES.to_numpy("datetime64[D]"), "tickers": np.array(TICKERS), "ret": RETURNS}
    return lambda path: np.savez(path, **{key: value for key, value in (good | arrays).items() if value is not None})


def text(content: str) -> Any:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("panel.xlsx", text(""), r"should end with \.parquet, \.csv, \.npz"),
        ("panel.parquet", text("no parquet"), r"no readable \.parquet file"),
        ("panel.npz", text("no zip"), r"no readable \.npz file"),
        ("panel.npz", npz(tickers=None), "arrays dates, tickers and ret, but tickers is not"),
        ("panel.npz", npz(tickers=np.array(TICKERS, object)), "allow_pickle=False"),
        ("panel.npz", npz(ret=RETURNS[:, :1]), "no readable .npz file: Shape"),
        ("panel.npz", npz(dates=np.arange(4)), "first column should hold dates such as 2019-01-31, got 0, 1, 2"),
        ("panel.npz", npz(dates=DATES.to_numpy()[::-1]), "increasing, got 2020-01-06 00:00:00 after 2020-01-07"),
        ("panel.csv", text(""), "no readable .csv file: No columns"),
        ("panel.csv", text("AAPL,MSFT\n0.01,0.02\n0.03,0.04\n"), "should hold dates such as .*, got 0.01, 0.03"),
        ("panel.csv", text("date,AAPL\n20200101,0.02\n"), "should hold dates such as 2019-01-31, got 20200101"),
        ("panel.csv", text("date,AAPL\n01/02/2020,0.02\n"), "should hold dates such as 2019-01-31"),
        ("panel.csv", text("date,AAPL\n2020-01-01,0.02\n,0.01\n"), "2019-01-31, but 1 of 2 rows have none"),
        ("panel.csv", text("date,A,B,A\n2020-01-01,0.02,0.1,0.2\n"), r"columns \['A'\] occur more than once"),
        ("panel.csv", text("date,A\n2020-01-01,1,\n"), "should hold dates such as .*, got 1"),
        ("panel.csv", text("date,A\n2020-01-01,1\n2020-01-02,1,2,3\n"), "no readable .csv file: .*line 3"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, write: Any, words: str):
    write(tmp_path / name)
    with pytest.raises(UnreadableFile, match=words) as raised:
        read_returns(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))


def universes(tmp_path: Path, content: Any) -> Any:
    path = tmp_path / "universes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_universes(path, DATES)


def test_universes_with_and_without_windows(tmp_path: Path):
    read = universes(
        tmp_path,
        {
            "plain": ["BRK.B", "AAPL"],
            "whole": {"assets": ["AAPL"]},
            "rows": {"assets": ["AAPL"], "start": 1, "stop": 3},
            "dates": {"assets": ["AAPL"], "start": "2020-01-02", "stop": "2020-01-07"},
            "weekend": {"assets": ["AAPL"], "start": "2020-01-04", "stop": "2020-01-05"},
            "open": {"assets": ["AAPL"], "stop": "2020-01-06"},
            "rest": {"assets": ["AAPL"], "start": "2020-01-06"},
        },
    )
    assert list(read.assets) == ["plain", "whole", "rows", "dates", "weekend", "open", "rest"]
    assert read.assets["plain"] == ["BRK.B", "AAPL"]
    assert read.windows == {"rows": (1, 3), "dates": (1, 3), "weekend": (2, 2), "open": (0, 2), "rest": (2, 4)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no readable JSON"),
        ([["AAPL"]], r'should hold {"name": \["AAPL", ...\], ...}, got a list'),
        ({"tech": "AAPL"}, "universe 'tech' cannot be read: its assets should be a list of strings, got \"AAPL\""),
        ({"tech": ["AAPL", 3]}, r'should be a list of strings, got \["AAPL", 3\]'),
        ({"tech": {"start": 3}}, "should be a list of strings, got null"),
        ({"tech": {"assets": ["AAPL"], "end": 3}}, "it may hold assets, start and stop only"),
        ({"tech": {"assets": ["AAPL"], "start": "yesterday"}}, "date or a row number, got 'yesterday'"),
        ({"tech": {"assets": ["AAPL"], "start": True}}, "date or a row number, got True"),
        ({"tech": {"assets": ["AAPL"], "start": None}}, "date or a row number, got None"),
        ({"tech": {"assets": ["AAPL"], "start": "2020-01-01T00:00+09:00"}}, "date or a row number"),
        ('{"tech": ["AAPL"], "tech": ["MSFT"]}', r"\['tech'\] occur more than once"),
    ],
)
def test_bad_universes_are_refused_by_name(tmp_path: Path, content: Any, words: str):
    with pytest.raises(UnreadableFile, match=words) as raised:
        universes(tmp_path, content)
    assert str(raised.value).startswith(str(tmp_path))
