# SPDX-License-Identifier: Apache-2.0
"""Files of returns are read as they are meant, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from client.intake.file_cases import FILES, FileCase

from sigmahat_client.intake.files import UnreadableFile, read_returns

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
    "index.feather": lambda path: expected().rename_axis("date").reset_index().to_feather(path),
    "period.parquet": lambda path: expected().to_period("D").to_parquet(path),
    "numbers.parquet": lambda path: expected().set_axis(DATES.strftime("%Y%m%d").astype(int)).to_parquet(path),
    "panel.npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_reads_the_same_panel(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name)
    pd.testing.assert_frame_equal(read_returns(tmp_path / name), expected(), check_names=False, check_index_type=False)


def npz(**arrays: Any) -> Any:
    good = {"dates": DATES.to_numpy("datetime64[D]"), "tickers": np.array(TICKERS), "ret": RETURNS}
    return lambda path: np.savez(path, **{key: value for key, value in (good | arrays).items() if value is not None})


def parquet(table: pd.DataFrame) -> Any:
    return lambda path: table.to_parquet(path)


def text(content: str) -> Any:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("panel.parquet", text("no parquet"), r"no readable \.parquet file"),
        ("panel.feather", text("no feather"), r"no readable \.feather file"),
        ("panel.npz", text("no zip"), r"no readable \.npz file"),
        ("panel.npz", npz(tickers=None), "arrays dates, tickers and ret, but tickers is not"),
        ("panel.npz", npz(tickers=np.array(TICKERS, object)), "allow_pickle=False"),
        ("panel.npz", npz(ret=RETURNS[:, :1]), r"ret has shape \(4, 1\), for 4 dates and 2 tickers"),
        ("panel.npz", npz(ret=np.ones((4, 2), int)), "ret must be floating point"),
        ("panel.npz", npz(dates=np.arange(4)), "first column should hold dates such as 2019-01-31, got 0, 1, 2"),
        ("panel.npz", npz(dates=DATES.to_numpy()[::-1]), "increase, got 2020-01-06 in row 1 after 2020-01-07 in row 0"),
        ("panel.parquet", parquet(expected().assign(C="x")), "columns .'C'. are not .* holds 'x' in row 0"),
        ("panel.parquet", parquet(pd.DataFrame(index=range(4))), "a column of dates and one for each asset"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, write: Any, words: str):
    write(tmp_path / name)
    with pytest.raises(UnreadableFile, match=words) as raised:
        read_returns(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.comes_in)
def test_csv_as_the_world_writes_it(tmp_path: Path, case: FileCase):
    path = tmp_path / case.name
    path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    assert case.happens.startswith("refused" if case.expected is None else "read")
    if case.expected is not None:
        pd.testing.assert_frame_equal(read_returns(path), case.expected, check_index_type=False, rtol=1e-15)
        return
    with pytest.raises(UnreadableFile) as raised:
        read_returns(path)
    for words in re.findall("`(.*?)`", case.happens):
        assert words in str(raised.value)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_wide_file_is_read_as_it_was_written(tmp_path: Path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.standard_normal((300, 50)), pd.bdate_range("2020-01-01", periods=300))
    table = table.mask(rng.random(table.shape) < 0.1).rename(columns=lambda i: f"A{i}")
    table.to_csv(tmp_path / "wide.csv")
    back = read_returns(tmp_path / "wide.csv")
    np.testing.assert_array_equal(back.to_numpy(), table.to_numpy())
    assert back.columns.tolist() == table.columns.tolist()


@pytest.mark.parametrize("tickers", [None, np.array(TICKERS, object)])
def test_names_of_an_npz_file_may_be_dispensed_with(tmp_path: Path, tickers: Any):
    npz(tickers=tickers)(tmp_path / "panel.npz")
    read = read_returns(tmp_path / "panel.npz", named=False)
    pd.testing.assert_frame_equal(read, expected().set_axis(["0", "1"], axis="columns"), check_index_type=False)
