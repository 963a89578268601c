# SPDX-License-Identifier: Apache-2.0
"""The files that `sigmahat estimate` reads beside returns: universes, market indicators, blocks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sigmahat_client.intake.files import UnreadableFile, read_returns
from sigmahat_client.intake.rows import row_at
from sigmahat_kernels.request import MARKET_COLUMNS

__all__ = ["Universes", "UnreadableFile", "read_blocks", "read_market", "read_returns", "read_universes"]


class Universes(NamedTuple):
    """What to estimate, in the order of the file."""

    assets: dict[str, list[str]]
    windows: dict[str, tuple[int, int]]  # rows [start, stop)


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
        entries = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except (ValueError, OSError) as error:
        raise UnreadableFile(f"{path} is no readable JSON: {error}") from error
    if not isinstance(entries, dict):
        raise UnreadableFile(f'{path} should hold {{"name": ["AAPL", ...], ...}}, got a {type(entries).__name__}')
    universes, times = Universes({}, {}), dates.to_numpy("datetime64[us]")
    for name, entry in entries.items():
        try:
            window = entry if isinstance(entry, dict) else {"assets": entry}
            if not window.keys() <= {"assets", "start", "stop"}:
                raise ValueError("it may hold assets, start and stop only")
            universes.assets[name] = _assets(window.get("assets"))
            if len(window) > 1:
                start, stop = window.get("start", 0), window.get("stop", len(dates))
                universes.windows[name] = row_at(start, times), row_at(stop, times)
        except ValueError as error:
            raise UnreadableFile(f"{path}: universe {name!r} cannot be read: {error}") from None
    return universes


def read_market(path: Path, dates: pd.DatetimeIndex) -> pd.DataFrame:
    """Read market indicators for the rows of a panel.

    Parameters
    ----------
    path : Path
        As `read_returns` takes it: dates, then columns among `MARKET_COLUMNS`, in capitals or not.
    dates : DatetimeIndex
        Of the panel. What the file lacks of them is missing; what it has more is not used.

    Raises
    ------
    UnreadableFile
        If a column is none of these, or the two have no date in common.
    """
    market = read_returns(path).rename(columns=str.lower)
    unknown = [name for name in market.columns if name not in MARKET_COLUMNS]
    if unknown:
        raise UnreadableFile(f"{path}: columns should be among {', '.join(MARKET_COLUMNS)}, got {', '.join(unknown)}")
    if not market.index.isin(dates).any():
        covered = f"{market.index[0]:%Y-%m-%d} to {market.index[-1]:%Y-%m-%d}"
        wanted = f"{dates[0]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}"
        raise UnreadableFile(f"{path}: it holds {covered}, and no date of the returns, which are {wanted}")
    return market.reindex(dates)


def read_blocks(path: Path) -> dict[str, str]:
    """Read the block (sector ...) of each asset.

    Parameters
    ----------
    path : Path
        ``.json``: ``{"AAPL": "tech", ...}``; otherwise CSV with a header and two columns, asset and block.

    Raises
    ------
    UnreadableFile
        If it is anything else, or names an asset twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            found = json.loads(text, object_pairs_hook=_without_repeats)
            if not isinstance(found, dict) or not all(isinstance(block, str) for block in found.values()):
                raise ValueError('it should hold {"AAPL": "tech", ...}')
            return found
        rows = [(line, row) for line, row in enumerate(csv.reader(text.splitlines()), 1) if row]
        for line, row in rows:
            if len(row) != 2 or not all(cell.strip() for cell in row):
                raise ValueError(f"line {line} should hold an asset and its block, got {','.join(row)!r}")
        return _without_repeats([(asset.strip(), block.strip()) for _, (asset, block) in rows[1:]])
    except (ValueError, OSError, csv.Error) as error:
        raise UnreadableFile(f"{path}: {error}") from error


def _assets(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(asset, str) for asset in value):
        raise ValueError(f"its assets should be a list of strings, got {json.dumps(value)[:100]}")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{twice[:10]} occur more than once")
    return entries
