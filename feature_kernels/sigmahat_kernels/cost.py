# SPDX-License-Identifier: Apache-2.0
"""What a request costs, in milliseconds of one core, known before anything is computed.

A sum over universes, and over the windows that they share, of the terms in `UNIVERSE` and `WINDOW`. The constants are
those of one machine with compiled kernels (`benchmarks/speed/cost.py` fits them; a member takes a third of
`UniverseTerms.one`), so that a cost means the same to every client and server: on another machine a millisecond is
another, and only ratios stay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sigmahat_kernels.request import PADDING, Request, block_ids

MAX_COST = 120_000.0
"""Limit of one request, a minute of two cores: of its features, and of its risk. That of its matrices is limited by
their cells."""


class UniverseTerms(NamedTuple):
    """Milliseconds a universe of N assets over T rows of a window with m columns."""

    one: float = 0.03
    pairs: float = 1.5e-6  # x N^2
    spectrum: float = 5e-8  # x N^2 min(N, T)
    series: float = 1.2e-6  # x T m


class WindowTerms(NamedTuple):
    """Milliseconds a window of T rows and m columns."""

    one: float = 0.5
    cells: float = 2.5e-5  # x T m
    products: float = 3.3e-8  # x T m^2


UNIVERSE = UniverseTerms()
WINDOW = WindowTerms()
MATRIX_PAIRS = 1e-5
"""Milliseconds a cell of a covariance matrix, x N^2."""


class RiskTerms(NamedTuple):
    """Milliseconds that a universe of N assets and P portfolios takes beyond the entries of its matrix."""

    products: float = 1.2e-7  # x P N^2
    minimum_variance_pairs: float = 5e-5  # x N^2
    minimum_variance_steps: float = 3e-7  # x N^3


RISK = RiskTerms()


class CostTooHigh(ValueError):
    """The request costs more than `MAX_COST`: to be split, not to be mended."""


class RunningCost:
    """The cost of universes that are added one by one, all from one panel of so many columns.

    A window has as many columns as its universes list, but no more than the panel: assets that two universes share
    count twice, until then.

    Parameters
    ----------
    n_columns : int
        Of the panel.
    n_blocks : int
        Each universe is computed again in blocks, of which none is larger than the universe, and all together as large.
    """

    def __init__(self, n_columns: int, n_blocks: int = 0) -> None:
        self._n_columns = n_columns
        self._n_blocks = n_blocks
        self._listed: dict[tuple[int, int], int] = {}
        self.total = 0.0

    def add(self, n_assets: int, window: tuple[int, int]) -> float:
        """Add a universe; return the cost of all so far."""
        n_obs = max(window[1] - window[0], 0)
        before = self._listed.get(window, 0)
        listed = self._listed[window] = before + n_assets
        columns = min(listed, self._n_columns)
        copies, rows = (2, 1 + self._n_blocks) if self._n_blocks else (1, 1)
        squared = float(n_assets) ** 2
        own = UNIVERSE.pairs * squared + UNIVERSE.spectrum * squared * min(n_assets, n_obs)
        self.total += copies * own + rows * (UNIVERSE.one + UNIVERSE.series * n_obs * columns)
        self.total += _window_cost(n_obs, columns) - (
            _window_cost(n_obs, min(before, self._n_columns)) if before else 0.0
        )
        return self.total


def _window_cost(n_obs: int, n_columns: int) -> float:
    return WINDOW.one + n_obs * n_columns * (WINDOW.cells + WINDOW.products * n_columns)


def features_cost(request: Request) -> float:
    """Milliseconds of one core that the features of a request take; universes that will be refused count too."""
    n_rows, n_columns = request.panel.shape
    n_blocks = 0 if request.blocks is None else len(block_ids(request.universes, request.blocks))
    running = RunningCost(n_columns, n_blocks)
    windows = np.clip(request.windows, 0, n_rows)
    for size, window in zip(_sizes(request).tolist(), map(tuple, windows.tolist()), strict=True):
        running.add(size, window)
    return running.total


def matrices_cost(request: Request) -> float:
    """Milliseconds of one core that the matrices of a request take."""
    n_rows, n_columns = request.panel.shape
    windows, group_of = np.unique(np.clip(request.windows, 0, n_rows), axis=0, return_inverse=True)
    sizes = _sizes(request)
    columns = np.minimum(np.bincount(group_of.ravel(), sizes), n_columns)
    lengths = np.maximum(windows[:, 1] - windows[:, 0], 0)
    shared = sum(map(_window_cost, lengths.tolist(), columns.tolist()))
    return float(shared + UNIVERSE.one * len(sizes) + MATRIX_PAIRS * (sizes.astype(float) ** 2).sum())


def risk_cost(request: Request, n_portfolios: int, *, minimum_variance: bool) -> float:
    """Milliseconds of one core that the risk of portfolios takes, with the matrices that it is computed from."""
    sizes = _sizes(request).astype(float)
    own = RISK.products * n_portfolios * sizes**2
    if minimum_variance:
        own += RISK.minimum_variance_pairs * sizes**2 + RISK.minimum_variance_steps * sizes**3
    return matrices_cost(request) + float(own.sum())


def check_cost(cost: float, n_universes: int) -> float:
    """Return the cost, if it is within the limit.

    Raises
    ------
    CostTooHigh
        With the cost, the limit, and how to split.
    """
    if cost <= MAX_COST:
        return cost
    parts = int(-(-cost // MAX_COST))
    remedy = (
        f"split it into {parts} or more, of at most {max(1, n_universes // parts)} of its {n_universes} universes"
        if n_universes > 1
        else "ask for a shorter window"
    )
    raise CostTooHigh(f"the request costs {cost:,.0f} ms of one core, more than the limit of {MAX_COST:,.0f}: {remedy}")


def _sizes(request: Request) -> np.ndarray:
    sizes: np.ndarray = (request.universes != PADDING).sum(axis=1)
    return sizes
