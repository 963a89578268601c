# SPDX-License-Identifier: Apache-2.0
"""The two files that `sigmahat estimate` reads: returns with their dates, and the universes to estimate."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd


class UnreadableFile(ValueError):
    """The file does not hold what it should; the message names it."""


class Universes(NamedTuple):
    """What to estimate, in the order of the file."""

    assets: dict[str, list[str]]
    windows: dict[str, tuple[int, int]]  # rows [start, stop)


def read_returns(path: Path) -> pd.DataFrame:
    """Read a panel of returns.

    Parameters
    ----------
    path : Path
        ``.parquet`` or ``.csv``: the first column (or Parquet's index) holds dates, every other one the returns of the
        asset that it is named after. ``.npz``: arrays ``dates`` (T,), ``tickers`` (N,) and ``ret`` (T, N).

    Returns
    -------
    DataFrame
        Assets in columns, named by strings; a DatetimeIndex, strictly increasing, without time zone.

    Raises
    ------
    UnreadableFile
        If it is of another kind, broken, or its dates are none.
    """
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".npz": _read_npz}
    if path.suffix not in readers:
        raise UnreadableFile(f"{path} should end with {', '.join(readers)}")
    try:
        returns = readers[path.suffix](path)
    except UnreadableFile as error:
        raise UnreadableFile(f"{path}: {error}") from None
    except (ValueError, OSError, BadZipFile, csv.Error) as error:  # pyarrow's own errors are ValueErrors or OSErrors
        raise UnreadableFile(f"{path} is no readable {path.suffix} file: {error}") from error
    return returns.set_axis(_dates(path, returns.index), axis="index").rename(columns=str)


def read_universes(path: Path, dates: pd.DatetimeIndex) -> Universes:
    """Read universes, and the windows of those that have one.

    Parameters
    ----------
    path : Path
        JSON: ``{"name": ["AAPL", ...], ...}`` or ``{"name": {"assets": [...], "start": ..., "stop": ...}, ...}``, where
        `start` and `stop` (itself not included) are dates or row numbers, and either may be left out.
    dates : DatetimeIndex
        Of the returns.

    Raises
    ------
    UnreadableFile
        If it is anything else.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, OSError) as error:
        raise UnreadableFile(f"{path} is no readable JSON: {error}") from error
    if not isinstance(entries, dict):
        raise UnreadableFile(f'{path} should hold {{"name": ["AAPL", ...], ...}}, got a {type(entries).__name__}')
    universes = Universes({}, {})
    for name, entry in entries.items():
        try:
            window = entry if isinstance(entry, dict) else {"assets": entry}
            if not window.keys() <= {"assets", "start", "stop"}:
                raise ValueError("it may hold assets, start and stop only")
            universes.assets[name] = _assets(window.get("assets"))
            if len(window) > 1:
                start, stop = window.get("start", 0), window.get("stop", len(dates))
                universes.windows[name] = _row(start, dates), _row(stop, dates)
        except ValueError as error:
            raise UnreadableFile(f"{path}: universe {name!r} cannot be read: {error}") from None
    return universes


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    return _first_column_as_index(frame) if isinstance(frame.index, pd.RangeIndex) else frame


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:  # pandas would rename the second one
        raise UnreadableFile(f"columns {twice[:10]} occur more than once")
    return _first_column_as_index(pd.read_csv(path))


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"dates", "tickers", "ret"} - set(arrays)
        if missing:
            raise UnreadableFile(
                f"there should be arrays dates, tickers and ret, but {', '.join(sorted(missing))} is not"
            )
        return pd.DataFrame(arrays["ret"], index=arrays["dates"], columns=arrays["tickers"])


def _first_column_as_index(frame: pd.DataFrame) -> pd.DataFrame:
    if not len(frame.columns):
        raise UnreadableFile("there should be a column of dates and one for each asset, but there are none")
    return frame.set_index(frame.columns[0])


def _dates(path: Path, index: pd.Index[Any]) -> pd.DatetimeIndex:
    wanted = f"{path}: the first column should hold dates such as 2019-01-31"
    if pd.api.types.is_numeric_dtype(index):  # pandas would take them for nanoseconds since 1970
        raise UnreadableFile(f"{wanted}, got {', '.join(map(str, index[:3]))}")
    try:
        dates = pd.DatetimeIndex(pd.to_datetime(index, format="ISO8601")).tz_localize(None)
    except (ValueError, TypeError) as error:
        raise UnreadableFile(f"{wanted}: {error}") from error
    if dates.hasnans:
        raise UnreadableFile(f"{wanted}, but {np.count_nonzero(dates.isna())} of {len(dates)} rows have none")
    for i in np.flatnonzero(dates[1:] <= dates[:-1])[:1]:
        raise UnreadableFile(f"{path}: dates should be strictly increasing, got {dates[i + 1]} after {dates[i]}")
    return dates


def _assets(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(asset, str) for asset in value):
        raise ValueError(f"its assets should be a list of strings, got {json.dumps(value)[:100]}")
    return value


def _row(bound: Any, dates: pd.DatetimeIndex) -> int:
    """Row number of a date: the first row that is not before it."""
    if isinstance(bound, int) and not isinstance(bound, bool):
        return bound
    try:
        return int(dates.searchsorted(pd.Timestamp(datetime.fromisoformat(bound))))
    except (ValueError, TypeError):
        raise ValueError(f"a window should start and stop at a date or a row number, got {bound!r}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{twice[:10]} occur more than once")
    return entries
