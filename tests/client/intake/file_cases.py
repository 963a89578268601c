# SPDX-License-Identifier: Apache-2.0
"""Files that come in, and what happens: one list, which the tests run and ``docs/what_comes_in.md`` shows."""

from __future__ import annotations

import gzip
from typing import NamedTuple

import numpy as np
import pandas as pd


class FileCase(NamedTuple):
    """A file of two assets over four days. What stands in backquotes is in the message."""

    comes_in: str
    happens: str  # "read ..." or "refused ..."
    content: str | bytes
    expected: pd.DataFrame | None  # None if it is refused
    name: str = "returns.csv"


DATES = pd.DatetimeIndex(["2020-03-05", "2020-03-06", "2020-03-09", "2020-03-10"])
VALUES = np.array([[0.0125, np.nan], [-0.02, 0.03], [0.0, 0.01], [0.005, -0.01]])
TICKERS = ["AAPL", "BRK.B"]
PANEL = pd.DataFrame(VALUES, DATES, TICKERS)


def table(
    *,
    dates: str | list[str] = "%Y-%m-%d",
    header: str = "Date,AAPL,BRK.B",
    missing: str = "",
    number: str = "{}",
    delimiter: str = ",",
    before: str = "",
    end: str = "",
) -> str:
    days = DATES.strftime(dates).tolist() if isinstance(dates, str) else dates
    lines = [header.replace(",", delimiter) if header else ""]
    for day, row in zip(days, VALUES, strict=True):
        cells = [missing if np.isnan(x) else number.format(round(x, 6)) for x in row]
        lines.append(delimiter.join([day, *cells]) + end)
    return before + "\n".join(filter(None, lines)) + "\n"


def per_cent(text: str) -> str:
    """The same with its numbers in percent."""
    for x in (0.0125, -0.02, 0.03, 0.01, 0.005, -0.01):
        text = text.replace(f",{x}", f",{100 * x:g}%")
    return text.replace(",0.0", ",0.00%")


def quarters() -> pd.DataFrame:
    return PANEL.set_axis(pd.DatetimeIndex(["2019-03-31", "2019-06-30", "2019-09-30", "2019-12-31"]), axis="index")


QUARTERS = ["2019Q1", "2019Q2", "2019Q3", "2019Q4"]
OFFSETS = [
    "2020-03-05 00:00:00-05:00",
    "2020-03-06 00:00:00-05:00",
    "2020-03-09 00:00:00-04:00",
    "2020-03-10 00:00:00-04:00",
]
INTRADAY = ["2020-03-05 09:30", "2020-03-05 09:35", "2020-03-05 09:40", "2020-03-05 09:45"]
FIELD = "Price,Close,Close\nTicker,AAPL,BRK.B\nDate,,"
FIELDS = "Price,Close,Volume\nTicker,AAPL,AAPL\nDate,,"
PLAIN = table()

FILES = [
    FileCase("plain", "read", PLAIN, PANEL),
    FileCase("gzip", "read", gzip.compress(PLAIN.encode()), PANEL, "returns.csv.gz"),
    FileCase("a byte order mark", "read", PLAIN.encode("utf-8-sig"), PANEL),
    FileCase("UTF-16, as spreadsheets save it", "read", PLAIN.encode("utf-16"), PANEL),
    FileCase(
        "Latin-1", "refused: `line 1 is not UTF-8 text`", PLAIN.replace("AAPL", "Nestl\u00e9").encode("latin-1"), None
    ),
    FileCase("lines that end with CR LF", "read", PLAIN.replace("\n", "\r\n"), PANEL),
    FileCase("lines that end with CR", "read", PLAIN.replace("\n", "\r"), PANEL),
    FileCase("blank lines", "read", PLAIN.replace("\n", "\n\n"), PANEL),
    FileCase("semicolons", "read", table(delimiter=";"), PANEL),
    FileCase("semicolons and decimal commas", "read", table(delimiter=";").replace("0.", "0,"), PANEL),
    FileCase("tabs", "read", table(delimiter="\t"), PANEL),
    FileCase("bars", "read", table(delimiter="|"), PANEL),
    FileCase("a blank behind each comma", "read", PLAIN.replace(",", ", "), PANEL),
    FileCase("a comma at the end of each row", "read", table(end=","), PANEL),
    FileCase("quoted cells with decimal commas", "read", table(number='"{}"').replace("0.", "0,"), PANEL),
    FileCase("lines before the table", "read", table(before="Returns of two funds\nSource: us\n\n"), PANEL),
    FileCase("comments before the table", "read", table(before="# daily returns\n# in fractions\n"), PANEL),
    FileCase(
        "a counter before the dates",
        "read",
        "".join(f"{'' if i == 0 else i - 1},{line}\n" for i, line in enumerate(PLAIN.splitlines())),
        PANEL,
    ),
    FileCase("`-` for missing", "read", table(missing="-"), PANEL),
    FileCase("#N/A for missing", "read", table(missing="#N/A"), PANEL),
    FileCase("`.` for missing", "read", table(missing="."), PANEL),
    FileCase("NULL for missing", "read", table(missing="NULL"), PANEL),
    FileCase("percent signs", "read, divided by 100", per_cent(PLAIN), PANEL),
    FileCase(
        "a percent sign that is missing",
        "refused: `line 5, column AAPL: '0.5' has no % sign`",
        per_cent(PLAIN).replace("0.5%", "0.5"),
        None,
    ),
    FileCase(
        "brackets around what is below zero", "read", PLAIN.replace("-0.02", "(0.02)").replace("-0.01", "(0.01)"), PANEL
    ),
    FileCase("a typographic minus", "read", PLAIN.replace("-0.0", "\u22120.0"), PANEL),
    FileCase("thousands separators", "read", PLAIN.replace("0.0125", '"1,250.5"'), PANEL.replace(0.0125, 1250.5)),
    FileCase(
        "a comma that may be either",
        "refused: `line 2, column AAPL: '1,250' may have a decimal comma or a thousands separator`",
        'Date,AAPL,BRK.B\n2020-03-05,"1,250",1\n',
        None,
    ),
    FileCase(
        "an error of a spreadsheet",
        "refused: `line 3, column BRK.B: '#DIV/0!' should be a number such as 0.0123, or empty`",
        PLAIN.replace("0.03", "#DIV/0!"),
        None,
    ),
    FileCase("a text in a cell", "refused: `line 3, column BRK.B: 'halted'`", PLAIN.replace("0.03", "halted"), None),
    FileCase("inf in a cell", "refused: `line 3, column BRK.B: 'inf'`", PLAIN.replace("0.03", "inf"), None),
    FileCase(
        "a number as programmers write it",
        "refused: `line 3, column BRK.B: '0.0_3'`",
        PLAIN.replace("0.03", "0.0_3"),
        None,
    ),
    FileCase("an ending in capitals", "read", PLAIN, PANEL, "RETURNS.CSV"),
    FileCase("dates 20200305", "read", table(dates="%Y%m%d"), PANEL),
    FileCase("dates 2020/03/05", "read", table(dates="%Y/%m/%d"), PANEL),
    FileCase("dates 05-Mar-2020", "read", table(dates="%d-%b-%Y"), PANEL),
    FileCase("dates 2019Q1", "read, a quarter is its last day", table(dates=QUARTERS), quarters()),
    FileCase(
        "dates with two offsets, across daylight saving",
        "read, a row counts for its day there",
        table(dates=OFFSETS),
        PANEL,
    ),
    FileCase(
        "times within a day",
        "read as intraday",
        table(dates=INTRADAY),
        PANEL.set_axis(pd.DatetimeIndex(INTRADAY), axis="index"),
    ),
    FileCase(
        "dates 05.03.2020",
        "refused: `line 2: the first column should hold dates such as 2019-01-31, got '05.03.2020'`",
        table(dates="%d.%m.%Y"),
        None,
    ),
    FileCase("dates 03/05/2020", "refused: `got '03/05/2020'`", table(dates="%m/%d/%Y"), None),
    FileCase("dates 05/03/20", "refused: `got '05/03/20'`", table(dates="%d/%m/%y"), None),
    FileCase(
        "seconds since 1970", "refused: `got '1583366400'`", table(dates=[str(d.value // 10**9) for d in DATES]), None
    ),
    FileCase(
        "a date that is missing",
        "refused: `line 4: the first column should hold dates such as 2019-01-31, got ''`",
        PLAIN.replace("2020-03-09", ""),
        None,
    ),
    FileCase(
        "a line of totals at the end",
        "refused: `line 6: the first column should hold dates such as 2019-01-31, got 'Total'`",
        PLAIN + "Total,0.1,0.2\n",
        None,
    ),
    FileCase(
        "newest first",
        "refused: `must strictly increase, got 2020-03-09 in row 1 after 2020-03-10 in row 0`",
        "\n".join([PLAIN.splitlines()[0], *PLAIN.splitlines()[:0:-1]]),
        None,
    ),
    FileCase(
        "the last line twice",
        "refused: `got 2020-03-10 in row 4 after 2020-03-10 in row 3`",
        PLAIN + PLAIN.splitlines()[-1] + "\n",
        None,
    ),
    FileCase(
        "no header",
        "refused: `a line that names the assets should come first, but line 1 starts with '2020-03-05'`",
        table(header=""),
        None,
    ),
    FileCase(
        "assets in rows and dates in columns",
        "refused: `line 1 holds dates: there should be one row a date: transpose the table`",
        "\n".join(map(",".join, zip(*(line.split(",") for line in PLAIN.splitlines()), strict=True))),
        None,
    ),
    FileCase("headers of field and ticker, one field", "read, the tickers are the names", table(header=FIELD), PANEL),
    FileCase(
        "headers of field and ticker, several fields",
        "refused: `lines 1 to 3: columns hold the fields ['Close', 'Volume'] of every asset: keep one`",
        table(header=FIELDS),
        None,
    ),
    FileCase(
        "quotes of one asset",
        "refused: `line 1: columns hold the fields ['Open', 'High', 'Close'] of every asset: keep one, as returns`",
        "Date,Open,High,Close\n2020-03-05,101,102,101.5\n",
        None,
    ),
    FileCase(
        "tickers that read like fields",
        "read",
        table(header="Date,LOW,OPEN"),
        PANEL.set_axis(["LOW", "OPEN"], axis="columns"),
    ),
    FileCase("a name twice", "refused: `columns ['AAPL'] occur more than once`", table(header="Date,AAPL,AAPL"), None),
    FileCase(
        "a column without a name", "refused: `column 3 has no name in the header`", table(header="Date,AAPL,"), None
    ),
    FileCase(
        "names that are numbers",
        "read",
        table(header="Date,600519,000001"),
        PANEL.set_axis(["600519", "000001"], axis="columns"),
    ),
    FileCase(
        "a row that is too long",
        "refused: `line 4 has 4 cells, and the header 3`",
        PLAIN.replace("0.0,0.01", "0.0,0.01,7"),
        None,
    ),
    FileCase(
        "a row that is too short",
        "refused: `line 4 has 2 cells, and the header 3`",
        PLAIN.replace("0.0,0.01", "0.0"),
        None,
    ),
    FileCase(
        "dates alone", "refused: `there should be a column of dates and one for each asset`", "Date\n2020-03-05\n", None
    ),
    FileCase("an empty file", "refused: `there should be a column of dates and one for each asset`", "", None),
    FileCase(
        "a header alone", "refused: `should hold dates such as 2019-01-31, got nothing`", "Date,AAPL,BRK.B\n", None
    ),
    FileCase("what is no gzip", "refused: `no readable .csv.gz file`", PLAIN, None, "returns.csv.gz"),
    FileCase(
        "another ending",
        "refused: `should end with .csv, .csv.gz, .parquet, .feather, .npz`",
        PLAIN,
        None,
        "returns.xlsx",
    ),
]
