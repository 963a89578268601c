# SPDX-License-Identifier: Apache-2.0
"""Weights of least variance and of equal risk, by Riskfolio-Lib: ``python weights_riskfolio.py returns.csv``."""

from __future__ import annotations

import sys

import pandas as pd
import riskfolio

from sigmahat_client import ShrinkageClient


def portfolio_of(returns: pd.DataFrame) -> riskfolio.Portfolio:
    """A portfolio that knows our covariance of a day."""
    portfolio = riskfolio.Portfolio(returns=returns)
    portfolio.assets_stats(method_mu="hist", method_cov="hist")
    with ShrinkageClient.local() as client:
        portfolio.cov = client.estimate(returns, covariance=True).covariance_of("all")
    return portfolio


def minimum_variance(returns: pd.DataFrame) -> pd.Series:
    """Weights without short sales, sum 1."""
    found = portfolio_of(returns).optimization(model="Classic", rm="MV", obj="MinRisk")
    return found["weights"]


def risk_parity(returns: pd.DataFrame) -> pd.Series:
    """Weights of which each contributes the same to the portfolio's variance."""
    return portfolio_of(returns).rp_optimization(model="Classic", rm="MV")["weights"]


if __name__ == "__main__":
    panel = pd.read_csv(sys.argv[1], index_col=0, parse_dates=True)
    print(pd.DataFrame({"minimum variance": minimum_variance(panel), "risk parity": risk_parity(panel)}))
