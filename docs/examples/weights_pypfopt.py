# SPDX-License-Identifier: Apache-2.0
"""Weights of least variance, by PyPortfolioOpt: ``python weights_pypfopt.py returns.csv``.

It has no weights of equal risk: see weights_riskfolio.py and weights_skfolio.py.
"""

from __future__ import annotations

import sys

import pandas as pd
from pypfopt import EfficientFrontier

from sigmahat_client import ShrinkageClient, annualise


def minimum_variance(returns: pd.DataFrame) -> pd.Series:
    """Weights without short sales, sum 1."""
    with ShrinkageClient.local() as client:
        covariance = pd.DataFrame(client.estimate(returns, covariance=True).covariance_of("all"))
    return pd.Series(dict(EfficientFrontier(None, annualise(covariance, 252)).min_volatility()))


if __name__ == "__main__":
    print(minimum_variance(pd.read_csv(sys.argv[1], index_col=0, parse_dates=True)).to_string())
