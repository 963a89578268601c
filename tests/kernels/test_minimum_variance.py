# SPDX-License-Identifier: Apache-2.0
"""Minimum-variance portfolios: every set of assets tried, conditions of optimality, properties."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from sigmahat_kernels import minimum_variance
from sigmahat_kernels.minimum_variance import CERTIFIED_GAP, duality_gap, long_only, long_short


def draw(n: int, n_assets: int, seed: int = 0) -> np.ndarray:
    """Covariances of a market with betas from -0.5 to 2 and volatilities that differ up to 30 times."""
    rng = np.random.default_rng(seed)
    beta = rng.uniform(-0.5, 2.0, (n, n_assets))
    factors = rng.standard_normal((n, n_assets, 3))
    correlation = beta[:, :, None] * beta[:, None, :] + factors @ np.swapaxes(factors, 1, 2)
    correlation += 0.5 * np.eye(n_assets)
    volatility = 0.001 * np.exp(rng.uniform(0.0, 3.4, (n, n_assets)))
    return correlation * volatility[:, :, None] * volatility[:, None, :]


def by_trying_every_set(matrix: np.ndarray) -> np.ndarray:
    """The least variance over all sets of assets whose unconstrained portfolio has no short position."""
    n_assets = len(matrix)
    best, found = np.inf, np.zeros(n_assets)
    sets = chain.from_iterable(combinations(range(n_assets), k) for k in range(1, n_assets + 1))
    for held in map(list, sets):
        positions = np.linalg.solve(matrix[np.ix_(held, held)], np.ones(len(held)))
        if (positions < 0).any():
            continue
        variance = 1.0 / positions.sum()
        if variance < best:
            best, found = variance, np.zeros(n_assets)
            found[held] = positions / positions.sum()
    return found


def test_no_set_of_assets_has_less_variance() -> None:
    matrices = draw(40, 8)
    expected = np.array([by_trying_every_set(matrix) for matrix in matrices])
    assert ((expected > 0).sum(axis=1) < 8).any()
    np.testing.assert_allclose(long_only(matrices), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_assets", [2, 30, 200])
def test_conditions_of_optimality(n_assets: int) -> None:
    matrices = draw(5, n_assets)
    weights = long_only(matrices)
    gradient = np.einsum("nij,nj->ni", matrices, weights)
    variance = np.einsum("ni,ni->n", gradient, weights)[:, None]
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    assert (weights >= 0).all()
    assert (gradient >= variance * (1 - 1e-8)).all()
    np.testing.assert_allclose(np.where(weights > 0, gradient / variance, 1.0), 1.0, rtol=0, atol=1e-8)


def test_long_short_is_what_the_inverse_gives() -> None:
    matrices = draw(6, 20)
    expected = np.linalg.inv(matrices).sum(axis=2)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(long_short(matrices), expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_where_nobody_would_be_short_both_are_one() -> None:
    matrices = np.array([np.diag([1.0, 4.0, 16.0])]) * 1e-4
    for weights in (long_short(matrices), long_only(matrices)):
        np.testing.assert_allclose(weights, [np.array([16.0, 4.0, 1.0]) / 21.0], rtol=1e-11)


def test_scale_and_order_and_neighbours_do_not_matter() -> None:
    matrices = draw(6, 15)
    weights = long_only(matrices)
    np.testing.assert_allclose(long_only(1e-8 * matrices), weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(long_only(matrices[:, ::-1, ::-1]), weights[:, ::-1], rtol=0, atol=1e-10)
    for alone, together in zip(matrices, weights, strict=True):
        np.testing.assert_array_equal(long_only(alone[None])[0], together)


def test_copies_share_what_one_of_them_would_have() -> None:
    """A singular matrix has many solutions: some one is found, with the least variance."""
    matrix = draw(1, 6)[0]
    doubled = np.array([*range(6), *range(6)])
    for solve in (long_short, long_only):
        weights = solve(matrix[doubled][:, doubled][None])[0]
        np.testing.assert_allclose(weights[:6] + weights[6:], solve(matrix[None])[0], rtol=0, atol=1e-6)


def test_the_gap_bounds_what_is_left_to_gain() -> None:
    matrices = draw(20, 8)
    best = long_only(matrices)
    least = np.einsum("ni,nij,nj->n", best, matrices, best)
    rng = np.random.default_rng(1)
    for weights in rng.dirichlet(np.ones(8), (50, 20)):
        variance = np.einsum("ni,nij,nj->n", weights, matrices, weights)
        assert (1 - least / variance <= duality_gap(matrices, weights) * (1 + 1e-12)).all()
    assert (duality_gap(matrices, best) <= CERTIFIED_GAP).all()


def test_what_is_not_certified_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minimum_variance, "_MAX_STEPS", 1)
    matrices = draw(20, 8)
    given = long_only(matrices)
    refused = np.isnan(given).any(axis=1)
    assert refused.any()
    assert np.isnan(given[refused]).all()


def test_single_exchanges_end_where_blocks_go_round(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = draw(30, 12)
    expected = long_only(matrices)
    monkeypatch.setattr(minimum_variance, "_PATIENCE", -1)  # one asset at a time, from the start
    monkeypatch.setattr(minimum_variance, "_MAX_STEPS", 4_000)
    np.testing.assert_allclose(long_only(matrices), expected, rtol=0, atol=1e-10)
