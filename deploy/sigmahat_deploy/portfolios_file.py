# SPDX-License-Identifier: Apache-2.0
"""The file of portfolios that `sigmahat risk` reads: one row a position, or one row a portfolio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sigmahat_client.intake.csv_table import UnreadableFile

_LONG = ["portfolio", "asset", "weight"]
_ENDINGS = (".csv", ".csv.gz", ".parquet", ".feather", ".json")

Portfolios = dict[str, dict[str, float]]


def read_portfolios(path: Path) -> Portfolios:
    """Read portfolios: name -> asset -> weight.

    Parameters
    ----------
    path : Path
        ``.csv``, ``.csv.gz``, ``.parquet`` or ``.feather``: columns ``portfolio``, ``asset`` and ``weight``, one row a
        position; or names of portfolios in the first column (or the index that is stored) and a column of weights for
        each asset. ``.json``: ``{"name": {"AAPL": 0.5, ...}, ...}``. A weight that is not there, or no number, is
        missing, which is refused where the asset is held: no position is 0.

    Raises
    ------
    UnreadableFile
        If it is of another kind, broken, or names a portfolio or an asset of it twice.
    """
    if not path.name.lower().endswith(_ENDINGS):
        raise UnreadableFile(f"{path} should end with {', '.join(_ENDINGS)}")
    try:
        return _from_json(path) if path.suffix.lower() == ".json" else _from_table(_table(path))
    except UnreadableFile as error:
        raise UnreadableFile(f"{path}: {error}") from None
    except (ValueError, OSError, EOFError) as error:  # pyarrow's and pandas' own errors are ValueErrors or OSErrors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableFile(f"{path} is no readable file of portfolios: {reason}") from error


def _table(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        table = pd.read_parquet(path)
    elif path.suffix.lower() == ".feather":
        table = pd.read_feather(path)
    else:
        # NA is a ticker, and of columns of one name pandas would rename the second.
        lines = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return lines[1:].set_axis(lines.iloc[0], axis=1)
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def _from_table(table: pd.DataFrame) -> Portfolios:
    columns = [str(column).strip() for column in table.columns]
    lower = [column.lower() for column in columns]
    found: Portfolios = {}
    if set(_LONG) <= set(lower):
        names, assets, weights = (table.iloc[:, lower.index(column)] for column in _LONG)
        for name, asset, weight in zip(names.map(str), assets.map(str), _numbers(weights), strict=True):
            positions = found.setdefault(name, {})
            if asset in positions:
                raise UnreadableFile(f"portfolio {name!r} holds {asset!r} twice: add the positions up")
            positions[asset] = weight
    else:
        if len(columns) < 2:
            raise UnreadableFile(f"there should be columns {', '.join(_LONG)}, or one for each asset, got {columns}")
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise UnreadableFile(f"assets should have one column each, but {twice[:10]} have several")
        weights_of = [_numbers(table.iloc[:, i]) for i in range(1, len(columns))]
        for row, name in enumerate(table.iloc[:, 0].map(str)):
            if name in found:
                raise UnreadableFile(f"portfolios should have one row each, but {name!r} has several")
            found[name] = {asset: column[row] for asset, column in zip(columns[1:], weights_of, strict=True)}
    if not found:
        raise UnreadableFile("there are no portfolios")
    return found


def _numbers(column: pd.Series[Any]) -> list[float]:
    """Numbers of a column; what is none is missing."""
    return [float(value) for value in pd.to_numeric(column, errors="coerce")]


def _from_json(path: Path) -> Portfolios:
    entries = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UnreadableFile('it should hold {"name": {"AAPL": 0.5, ...}, ...}')
    return entries
