# SPDX-License-Identifier: Apache-2.0
"""What a report is about: returns, and what was estimated of them, wherever that came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from sigmahat_client import Estimates
from sigmahat_deploy.report.errors import ReportError
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status

Floats = npt.NDArray[np.float64]
AnyFloats = npt.NDArray[Any]

_PERIODS_PER_YEAR = ((4.0, 252.0), (10.0, 52.0), (45.0, 12.0), (120.0, 4.0))
"""Days from one row to the next, at most -> periods in a year."""


class Universe(NamedTuple):
    """One universe that was estimated."""

    name: str
    assets: list[str]
    returns: pd.DataFrame  # (T, N) of its window as sent, NaN = missing
    cleaned: pd.DataFrame  # the same, stale prices missing too
    row: Mapping[str, Any]  # of the table of estimates
    covariance: Floats  # (N, N), in squared returns per period
    periods_per_year: float

    @property
    def annual(self) -> float:
        """What a volatility per period is multiplied by."""
        return float(np.sqrt(self.periods_per_year))

    def numbers(self, columns: Sequence[str]) -> Floats:
        """Some columns of its row."""
        return np.array([self.row[column] for column in columns], np.float64)


class Study(NamedTuple):
    """All universes of a report."""

    returns: pd.DataFrame  # (rows, assets), a DatetimeIndex
    table: pd.DataFrame  # `Estimates.to_frame`, or what was read of such a file
    assets: dict[str, list[str]]  # of each universe with a matrix
    covariances: dict[str, AnyFloats]  # in the precision in which they came
    windows: dict[str, tuple[int, int]]  # rows [start, stop); all rows of those that are left out
    periods_per_year: float

    def universe(self, name: str) -> Universe:
        """One that was estimated."""
        start, stop = self.window(name)
        assets = self.assets[name]
        returns = self.returns.iloc[start:stop][assets]
        cleaned = pd.DataFrame(without_stale(returns.to_numpy(np.float64))[0], returns.index, returns.columns)
        row = {str(column): value for column, value in self.table.loc[name].items()}
        return Universe(
            name, assets, returns, cleaned, row, self.covariances[name].astype(np.float64), self.periods_per_year
        )

    def window(self, name: str) -> tuple[int, int]:
        """Rows [start, stop) that the universe was estimated of."""
        return self.windows.get(name, (0, len(self.returns)))

    @property
    def estimated(self) -> list[str]:
        """Names of the universes with an estimate, in the order of the table."""
        return [name for name in self.table.index if name in self.covariances]


def study_of(
    returns: pd.DataFrame,
    table: pd.DataFrame,
    assets: dict[str, list[str]],
    covariances: dict[str, AnyFloats],
    windows: dict[str, tuple[int, int]],
    periods_per_year: float | None = None,
) -> Study:
    """Put a study together.

    Raises
    ------
    ReportError
        If no universe was estimated; says how the first one failed.
    """
    if not covariances:
        why = f": {table['message'].iloc[0]}" if len(table) else ""
        raise ReportError(f"none of {len(table)} universes was estimated, there is nothing to report{why}")
    per_year = periods_per_year or infer_periods_per_year(pd.DatetimeIndex(returns.index))
    return Study(returns, table, assets, covariances, windows, per_year)


def from_estimates(
    returns: pd.DataFrame,
    estimates: Estimates,
    windows: dict[str, tuple[int, int]],
    periods_per_year: float | None = None,
) -> Study:
    """Take over what a client answered, with covariances."""
    good = [
        (str(name), list(map(str, assets)), matrix)
        for name, assets, matrix, status in zip(
            estimates.universes, estimates.assets, estimates.covariance or (), estimates.status.tolist(), strict=True
        )
        if status == Status.GOOD
    ]
    return study_of(
        returns,
        estimates.to_frame(),
        {name: assets for name, assets, _ in good},
        {name: matrix for name, _, matrix in good},
        windows,
        periods_per_year,
    )


def infer_periods_per_year(dates: pd.DatetimeIndex) -> float:
    """Periods of a year, by the median distance of the dates: 252 of days, 52 of weeks, 12 of months, 4 of quarters.

    Intraday rows count as often as a day has them; rows a year apart are one.

    >>> infer_periods_per_year(pd.date_range("2020-01-01", periods=9, freq="W"))
    52.0
    """
    if len(dates) < 2:
        return _PERIODS_PER_YEAR[0][1]
    days = float(np.median(np.diff(dates.to_numpy()) / np.timedelta64(1, "D")))
    if days < 1:
        return _PERIODS_PER_YEAR[0][1] * len(dates) / dates.normalize().nunique()
    return next((per_year for most, per_year in _PERIODS_PER_YEAR if days <= most), 1.0)
