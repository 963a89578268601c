# SPDX-License-Identifier: Apache-2.0
"""How much each panel teaches: by market first, so that no country drowns the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sigmahat_trainer.data.panels import ReturnPanel


FUNDS = ("etf", "fund", "factor")
"""How the second word of the name of a panel of portfolios begins, not of single securities."""


FUND_SHARE = 0.25
"""Of what is drawn, where there are funds and others: funds of one panel differ more than the stocks of two markets."""


def holds_funds(name: str) -> bool:
    """Whether the name of a panel says that it holds portfolios."""
    _, *others = name.split("_")
    return bool(others) and others[0].startswith(FUNDS)


def market_of(name: str) -> str:
    """The market of a panel: the first word of its name, and whether it holds funds, which move unlike single stocks.

    >>> [market_of(name) for name in ("us_sp500_1999_2021", "us_broad", "us_etf18_2006_2022", "us_factors")]
    ['us', 'us', 'us funds', 'us funds']
    """
    first = name.partition("_")[0]
    return f"{first} funds" if holds_funds(name) else first


def panel_shares(panels: Sequence[ReturnPanel], power: float) -> np.ndarray:
    """Probability of each panel to be drawn from, shape (len(panels),).

    A market counts by its asset-days, the returns that are known of all its panels, to this power; its panels share
    that by their own asset-days to the same power. At 0 all markets count alike, at 1 all returns. Markets of funds
    together have `FUND_SHARE`, if there are others.
    """
    asset_days = np.array([max(np.count_nonzero(~np.isnan(panel.returns)), 1) for panel in panels], float)
    _, market = np.unique([market_of(panel.name) for panel in panels], return_inverse=True)
    of_market = np.bincount(market, asset_days) ** power
    within = asset_days**power
    shares: np.ndarray = (of_market / of_market.sum() / np.bincount(market, within))[market] * within
    funds = np.array([holds_funds(panel.name) for panel in panels])
    if funds.any() and not funds.all():
        of_funds = shares[funds].sum()
        shares *= np.where(funds, FUND_SHARE / of_funds, (1.0 - FUND_SHARE) / (1.0 - of_funds))
    return shares
