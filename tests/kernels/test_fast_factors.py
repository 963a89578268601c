# SPDX-License-Identifier: Apache-2.0
"""Leading factors of a correlation against eigenvectors, orthogonal bases and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
from reference import covariance as reference

from sigmahat_kernels.fast_factors import N_FACTORS, blend_factors, leading_factors


def correlation_of(loadings: np.ndarray) -> np.ndarray:
    """Of assets that share factors and nothing else: unit diagonal."""
    correlation = loadings @ loadings.T
    np.fill_diagonal(correlation, 1.0)
    return correlation


def simulate_correlation(n_obs: int, n_assets: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n_obs, 3)) * [1.0, 0.6, 0.4]
    return np.corrcoef((factors @ rng.standard_normal((3, n_assets)) + rng.standard_normal((n_obs, n_assets))).T)


def common_part(correlation: np.ndarray) -> np.ndarray:
    (loadings,) = leading_factors(correlation[None])
    assert loadings.shape == (len(correlation), N_FACTORS)
    return loadings @ loadings.T


@pytest.mark.parametrize(("n_obs", "n_assets"), [(250, 4), (250, 40), (30, 60), (60, 7)])
def test_equals_an_orthogonal_basis_of_the_same_space(n_obs, n_assets):
    correlation = simulate_correlation(n_obs, n_assets)
    np.testing.assert_allclose(common_part(correlation), reference.leading_factors(correlation), atol=1e-9)


def test_factors_that_stand_apart_are_the_leading_eigenpairs():
    """Three eigenvalues far above the others: six products turn the start into their eigenvectors."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((20, 20)))
    matrix = basis * np.array([60.0, 50.0, 40.0] + [0.1] * 17) @ basis.T
    expected = basis[:, :3] * [60.0, 50.0, 40.0] @ basis[:, :3].T
    np.testing.assert_allclose(common_part(matrix), expected, atol=1e-6 * 60)


@pytest.mark.parametrize("seed", range(4))
def test_leaves_a_positive_semi_definite_rest(seed):
    """Nystrom's approximation lies between zero and the matrix, so no asset has less than no variance of its own."""
    correlation = simulate_correlation(40, 25, seed)
    eigenvalues = np.linalg.eigvalsh(correlation - common_part(correlation))
    assert eigenvalues.min() > -1e-10
    assert (np.diag(common_part(correlation)) <= 1 + 1e-12).all()


@pytest.mark.parametrize(
    ("correlation", "rank"),
    [
        (np.eye(5), 1),  # R 1 = 1: the start has one direction
        (correlation_of(np.full((6, 1), 0.7)), 1),  # all assets alike
        (correlation_of(np.array([[0.9, 0.0], [0.9, 0.0], [0.9, 0.0], [0.0, 0.5], [0.0, 0.5]])), 2),
        (np.full((4, 4), 1.0), 1),  # one asset four times
        (np.array([[1.0, 0.3], [0.3, 1.0]]), 1),
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), 0),  # a perfect hedge: R 1 = 0
    ],
)
def test_columns_that_depend_on_others_are_none(correlation, rank):
    (loadings,) = leading_factors(correlation[None])
    assert np.isfinite(loadings).all()
    assert np.linalg.matrix_rank(loadings, tol=1e-6) == rank
    assert np.linalg.eigvalsh(correlation - loadings @ loadings.T).min() > -1e-10


def test_order_of_the_assets_does_not_matter():
    correlation = simulate_correlation(60, 12)
    order = np.random.default_rng(2).permutation(12)
    shuffled = common_part(correlation[np.ix_(order, order)])
    np.testing.assert_allclose(shuffled, common_part(correlation)[np.ix_(order, order)], atol=1e-9)


def test_a_stack_equals_one_at_a_time():
    stack = np.stack([simulate_correlation(50, 9, seed) for seed in range(5)])
    for loadings, correlation in zip(leading_factors(stack), stack, strict=True):
        np.testing.assert_allclose(loadings @ loadings.T, common_part(correlation), atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blend_is_a_correlation(share):
    slow, fast = simulate_correlation(20, 30, 1), simulate_correlation(25, 30, 2)
    common = common_part(fast)
    (mixed,) = blend_factors(slow[None].copy(), leading_factors(fast[None]), np.array([share]))
    expected = (1 - share) * slow + share * common
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(mixed, expected, atol=1e-12)
    np.testing.assert_array_equal(np.diag(mixed), 1.0)
    assert np.linalg.eigvalsh(mixed).min() > -1e-12
