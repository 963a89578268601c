# SPDX-License-Identifier: Apache-2.0
"""Files of returns with their dates: CSV as the world writes it, Parquet, Feather, NPZ."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from sigmahat_client.errors import InvalidRequest
from sigmahat_client.intake.arrays import floats
from sigmahat_client.intake.containers import Table, read_table
from sigmahat_client.intake.csv_table import UnreadableFile, read_csv
from sigmahat_client.intake.rows import index_rows
from sigmahat_client.intake.universes import read_labels

__all__ = ["ENDINGS", "UnreadableFile", "ending_of", "read_arrays", "read_returns"]

Arrays = dict[str, np.ndarray]


def ending_of(path: Path) -> str | None:
    """Which of `ENDINGS` a name has, in capitals or not."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)


def read_returns(path: Path, *, named: bool = True) -> pd.DataFrame:
    """Read a panel of returns.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.csv.gz``, ``.parquet`` or ``.feather``: the first column (or the index that is stored) holds dates,
        every other one the returns of the asset that it is named after; `csv_table` says what CSV may look like.
        ``.npz``: arrays ``dates`` (T,), ``tickers`` (N,) and ``ret`` (T, N).
    named : bool
        Whether the assets of an ``.npz`` file must have names. If not, one whose ``tickers`` are not there, or can be
        read by running code only, numbers its columns.

    Returns
    -------
    DataFrame
        Assets in columns, named by strings; a DatetimeIndex, strictly increasing, without time zone: days, or times
        where the rows are intraday.

    Raises
    ------
    UnreadableFile
        If it is of another kind, broken, or its dates are none; names file, line, column and value.
    """
    ending = ending_of(path)
    if ending is None:
        raise UnreadableFile(f"{path} should end with {', '.join(ENDINGS)}")
    with _named_in_errors(path, ending):
        table = _npz(path, named) if ending == ".npz" else _READERS[ending](path)
        rows = index_rows(table.index, len(table.values))
        if rows.times is None:
            raise UnreadableFile(f"the first column should hold dates such as 2019-01-31, got {_first(table.index)}")
        labels = list(map(str, read_labels(table.labels, None, table.values.shape[1])))
    dates = rows.times if rows.days is None else rows.days.astype("datetime64[D]")
    return pd.DataFrame(table.values, pd.DatetimeIndex(dates), labels)


def read_arrays(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Arrays:
    """Read arrays of an ``.npz`` file, those of `optional` if they are there.

    Raises
    ------
    UnreadableFile
        If one that is wanted is not there, or reading one would run code.
    """
    with _named_in_errors(path, ".npz"), np.load(path, allow_pickle=False) as file:
        return _arrays(file, wanted, optional)


@contextmanager
def _named_in_errors(path: Path, ending: str) -> Iterator[None]:
    try:
        yield
    except (UnreadableFile, InvalidRequest) as error:
        raise UnreadableFile(f"{path}: {error}") from None
    except (ValueError, OSError, EOFError, BadZipFile, csv.Error, zlib.error) as error:
        # pyarrow's own errors are ValueErrors or OSErrors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableFile(f"{path} is no readable {ending} file: {reason}") from error


def _csv(path: Path) -> Table:
    table = read_csv(path)
    return Table(table.values, table.labels, table.dates)


def _frame(frame: pd.DataFrame) -> Table:
    if isinstance(frame.index, pd.RangeIndex):
        if not len(frame.columns):
            raise UnreadableFile("there should be a column of dates and one for each asset, but there are none")
        frame = frame.set_index(frame.columns[0])
    return read_table(frame)


def _npz(path: Path, named: bool) -> Table:
    with np.load(path, allow_pickle=False) as file:
        arrays = _arrays(file, ["dates", "tickers", "ret"] if named else ["dates", "ret"])
        if not named:
            with suppress(ValueError):
                arrays |= _arrays(file, [], ["tickers"])
    values = floats("ret", arrays["ret"])
    names = arrays.get("tickers")
    n_names = values.shape[-1] if names is None else len(names)
    if values.shape != (len(arrays["dates"]), n_names):
        wanted = f"{len(arrays['dates'])} dates" + ("" if names is None else f" and {n_names} tickers")
        raise UnreadableFile(f"ret has shape {values.shape}, for {wanted}")
    return Table(values, None if names is None else names.tolist(), arrays["dates"])


def _arrays(file: Mapping[str, np.ndarray], wanted: Sequence[str], optional: Sequence[str] = ()) -> Arrays:
    missing = [name for name in wanted if name not in file]
    if missing:
        asked = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
        raise UnreadableFile(f"there should be arrays {asked}, but {', '.join(missing)} is not")
    return {name: file[name] for name in (*wanted, *optional) if name in file}


def _first(index: Any) -> str:
    return ", ".join(map(str, np.asarray(index)[:3]))


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _csv,
    ".csv.gz": _csv,
    ".parquet": lambda path: _frame(pd.read_parquet(path)),
    ".feather": lambda path: _frame(pd.read_feather(path)),
}
"""Ending -> reader."""

ENDINGS = (*_READERS, ".npz")
"""Of the files that are read."""
