# SPDX-License-Identifier: Apache-2.0
"""Return panels from files, with the market indicators that can be read off them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console

from sigmahat_client.intake.files import ENDINGS, UnreadableFile, ending_of, read_arrays, read_returns
from sigmahat_kernels.request import MARKET_COLUMNS
from sigmahat_kernels.returns import column_status, explain_column, mean_row_days
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import UNDATED_ROW_DAYS, Status

PERIODS_PER_YEAR = 252
"""Rows of a daily panel in a year: whatever is annualised, is annualised by this."""

_BESIDE = re.compile("^vix|sectors|blocks", re.IGNORECASE)
"""Names of files that lie beside panels and are none."""

_NO_RETURNS = (Status.NON_FINITE, Status.NOT_RETURNS, Status.IMPOSSIBLE_RETURN, Status.LEVELS)


class ReturnPanel(NamedTuple):
    """One market's history."""

    name: str
    returns: np.ndarray  # (n_rows, n_assets) float32, simple returns, NaN = missing
    dates: np.ndarray  # (n_rows,) datetime64[D], strictly increasing
    market: np.ndarray  # (n_rows, 4) float32, `request.MARKET_COLUMNS`, NaN = missing

    def between(self, first: str | None, last: str | None) -> ReturnPanel:
        """Rows with first <= date <= last (ISO dates; None = no bound)."""
        start = 0 if first is None else np.searchsorted(self.dates, np.datetime64(first, "D"))
        stop = len(self.dates) if last is None else np.searchsorted(self.dates, np.datetime64(last, "D"), side="right")
        rows = slice(int(start), int(stop))
        return self._replace(returns=self.returns[rows], dates=self.dates[rows], market=self.market[rows])


def load_panels(folders: Sequence[Path], console: Console | None = None) -> list[ReturnPanel]:
    """Read every panel of some folders.

    Parameters
    ----------
    folders : sequence of Path
        Every file with one of `ENDINGS` is a panel, as `load_panel` takes it; but one whose name starts with ``vix``
        holds the VIX of that folder's panels, and one with ``sectors`` or ``blocks`` in its name is not read.
    console : Console, optional
        Where to say which files are read, if there are others.

    Raises
    ------
    FileNotFoundError
        If a folder holds no panel.
    UnreadableFile
        As `load_panel`; also if two panels have the same name.
    """
    return [load_panel(path) for path in panel_files(folders, console)]


def check_names(paths: Sequence[Path]) -> None:
    """Raise UnreadableFile if two files are panels of one name: their figures could not be told apart."""
    for path, following in pairwise(sorted(paths, key=_name)):
        if _name(path) == _name(following):
            raise UnreadableFile(f"{path} and {following} are panels of one name: rename one of them")


def _panel_files(folder: Path, console: Console | None) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    paths = [path for path in files if ending_of(path) and not _BESIDE.search(path.name)]
    if not paths:
        raise FileNotFoundError(f"no return panel ({', '.join(f'*{ending}' for ending in ENDINGS)}) in {folder}")
    others = [path.name for path in files if path not in paths and not _is_vix(path)]
    if others and console is not None:
        read = ", ".join(path.name for path in paths)
        console.print(
            f"panels of {folder}: {read}; not read: {', '.join(others)}", soft_wrap=True, markup=False, highlight=False
        )
    return paths


def panel_files(paths: Sequence[Path], console: Console | None = None) -> list[Path]:
    """The files of panels: those named, and in the place of each folder the files that `load_panels` reads of it.

    Raises
    ------
    FileNotFoundError
        If a folder holds no panel.
    UnreadableFile
        If two panels have the same name.
    """
    files = [file for path in paths for file in (_panel_files(path, console) if path.is_dir() else [path])]
    check_names(files)
    return files


def load_panel(path: Path) -> ReturnPanel:
    """Read one panel, with the VIX if its file lies beside.

    Parameters
    ----------
    path : Path
        Simple returns, as `read_returns` takes them, one row a day. An ``.npz`` file may do without `tickers`, and may
        have `dollar_volume` (T, N). The VIX is a file whose name starts with ``vix``: arrays `dates` and `close`, or
        dates and a column, the only one or the one named close or vix.

    Raises
    ------
    UnreadableFile
        If it is broken, has rows within a day, or holds prices, percent or what else the service would not take for
        simple returns, in the same words; names file, asset and value.
    """
    table = read_returns(path, named=False)
    dates = table.index.to_numpy("datetime64[D]")
    if (dates[1:] == dates[:-1]).any():
        raise UnreadableFile(f"{path}: rows should be days, got times within a day: {table.index[0]}, {table.index[1]}")
    _refuse_what_is_no_return(path, table, dates)
    returns = np.ascontiguousarray(table, np.float32)
    volume = None
    if ending_of(path) == ".npz":
        volume = read_arrays(path, [], ["dollar_volume"]).get("dollar_volume")
        if volume is not None and volume.shape != returns.shape:
            raise UnreadableFile(f"{path}: dollar_volume has shape {volume.shape}, and ret {returns.shape}")
    return ReturnPanel(_name(path), returns, dates, market_indicators(dates, returns, volume, _vix_beside(path)))


def _name(path: Path) -> str:
    return path.name[: -len(ending_of(path) or "")]


def _is_vix(path: Path) -> bool:
    return path.name.lower().startswith("vix") and ending_of(path) is not None


def _refuse_what_is_no_return(path: Path, table: pd.DataFrame, dates: np.ndarray) -> None:
    """Judge whole columns as a request's are judged; what is short or constant is only never drawn."""
    row_days = mean_row_days(dates.astype(np.int64)) if len(dates) > 1 else UNDATED_ROW_DAYS
    returns, _ = without_stale(table.to_numpy())
    codes = column_status(returns, row_days)
    bad = np.flatnonzero(np.isin(codes, _NO_RETURNS))
    for column in bad[:1].tolist():
        status = Status(codes[column])
        found = explain_column(returns[:, column], status, row_days, lambda row: str(dates[row]))
        others = f"; {len(bad)} of {len(codes)} assets are refused" if len(bad) > 1 else ""
        raise UnreadableFile(f"{path}, asset {table.columns[column]!r}: {status.explanation} ({found}){others}")


def _vix_beside(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    found = [beside for beside in sorted(path.parent.iterdir()) if _is_vix(beside)]
    if not found:
        return None
    if len(found) > 1:
        raise UnreadableFile(f"{found[0]} and {found[1].name} both hold the VIX: keep one")
    (vix,) = found
    if ending_of(vix) == ".npz":
        arrays = read_arrays(vix, ["dates", "close"])
        return arrays["dates"].astype("datetime64[D]"), arrays["close"].astype(np.float64)
    table = read_returns(vix)
    closes = [name for name in table.columns if name.lower() in ("close", "vix")] or table.columns.tolist()
    if len(closes) > 1:
        raise UnreadableFile(f"{vix}: one column should hold the VIX, got {', '.join(closes)}")
    return table.index.to_numpy("datetime64[D]"), table[closes[0]].to_numpy(np.float64)


def market_indicators(
    dates: np.ndarray,
    returns: np.ndarray,
    volume: np.ndarray | None,
    vix: tuple[np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """The columns of MARKET for a panel: VIX, total turnover, illiquidity, trading days to the next option expiry.

    Illiquidity is the median over assets of |return| / dollar volume (Amihud 2002, J. Financial Markets 5). The event
    is the next monthly expiry of equity options, the third Friday.
    """
    market = np.full((len(dates), len(MARKET_COLUMNS)), np.nan, np.float32)
    if vix is not None:
        # The close of the same day, or of the last day before on which the index was quoted.
        row = np.searchsorted(vix[0], dates, side="right") - 1
        fresh = (row >= 0) & (dates - vix[0][np.maximum(row, 0)] <= np.timedelta64(7, "D"))
        market[fresh, 0] = vix[1][row[fresh]]
    if volume is not None:
        traded = np.where(volume > 0, volume, np.nan)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            market[:, 1] = np.where(np.isnan(traded).all(axis=1), np.nan, np.nansum(traded, axis=1))
            market[:, 2] = np.nanmedian(np.abs(returns) / traded, axis=1)
    market[:, 3] = np.busday_count(dates, _next_expiry(dates))
    return market


def fill_missing(returns: np.ndarray) -> np.ndarray:
    """Put the mean in the place of missing returns, and widen the others so that the sample variance stays.

    A pair's covariance is then that of the days on which both are known, times sqrt(days of both / days of each):
    a little too small, but positive semi-definite, as the kernels treat missing returns.
    """
    missing = np.isnan(returns)
    if not missing.any():
        return returns
    known = (~missing).sum(axis=0)
    mean = np.nanmean(returns, axis=0)
    widen = np.sqrt((len(returns) - 1) / np.maximum(known - 1, 1))
    filled: np.ndarray = mean + np.where(missing, 0.0, (returns - mean) * widen)
    return filled


def _next_expiry(dates: np.ndarray) -> np.ndarray:
    """The first third Friday of a month on or after each date."""
    months = dates.astype("datetime64[M]")

    def third_friday(month: np.ndarray) -> np.ndarray:
        return np.busday_offset(month.astype("datetime64[D]"), 2, roll="forward", weekmask="Fri")

    this_month = third_friday(months)
    return np.where(this_month >= dates, this_month, third_friday(months + 1))
