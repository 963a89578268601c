# SPDX-License-Identifier: Apache-2.0
"""Return panels from files, with the market indicators that can be read off them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.request import MARKET_COLUMNS

PERIODS_PER_YEAR = 252
"""Rows of a daily panel in a year: whatever is annualised, is annualised by this."""


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


def load_panels(folder: Path) -> list[ReturnPanel]:
    """Read every panel of a folder.

    Parameters
    ----------
    folder : Path
        Holds ``*.npz`` files with `dates` datetime64[D] (T,), `ret` float32 (T, M) and, if known, `dollar_volume`
        (T, M). A file whose name starts with ``vix`` holds `dates` and `close` instead.

    Raises
    ------
    FileNotFoundError
        If the folder holds no panel.
    """
    panels = [load_panel(path) for path in sorted(folder.glob("*.npz")) if not path.name.startswith("vix")]
    if not panels:
        raise FileNotFoundError(f"no return panel (*.npz with dates, ret) in {folder}")
    return panels


def load_panel(path: Path) -> ReturnPanel:
    """Read one panel file, as described in `load_panels`, with the VIX if its file lies beside."""
    vix = None
    for beside in path.parent.glob("vix*.npz"):
        with np.load(beside, allow_pickle=False) as file:
            vix = (file["dates"].astype("datetime64[D]"), file["close"].astype(np.float64))
    with np.load(path, allow_pickle=False) as file:
        missing = {"dates", "ret"} - set(file.files)
        if missing:
            raise ValueError(f"{path} lacks {sorted(missing)}; it has {sorted(file.files)}")
        returns = np.ascontiguousarray(file["ret"], np.float32)
        dates = file["dates"].astype("datetime64[D]")
        volume = np.asarray(file["dollar_volume"], np.float64) if "dollar_volume" in file.files else None
    return ReturnPanel(path.stem, returns, dates, market_indicators(dates, returns, volume, vix))


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
