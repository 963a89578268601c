# SPDX-License-Identifier: Apache-2.0
"""Funds made of a panel's assets: universes that hedge each other almost fully, as ETFs and long-short books do."""

from __future__ import annotations

import numpy as np

LEAST_ASSETS = 20
MOST_HELD, MOST_OWN = 60, 300
CONCENTRATIONS = (0.3, 1.0, 5.0)
"""Of the Dirichlet law of a basket's weights: from a few large holdings to nearly equal ones."""


def draw_baskets(rng: np.random.Generator, n_assets: int) -> np.ndarray:
    """Weights of 20 to 200 baskets of 2 to 60 assets, and of some of the assets alone beside them.

    In three draws of ten, three baskets of ten are short another one.

    Returns
    -------
    array of shape (n_assets, n_funds)
    """
    n_baskets, most_held = int(rng.integers(20, 201)), int(rng.integers(2, min(MOST_HELD, n_assets)))
    weights = np.zeros((n_assets, n_baskets))
    for basket in weights.T:
        held = rng.choice(n_assets, int(rng.integers(2, most_held + 1)), replace=False)
        basket[held] = rng.dirichlet(np.full(len(held), rng.choice(CONCENTRATIONS)))
    if rng.random() < 0.3:
        hedged = rng.random(n_baskets) < 0.3
        weights = weights - hedged * weights[:, rng.permutation(n_baskets)]
        weights = weights[:, np.abs(weights).max(axis=0) > 0]  # one that was short itself
    alone = rng.choice(n_assets, min(int(rng.integers(n_assets + 1)), MOST_OWN), replace=False)
    return np.concatenate([weights, np.eye(n_assets)[:, alone]], axis=1)
