# SPDX-License-Identifier: Apache-2.0
"""Windows by date, and windows that move along a panel, are the windows that one would cut by hand."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import AsyncShrinkageClient, InvalidRequest, ShrinkageClient, UniverseError
from sigmahat_client.intake import encode

pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")

UNIVERSES = {"tech": ["A0", "A1", "A2"], "banks": ["A3", "A4", "A5", "A6"]}


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    values = 0.01 * np.random.default_rng(1).standard_normal((90, 7))
    return pd.DataFrame(values, pd.bdate_range("2020-01-01", periods=90), [f"A{i}" for i in range(7)])


@pytest.fixture(scope="module")
def local() -> Iterator[ShrinkageClient]:
    with ShrinkageClient.local() as client:
        yield client


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ("2020-02-01", "2020-04-01"),  # a Saturday: the Monday after it
        (datetime.date(2020, 2, 3), pd.Timestamp("2020-04-01")),
        (np.datetime64("2020-02-03"), datetime.datetime(2020, 3, 31, 23)),
        (23, "2020-04-01"),
    ],
)
def test_a_window_by_date_starts_at_the_first_row_not_before_it(returns: pd.DataFrame, start: Any, stop: Any) -> None:
    (window,) = encode(returns, {"all": ["A0", "A1"]}, windows={"all": (start, stop)}).windows.tolist()
    inside = (returns.index >= "2020-02-01") & (returns.index < "2020-04-01")
    assert window == [np.flatnonzero(inside)[0], np.flatnonzero(inside)[-1] + 1]


@pytest.mark.parametrize(
    ("frame", "window", "message"),
    [
        (np.zeros((40, 2)), ("2020-01-01", 30), "starts or stops at '2020-01-01', but the returns have no dates"),
        (None, ("01/02/2020", 30), "start and stop at a date or a row number, got '01/02/2020'"),
        (None, ("2020-01-01", 30.5), "start and stop at a date or a row number, got 30.5"),
    ],
)
def test_a_bound_that_is_none_is_refused(returns: pd.DataFrame, frame: Any, window: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        encode(returns if frame is None else frame, windows={"all": window})


def test_rolling_is_a_call_for_each_month(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    found = list(local.rolling(returns, UNIVERSES, window=40))
    ends = [returns.loc[month].index[-1] for month in ("2020-02", "2020-03", "2020-04")]
    ends = [*ends, returns.index[-1]]  # May is not over
    assert [date for date, _ in found] == [end for end in ends if returns.index.get_loc(end) >= 39]
    for date, estimates in found:
        assert estimates.universes == ("tech", "banks")
        assert estimates.last_date.astype("datetime64[D]").tolist() == [date.date()] * 2
        assert estimates.n_rows.tolist() == [40, 40]
        alone = local.estimate(returns.loc[:date].iloc[-40:], UNIVERSES, covariance=True)
        for name in UNIVERSES:
            matrix = estimates.covariance_of(name)
            assert list(matrix.columns) == UNIVERSES[name]
            expected = alone.covariance_of(name)
            np.testing.assert_allclose(matrix / expected, np.ones(matrix.shape), rtol=1e-4)


def test_rolling_by_rows_ends_with_the_newest(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    values = returns.to_numpy()
    found = dict(local.rolling(values, window=30, every=25, covariance=False))
    assert list(found) == [39, 64, 89]
    assert all(estimates.covariance is None for estimates in found.values())
    np.testing.assert_allclose(found[64].intensity, local.estimate(values[35:65]).intensity, rtol=1e-5)
    array = np.array([[0, 1, 2, -1], [3, 4, 5, 6]])
    blocks = np.array([[0, 0, 1, -1], [0, 1, 1, 1]])
    ((_, given),) = local.rolling(values, array, blocks=blocks, window=90, every=25)
    expected = local.estimate(values, array, blocks=blocks)
    np.testing.assert_array_equal(given.block_intensity, expected.block_intensity)


def test_rolling_over_many_requests_gives_whole_dates(
    local: ShrinkageClient, returns: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dict(local.rolling(returns, UNIVERSES, window=30, every=10))
    monkeypatch.setattr("sigmahat_kernels.cost.RunningCost.add", lambda *_: 1e9)  # a request each
    parts = dict(local.rolling(returns, UNIVERSES, window=30, every=10))
    assert list(whole) == list(parts)
    assert all(estimates.universes == ("tech", "banks") for estimates in parts.values())
    for date, estimates in whole.items():
        np.testing.assert_allclose(parts[date].intensity, estimates.intensity, rtol=1e-5)


def test_a_universe_that_fails_at_one_date_spoils_no_other(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    late = returns.copy()
    late.iloc[:45, 0] = np.nan
    first, *_, last = [estimates for _, estimates in local.rolling(late, UNIVERSES, window=40)]
    with pytest.raises(UniverseError, match="'tech', asset 'A0': the asset has fewer than 20"):
        first.covariance_of("tech")
    assert (last.status == 0).all()
    assert first.status.tolist()[1] == 0


def test_rolling_awaited_is_the_same(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    async def intensities() -> dict[Any, Any]:
        client = AsyncShrinkageClient.local()
        return {date: e.intensity.tolist() async for date, e in client.rolling(returns, UNIVERSES, window=40)}

    assert asyncio.run(intensities()) == {
        date: e.intensity.tolist() for date, e in local.rolling(returns, UNIVERSES, window=40)
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 91}, "returns have 90 rows, of which no window of 91 rows can be made"),
        ({"window": 2.5}, "window must be a number of rows, got 2.5"),
        ({"every": "fortnight"}, "every must be a number of rows or a pandas period such as ME: "),
        ({"every": 0}, "such as ME, got 0"),
        ({"windows": {}}, "leave windows out"),
        ({"universes": 5, "window": 40}, "universes must be"),
        ({"universes": {"tech": "A0"}, "window": 40}, "universe 'tech' must be a list of assets, got 'A0'"),
    ],
)
def test_rolling_refuses_at_once(
    local: ShrinkageClient, returns: pd.DataFrame, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        local.rolling(returns, **arguments)


def test_periods_need_dates(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    with pytest.raises(InvalidRequest, match="every='ME' needs dates, and the returns have none"):
        local.rolling(returns.to_numpy())


def test_estimates_plot_themselves(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    estimates = local.estimate(returns, UNIVERSES, covariance=True)
    ax = estimates.plot("tech")
    assert ax.get_title() == "tech: correlation"
    assert np.diag(ax.get_images()[0].get_array()).tolist() == [1.0] * 3
    assert estimates.plot("tech", correlation=False).get_title() == "tech: covariance"
    matplotlib.pyplot.close("all")


def test_tables_say_what_their_columns_are(local: ShrinkageClient, returns: pd.DataFrame, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    blocks = {asset: "old" if asset < "A4" else "new" for asset in returns}
    table = local.estimate(returns, UNIVERSES, blocks=blocks, covariance=True).to_arrow()
    parquet.write_table(table, tmp_path / "table.parquet")
    for schema in (table.schema, parquet.read_schema(tmp_path / "table.parquet")):
        metadata = {field.name: field.metadata for field in schema}
        assert metadata["condition"][b"unit"] == b"log10"
        assert metadata["level_common_variance"][b"unit"] == b"harmonic mean variances"
        assert metadata["level_log_volatility"][b"unit"] == b"ln"
        assert metadata["covariance"][b"unit"] == b"squared returns per period of the input"
        assert metadata["block_intensity_new"][b"meaning"].startswith(b"shrinkage intensity of block new")
        assert all(b"meaning" in of_field for of_field in metadata.values())
    assert table["first_date"].to_pylist() == [returns.index[0]] * 2
