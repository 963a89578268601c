# SPDX-License-Identifier: Apache-2.0
"""The Average Oracle: eigenvalues that were right on average in the past, rank by rank.

Bongiorno, Challet, Loeper (2023), J. Statistical Mechanics 023402, arXiv:2111.13109.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sigmahat_trainer.baselines.closed_form import Baseline, sample
from sigmahat_trainer.baselines.spectral import Rule, shrink_correlation
from sigmahat_trainer.data.episodes import Episode, draw_episode
from sigmahat_trainer.data.panels import ReturnPanel

OracleKey = tuple[str, int, int]
"""Panel, n_assets, n_obs: an oracle is of one market and one shape."""


def oracle_eigenvalues(episode: Episode, horizon: int) -> np.ndarray:
    """u_i' R u_i, u_i the eigenvectors of the past's correlation, R the correlation of the period after it.

    Shape (n_assets,), in the order of the past's ascending eigenvalues; mean 1. Where n_assets exceeds n_obs - 1,
    the eigenvectors of the null eigenvalues are any basis of their space, so these share their mean.
    """
    _, eigenvectors = np.linalg.eigh(np.corrcoef(episode.past().T))
    forward = episode.forward(horizon)
    forward = forward - forward.mean(axis=0)
    scale = forward.std(axis=0)
    forward = forward / np.where(scale > 0, scale, 1.0)
    realised: np.ndarray = ((forward @ eigenvectors) ** 2).mean(axis=0)
    n_null = max(len(realised) - (episode.n_obs - 1), 0)
    realised[:n_null] = realised[:n_null].mean() if n_null else 0.0
    return realised * (len(realised) / realised.sum())


def fit_oracle(
    panel: ReturnPanel, *, n_assets: int, n_obs: int, horizon: int, n_episodes: int, seed: int
) -> np.ndarray | None:
    """Average `oracle_eigenvalues` over episodes of a panel that is cut to the dates it may use.

    Shape (n_assets,); None if the panel is too short or too narrow.
    """
    if len(panel.dates) < n_obs + horizon:
        return None
    rng = np.random.default_rng([seed, n_assets, n_obs])
    episodes = (draw_episode(rng, panel, n_assets=n_assets, n_obs=n_obs, horizon=horizon) for _ in range(n_episodes))
    found = [oracle_eigenvalues(episode, horizon) for episode in episodes if episode is not None]
    return np.mean(found, axis=0) if found else None


def average_oracle(eigenvalues: np.ndarray) -> Baseline:
    """The estimator: a universe's own eigenvectors and volatilities, these eigenvalues of the correlation."""
    rule: Rule = lambda own, n_effective: np.asarray(eigenvalues)  # noqa: E731
    return lambda returns: shrink_correlation(sample(returns), len(returns) - 1, rule)


def save_oracles(oracles: dict[OracleKey, np.ndarray], path: Path) -> None:
    """Write oracles to one file."""
    np.savez(path, **{f"{panel}/{n_assets}/{n_obs}": o for (panel, n_assets, n_obs), o in oracles.items()})


def load_oracles(path: Path) -> dict[OracleKey, np.ndarray]:
    """Read what `save_oracles` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {_key(name.split("/")): file[name] for name in file.files}


def _key(parts: Sequence[str]) -> OracleKey:
    panel, n_assets, n_obs = parts
    return panel, int(n_assets), int(n_obs)
