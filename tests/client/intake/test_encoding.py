# SPDX-License-Identifier: Apache-2.0
"""What a caller hands in becomes the tensors of the protocol, or an error that says what was wanted."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import InvalidRequest
from sigmahat_client.intake import chunk_tensors, chunks, encode, shared_tensors
from sigmahat_client.intake.job import CHUNK_COST
from sigmahat_kernels.cost import MAX_COST, RunningCost
from sigmahat_kernels.request import MAX_UNIVERSES, read_request

TICKERS = ["AAA", "BBB", "CCC", "DDD"]


def panel(n_rows: int = 30, n_columns: int = 4) -> np.ndarray:
    return 0.01 * np.random.default_rng(0).standard_normal((n_rows, n_columns))


def frame(n_rows: int = 30) -> pd.DataFrame:
    return pd.DataFrame(panel(n_rows), index=pd.bdate_range("2020-01-01", periods=n_rows), columns=TICKERS)


def test_array_becomes_one_universe_of_column_numbers():
    returns = panel()
    job = encode(returns)
    assert job.panel.dtype == np.float32
    np.testing.assert_array_equal(job.panel, returns.astype(np.float32))
    assert job.names == ("all",)
    assert job.assets == ((0, 1, 2, 3),)
    assert not job.labelled
    assert shared_tensors(job).keys() == {"PANEL"}
    assert chunk_tensors(job, slice(0, 1)).keys() == {"UNIVERSES"}


def test_frame_gives_labels_and_dates():
    job = encode(frame(), {"one": ["CCC", "AAA"], "two": ("DDD",), "three": pd.Index(["BBB", "AAA", "CCC"])})
    np.testing.assert_array_equal(job.universes, [[2, 0, -1], [3, -1, -1], [1, 0, 2]])
    assert job.universes.dtype == np.int32
    assert job.names == ("one", "two", "three")
    assert job.assets == (("CCC", "AAA"), ("DDD",), ("BBB", "AAA", "CCC"))
    assert job.labelled
    assert job.rows.days is not None
    # 2020-01-01 is day 18262 since 1970-01-01; a Wednesday, so three weekdays before the first weekend.
    np.testing.assert_array_equal(job.rows.days[:4], [18262, 18263, 18264, 18267])


def test_assets_label_the_columns_of_an_array():
    job = encode(panel(), {"one": ["CCC", "AAA"]}, assets=np.array(TICKERS))
    np.testing.assert_array_equal(job.universes, [[2, 0]])
    assert job.labelled


def test_nullable_columns_are_missing_returns():
    returns = frame().astype("Float64")
    returns.iloc[3, 1] = pd.NA
    assert np.isnan(encode(returns).panel[3, 1])
    assert np.isnan(encode(returns).panel).sum() == 1


@pytest.mark.parametrize(
    "dates",
    [
        np.array([18262, 18263, 18266]),
        ["2020-01-01", "2020-01-02", "2020-01-05"],
        [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), datetime.date(2020, 1, 5)],
        np.array(["2020-01-01T23:59", "2020-01-02T00:00", "2020-01-05T12:00"], "datetime64[ns]"),
        pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-05"], tz="Asia/Tokyo"),
        [pd.Timestamp("2020-01-01 20:00"), pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-05")],
    ],
    ids=["days", "strings", "dates", "nanoseconds", "zone", "timestamps"],
)
def test_dates_are_days_since_1970(dates: Any):
    encoded = encode(panel(3), dates=dates).rows.days
    assert encoded is not None
    assert encoded.dtype == np.int32
    np.testing.assert_array_equal(encoded, [18262, 18263, 18266])


def test_dates_before_1970_round_down():
    encoded = encode(panel(2), dates=np.array(["1969-12-30T18:00", "1969-12-31T18:00"], "datetime64[h]")).rows.days
    assert encoded is not None
    np.testing.assert_array_equal(encoded, [-2, -1])


def test_index_that_is_no_dates_gives_none():
    assert encode(frame().reset_index(drop=True)).rows.days is None


def test_unknown_label_becomes_a_column_that_does_not_exist():
    job = encode(frame(), {"good": ["AAA", "BBB"], "bad": ["AAA", "XXX", "YYY"]})
    np.testing.assert_array_equal(job.universes, [[0, 1, -1], [0, 5, 6]])
    assert job.assets[1] == ("AAA", "XXX", "YYY")


@pytest.mark.parametrize("column", [-1, -2, 4, 2**40])
def test_unknown_column_becomes_one_that_does_not_exist(column: int):
    job = encode(panel(), [[1, column, 2]])
    np.testing.assert_array_equal(job.universes, [[1, 5, 2]])
    assert job.assets == ((1, column, 2),)


def test_integer_array_holds_columns_even_of_a_frame_with_integer_labels():
    returns = frame().set_axis([3, 2, 1, 0], axis="columns")
    job = encode(returns, np.array([[0, 1, -1, -1], [-1, 2, 9, 3]]))
    np.testing.assert_array_equal(job.universes, [[0, 1, -1, -1], [4, 2, 6, 3]])
    assert job.names == (0, 1)
    assert job.assets == ((3, 2), (-1, 1, 9, 0))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64, np.int64])
def test_columns_of_any_integer_type(dtype: type):
    job = encode(panel(n_columns=200), np.array([[0, 1, 2], [3, 4, 127]], dtype))
    np.testing.assert_array_equal(job.universes, [[0, 1, 2], [3, 4, 127]])
    assert encode(panel(n_columns=100), np.array([[0, 127]], dtype)).universes.tolist() == [[0, 101]]
    assert encode(panel(), np.zeros((2, 0), dtype)).universes.tolist() == [[-1], [-1]]


def test_lists_hold_labels_of_a_frame_with_integer_labels():
    returns = frame().set_axis([3, 2, 1, 0], axis="columns")
    np.testing.assert_array_equal(encode(returns, [[0, 1]]).universes, [[3, 2]])


def test_empty_universe_is_left_to_the_server():
    job = encode(panel(), {"empty": [], "good": [0, 1]})
    np.testing.assert_array_equal(job.universes, [[-1, -1], [0, 1]])
    assert chunk_tensors(job, slice(0, 1))["UNIVERSES"].shape == (1, 1)


def test_windows_by_name_default_to_all_rows():
    universes = {"one": [0, 1], "two": [1, 2]}
    windows = encode(panel(), universes, windows={"two": (5, 28)}).windows
    np.testing.assert_array_equal(windows, [[0, 30], [5, 28]])
    np.testing.assert_array_equal(
        encode(panel(), universes, windows=np.array([[1, 2], [3, 4]])).windows, [[1, 2], [3, 4]]
    )


def test_market_frame_is_put_in_the_order_of_the_protocol():
    returns = frame()
    market = pd.DataFrame({"illiquidity": 2.0, "vix": 1.0}, index=returns.index)
    encoded = encode(returns, market=market).market
    assert encoded is not None
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded[0], [1.0, np.nan, 2.0, np.nan])


BLOCK_OF = {"AAA": "tech", "BBB": "energy", "CCC": "tech", "DDD": "unused", "ZZZ": "elsewhere"}


@pytest.mark.parametrize("blocks", [BLOCK_OF, pd.Series(BLOCK_OF)], ids=["mapping", "series"])
def test_block_names_become_numbers(blocks: Any):
    job = encode(frame(), {"one": ["CCC"], "two": ["BBB", "AAA"]}, blocks=blocks)
    assert job.block_names == ("tech", "energy")
    np.testing.assert_array_equal(job.blocks, [[0, -1], [1, 0]])


def test_an_unknown_asset_needs_no_block():
    job = encode(frame(), {"bad": ["XXX", "AAA"], "good": ["BBB", "AAA"]}, blocks=BLOCK_OF)
    assert job.blocks is not None
    # The server refuses a request in which an asset has no block, so this one needs any.
    read_request(
        **{name.lower(): tensor for name, tensor in (shared_tensors(job) | chunk_tensors(job, slice(0, 2))).items()}
    )


def test_block_numbers_keep_their_names():
    job = encode(panel(), [[0, 1], [2]], blocks=np.array([[70, 20], [20, -1]]))
    assert job.block_names == (20, 70)
    np.testing.assert_array_equal(job.blocks, [[1, 0], [0, -1]])


def test_too_large_for_float32_becomes_infinite():
    returns = panel()
    returns[2, 1] = 1e300
    assert np.isinf(encode(returns).panel[2, 1])


def cut(sizes: list[int], *, cells: int = 100, n_columns: int = 20, **kwargs: Any) -> list[tuple[int, int]]:
    job = encode(panel(2, n_columns), [list(range(size)) for size in sizes], **kwargs)
    return [(chunk.start, chunk.stop) for chunk in chunks(job, cells)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([5, 5, 5, 5, 5], [(0, 4), (4, 5)]),  # 4 x 5 x 5 = 100 cells
        ([5, 5, 5, 6], [(0, 3), (3, 4)]),  # 4 x 6 x 6 = 144: all are padded to the widest
        ([2, 2, 2, 8, 2, 2], [(0, 3), (3, 4), (4, 6)]),
        ([20, 3, 3], [(0, 1), (1, 3)]),  # one universe goes alone, however large
        ([0, 0, 0], [(0, 3)]),
    ],
)
def test_chunks_hold_a_bounded_number_of_cells_in_order(sizes: list[int], expected: list[tuple[int, int]]):
    assert cut(sizes) == expected


def test_a_request_may_answer_as_much_as_it_carries():
    assert cut([5, 5, 5, 5, 5], cells=1, n_columns=50) == [(0, 4), (4, 5)]  # panel of 2 x 50


def test_chunks_count_a_universe_once_more_for_each_block():
    n = 2 * MAX_UNIVERSES
    universes = np.tile(np.array([0, 1], np.int32), (n, 1))
    assert [chunk.stop for chunk in chunks(encode(panel(), universes))] == [MAX_UNIVERSES, n]
    job = encode(panel(), universes[:3000], blocks=universes[:3000])
    assert [chunk.stop for chunk in chunks(job)] == [1365, 2730, 3000]  # 4096 / (1 + 2 blocks)


def test_chunk_is_trimmed_to_its_widest_universe():
    job = encode(
        panel(),
        [[0, 1], [2], [0, 1, 2, 3]],
        windows=np.array([[0, 25], [1, 26], [2, 27]]),
        blocks=np.zeros((3, 4), int),
    )
    tensors = chunk_tensors(job, slice(0, 2))
    np.testing.assert_array_equal(tensors["UNIVERSES"], [[0, 1], [2, -1]])
    np.testing.assert_array_equal(tensors["WINDOWS"], [[0, 25], [1, 26]])
    np.testing.assert_array_equal(tensors["BLOCKS"], [[0, 0], [0, -1]])
    np.testing.assert_array_equal(chunk_tensors(job, slice(1, 3))["WINDOWS"], [[1, 26], [2, 27]])


def with_column(value: Any) -> pd.DataFrame:
    return frame().assign(EEE=value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: encode(np.zeros(5)), r"shape \(rows, assets\), got \(5,\)"),
        (lambda: encode(np.zeros((5, 2), int)), "floating point .* got int64"),
        (lambda: encode(np.array([["a", "b"]], object)), r"floating point, got 'a' in cell \(0, 0\)"),
        (lambda: encode(np.zeros((5, 2), complex)), "floating point .* got complex"),
        (lambda: encode([[0.1, 0.2], [0.3]]), "returns must be an array"),
        (lambda: encode(np.zeros((0, 3))), r"empty: shape \(0, 3\)"),
        (lambda: encode(frame().iloc[:, :0]), r"empty: shape \(30, 0\)"),
        (lambda: encode(with_column("n/a")), r"columns \['EEE'\] are not"),
        (lambda: encode(with_column(value=True)), r"columns \['EEE'\] are not"),
        (lambda: encode(frame().round().fillna(0).astype(int)), "floating point .* got int64"),
        (lambda: encode(np.zeros((2, 3)), assets=["A", "B"]), "3 columns of returns, got 2 names"),
        (lambda: encode(frame().set_axis(["A", "B", "A", "C"], axis="columns")), r"\['A'\] have several"),
        (lambda: encode(np.broadcast_to(np.float32(0), (50_001, 1_000))), "50,001,000 cells, .* limit of 50,000,000"),
        (lambda: encode(np.zeros((2, 1001))), "'all' has 1001 assets, more than the limit of 1000"),
        (lambda: encode(frame(), "AAA"), "mapping of names to lists .* got 'AAA'"),
        (lambda: encode(frame(), 3), "mapping of names to lists .* got 3"),
        (lambda: encode(frame(), ["AAA", "BBB"]), "universe 0 must be a list of assets, got 'AAA'"),
        (lambda: encode(panel(), {"a": 3}), "universe 'a' must be a list of assets, got 3"),
        (lambda: encode(panel(), np.array([0, 1])), "universe 0 must be a list of assets, got "),
        (lambda: encode(panel(), [[[0], [1]]]), "labels or column numbers: unhashable"),
        (lambda: encode(panel(), {}), "universes are empty"),
        (lambda: encode(panel(), windows={"tech": (0, 20)}), "do not exist: 'tech'"),
        (lambda: encode(panel(), windows={"all": (0, 20, 3)}), r"windows must be integers of shape \(1, 2\)"),
        (lambda: encode(panel(), windows=[[0.0, 20.0]]), r"windows must be integers .* got float64"),
        (lambda: encode(panel(), windows=[[0, 2**31]]), "windows .* fit in 32 bits"),
        (lambda: encode(panel(), market=np.zeros(30)), r"market must have shape \(30, 1 to 4\), got \(30,\)"),
        (lambda: encode(panel(), market=np.zeros((29, 2))), r"market must have shape \(30, 1 to 4\)"),
        (
            lambda: encode(panel(), market=np.zeros((30, 2), int)),
            r"market must be floating point \(0.01 is 1 %\), got int64",
        ),
        (lambda: encode(panel(), market=pd.DataFrame({"VIX": np.zeros(30)})), r"among \('vix', .* got \['VIX'\]"),
        (lambda: encode(frame(), market=pd.DataFrame({"vix": np.zeros(30)})), "same index"),
        (
            lambda: encode(panel(2), dates=[18263, 18262]),
            r"strictly increase, got 2020-01-01 in row 1 after 2020-01-02 in row 0 \(1 such rows\)",
        ),
        (lambda: encode(frame().iloc[::-1]), "strictly increase, got 2020-02-10 in row 1 after 2020-02-11 in row 0"),
        (lambda: encode(panel(2), dates=["2020-01-01", None]), "dates must be days such as .* got None in row 1"),
        (
            lambda: encode(panel(2), dates=np.array(["2020-01-01", "NaT"], "datetime64[D]")),
            "known for every row, got none in row 1",
        ),
        (lambda: encode(panel(2), dates=[pd.Timestamp("2020-01-01"), pd.NaT]), "dates must be days such as"),
        (lambda: encode(panel(2), dates=["01/02/2020", "01/03/2020"]), "dates must be days such as 2019-01-31"),
        (lambda: encode(panel(2), dates=[1.0, 2.0]), "or whole days since 1970-01-01, got float64"),
        (lambda: encode(panel(2), dates=[1, 2, 3]), r"dates must have shape \(2,\), got \(3,\)"),
        (lambda: encode(frame(), blocks={"AAA": "tech"}), r"\['BBB', 'CCC', 'DDD'\] have none"),
        (lambda: encode(frame(), [["AAA"]], blocks={"AAA": np.nan}), r"\['AAA'\] have none"),
        (lambda: encode(frame(), [["XXX"]], blocks={"AAA": "tech"}), "no asset of any universe"),
        (lambda: encode(panel(), [[0, 1]], blocks=np.array([[0]])), r"blocks must be integers of shape \(1, 2\)"),
        (lambda: encode(panel(), [[0, 1]], blocks=np.array([[0, -1]])), "block id of 0 or more"),
    ],
)
def test_errors_say_what_was_wanted_and_got(call: Callable[[], object], words: str):
    with pytest.raises(InvalidRequest, match=words):
        call()


def test_pandas_is_not_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "pandas")
    assert encode(panel(), [[0, 1]]).assets == ((0, 1),)
    assert "pandas" not in sys.modules


def test_timestamps_with_a_time_zone_stand_for_the_exchange_s_day():
    index = pd.date_range("2020-01-01 20:00", periods=30, tz="America/New_York")
    days = np.arange(18262, 18292)
    for dates in (index, list(index)):
        np.testing.assert_array_equal(encode(np.zeros((30, 2)), dates=dates).rows.days, days)


def test_an_intraday_index_is_not_sent_as_dates():
    hours = pd.date_range("2020-01-01", periods=30, freq="h")
    assert encode(pd.DataFrame(np.zeros((30, 2)), index=hours)).rows.days is None
    days = pd.date_range("2020-01-01 09:00", periods=30)
    assert encode(pd.DataFrame(np.zeros((30, 2)), index=days)).rows.days.tolist()[0] == 18262


def test_requests_are_cut_by_cost_too() -> None:
    returns = np.zeros((1000, 1000), np.float32)
    job = encode(returns, np.tile(np.arange(1000), (500, 1)), windows=np.tile([0, 1000], (500, 1)))
    cut = list(chunks(job, cells=10**9))
    costs = []
    for chunk in cut:
        running = RunningCost(1000)
        costs.append([running.add(1000, (0, 1000)) for _ in range(chunk.start, chunk.stop)][-1])
    assert len(cut) > 2
    assert [chunk.start for chunk in cut[1:]] == [chunk.stop for chunk in cut[:-1]]
    assert max(costs) <= CHUNK_COST < min(costs[:-1]) + 200.0 < MAX_COST
