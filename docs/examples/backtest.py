# SPDX-License-Identifier: Apache-2.0
"""Minimum-variance portfolios month by month, ours against the sample's: ``python backtest.py returns.csv``.

Each month end sees the window before it alone, and holds its weights until the next one.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pandas as pd

from sigmahat_client import ShrinkageClient, UniverseError


def minimum_variance(covariance: np.ndarray) -> np.ndarray:
    """Weights with short sales, sum 1."""
    weights = np.linalg.solve(covariance, np.ones(len(covariance)))
    return weights / weights.sum()


def backtest(returns: pd.DataFrame, window: int = 252) -> pd.DataFrame:
    """Returns of both portfolios, day by day."""
    weights = {}
    with ShrinkageClient.local() as client:
        for date, estimates in client.rolling(returns, window=window, every="ME", on_bad_asset="drop"):
            try:
                matrix = pd.DataFrame(estimates.covariance_of("all"))
            except UniverseError as error:
                print(f"{date:%Y-%m-%d}: {error}")
                continue
            sample = returns.loc[:date, matrix.columns].iloc[-window:].cov()
            weights[date] = {
                name: pd.Series(minimum_variance(covariance.to_numpy(np.float64)), matrix.columns)
                for name, covariance in (("sigmahat", matrix), ("sample", sample))
            }
    days = []
    dates = [*weights, returns.index[-1]]
    for date, until in itertools.pairwise(dates):
        held = returns.loc[(returns.index > date) & (returns.index <= until)].fillna(0.0)
        days.append(pd.DataFrame({name: held[w.index] @ w for name, w in weights[date].items()}))
    return pd.concat(days)


if __name__ == "__main__":
    found = backtest(pd.read_csv(sys.argv[1], index_col=0, parse_dates=True))
    print((100 * np.sqrt(252) * found.std()).round(2).to_string(name="volatility, % a year"))
