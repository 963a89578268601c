# SPDX-License-Identifier: Apache-2.0
"""What comes in, and what happens: one list, which the tests run and ``docs/what_comes_in.md`` shows."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Case(NamedTuple):
    """One input. What happens is in words: what stands in backquotes is in the message."""

    comes_in: str
    happens: str  # "read ..." or "refused ..."
    send: Callable[[], dict[str, Any]]  # arguments of `encode`
    expected: Callable[[], dict[str, Any]] | None = None  # arguments that mean the same; None if it is refused


N_ROWS, TICKERS = 40, ["AAA", "BBB", "CCC", "DDD"]
DAYS = pd.bdate_range("2020-02-03", periods=N_ROWS)


def panel(n_rows: int = N_ROWS) -> np.ndarray:
    return 0.01 * np.random.default_rng(1).standard_normal((n_rows, 4))


def frame(index: Any = DAYS) -> pd.DataFrame:
    return pd.DataFrame(panel(len(index)), index=index, columns=TICKERS)


def holed() -> pd.DataFrame:
    return frame().mask(np.random.default_rng(2).random((N_ROWS, 4)) < 0.1)


def given(returns: Any, **arguments: Any) -> Callable[[], dict[str, Any]]:
    """Arguments, made when they are wanted: `returns` may be a function."""
    return lambda: {"returns": returns() if callable(returns) else returns, **arguments}


def arrow(table: pd.DataFrame) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(table.reset_index(names="date"), preserve_index=False)


def polars(table: pd.DataFrame) -> Any:
    import polars as pl

    columns = {name: [None if np.isnan(x) else x for x in table[name]] for name in table}
    return pl.DataFrame({"date": pd.DatetimeIndex(table.index).date.tolist(), **columns})


def xarray(table: pd.DataFrame, *dims: str) -> Any:
    import xarray as xr

    array = xr.DataArray(table, dims=("time", "asset"), coords={"time": table.index, "asset": list(table)})
    return array.transpose(*dims) if dims else array


def with_column(name: str, values: Any, table: pd.DataFrame | None = None) -> pd.DataFrame:
    return (frame() if table is None else table).assign(**{name: values})


def fields(*names: str) -> pd.DataFrame:
    return pd.concat({name: frame() for name in names}, axis=1)


SAME = given(frame)
HOLED = given(holed)
DATELESS = given(lambda: panel(), assets=TICKERS)

CONTAINERS = [
    Case("array of float32", "read", given(lambda: panel().astype("f4")), given(lambda: panel().astype("f4"))),
    Case("array of float16", "read", given(lambda: panel().astype("f2")), given(lambda: panel().astype("f2"))),
    Case("array of long doubles", "read", given(lambda: panel().astype(np.longdouble)), given(panel)),
    Case(
        "lists with None",
        "read, None is missing",
        given(lambda: [[0.1, None], [0.2, 0.3]]),
        given(np.array([[0.1, np.nan], [0.2, 0.3]])),
    ),
    Case(
        "masked array",
        "read, what is masked is missing",
        given(lambda: np.ma.masked_where(panel() > 0.01, panel())),
        given(lambda: np.where(panel() > 0.01, np.nan, panel())),
    ),
    Case(
        "masked array of objects",
        "read, what is masked is missing",
        given(lambda: np.ma.array([[0.5, Decimal("0.25")]], mask=[[True, False]], dtype=object)),
        given(np.array([[np.nan, 0.25]])),
    ),
    Case(
        "array of Decimal",
        "read",
        given(lambda: np.array([[Decimal("0.5"), None]], object)),
        given(np.array([[0.5, np.nan]])),
    ),
    Case(
        "array of objects with text",
        "refused: `floating point, got '0.5%' in cell (1, 0)`",
        given(lambda: np.array([[0.1, 0.2], ["0.5%", 0.3]], object)),
    ),
    Case(
        "array of integers", "refused: `floating point (0.01 is 1 %), got int64`", given(lambda: np.ones((30, 3), int))
    ),
    Case(
        "masked array of integers",
        "refused: `floating point (0.01 is 1 %), got int64`",
        given(lambda: np.ma.masked_equal(np.ones((30, 3), int), 2)),
    ),
    Case(
        "array of booleans", "refused: `floating point (0.01 is 1 %), got bool`", given(lambda: np.ones((30, 3), bool))
    ),
    Case("array of complex numbers", "refused: `got complex128`", given(lambda: np.ones((30, 3), complex))),
    Case("array of texts", "refused: `got <U4`", given(lambda: np.array([["0.01", "0.02"]]))),
    Case(
        "structured array",
        "refused: `got [('A', '<f8'), ('B', '<f8')]`",
        given(lambda: np.zeros(3, "f8,f8").view([("A", "f8"), ("B", "f8")])),
    ),
    Case("array of one dimension", "refused: `shape (rows, assets), got (40,)`", given(lambda: panel()[:, 0])),
    Case(
        "array of three dimensions",
        "refused: `shape (rows, assets), got (2, 20, 4)`",
        given(lambda: panel().reshape(2, 20, 4)),
    ),
    Case("rows of different length", "refused: `returns must be an array`", given(lambda: [[0.1, 0.2], [0.3]])),
    Case(
        "mapping of names to columns",
        "refused: `an Arrow table or a DataArray, got builtins.dict`",
        given(lambda: {"A": [0.1]}),
    ),
    Case("pandas Series", "refused: `got a Series (unstack it`", given(lambda: frame()["AAA"])),
    Case("pandas Series by (date, asset)", "refused: `got a Series (unstack it`", given(lambda: frame().stack())),
    Case("pandas, nullable numbers with NA", "read, NA is missing", given(lambda: holed().convert_dtypes()), HOLED),
    Case(
        "pandas, Arrow-backed numbers",
        "read",
        given(lambda: holed().astype("float64[pyarrow]")),
        HOLED,
    ),
    Case("pandas, sparse numbers", "read", given(lambda: holed().astype(pd.SparseDtype(float, np.nan))), HOLED),
    Case("pandas, categories of numbers", "read", given(lambda: frame().astype({"BBB": "category"})), SAME),
    Case(
        "pandas, objects: numbers, None, Decimal",
        "read, None is missing",
        given(lambda: holed().astype(object).map(lambda x: None if np.isnan(x) else Decimal(repr(float(x))))),
        HOLED,
    ),
    Case(
        "pandas, objects: float and NA",
        "read, NA is missing",
        given(lambda: holed().astype(object).where(holed().notna(), pd.NA)),
        HOLED,
    ),
    Case(
        "pandas, a column with a text",
        "refused: `columns ['EEE'] are not (1 in all): 'EEE' holds 'n/a' in row 0`",
        given(lambda: with_column("EEE", "n/a")),
    ),
    Case(
        "pandas, a column of booleans", "refused: `'EEE' holds True in row 0`", given(lambda: with_column("EEE", True))
    ),
    Case(
        "pandas, a column of sectors",
        "refused: `'sector' holds 'tech' in row 0`",
        given(lambda: with_column("sector", "tech", frame().reset_index(drop=True))),
    ),
    Case("pandas, dates as a column", "read with its dates", given(lambda: frame().reset_index(names="date")), SAME),
    Case(
        "pandas, dates as a column of texts",
        "read with its dates",
        given(lambda: with_column("Date", DAYS.strftime("%Y-%m-%d"), frame().reset_index(drop=True))),
        SAME,
    ),
    Case(
        "pandas, two columns of dates",
        "refused: `columns ['date', 'listed'] are not`",
        given(lambda: with_column("listed", pd.Timestamp("2020-01-01"), frame().reset_index(names="date"))),
    ),
    Case(
        "pandas, columns (field, ticker), one field",
        "read, the tickers are the labels",
        given(lambda: fields("Close")),
        SAME,
    ),
    Case(
        "pandas, columns (ticker, field), one field",
        "read, the tickers are the labels",
        given(lambda: fields("Adj Close").swaplevel(axis=1)),
        SAME,
    ),
    Case(
        "pandas, columns (field, ticker), several fields",
        "refused: `the fields ['Close', 'Volume'] of every asset: keep one`",
        given(lambda: fields("Close", "Volume")),
    ),
    Case(
        "pandas, quotes of one asset",
        "refused: `the fields ['Open', 'High', 'Low', 'Close'] of every asset: keep one`",
        given(lambda: frame().set_axis(["Open", "High", "Low", "Close"], axis=1)),
    ),
    Case(
        "pandas, columns (sector, ticker)",
        "read, the pairs are the labels",
        given(
            lambda: frame().set_axis(
                pd.MultiIndex.from_tuples([("x", "A"), ("x", "B"), ("y", "A"), ("y", "C")]), axis=1
            )
        ),
        given(lambda: frame(), assets=[("x", "A"), ("x", "B"), ("y", "A"), ("y", "C")]),
    ),
    Case(
        "pandas, labels of mixed types",
        "read",
        given(lambda: frame().set_axis([1, "two", 3.5, ("four", 4)], axis=1)),
        given(frame, assets=[1, "two", 3.5, ("four", 4)]),
    ),
    Case("pandas, assets in rows and dates in columns", "refused: `dates for columns`", given(lambda: frame().T)),
    Case(
        "pandas, a label twice",
        "refused: `['AAA'] have several`",
        given(lambda: frame().rename(columns={"BBB": "AAA"})),
    ),
    Case(
        "pandas, a column without a name",
        "refused: `columns [1] have none`",
        given(lambda: frame().rename(columns={"BBB": None})),
    ),
    Case("pandas, no columns", "refused: `returns are empty`", given(lambda: frame().iloc[:, :0])),
    Case("Arrow table with dates", "read with its dates", given(lambda: arrow(holed())), HOLED),
    Case(
        "Arrow table, times in New York",
        "read, a row counts for its day there",
        given(lambda: arrow(frame(DAYS.tz_localize("America/New_York") + pd.Timedelta("20h")))),
        SAME,
    ),
    Case(
        "Arrow table of decimals",
        "read",
        given(lambda: _decimals()),
        given(np.array([[0.25, np.nan], [-0.5, 0.125]]), assets=["a", "b"]),
    ),
    Case(
        "Arrow table, a column of nulls",
        "read, all missing",
        given(lambda: _nulls()),
        given(np.array([[0.25, np.nan]]), assets=["a", "b"]),
    ),
    Case(
        "Arrow table, a name twice",
        "refused: `['b'] have several`",
        given(lambda: arrow(frame()).rename_columns(["date", "a", "b", "b", "c"])),
    ),
    Case(
        "Arrow table, two columns of dates",
        "refused: `one column of dates, got ['date', 'other']`",
        given(lambda: _two_dates()),
    ),
    Case(
        "Arrow table, a column of tickers", "refused: `'name' holds string, such as 'x'`", given(lambda: _text_column())
    ),
    Case(
        "Arrow table of dates alone",
        "refused: `they have no column of numbers`",
        given(lambda: arrow(frame()).select(["date"])),
    ),
    Case("polars frame", "read with its dates", given(lambda: polars(holed())), HOLED),
    Case("polars lazy frame", "read, collected", given(lambda: polars(holed()).lazy()), HOLED),
    Case("polars frame, dates as texts", "read with its dates", given(lambda: _polars_text()), SAME),
    Case(
        "polars frame, a column of booleans", "refused: `'EEE' holds bool, such as True`", given(lambda: _polars_bool())
    ),
    Case("xarray, time x asset", "read with its dates", given(lambda: xarray(holed())), HOLED),
    Case("xarray, asset x time", "read, transposed", given(lambda: xarray(holed(), "asset", "time")), HOLED),
    Case("xarray Dataset", "refused: `got xarray.Dataset`", given(lambda: xarray(frame()).to_dataset("asset"))),
]

LABELS = [
    Case("assets as one text", "refused: `a list of labels, got 'ABCD'`", given(panel, assets="ABCD")),
    Case(
        "assets that are lists", "refused: `assets must be labels`", given(panel, assets=[["A"], ["B"], ["C"], ["D"]])
    ),
    Case(
        "universes as a pandas Series of lists",
        "read, its index names them",
        given(frame, universes=pd.Series({"one": ["AAA", "CCC"], "two": ["DDD", "BBB"]})),
        given(frame, universes={"one": ["AAA", "CCC"], "two": ["DDD", "BBB"]}),
    ),
    Case(
        "universes as a DataFrame",
        "refused: `a mapping of names to lists`",
        given(frame, universes=pd.DataFrame({"one": [1]})),
    ),
    Case(
        "a universe as an Index",
        "read",
        given(frame, universes={"one": pd.Index(["AAA", "CCC"])}),
        given(frame, universes={"one": ["AAA", "CCC"]}),
    ),
    Case(
        "a universe as a generator",
        "read",
        given(frame, universes=[(t for t in TICKERS[:2])]),
        given(frame, universes=[TICKERS[:2]]),
    ),
    Case(
        "a universe as a mask",
        "refused: `universe 0 must list its assets, got a mask of 4 booleans`",
        given(frame, universes=[[True, True, False, False]]),
    ),
    Case(
        "market with masked cells",
        "read, what is masked is missing",
        given(frame, market=np.ma.masked_equal(np.full((N_ROWS, 1), 20.0), 20.0)),
        given(frame, market=np.full((N_ROWS, 1), np.nan)),
    ),
]

ROWS = [
    Case(
        "days with a time zone",
        "read, a row counts for its day there",
        given(lambda: frame(DAYS.tz_localize("Asia/Tokyo"))),
        SAME,
    ),
    Case(
        "closing times with a time zone",
        "read, a row counts for its day there",
        given(lambda: frame((DAYS + pd.Timedelta("16h")).tz_localize("America/New_York"))),
        SAME,
    ),
    Case("a daily PeriodIndex", "read", given(lambda: frame(DAYS.to_period("D"))), SAME),
    Case(
        "a monthly PeriodIndex",
        "read, a month is its last day",
        given(lambda: frame(pd.period_range("2020-01", periods=30, freq="M"))),
        given(lambda: frame(pd.date_range("2020-01-31", periods=30, freq="ME"))),
    ),
    Case("objects of datetime.date", "read", given(lambda: frame(DAYS.date)), SAME),
    Case(
        "objects of datetime.datetime", "read", given(lambda: frame(pd.Index(DAYS.to_pydatetime(), dtype=object))), SAME
    ),
    Case("texts 2020-02-03", "read", given(lambda: frame(DAYS.strftime("%Y-%m-%d"))), SAME),
    Case("texts 2020/2/3", "read", given(lambda: frame([f"{d.year}/{d.month}/{d.day}" for d in DAYS])), SAME),
    Case("texts 03-Feb-2020", "read", given(lambda: frame(DAYS.strftime("%d-%b-%Y"))), SAME),
    Case("texts 20200203", "read", given(lambda: frame(DAYS.strftime("%Y%m%d"))), SAME),
    Case("whole numbers 20200203", "read", given(lambda: frame(DAYS.strftime("%Y%m%d").astype(int))), SAME),
    Case(
        "texts 2020-02-03 00:00:00+09:00",
        "read, a row counts for its day there",
        given(lambda: frame(DAYS.strftime("%Y-%m-%d %H:%M:%S+09:00"))),
        SAME,
    ),
    Case(
        "texts with two offsets, across daylight saving",
        "read, a row counts for its day there",
        given(lambda: frame([d.isoformat() for d in DAYS.tz_localize("America/New_York")])),
        SAME,
    ),
    Case(
        "texts 2020Q1",
        "read, a quarter is its last day",
        given(lambda: frame([f"{2000 + i // 4}Q{i % 4 + 1}" for i in range(24)])),
        given(lambda: frame(pd.date_range("2000-03-31", periods=24, freq="QE"))),
    ),
    Case(
        "texts 2020-01",
        "read, a month is its last day",
        given(lambda: frame(pd.date_range("2020-01-31", periods=24, freq="ME").strftime("%Y-%m"))),
        given(lambda: frame(pd.date_range("2020-01-31", periods=24, freq="ME"))),
    ),
    Case("row numbers", "read, without dates", given(lambda: frame(range(N_ROWS))), DATELESS),
    Case(
        "texts that are no dates",
        "read, without dates",
        given(lambda: frame([f"row {i}" for i in range(N_ROWS)])),
        DATELESS,
    ),
    Case(
        "texts 03.02.2020",
        "refused: `days such as 2019-01-31` `got '03.02.2020' in row 0`",
        given(lambda: frame(DAYS.strftime("%d.%m.%Y"))),
    ),
    Case("texts 02/03/2020", "refused: `got '02/03/2020' in row 0`", given(lambda: frame(DAYS.strftime("%m/%d/%Y")))),
    Case(
        "one text among dates",
        "refused: `got 'total' in row 39`",
        given(lambda: frame([*DAYS.strftime("%Y-%m-%d")[:-1], "total"])),
    ),
    Case(
        "a day that does not exist",
        "refused: `got '2020-02-30' in row 39`",
        given(lambda: frame([*DAYS.strftime("%Y-%m-%d")[:-1], "2020-02-30"])),
    ),
    Case(
        "a missing date",
        "refused: `known for every row, got none in row 5`",
        given(lambda: frame(DAYS.where(np.arange(N_ROWS) != 5))),
    ),
    Case(
        "newest first",
        "refused: `must strictly increase, got 2020-03-26 in row 1 after 2020-03-27 in row 0 (39 such rows)`",
        given(lambda: frame(DAYS[::-1])),
    ),
    Case(
        "newest first, datetime.date",
        "refused: `got 2020-03-26 in row 1 after 2020-03-27 in row 0`",
        given(lambda: frame(DAYS[::-1].date)),
    ),
    Case(
        "newest first, periods",
        "refused: `got 2020-03-26 in row 1 after 2020-03-27 in row 0`",
        given(lambda: frame(DAYS[::-1].to_period("D"))),
    ),
    Case(
        "newest first, texts",
        "refused: `got 2020-03-26 in row 1 after 2020-03-27 in row 0`",
        given(lambda: frame(DAYS[::-1].strftime("%Y-%m-%d"))),
    ),
    Case(
        "newest first, polars",
        "refused: `got 2020-03-26 in row 1 after 2020-03-27 in row 0`",
        given(lambda: polars(frame(DAYS[::-1]))),
    ),
    Case(
        "the last day twice",
        "refused: `got 2020-03-26 in row 39 after 2020-03-26 in row 38 (1 such rows)`",
        given(lambda: frame(DAYS[:-1].append(DAYS[-2:-1]))),
    ),
    Case(
        "the last day twice, with the time of the quote",
        "refused: `be one a day` `got 2020-03-26 16:00:00 in row 39 after 2020-03-26 in row 38`",
        given(lambda: frame(DAYS[:-1].append(DAYS[-2:-1] + pd.Timedelta("16h")))),
    ),
    Case(
        "one file after another",
        "refused: `got 2020-02-03 in row 20 after 2020-02-28 in row 19`",
        given(lambda: frame(DAYS[:20].append(DAYS[:20]))),
    ),
    Case(
        "times within days",
        "read as intraday, without dates",
        given(lambda: frame(pd.date_range("2024-01-02 09:30", periods=N_ROWS, freq="5min"))),
        DATELESS,
    ),
    Case(
        "times within days that decrease",
        "refused: `got 2024-01-02 12:40:00 in row 1 after 2024-01-02 12:45:00 in row 0`",
        given(lambda: frame(pd.date_range("2024-01-02 09:30", periods=N_ROWS, freq="5min")[::-1])),
    ),
    Case(
        "times within days, one twice",
        "refused: `must strictly increase, got 2024-01-02 09:40:00 in row 3 after 2024-01-02 09:40:00 in row 2`",
        given(
            lambda: frame(
                pd.date_range("2024-01-02 09:30", periods=N_ROWS - 1, freq="5min").repeat([1, 1, 2] + [1] * 36)
            )
        ),
    ),
    Case(
        "hours across the end of daylight saving",
        "read as intraday, without dates",
        given(lambda: frame(pd.date_range("2024-11-03", periods=N_ROWS, freq="h", tz="America/New_York"))),
        DATELESS,
    ),
    Case(
        "rows by (date, asset)", "refused: `rows named by 2 levels`", given(lambda: frame().stack().to_frame("return"))
    ),
    Case(
        "dates= as days since 1970",
        "read",
        given(lambda: frame(range(N_ROWS)), dates=(DAYS - pd.Timestamp(0)).days),
        SAME,
    ),
    Case(
        "dates= as a Series with a time zone",
        "read, a row counts for its day there",
        given(lambda: frame(range(N_ROWS)), dates=pd.Series(DAYS.tz_localize("Asia/Tokyo"))),
        SAME,
    ),
    Case(
        "dates= as numbers with a point",
        "refused: `days since 1970-01-01, got float64`",
        given(panel, dates=np.arange(float(N_ROWS))),
    ),
    Case("dates= of another length", "refused: `shape (40,), got (39,)`", given(panel, dates=DAYS[1:])),
    Case("dates= as names", "refused: `got 'x' in row 0`", given(panel, dates=["x"] * N_ROWS)),
]


def spoilt(n_rows: int = 60, freq: str = "B", **columns: Any) -> pd.DataFrame:
    """Returns of five assets, of which some are replaced."""
    rng = np.random.default_rng(4)
    values = 0.01 * rng.standard_normal((n_rows, 5))
    table = pd.DataFrame(values, pd.date_range("2015-01-30", periods=n_rows, freq=freq), list("ABCDE"))
    return table.assign(**columns)


def noise(scale: float, n_rows: int = 60, seed: int = 6) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(n_rows)


def walk(start: float, scale: float, n_rows: int = 60) -> np.ndarray:
    return start * np.cumprod(1 + noise(scale, n_rows))


def with_value(value: float) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        table = spoilt()
        table.iloc[7, 1] = value
        return {"returns": table}

    return make


_DOMINATES = "`'B': one return makes up most of the variance: a split that was not adjusted?`"

VALUES = [
    Case(
        "a code -9.99 for missing",
        "refused: asset `'B': the asset has a return below -1` `(-9.99 in row 7 (2015-02-10); 1 of 60 rows)`",
        with_value(-9.99),
    ),
    Case("a code -999 for missing", "refused: `-999 in row 7 (2015-02-10)`", with_value(-999.0)),
    Case("a log return of a crash, -1.2", "refused: `log return? (-1.2 in row 7`", with_value(-1.2)),
    Case("a total loss, -1", f"answered, with a warning: {_DOMINATES}", with_value(-1.0), with_value(-1.0)),
    Case(
        "one price among returns",
        "refused: `101.5 in row 7 (2015-02-10); 1 of 60 rows above the limit 10`",
        with_value(101.5),
    ),
    Case(
        "an infinite return",
        "refused: `a missing return is NaN (inf in row 7 (2015-02-10); 1 of 60 rows)`",
        with_value(np.inf),
    ),
    Case(
        "a stock in percent, by day",
        "refused: `mean absolute value` `above the limit 0.336 for rows 1.41 days apart; 60 of 60 rows`",
        given(lambda: spoilt(B=noise(1.5))),
    ),
    Case(
        "bond funds in percent, by day",
        "refused: `above the limit 0.134 for rows 1.41 days apart, as of half of the universe` `2 more`",
        given(lambda: spoilt(A=noise(0.2), B=noise(0.25), C=noise(0.3))),
    ),
    Case(
        "the same numbers by month",
        "answered, with a warning: `volatility outside 0.0002 to 0.2 a period`",
        given(lambda: spoilt(freq="ME", A=noise(0.2), B=noise(0.25), C=noise(0.3, seed=7))),
        given(lambda: spoilt(freq="ME", A=noise(0.2), B=noise(0.25), C=noise(0.3, seed=7))),
    ),
    Case(
        "one penny stock, deviation 0.25 by day",
        "answered, with a warning: `volatility outside 0.0002 to 0.2 a period`",
        given(lambda: spoilt(B=noise(0.25))),
        given(lambda: spoilt(B=noise(0.25))),
    ),
    Case(
        "coins by month, deviation 0.42",
        "answered, with a warning: `volatility outside 0.0002 to 0.2 a period`",
        given(lambda: spoilt(freq="ME", B=np.maximum(np.expm1(noise(0.4)), -0.95))),
        given(lambda: spoilt(freq="ME", B=np.maximum(np.expm1(noise(0.4)), -0.95))),
    ),
    Case(
        "a stock in basis points",
        "refused: `in row 0 (2015-01-30); 60 of 60 rows above the limit 10`",
        given(lambda: spoilt(B=np.abs(noise(150)) + 11)),
    ),
    Case("a price", "refused: `prices, percentages?`", given(lambda: spoilt(B=walk(80, 0.01)))),
    Case("a price near one", "refused: `mean absolute value 1.07`", given(lambda: spoilt(B=walk(1, 0.01)))),
    Case(
        "an exchange rate near 0.007",
        "refused: `levels (prices, rates), not returns` `autocorrelation 1.0000, above the limit 0.95; 60 of 60 rows`",
        given(lambda: spoilt(B=walk(0.007, 0.005))),
    ),
    Case(
        "a yield of 4 %",
        "refused: `levels (prices, rates), not returns`",
        given(lambda: spoilt(B=0.04 + np.cumsum(noise(0.0005)))),
    ),
    Case(
        "a yield below zero",
        "refused: `levels (prices, rates), not returns`",
        given(lambda: spoilt(B=-0.004 + np.cumsum(noise(0.00001)))),
    ),
    Case(
        "interest of a day that changes every day",
        "refused: `levels (prices, rates), not returns`",
        given(lambda: spoilt(B=0.0001 + 0.00001 * np.sin(np.arange(60) / 20))),
    ),
    Case(
        "interest of a day, set every month",
        "answered, with a warning: `volatility outside 0.0002 to 0.2 a period`",
        given(lambda: spoilt(B=np.repeat([0.0001, 0.00012, 0.00015], 20))),
        given(lambda: spoilt(B=np.repeat([0.0001, 0.00012, 0.00015], 20))),
    ),
    Case(
        "a price that stands still for 30 of 60 rows",
        "answered as if these were missing, with a warning: `'B': long runs of returns of exactly zero`",
        given(lambda: spoilt(B=np.where(np.arange(60) < 30, noise(0.01), 0.0))),
        given(lambda: spoilt(B=np.where(np.arange(60) < 30, noise(0.01), np.nan))),
    ),
    Case(
        "a price that stands still for 45 of 60 rows",
        "refused: `fewer than 20 returns in the window (15 of 60 rows)`",
        given(lambda: spoilt(B=np.where(np.arange(60) < 15, noise(0.01), 0.0))),
    ),
    Case(
        "a split of -75 % that was not adjusted",
        f"answered, with a warning: {_DOMINATES}",
        with_value(-0.75),
        with_value(-0.75),
    ),
    Case(
        "an asset that moves as another one does",
        "answered, with a warning: `'A', 'B': correlated more than 0.999 with another asset of the universe`",
        given(lambda: spoilt(A=noise(0.01), B=2 * noise(0.01))),
        given(lambda: spoilt(A=noise(0.01), B=2 * noise(0.01))),
    ),
    Case("a constant return", "refused: `do not vary in the window (60 of 60 rows)`", given(lambda: spoilt(B=0.01))),
    Case(
        "19 returns",
        "refused: `fewer than 20 returns in the window (19 of 60 rows)`",
        given(lambda: spoilt(B=np.where(np.arange(60) < 19, noise(0.01), np.nan))),
    ),
    Case(
        "three assets that cannot be used",
        "refused, all are named: `2 more: 'C' (CONSTANT_ASSET, 60 of 60 rows), 'E' (SHORT_HISTORY, 0 of 60 rows)`",
        given(lambda: spoilt(A=walk(50, 0.01), C=0.0, E=np.nan)),
    ),
    Case(
        'the same with on_bad_asset="drop"',
        "answered without them, with a warning: `estimated without 3 of 5 assets: 'A' (NOT_RETURNS`",
        given(lambda: spoilt(A=walk(50, 0.01), C=0.0, E=np.nan), on_bad_asset="drop"),
        given(lambda: spoilt(), universes={"all": ["B", "D"]}),
    ),
    Case(
        'an unknown asset with on_bad_asset="drop"',
        "answered without it, with a warning: `'X' (UNKNOWN_ASSET)`",
        given(spoilt, universes={"all": ["A", "X", "B"]}, on_bad_asset="drop"),
        given(spoilt, universes={"all": ["A", "B"]}),
    ),
]


def _decimals() -> Any:
    import pyarrow as pa

    kind = pa.decimal128(10, 4)
    return pa.table(
        {"a": pa.array([Decimal("0.25"), Decimal("-0.5")], kind), "b": pa.array([None, Decimal("0.125")], kind)}
    )


def _nulls() -> Any:
    import pyarrow as pa

    return pa.table({"a": [0.25], "b": pa.nulls(1)})


def _two_dates() -> Any:
    import pyarrow as pa

    return arrow(frame()).append_column("other", pa.array([datetime.date(2020, 1, 1)] * N_ROWS))


def _text_column() -> Any:
    import pyarrow as pa

    return arrow(frame()).append_column("name", pa.array(["x"] * N_ROWS))


def _polars_text() -> Any:
    import polars as pl

    return polars(frame()).with_columns(pl.col("date").cast(pl.String))


def _polars_bool() -> Any:
    import polars as pl

    return polars(frame()).with_columns(pl.lit(True).alias("EEE"))


SECTIONS = {"Containers": CONTAINERS, "Labels and universes": LABELS, "Rows and dates": ROWS, "Values": VALUES}
