# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a request: one status a universe, one exception for a request as a whole."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any


class SigmahatError(Exception):
    """Base of this project's own errors.

    Attributes
    ----------
    estimates : sigmahat_client.Estimates, sigmahat_client.Risks or None
        What a client's call had when it gave up; the universes without an answer have a status of their own.
    """

    estimates: Any = None


class InvalidRequest(SigmahatError, ValueError):
    """The request cannot be read as a whole: wrong rank, wrong dtype, nothing in it, over the limits."""


class Status(IntEnum):
    """Outcome for one universe. Every row but `GOOD` is NaN in all outputs; its neighbours are untouched.

    The codes are part of the protocol: they are never renumbered.
    """

    GOOD = 0
    TOO_FEW_ASSETS = 1
    UNKNOWN_ASSET = 2
    DUPLICATE_ASSET = 3
    WINDOW_OUT_OF_RANGE = 4
    TOO_FEW_OBSERVATIONS = 5
    NON_FINITE = 6
    NOT_RETURNS = 7
    SHORT_HISTORY = 8
    CONSTANT_ASSET = 9
    IMPOSSIBLE_RETURN = 10
    LEVELS = 11

    @property
    def explanation(self) -> str:
        """What was wanted, for error messages."""
        return _EXPLANATIONS[self]


class PortfolioStatus(IntEnum):
    """Outcome for one portfolio in one universe of `risk`. All but `GOOD` are NaN; the universe's others are untouched.

    The codes are part of the protocol: they are never renumbered.
    """

    GOOD = 0
    UNIVERSE_REFUSED = 1
    NON_FINITE_WEIGHT = 2
    OUTSIDE_UNIVERSE = 3
    NO_POSITIONS = 4

    @property
    def explanation(self) -> str:
        """What was wanted, for error messages."""
        return _PORTFOLIO_EXPLANATIONS[self]


MIN_OBSERVATIONS = 20
"""A window needs this many rows, and each asset this many returns in it."""

MIN_ASSETS = 2

LOWEST_RETURN = -1.0
"""No simple return is lower: all is lost."""

MAX_ABS_RETURN = 10.0
"""No simple return per period is larger than +1000 %: prices, index levels and percentages are."""

MAX_MEAN_ABS_RETURN = 0.75
"""An average move above 75 % a week is no return either: prices near one, or percentages. For rows that are not a week
apart the limit grows with the root of their distance."""

MAX_UNIVERSE_MEAN_ABS_RETURN = 0.3
"""Nor are average moves above 30 % a week, of half of a universe's assets: bonds in percent. Single stocks move so: of
112,000 windows of 252 days of real assets, two are above either limit."""

UNDATED_ROW_DAYS = 7.0
"""Days from row to row that are assumed of rows without dates."""

LEVEL_AUTOCORRELATION = 0.95
"""Values of one sign whose lag-one autocorrelation about zero is above this are levels: they move by less than a third
of their size from row to row. Real returns change their sign, and only a few short histories of them come above 0.8."""

MAX_INTEREST = 0.25
"""Such values are interest, not levels, if they stand still in most rows and accrue to less than this a year."""

_EXPLANATIONS = {
    Status.GOOD: "estimated",
    Status.TOO_FEW_ASSETS: f"a universe needs at least {MIN_ASSETS} assets",
    Status.UNKNOWN_ASSET: "the asset is not a column of the panel",
    Status.DUPLICATE_ASSET: "the asset is listed twice",
    Status.WINDOW_OUT_OF_RANGE: "a window [start, stop) must satisfy 0 <= start < stop <= rows of the panel",
    Status.TOO_FEW_OBSERVATIONS: f"a window needs at least {MIN_OBSERVATIONS} rows",
    Status.NON_FINITE: "the asset has an infinite return; a missing return is NaN",
    Status.NOT_RETURNS: "the asset's values are too large for returns (0.01 is 1 %): prices, percentages?",
    Status.SHORT_HISTORY: f"the asset has fewer than {MIN_OBSERVATIONS} returns in the window",
    Status.CONSTANT_ASSET: "the asset's returns do not vary in the window",
    Status.IMPOSSIBLE_RETURN: "the asset has a return below -1, and no simple return is: missing code, log return?",
    Status.LEVELS: "the asset's values keep their sign and size from row to row: levels (prices, rates), not returns",
}


_PORTFOLIO_EXPLANATIONS = {
    PortfolioStatus.GOOD: "measured",
    PortfolioStatus.UNIVERSE_REFUSED: "the universe could not be estimated, see its STATUS",
    PortfolioStatus.NON_FINITE_WEIGHT: "the weight of the asset is missing, infinite, or above 3.4e38",
    PortfolioStatus.OUTSIDE_UNIVERSE: "there is a weight in the padding, which is no asset of the universe",
    PortfolioStatus.NO_POSITIONS: "all weights of the universe's assets are zero",
}


class WarningFlag(IntFlag):
    """What is odd about a universe that is answered all the same, or about one of its assets.

    The bits are part of the protocol: they are never renumbered. A universe that is not `GOOD` has none.
    """

    FEW_RETURNS = 1
    STALE_PRICES = 2
    DOMINANT_RETURN = 4
    NEAR_COPY = 8
    UNUSUAL_VOLATILITY = 16
    UNUSUAL_SIZE = 32
    UNUSUAL_LENGTH = 64
    UNUSUAL_SPACING = 128

    @property
    def explanation(self) -> str:
        """What one flag says, for messages."""
        return _WARNINGS[self]

    @property
    def of_assets(self) -> bool:
        """Whether one flag is of single assets, not of the universe as a whole."""
        return self < WarningFlag.UNUSUAL_SIZE


FEW_RETURNS = 0.5
"""An asset with a smaller share of the window's rows is flagged."""

DOMINANT_RETURN = 0.4
"""Sum of fourth powers over the square of the sum of squares: above this, one return is most of a variance."""

NEAR_COPY = 0.999
"""Assets correlated more than this, in absolute value, are copies but for rounding."""

USUAL_VOLATILITY = (0.0002, 0.2)
"""Per period; but for one in a thousand, the volatilities of daily returns in the training panels."""

USUAL_ASSETS = (5, 500)
USUAL_ROWS = (30, 1000)
"""What the networks were trained on."""

USUAL_SPACING_DAYS = 1.0
"""They were trained on daily returns: the median distance of two dates is a day."""

_WARNINGS = {
    WarningFlag.FEW_RETURNS: f"fewer returns than {FEW_RETURNS:.0%} of the window's rows",
    WarningFlag.STALE_PRICES: "long runs of returns of exactly zero, taken as missing",
    WarningFlag.DOMINANT_RETURN: "one return makes up most of the variance: a split that was not adjusted?",
    WarningFlag.NEAR_COPY: f"correlated more than {NEAR_COPY} with another asset of the universe",
    WarningFlag.UNUSUAL_VOLATILITY: "volatility outside {:g} to {:g} a period, where the networks were trained".format(
        *USUAL_VOLATILITY
    ),
    WarningFlag.UNUSUAL_SIZE: "not {} to {} assets, with which the networks were trained".format(*USUAL_ASSETS),
    WarningFlag.UNUSUAL_LENGTH: "not {} to {} rows, with which the networks were trained".format(*USUAL_ROWS),
    WarningFlag.UNUSUAL_SPACING: "not daily: the networks were trained on daily returns",
}
