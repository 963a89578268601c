# SPDX-License-Identifier: Apache-2.0
"""A book of 2,000 positions in 40 desks: whose risk is it? ``python book_of_desks.py``, beside ``sigmahat serve``.

Returns and positions are drawn here; yours come from ``pd.read_parquet`` and the like.
"""

import numpy as np
import pandas as pd

from sigmahat_client import ShrinkageClient


def draw(n_assets: int, n_desks: int, n_positions: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A year of daily returns, and each desk's positions in money: a row a desk, a column an asset."""
    rng = np.random.default_rng(0)
    beta = rng.uniform(0.5, 1.5, n_assets)
    values = 0.01 * (rng.standard_normal((252, 1)) * beta + 1.5 * rng.standard_normal((252, n_assets)))
    assets = [f"S{i:03}" for i in range(n_assets)]
    returns = pd.DataFrame(values, pd.bdate_range("2024-01-01", periods=252), assets)
    desks = pd.DataFrame(0.0, [f"desk {d:02}" for d in range(n_desks)], assets)
    for desk in desks.index:
        held = rng.choice(n_assets, n_positions // n_desks, replace=False)
        desks.loc[desk, desks.columns[held]] = 1e5 * rng.standard_normal(len(held)).round(2)
    return returns, desks


def main(client: ShrinkageClient, n_assets: int = 500, n_desks: int = 40, n_positions: int = 2_000) -> pd.DataFrame:
    """One line a desk: what it would risk alone, what it adds to the book, and how it moves with the book."""
    returns, desks = draw(n_assets, n_desks, n_positions)
    portfolios = pd.concat([desks, desks.sum().to_frame("book").T])
    risks = client.risk(returns, None, portfolios, annualise=252)
    risks.raise_for_status()

    # Marginal risk is per unit of an asset, so a desk adds what its positions add; all desks together make the book.
    marginal = pd.DataFrame(risks.marginal_of("all"))["book"]
    table = pd.DataFrame(
        {
            "alone": risks.to_frame()["volatility"].droplevel("universe")[desks.index],
            "contribution": desks @ marginal,
            "correlation": [risks.correlation(desk, "book")[0] for desk in desks.index],
            "effective_bets": risks.effective_bets[0, :-1],
        },
        index=desks.index,
    )
    book = risks.volatility[0, -1]
    print(f"book: {book:,.0f} a year, desks alone {table['alone'].sum():,.0f}")
    print(table.sort_values("contribution", ascending=False).head(10).round(2).to_string())
    return table.assign(book=book)


if __name__ == "__main__":
    with ShrinkageClient() as server:
        main(server)
