# SPDX-License-Identifier: Apache-2.0
"""Portfolios against the inverse formula, a general optimiser and their own optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from sigmahat_trainer.baselines import closed_form as baselines
from sigmahat_trainer.evaluation import portfolios


def simulate_returns(n_obs, n_assets, *, seed=1):
    """Daily returns with a mean, one common factor, volatilities from 0.5 % to 5 % and fat tails."""
    rng = np.random.default_rng(seed)
    factor = 0.01 * rng.standard_t(6, (n_obs, 1)) * rng.uniform(0.5, 1.5, n_assets)
    return 0.001 + factor + np.geomspace(0.005, 0.05, n_assets) * rng.standard_t(6, (n_obs, n_assets))


# ----------------------------------------------------------------------------------------- minimum-variance weights


def test_gmv_weights_equal_the_inverse_formula():
    covariance = baselines.qis(simulate_returns(40, 7))
    inverse = np.linalg.inv(covariance)
    weights = portfolios.gmv_weights(covariance)
    np.testing.assert_allclose(weights, inverse.sum(axis=1) / inverse.sum(), rtol=1e-10)
    np.testing.assert_allclose(portfolios.gmv_weights(1e-16 * covariance), weights, rtol=1e-10)


def test_gmv_weights_accept_what_is_only_badly_conditioned():
    """Two assets of equal variance and correlation 1 - 1e-9, and variances twenty decades apart."""
    np.testing.assert_allclose(portfolios.gmv_weights(np.array([[1, 1 - 1e-9], [1 - 1e-9, 1]])), [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(portfolios.gmv_weights(np.diag([1.0, 1e-20])), [1e-20, 1.0], rtol=1e-6)


def test_gmv_weights_accept_as_many_observations_as_assets():
    covariance = baselines.sample(simulate_returns(101, 100))
    weights = portfolios.gmv_weights(covariance)
    assert weights.sum() == pytest.approx(1.0, abs=1e-10)
    np.testing.assert_allclose(covariance @ weights, weights @ covariance @ weights, rtol=1e-6)  # first-order condition


@pytest.mark.parametrize("shape", [(20, 40), (60, 120), (100, 100), (3, 3)])
def test_gmv_weights_refuse_a_singular_sample(shape):
    """Where one eigenvalue alone is null, half of the Cholesky factorisations go through: hence several seeds."""
    for seed in range(10):
        with pytest.raises(np.linalg.LinAlgError, match=f"this one of {shape[1]} assets is singular or indefinite"):
            portfolios.gmv_weights(baselines.sample(simulate_returns(*shape, seed=seed)))


def test_gmv_weights_refuse_a_portfolio_among_its_own_assets():
    for seed in range(10):
        returns = simulate_returns(120, 30, seed=seed)
        returns[:, 0] = returns[:, 1:].mean(axis=1)
        with pytest.raises(np.linalg.LinAlgError, match="this one of 30 assets is singular"):
            portfolios.gmv_weights(baselines.sample(returns))


@pytest.mark.parametrize(
    "covariance",
    [np.ones((2, 2)), np.array([[1.0, 2.0], [2.0, 1.0]]), np.diag([1.0, 0.0]), np.full((2, 2), np.nan)],
    ids=["one asset twice", "indefinite", "no variance", "NaN"],
)
def test_gmv_weights_refuse_what_is_not_positive_definite(covariance):
    with pytest.raises(np.linalg.LinAlgError, match="need a positive definite covariance"):
        portfolios.gmv_weights(covariance)


# ---------------------------------------------------------------------------------------------------------- long-only


@pytest.mark.parametrize("seed", range(4))
def test_long_only_weights_equal_a_general_optimiser(seed):
    covariance = baselines.sample(simulate_returns(60, 8, seed=seed))
    scaled = covariance / np.trace(covariance)
    peer = minimize(
        lambda w: w @ scaled @ w,
        np.full(8, 1 / 8),
        jac=lambda w: 2 * scaled @ w,
        bounds=[(0, None)] * 8,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(8)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    weights = portfolios.long_only_weights(covariance)
    assert (weights == 0).sum() >= 2  # the bounds are at work
    np.testing.assert_allclose(weights, peer.x, atol=1e-5)


def test_long_only_weights_fulfil_the_conditions_of_an_optimum():
    """Equal marginal variance of all that is held, no less for what is not; for 150 assets over 20 years of scales."""
    scales = np.geomspace(1e-3, 1e3, 150)
    covariance = baselines.qis(simulate_returns(252, 150)) * np.outer(scales, scales)
    weights = portfolios.long_only_weights(covariance)
    marginal = covariance @ weights / (weights @ covariance @ weights)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert (weights >= 0).all()
    np.testing.assert_allclose(marginal[weights > 0], 1.0, rtol=1e-8)
    assert (marginal[weights == 0] > 1).all()


def test_long_only_weights_are_the_unconstrained_ones_where_these_are_positive():
    covariance = np.diag([1.0, 2.0, 4.0]) + 0.1
    np.testing.assert_allclose(portfolios.long_only_weights(covariance), portfolios.gmv_weights(covariance), rtol=1e-12)


@pytest.mark.parametrize("covariance", [np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((2, 2), np.nan)])
def test_long_only_weights_refuse_what_is_not_positive_definite(covariance):
    with pytest.raises(np.linalg.LinAlgError):
        portfolios.long_only_weights(covariance)


# ----------------------------------------------------------------------------------------------------------- tracking


@pytest.mark.parametrize("seed", range(3))
def test_tracking_weights_equal_a_general_optimiser(seed):
    covariance = baselines.sample(simulate_returns(60, 8, seed=seed))
    scaled = covariance / np.trace(covariance)
    benchmark, held = np.random.default_rng(seed).dirichlet(np.ones(8)), np.array([0, 2, 3, 7])

    def active(w):
        return scaled @ (w - benchmark)

    peer = minimize(
        lambda w: (w - benchmark) @ active(w),
        np.full(8, 1 / 8),
        jac=lambda w: 2 * active(w),
        bounds=[(None, None) if i in held else (0, 0) for i in range(8)],
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(8)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    weights = portfolios.tracking_weights(covariance, benchmark, held)
    assert np.flatnonzero(weights).tolist() == held.tolist()
    np.testing.assert_allclose(weights, peer.x, atol=1e-5)
    np.testing.assert_allclose(portfolios.tracking_weights(1e-14 * covariance, benchmark, held), weights, rtol=1e-9)


def test_tracking_weights_of_all_assets_are_the_benchmark_and_of_one_asset_are_one():
    covariance = baselines.qis(simulate_returns(30, 5))
    benchmark = np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    np.testing.assert_allclose(portfolios.tracking_weights(covariance, benchmark, np.arange(5)), benchmark, atol=1e-12)
    np.testing.assert_allclose(portfolios.tracking_weights(covariance, benchmark, np.array([3])), np.eye(5)[3])


@pytest.mark.parametrize("covariance", [np.array([[1.0, 2.0], [2.0, 1.0]]), np.full((2, 2), np.nan)])
def test_tracking_weights_refuse_what_is_not_positive_definite(covariance):
    with pytest.raises(np.linalg.LinAlgError):
        portfolios.tracking_weights(covariance, np.array([0.5, 0.5]), np.array([0, 1]))


# ------------------------------------------------------------------------------------------------------------- random


def test_random_portfolios_are_what_they_say():
    rng = np.random.default_rng(0)
    long_only, long_short = portfolios.random_long_only(rng, 4_000, 5), portfolios.random_long_short(rng, 4_000, 5)
    np.testing.assert_allclose(long_only.sum(axis=1), 1.0)
    assert (long_only >= 0).all()
    # Uniform on the simplex: each weight is Beta(1, 4).
    np.testing.assert_allclose(long_only.mean(axis=0), 0.2, atol=0.01)
    np.testing.assert_allclose(long_only.var(axis=0), 4 / (25 * 6), rtol=0.1)
    np.testing.assert_allclose(long_short.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.abs(long_short).sum(axis=1), 1.0)
    np.testing.assert_allclose(long_short.mean(axis=0), 0.0, atol=0.02)


def test_a_random_half_is_a_half_and_every_asset_is_in_as_many():
    rng = np.random.default_rng(0)
    halves = np.stack([portfolios.random_half(rng, 5) for _ in range(4_000)])
    assert halves.shape == (4_000, 2)
    assert (np.diff(halves, axis=1) > 0).all()
    np.testing.assert_allclose(np.bincount(halves.ravel()) / 4_000, 0.4, atol=0.03)
