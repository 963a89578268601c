# SPDX-License-Identifier: Apache-2.0
"""How much of which hedge? ``python hedging.py``, beside ``sigmahat serve``.

A long book of stocks is hedged by two index funds, then put under stress. Returns are drawn here.
"""

import numpy as np
import pandas as pd

from sigmahat_client import ShrinkageClient

HEDGES = ["MARKET", "SMALL"]


def draw(n_stocks: int) -> tuple[pd.DataFrame, pd.Series]:
    """A year of daily returns of stocks and two funds, and a book of a million in each stock."""
    rng = np.random.default_rng(0)
    market, small = 0.009 * rng.standard_normal(252), 0.005 * rng.standard_normal(252)
    beta, tilt = rng.uniform(0.6, 1.4, n_stocks), rng.uniform(0.0, 1.0, n_stocks)
    stocks = np.outer(market, beta) + np.outer(small, tilt) + 0.012 * rng.standard_normal((252, n_stocks))
    names = [f"S{i:03}" for i in range(n_stocks)]
    funds = np.column_stack([market, market + small]) + 0.001 * rng.standard_normal((252, 2))
    returns = pd.DataFrame(np.hstack([stocks, funds]), pd.bdate_range("2024-01-01", periods=252), names + HEDGES)
    return returns, pd.Series(1e6, names)


def main(client: ShrinkageClient, n_stocks: int = 60) -> pd.DataFrame:
    """Volatility over a month, and the loss in a fall of the market by 10 %, before and after."""
    returns, book = draw(n_stocks)
    before = client.risk(returns, None, {"book": book, **{fund: {fund: 1.0} for fund in HEDGES}}, horizon=21)

    # The variance of book + sum_k h_k fund_k is least where h = -C^-1 c: C of the funds, c of the book with them.
    covariance = pd.DataFrame(before.portfolio_covariance_of("all"))
    amounts = -np.linalg.solve(covariance.loc[HEDGES, HEDGES], covariance.loc[HEDGES, "book"])
    trades = pd.Series(amounts, HEDGES)

    hedged = pd.concat([book, trades])
    after = client.risk(
        returns, None, {"book": book, "hedged": hedged, **{fund: {fund: 1.0} for fund in HEDGES}}, horizon=21
    )
    fall = after.stress("all", {"MARKET": -0.1}).portfolios
    names = ["book", "hedged"]
    table = pd.DataFrame(
        {"volatility": after.to_frame()["volatility"].droplevel("universe")[names], "market -10 %": fall[names]}
    )
    print(trades.round(-3).to_string())
    print(table.round(-3).to_string())
    return table.assign(correlation=[after.correlation(name, "MARKET")[0] for name in names])


if __name__ == "__main__":
    with ShrinkageClient() as server:
        main(server)
