# SPDX-License-Identifier: Apache-2.0
"""Episodes for what is fitted to earlier data: a universe of one panel, its window and the period after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_trainer.data.dataset import (
    MIN_COVERAGE,
    SIZE_WEIGHTS,
    SIZES,
    WINDOW_LENGTHS,
    eligible_assets,
    holding_returns,
)
from sigmahat_trainer.data.panels import ReturnPanel, fill_missing

UNIVERSES_PER_DRAW = 4
"""Episodes of one panel, length and number of assets; each has a date of its own."""


class Episode(NamedTuple):
    """Rows [stop - n_obs, stop) of some columns, and what followed; the returns themselves stay in the panel."""

    panel: ReturnPanel
    stop: int
    n_obs: int
    universe: np.ndarray  # (n_assets,)

    def past(self) -> np.ndarray:
        """Returns of shape (n_obs, n_assets) float64, the missing ones filled."""
        rows = self.panel.returns[self.stop - self.n_obs : self.stop, self.universe]
        return fill_missing(rows.astype(np.float64))

    def forward(self, horizon: int) -> np.ndarray:
        """Returns of the `horizon` rows after the window, shape (horizon, n_assets) float64."""
        return holding_returns(self.panel.returns, self.stop, horizon)[:, self.universe].astype(np.float64)


def draw_episode(
    rng: np.random.Generator, panel: ReturnPanel, *, n_assets: int, n_obs: int, horizon: int
) -> Episode | None:
    """Draw one at a random date, or None if the assets that qualify there by their past are too few."""
    stop = int(rng.integers(n_obs, len(panel.dates) - horizon + 1))
    candidates = eligible_assets(panel.returns[stop - n_obs : stop], MIN_COVERAGE)
    if len(candidates) < n_assets:
        return None
    return Episode(panel, stop, n_obs, np.sort(rng.choice(candidates, n_assets, replace=False)))


def draw_episodes(panels: Sequence[ReturnPanel], *, n_episodes: int, horizon: int, seed: int) -> list[Episode]:
    """Draw episodes as `dataset.draw_dataset` draws real windows: sizes, lengths and weights of panels are the same."""
    rng = np.random.default_rng(seed)
    weight = np.sqrt([panel.returns.size for panel in panels])
    episodes: list[Episode] = []
    attempts = 0
    while len(episodes) < n_episodes:
        attempts += 1
        if attempts > 100 * n_episodes:
            raise ValueError(f"no episode with a holding period of {horizon} rows in {[p.name for p in panels]}")
        panel = panels[rng.choice(len(panels), p=weight / weight.sum())]
        n_obs = int(rng.choice(WINDOW_LENGTHS))
        possible = SIZE_WEIGHTS * (np.array(SIZES) <= panel.returns.shape[1])
        if not possible.any() or len(panel.dates) < n_obs + horizon:
            continue
        n_assets = int(rng.choice(SIZES, p=possible / possible.sum()))
        for _ in range(UNIVERSES_PER_DRAW):
            episode = draw_episode(rng, panel, n_assets=n_assets, n_obs=n_obs, horizon=horizon)
            if episode is not None and episode.forward(horizon).any():
                episodes.append(episode)
    return episodes[:n_episodes]


def sizes_of(panel: ReturnPanel, sizes: Sequence[int]) -> list[int]:
    """Those of the universe sizes asked for that leave a fifth of the panel out; if none does, four fifths of it."""
    largest = int(0.8 * panel.returns.shape[1])
    return sorted({size for size in sizes if size <= largest}) or [largest]
