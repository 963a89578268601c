# SPDX-License-Identifier: Apache-2.0
"""Returns from models whose truth is known, among them ones in which little shrinkage is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sigmahat_trainer.data.panels import PERIODS_PER_YEAR

DAILY_VOLATILITY = 0.01
ISOTROPIC_MEAN = 6.0


class Simulated(NamedTuple):
    """A draw of a design."""

    returns: np.ndarray  # (n_obs, n_assets), simple, per day
    ahead: Callable[[int], np.ndarray]
    """Mean covariance, (n_assets, n_assets), of the last rows, this many: what their returns were drawn from."""


def isotropic_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """Gaussian returns with population eigenvalues 20 % = 1, 40 % = 3, 40 % = 10 and random eigenvectors.

    Ledoit and Wolf's baseline design (2012, Annals of Statistics 40).
    """
    eigenvalues, vectors = isotropic_population(rng, n_assets)
    return _gaussian(rng, n_obs, eigenvalues / ISOTROPIC_MEAN, vectors)


def isotropic_population(rng: np.random.Generator, n_assets: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of 1, 3 and 10, shape (n_assets,), about `ISOTROPIC_MEAN` on average, and random eigenvectors."""
    eigenvalues = np.repeat([1.0, 3.0, 10.0], [n_assets // 5, (2 * n_assets) // 5, n_assets])[:n_assets]
    vectors, _ = np.linalg.qr(rng.standard_normal((n_assets, n_assets)))
    return eigenvalues, vectors


def sector_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """A market, eight sectors and idiosyncratic risk with log-normal volatilities, Student-t(5) by common mixing."""
    beta = rng.normal(1.0, 0.3, n_assets)
    sector = rng.integers(8, size=n_assets)
    loading = rng.uniform(0.2, 0.9, n_assets)
    market = rng.standard_normal((n_obs, 1))
    sectors = rng.standard_normal((n_obs, 8))[:, sector]
    noise, own = rng.standard_normal((n_obs, n_assets)), rng.lognormal(0.0, 0.4, n_assets)
    mixing = np.sqrt(3.0 / rng.chisquare(5, (n_obs, 1)))  # unit variance: E[3 / chi2(5)] = 1
    returns = (beta * market + loading * sectors + noise * own) * mixing * DAILY_VOLATILITY
    loadings = np.concatenate([beta[None], loading * (sector == np.arange(8)[:, None])])
    return Simulated(returns, lambda _: _covariance(loadings, own))


def drifting_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """Three factors whose loadings follow random walks, and a volatility that moves with them."""
    loadings = rng.standard_normal((3, n_assets)) * np.array([[0.3], [0.5], [0.5]]) + np.array([[1.0], [0.0], [0.0]])
    steps = rng.standard_normal((n_obs, 3, n_assets)) * (0.5 / np.sqrt(PERIODS_PER_YEAR))
    path = loadings + np.cumsum(steps, axis=0)
    factors = rng.standard_normal((n_obs, 3))
    log_volatility = np.cumsum(rng.standard_normal(n_obs)) * 0.04
    noise, own = rng.standard_normal((n_obs, n_assets)), rng.lognormal(0.0, 0.3, n_assets)
    level = np.exp(log_volatility - log_volatility.mean())[:, None]
    returns = (np.einsum("tk,tkn->tn", factors, path) + noise * own) * level * DAILY_VOLATILITY

    def ahead(n_rows: int) -> np.ndarray:
        # The mean of level^2 (L'L + own^2) over rows, as one product: loadings of all rows under each other.
        scale = level[-n_rows:] / np.sqrt(n_rows)
        return _covariance((path[-n_rows:] * scale[:, :, None]).reshape(-1, n_assets), own * np.linalg.norm(scale))

    return Simulated(returns, ahead)


def structured_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """Few strong stable factors of both signs and little idiosyncratic risk, as in funds: little shrinkage is right."""
    n_factors = int(rng.integers(3, 9))
    strength = np.geomspace(1.0, 0.3, n_factors)[:, None]
    loadings = rng.standard_normal((n_factors, n_assets)) * strength
    noise, own = rng.standard_normal((n_obs, n_assets)), rng.uniform(0.05, 0.3, n_assets)
    returns = (rng.standard_normal((n_obs, n_factors)) @ loadings + noise * own) * DAILY_VOLATILITY
    return Simulated(returns, lambda _: _covariance(loadings, own))


def spectrum_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """Gaussian returns, the same law every day: log-normal eigenvalues of any spread with random eigenvectors."""
    eigenvalues = rng.lognormal(0.0, rng.uniform(0.0, 2.0), n_assets)
    vectors, _ = np.linalg.qr(rng.standard_normal((n_assets, n_assets)))
    return _gaussian(rng, n_obs, eigenvalues / eigenvalues.mean(), vectors)


def switching_design(rng: np.random.Generator, n_obs: int, n_assets: int) -> Simulated:
    """Two regimes that take turns (about 60 days each), with loadings and levels of volatility of their own."""
    switches = rng.random(n_obs) < 1.0 / 60.0
    stressed = (np.cumsum(switches) + rng.integers(2)) % 2 == 1
    returns = np.empty((n_obs, n_assets))
    regimes = []
    for rows, level, market in ((~stressed, 1.0, 0.5), (stressed, rng.uniform(1.5, 3.0), 1.0)):
        loadings = rng.standard_normal((3, n_assets)) * np.array([[0.3], [0.4], [0.4]])
        loadings[0] += market
        noise, own = rng.standard_normal((rows.sum(), n_assets)), rng.lognormal(0.0, 0.3, n_assets)
        returns[rows] = (rng.standard_normal((rows.sum(), 3)) @ loadings + noise * own) * level
        regimes.append(_covariance(loadings * level, own * level))

    def ahead(n_rows: int) -> np.ndarray:
        share = stressed[-n_rows:].mean()
        mean: np.ndarray = (1 - share) * regimes[0] + share * regimes[1]
        return mean

    return Simulated(returns * DAILY_VOLATILITY, ahead)


def _covariance(loadings: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of factors of unit variance with loadings (k, n_assets), and of own volatilities (n_assets,)."""
    covariance: np.ndarray = (loadings.T @ loadings + np.diag(own**2)) * DAILY_VOLATILITY**2
    return covariance


def _gaussian(rng: np.random.Generator, n_obs: int, eigenvalues: np.ndarray, vectors: np.ndarray) -> Simulated:
    """The same law every day, of these eigenvalues about 1."""
    returns = rng.standard_normal((n_obs, len(eigenvalues))) * np.sqrt(eigenvalues) @ vectors.T * DAILY_VOLATILITY
    return Simulated(returns, lambda _: vectors * eigenvalues @ vectors.T * DAILY_VOLATILITY**2)


Design = Callable[[np.random.Generator, int, int], Simulated]
TRAINING_DESIGNS: tuple[Design, ...] = (
    isotropic_design,
    spectrum_design,
    sector_design,
    structured_design,
    drifting_design,
    switching_design,
)
"""Each draws its own population, then returns."""
