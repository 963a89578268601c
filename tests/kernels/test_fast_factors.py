# SPDX-License-Identifier: Apache-2.0
"""Leading factors of a correlation: NumPy's eigenvectors where three stand apart, and what always holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmahat_kernels.fast_factors import N_FACTORS, blend_factors, leading_factors


def three_clear_factors(n_assets: int, seed: int = 0) -> np.ndarray:
    """A correlation whose first three eigenvalues are far above the rest."""
    rng = np.random.default_rng(seed)
    loadings = rng.standard_normal((n_assets, 3)) * [1.5, 1.0, 0.7] + [1.0, 0.0, 0.0]
    covariance = loadings @ loadings.T + 0.002 * np.eye(n_assets)
    sd = np.sqrt(np.diag(covariance))
    return covariance / sd[:, None] / sd


def of_returns(n_obs: int, n_assets: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n_obs, 3)) @ rng.standard_normal((3, n_assets))
    return np.corrcoef(rng.standard_normal((n_obs, n_assets)) + rng.uniform(0, 2) * common, rowvar=False)


def explained(correlation: np.ndarray) -> np.ndarray:
    loadings = leading_factors(correlation[None])
    assert loadings.shape == (1, len(correlation), N_FACTORS)
    return (loadings @ loadings.transpose(0, 2, 1))[0]


@pytest.mark.parametrize("n_assets", [5, 20, 101])
@pytest.mark.parametrize("seed", range(3))
def test_three_clear_factors_are_the_leading_eigenvectors(n_assets: int, seed: int) -> None:
    R = three_clear_factors(n_assets, seed)
    eigenvalues, eigenvectors = np.linalg.eigh(R)
    leading = eigenvectors[:, -3:] * np.sqrt(eigenvalues[-3:])
    np.testing.assert_allclose(explained(R), leading @ leading.T, rtol=0.0, atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n_obs=st.integers(3, 60), n_assets=st.integers(2, 40), seed=st.integers(0, 1000))
def test_what_the_factors_explain_is_part_of_the_correlation(n_obs: int, n_assets: int, seed: int) -> None:
    """R - L L' is positive semi-definite, so no variance is explained twice, and no more than three can explain."""
    R = of_returns(n_obs, n_assets, seed)
    part = explained(R)
    assert np.linalg.eigvalsh(R - part).min() > -1e-12 * n_assets
    assert np.trace(part) <= np.linalg.eigvalsh(R)[-3:].sum() * (1 + 1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(n_assets=st.integers(2, 40), seed=st.integers(0, 1000))
def test_another_order_of_the_assets_is_the_same_order_of_the_loadings(n_assets: int, seed: int) -> None:
    R, order = of_returns(50, n_assets, seed), np.random.default_rng(seed).permutation(n_assets)
    permuted = leading_factors(R[np.ix_(order, order)][None])[0]
    np.testing.assert_allclose(permuted, leading_factors(R[None])[0][order], rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("n_assets", [2, 3, 10])
def test_assets_that_are_one_have_one_factor(n_assets: int) -> None:
    loadings = leading_factors(np.ones((1, n_assets, n_assets)))[0]
    np.testing.assert_allclose(loadings, [[1.0, 0.0, 0.0]] * n_assets, rtol=0.0, atol=1e-15)


def test_copies_add_no_factor() -> None:
    """Ten assets of two kinds: rank two, and the third factor explains nothing."""
    kinds = np.array([[1.0, 0.3], [0.3, 1.0]])
    of = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    loadings = leading_factors(kinds[of[:, None], of][None])[0]
    np.testing.assert_allclose(loadings @ loadings.T, kinds[of[:, None], of], rtol=0.0, atol=1e-12)
    np.testing.assert_array_equal(loadings[:, 2], 0.0)


def test_a_stack_is_each_of_its_correlations() -> None:
    stack = np.stack([of_returns(40, 12, seed) for seed in range(4)] + [np.ones((12, 12)), np.eye(12)])
    for R, loadings in zip(stack, leading_factors(stack), strict=True):
        np.testing.assert_allclose(loadings, leading_factors(R[None])[0], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_blended_correlations_stay_correlations(share: float) -> None:
    slow, fast = of_returns(80, 15, 1), of_returns(30, 15, 2)
    loadings = leading_factors(fast[None])
    mixed = blend_factors(slow[None].copy(), loadings, np.array([share]))[0]
    factors = loadings[0] @ loadings[0].T
    np.fill_diagonal(factors, 1.0)
    np.testing.assert_allclose(mixed, (1 - share) * slow + share * factors, rtol=0.0, atol=1e-15)
    np.testing.assert_array_equal(np.diag(mixed), 1.0)
    assert np.linalg.eigvalsh(mixed).min() > -1e-14
