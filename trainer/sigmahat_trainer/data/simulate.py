# SPDX-License-Identifier: Apache-2.0
"""Returns from models whose truth is known, among them ones in which little shrinkage is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sigmahat_trainer.data.panels import PERIODS_PER_YEAR

DAILY_VOLATILITY = 0.01
ISOTROPIC_MEAN = 6.0


def isotropic_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """Gaussian returns with population eigenvalues 20 % = 1, 40 % = 3, 40 % = 10 and random eigenvectors.

    Ledoit and Wolf's baseline design (2012, Annals of Statistics 40).
    """
    eigenvalues, vectors = isotropic_population(rng, n_assets)
    return rng.standard_normal((n_obs, n_assets)) * np.sqrt(eigenvalues / ISOTROPIC_MEAN) @ vectors.T * DAILY_VOLATILITY


def isotropic_population(rng: np.random.Generator, n_assets: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of 1, 3 and 10, shape (n_assets,), about `ISOTROPIC_MEAN` on average, and random eigenvectors."""
    eigenvalues = np.repeat([1.0, 3.0, 10.0], [n_assets // 5, (2 * n_assets) // 5, n_assets])[:n_assets]
    vectors, _ = np.linalg.qr(rng.standard_normal((n_assets, n_assets)))
    return eigenvalues, vectors


def sector_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """A market, eight sectors and idiosyncratic risk with log-normal volatilities, Student-t(5) by common mixing."""
    beta = rng.normal(1.0, 0.3, n_assets)
    sector = rng.integers(8, size=n_assets)
    loading = rng.uniform(0.2, 0.9, n_assets)
    market = rng.standard_normal((n_obs, 1))
    sectors = rng.standard_normal((n_obs, 8))[:, sector]
    own = rng.standard_normal((n_obs, n_assets)) * rng.lognormal(0.0, 0.4, n_assets)
    mixing = np.sqrt(3.0 / rng.chisquare(5, (n_obs, 1)))  # unit variance: E[3 / chi2(5)] = 1
    return (beta * market + loading * sectors + own) * mixing * DAILY_VOLATILITY


def drifting_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """Three factors whose loadings follow random walks, and a volatility that moves with them."""
    loadings = rng.standard_normal((3, n_assets)) * np.array([[0.3], [0.5], [0.5]]) + np.array([[1.0], [0.0], [0.0]])
    steps = rng.standard_normal((n_obs, 3, n_assets)) * (0.5 / np.sqrt(PERIODS_PER_YEAR))
    path = loadings + np.cumsum(steps, axis=0)
    factors = rng.standard_normal((n_obs, 3))
    log_volatility = np.cumsum(rng.standard_normal(n_obs)) * 0.04
    own = rng.standard_normal((n_obs, n_assets)) * rng.lognormal(0.0, 0.3, n_assets)
    returns = np.einsum("tk,tkn->tn", factors, path) + own
    return returns * np.exp(log_volatility - log_volatility.mean())[:, None] * DAILY_VOLATILITY


def structured_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """Few strong stable factors of both signs and little idiosyncratic risk, as in funds: little shrinkage is right."""
    n_factors = int(rng.integers(3, 9))
    strength = np.geomspace(1.0, 0.3, n_factors)[:, None]
    loadings = rng.standard_normal((n_factors, n_assets)) * strength
    own = rng.standard_normal((n_obs, n_assets)) * rng.uniform(0.05, 0.3, n_assets)
    return (rng.standard_normal((n_obs, n_factors)) @ loadings + own) * DAILY_VOLATILITY


def spectrum_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """Gaussian returns, the same law every day: log-normal eigenvalues of any spread with random eigenvectors."""
    eigenvalues = rng.lognormal(0.0, rng.uniform(0.0, 2.0), n_assets)
    vectors, _ = np.linalg.qr(rng.standard_normal((n_assets, n_assets)))
    scale = np.sqrt(eigenvalues / eigenvalues.mean())
    return rng.standard_normal((n_obs, n_assets)) * scale @ vectors.T * DAILY_VOLATILITY


def switching_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> np.ndarray:
    """Two regimes that take turns (about 60 days each), with loadings and levels of volatility of their own."""
    switches = rng.random(n_obs) < 1.0 / 60.0
    stressed = (np.cumsum(switches) + rng.integers(2)) % 2 == 1
    returns = np.empty((n_obs, n_assets))
    for rows, level, market in ((~stressed, 1.0, 0.5), (stressed, rng.uniform(1.5, 3.0), 1.0)):
        loadings = rng.standard_normal((3, n_assets)) * np.array([[0.3], [0.4], [0.4]])
        loadings[0] += market
        own = rng.standard_normal((rows.sum(), n_assets)) * rng.lognormal(0.0, 0.3, n_assets)
        returns[rows] = (rng.standard_normal((rows.sum(), 3)) @ loadings + own) * level
    return returns * DAILY_VOLATILITY


Design = Callable[[np.random.Generator, int, int], np.ndarray]
TRAINING_DESIGNS: tuple[Design, ...] = (
    isotropic_design,
    spectrum_design,
    sector_design,
    structured_design,
    drifting_design,
    switching_design,
)
"""Each draws its own population, then returns of shape (n_obs, n_assets), simple, per day."""
