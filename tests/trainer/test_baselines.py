# SPDX-License-Identifier: Apache-2.0
"""The closed-form estimators against slow loops, scikit-learn, numerical optimisers and published efficiency."""

from __future__ import annotations

import numpy as np
import pytest
from reference import estimators as reference
from scipy.optimize import minimize
from sklearn.covariance import OAS, LedoitWolf

from sigmahat_trainer import baselines

LINEAR_TARGETS = ["identity", "diagonal", "constant_correlation", "single_factor"]
MULTI_TARGETS = ["diagonal", "constant_correlation", "single_factor"]
KEEP_VARIANCES = [
    "ledoit_wolf_constant_correlation",
    "ledoit_wolf_single_factor",
    "multi_target_ledoit_wolf",
    "qis_correlation",
]
KEEP_TRACE = ["ledoit_wolf_identity", "oas", "qis"]
SHRINK = [name for name in baselines.BASELINES if name != "sample"]
SHAPES = [(40, 7), (9, 7), (8, 7), (7, 12)]  # (n_obs, n_assets): n_effective above, equal to and below n_assets

ORACLES = {
    "sample": reference.sample,
    "ledoit_wolf_identity": lambda returns: reference.linear_shrinkage(returns, "identity")[0],
    "ledoit_wolf_constant_correlation": lambda returns: reference.linear_shrinkage(returns, "constant_correlation")[0],
    "ledoit_wolf_single_factor": lambda returns: reference.linear_shrinkage(returns, "single_factor")[0],
    "oas": lambda returns: reference.oas(returns)[0],
    "multi_target_ledoit_wolf": lambda returns: reference.multi_target_shrinkage(returns, MULTI_TARGETS)[0],
    "qis": reference.qis,
    "qis_correlation": reference.qis_correlation,
}


def assert_close_covariance(actual, expected, *, rtol):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0.0, atol=rtol)


def simulate_returns(n_obs, n_assets, *, seed=1):
    """Daily returns with a mean, one common factor, volatilities from 0.5 % to 5 % and fat tails."""
    rng = np.random.default_rng(seed)
    factor = 0.01 * rng.standard_t(6, (n_obs, 1)) * rng.uniform(0.5, 1.5, n_assets)
    return 0.001 + factor + np.geomspace(0.005, 0.05, n_assets) * rng.standard_t(6, (n_obs, n_assets))


# --------------------------------------------------------------------------------------------- independent oracles


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", baselines.BASELINES)
def test_estimator_equals_loops(name, shape):
    returns = simulate_returns(*shape)
    assert_close_covariance(baselines.BASELINES[name](returns), ORACLES[name](returns), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", LINEAR_TARGETS)
def test_intensity_and_its_parts_equal_loops(target, shape):
    returns = simulate_returns(*shape)
    moments = baselines.measure(returns)
    matrix, rho = getattr(baselines, target)(moments)
    expected_matrix, expected_rho = reference.TARGETS[target](returns)
    pi = reference.pi(returns)
    assert moments.pi == pytest.approx(pi, rel=1e-10)
    assert rho / pi == pytest.approx(expected_rho / pi, abs=1e-10)  # only pi - rho is used: pi is the scale
    assert_close_covariance(matrix, expected_matrix, rtol=1e-10)
    intensity = baselines.shrink(moments, baselines.Target(matrix, rho)).intensity
    assert intensity == pytest.approx(reference.linear_shrinkage(returns, target)[1], abs=1e-10)


def test_compared_intensities_are_not_all_clipped():
    inside = [reference.linear_shrinkage(simulate_returns(40, 7), target)[1] for target in LINEAR_TARGETS]
    assert all(0.1 < intensity < 0.9 for intensity in inside)
    assert len({round(intensity, 2) for intensity in inside}) == 4
    assert reference.linear_shrinkage(simulate_returns(9, 7), "constant_correlation")[1] == 1.0


@pytest.mark.parametrize(
    ("shape", "seed", "used", "budget_spent"),
    [
        ((40, 7), 7, [True, False, False], False),
        ((40, 7), 0, [True, True, False], False),
        ((40, 7), 1, [True, True, False], True),
        ((9, 7), 9, [True, False, True], False),
        ((9, 7), 10, [False, True, True], True),
        ((7, 12), 9, [True, True, True], False),
    ],
)
def test_multi_target_intensities_equal_loops_and_dual_optimiser(shape, seed, used, budget_spent):
    returns = simulate_returns(*shape, seed=seed)
    moments = baselines.measure(returns)
    targets = [getattr(baselines, target)(moments) for target in MULTI_TARGETS]
    covariance, intensities = baselines.shrink_multi_target(moments, targets)
    expected_covariance, expected_intensities = reference.multi_target_shrinkage(returns, MULTI_TARGETS)
    assert ((expected_intensities > 1e-9) == used).all()  # each case has its own stationary point
    assert (expected_intensities.sum() > 1 - 1e-9) == budget_spent
    np.testing.assert_allclose(intensities, expected_intensities, atol=1e-9)
    assert_close_covariance(covariance, expected_covariance, rtol=1e-10)


def test_multi_target_with_one_target_is_single_target_shrinkage():
    moments = baselines.measure(simulate_returns(40, 7))
    for target in LINEAR_TARGETS:
        single = baselines.shrink(moments, getattr(baselines, target)(moments))
        multi = baselines.shrink_multi_target(moments, [getattr(baselines, target)(moments)])
        assert multi.intensities[0] == pytest.approx(single.intensity, rel=1e-10)
        assert_close_covariance(multi.covariance, single.covariance, rtol=1e-10)


@pytest.mark.parametrize("shape", [(252, 20), (30, 40)])
def test_ledoit_wolf_identity_equals_scikit_learn_at_its_divisor(shape):
    """scikit-learn divides by n_obs after demeaning, in the covariance and in the intensity."""
    returns = simulate_returns(*shape)
    peer = LedoitWolf(store_precision=False).fit(returns)
    moments = baselines.measure(returns, n_effective=len(returns))
    covariance, intensity = baselines.shrink(moments, baselines.identity(moments))
    assert 0.01 < intensity < 0.99
    assert intensity == pytest.approx(peer.shrinkage_, rel=1e-10)
    assert_close_covariance(covariance, peer.covariance_, rtol=1e-12)


@pytest.mark.parametrize("shape", [(252, 20), (30, 40)])
def test_oas_equals_scikit_learn_at_its_divisor(shape):
    returns = simulate_returns(*shape)
    peer = OAS(store_precision=False).fit(returns)
    covariance, intensity = baselines.shrink_oas(baselines.measure(returns, n_effective=len(returns)))
    assert 0.01 < intensity < 0.99
    assert intensity == pytest.approx(peer.shrinkage_, rel=1e-10)
    assert_close_covariance(covariance, peer.covariance_, rtol=1e-12)


def test_oas_relation_to_scikit_learn():
    """OAS depends on the divisor by a factor of the covariance and by n + 1 in the intensity, nothing else."""
    returns = simulate_returns(60, 20)
    n_obs = len(returns)
    peer = OAS(store_precision=False).fit(returns)
    covariance, intensity = baselines.shrink_oas(baselines.measure(returns))
    assert intensity == pytest.approx(peer.shrinkage_ * (n_obs + 1) / n_obs, rel=1e-10)
    assert np.trace(covariance) == pytest.approx(np.trace(peer.covariance_) * n_obs / (n_obs - 1), rel=1e-12)


def test_prial_of_the_published_design():
    """The Gaussian design of Ledoit, Wolf (2020), Annals of Statistics 48(5): p = 200, n = 600, eigenvalues 1, 3, 10.

    PRIAL is the share, in percent, of the oracle's gain in Frobenius loss over the sample. Expected values: 40 draws of
    the loops for QIS and of scikit-learn for linear shrinkage. Sets of six draws lie within 0.3 of them.
    """
    rng = np.random.default_rng(20)
    p, n, n_draws = 200, 600, 6
    population_eigenvalues = 1e-4 * np.repeat([1.0, 3.0, 10.0], [40, 80, 80])
    rotation = np.linalg.qr(rng.standard_normal((p, p)))[0]
    population = rotation * population_eigenvalues @ rotation.T
    loss = dict.fromkeys([*baselines.BASELINES, "oracle"], 0.0)
    for _ in range(n_draws):
        returns = rng.standard_normal((n + 1, p)) * np.sqrt(population_eigenvalues) @ rotation.T
        for name, estimator in baselines.BASELINES.items():
            loss[name] += ((estimator(returns) - population) ** 2).sum()
        vectors = np.linalg.eigh(baselines.sample(returns))[1]
        oracle = vectors * np.einsum("ik,ij,jk->k", vectors, population, vectors, optimize=True) @ vectors.T
        loss["oracle"] += ((oracle - population) ** 2).sum()
    prial = {name: 100 * (loss["sample"] - loss[name]) / (loss["sample"] - loss["oracle"]) for name in loss}
    assert prial["qis"] == pytest.approx(97.2, abs=0.5)
    assert prial["ledoit_wolf_identity"] == pytest.approx(68.0, abs=1.0)
    assert prial["oas"] == pytest.approx(prial["ledoit_wolf_identity"], abs=0.2)  # Gaussian: both are right


# ------------------------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SHRINK)
def test_symmetric_and_positive_definite(name, shape):
    covariance = baselines.BASELINES[name](simulate_returns(*shape))
    np.testing.assert_array_equal(covariance, covariance.T)
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert eigenvalues[0] > 1e-6 * eigenvalues[-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [100.0, 1e-4, -1.0])
@pytest.mark.parametrize("name", baselines.BASELINES)
def test_rescaled_returns_rescale_the_covariance(name, factor, shape):
    returns = simulate_returns(*shape)
    estimator = baselines.BASELINES[name]
    assert_close_covariance(estimator(factor * returns), factor**2 * estimator(returns), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", baselines.BASELINES)
def test_order_of_assets_and_of_observations_is_irrelevant(name, shape):
    returns = simulate_returns(*shape)
    estimator = baselines.BASELINES[name]
    rng = np.random.default_rng(1)
    assets, times = rng.permutation(shape[1]), rng.permutation(shape[0])
    expected = estimator(returns)[np.ix_(assets, assets)]
    assert_close_covariance(estimator(returns[times][:, assets]), expected, rtol=1e-10)


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_mean_return_is_irrelevant(name):
    returns = simulate_returns(40, 7)
    estimator = baselines.BASELINES[name]
    assert_close_covariance(estimator(returns + np.linspace(-0.1, 0.1, 7)), estimator(returns), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KEEP_VARIANCES)
def test_sample_variances_are_kept(name, shape):
    returns = simulate_returns(*shape)
    variances = baselines.BASELINES[name](returns).diagonal()
    np.testing.assert_allclose(variances, returns.var(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KEEP_TRACE)
def test_sum_of_sample_variances_is_kept(name, shape):
    returns = simulate_returns(*shape)
    trace = np.trace(baselines.BASELINES[name](returns))
    assert trace == pytest.approx(returns.var(axis=0, ddof=1).sum(), rel=1e-12)


def test_assets_with_their_own_scales_leave_qis_correlation_alone():
    returns = simulate_returns(40, 7)
    scales = np.geomspace(1e-3, 10, 7)
    covariance = baselines.qis_correlation(returns * scales)
    np.testing.assert_allclose(covariance / np.outer(scales, scales), baselines.qis_correlation(returns), rtol=1e-9)


def test_qis_counts_null_eigenvalues():
    """With more assets than observations the null eigenvalues share one value, which is neither tiny nor negative."""
    n_obs, n_assets = 31, 75
    returns = simulate_returns(n_obs, n_assets)
    n_effective = n_obs - 1
    # squared singular values / n are the positive eigenvalues: no null one among them to tell apart
    eigenvalues = np.linalg.svd(returns - returns.mean(axis=0), compute_uv=False)[:n_effective] ** 2 / n_effective
    null = 1 / ((n_assets / n_effective - 1) * (1 / eigenvalues).mean())
    shrunk = np.linalg.eigvalsh(baselines.qis(returns))
    ratio = shrunk / null
    value, count = max(((r, np.isclose(ratio, r, rtol=1e-9).sum()) for r in ratio), key=lambda pair: pair[1])
    assert count == n_assets - n_effective
    assert 0.1 < value < 10  # one common factor restores the trace
    assert shrunk[0] > 1e-3 * shrunk.mean()


def test_qis_leaves_a_sample_without_noise_alone():
    sample = baselines.sample(simulate_returns(40, 7))
    assert_close_covariance(baselines.shrink_quadratic_inverse(sample, 10**10), sample, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- borders


def test_intensity_is_clipped_at_both_ends():
    moments = baselines.measure(simulate_returns(40, 7))
    matrix = baselines.single_factor(moments).matrix
    covariance, intensity = baselines.shrink(moments, baselines.Target(matrix, rho=2 * moments.pi))
    assert intensity == 0.0
    np.testing.assert_array_equal(covariance, moments.sample)
    covariance, intensity = baselines.shrink(moments, baselines.Target(matrix, rho=-1e6 * moments.pi))
    assert intensity == 1.0
    np.testing.assert_array_equal(covariance, matrix)


def test_oas_intensity_is_at_most_one():
    returns = np.random.default_rng(0).standard_normal((3, 50))
    assert baselines.shrink_oas(baselines.measure(returns)).intensity == 1.0


def test_target_equal_to_sample_gives_the_sample():
    returns = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moments = baselines.measure(returns)
    sample = 4 / 3 * np.eye(2)
    np.testing.assert_allclose(baselines.shrink(moments, baselines.identity(moments)).covariance, sample, rtol=1e-15)
    np.testing.assert_allclose(baselines.shrink_oas(moments).covariance, sample, rtol=1e-15)
    copies = [baselines.Target(moments.sample, rho=0.0)] * 2
    np.testing.assert_array_equal(baselines.shrink_multi_target(moments, copies).intensities, [0.0, 0.0])


def test_constant_correlation_of_two_assets_takes_no_budget():
    """It is the sample covariance itself, so the other two targets must get what they get without it."""
    for seed in range(5):
        moments = baselines.measure(simulate_returns(30, 2, seed=seed))
        others = [baselines.diagonal(moments), baselines.single_factor(moments)]
        expected = baselines.shrink_multi_target(moments, others).covariance
        assert np.abs(expected / moments.sample - 1).max() > 1e-3
        assert_close_covariance(
            baselines.multi_target_ledoit_wolf(simulate_returns(30, 2, seed=seed)), expected, rtol=1e-9
        )


def test_qis_refuses_assets_with_the_same_returns():
    returns = simulate_returns(40, 7)
    returns[:, 3] = returns[:, 5]
    with pytest.raises(np.linalg.LinAlgError, match=r"7 assets must have rank 7.*returns of some assets the same"):
        baselines.qis(returns)


# ----------------------------------------------------------------------------------------------- quadratic programme


def test_minimise_over_simplex_equals_numerical_optimiser():
    rng = np.random.default_rng(5)
    counts = {"none": 0, "inside": 0, "budget spent": 0, "one": 0, "all": 0}
    for _ in range(60):
        basis = rng.standard_normal((3, 5))
        A = 1e-8 * basis @ basis.T
        b = 1e-8 * rng.normal(0.5, 2.0, 3)
        delta = baselines.minimise_over_simplex(A, b)
        assert (delta >= 0).all()
        assert delta.sum() <= 1 + 1e-12
        peer = minimize(
            lambda x, A=A * 1e8, b=b * 1e8: x @ A @ x / 2 - b @ x,
            np.full(3, 1 / 4),
            jac=lambda x, A=A * 1e8, b=b * 1e8: A @ x - b,
            bounds=[(0, 1)] * 3,
            constraints={"type": "ineq", "fun": lambda x: 1 - x.sum(), "jac": lambda x: -np.ones(3)},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(delta, peer.x, atol=2e-6)
        counts["none"] += delta.sum() == 0
        counts["inside"] += 0 < delta.sum() < 1 - 1e-9
        counts["budget spent"] += delta.sum() > 1 - 1e-9
        counts["one"] += (delta > 1e-9).sum() == 1
        counts["all"] += (delta > 1e-9).sum() == 3
    assert min(counts.values()) >= 3, counts


def test_minimise_over_simplex_takes_targets_that_coincide():
    """A is then singular and only the sum of their intensities is determined, which is all that a covariance needs."""
    A = 1e-8 * np.array([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    b = 1e-8 * np.array([1.0, 1.0, 0.25])
    delta = baselines.minimise_over_simplex(A, b)
    assert (delta >= 0).all()
    np.testing.assert_allclose([delta[0] + delta[1], delta[2]], [0.5, 0.25], rtol=1e-9)


# ----------------------------------------------------------------------------------------- minimum-variance weights


def test_gmv_weights_equal_the_inverse_formula():
    covariance = baselines.qis(simulate_returns(40, 7))
    inverse = np.linalg.inv(covariance)
    weights = baselines.gmv_weights(covariance)
    np.testing.assert_allclose(weights, inverse.sum(axis=1) / inverse.sum(), rtol=1e-10)
    np.testing.assert_allclose(baselines.gmv_weights(1e-16 * covariance), weights, rtol=1e-10)


def test_gmv_weights_accept_what_is_only_badly_conditioned():
    """Two assets of equal variance and correlation 1 - 1e-9, and variances twenty decades apart."""
    np.testing.assert_allclose(baselines.gmv_weights(np.array([[1, 1 - 1e-9], [1 - 1e-9, 1]])), [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(baselines.gmv_weights(np.diag([1.0, 1e-20])), [1e-20, 1.0], rtol=1e-6)


def test_gmv_weights_accept_as_many_observations_as_assets():
    covariance = baselines.sample(simulate_returns(101, 100))
    weights = baselines.gmv_weights(covariance)
    assert weights.sum() == pytest.approx(1.0, abs=1e-10)
    np.testing.assert_allclose(covariance @ weights, weights @ covariance @ weights, rtol=1e-6)  # first-order condition


@pytest.mark.parametrize("shape", [(20, 40), (60, 120), (100, 100), (3, 3)])
def test_gmv_weights_refuse_a_singular_sample(shape):
    """Where one eigenvalue alone is null, half of the Cholesky factorisations go through: hence several seeds."""
    for seed in range(10):
        with pytest.raises(np.linalg.LinAlgError, match=f"this one of {shape[1]} assets is singular or indefinite"):
            baselines.gmv_weights(baselines.sample(simulate_returns(*shape, seed=seed)))


def test_gmv_weights_refuse_a_portfolio_among_its_own_assets():
    for seed in range(10):
        returns = simulate_returns(120, 30, seed=seed)
        returns[:, 0] = returns[:, 1:].mean(axis=1)
        with pytest.raises(np.linalg.LinAlgError, match="this one of 30 assets is singular"):
            baselines.gmv_weights(baselines.sample(returns))


@pytest.mark.parametrize(
    "covariance",
    [np.ones((2, 2)), np.array([[1.0, 2.0], [2.0, 1.0]]), np.diag([1.0, 0.0]), np.full((2, 2), np.nan)],
    ids=["one asset twice", "indefinite", "no variance", "NaN"],
)
def test_gmv_weights_refuse_what_is_not_positive_definite(covariance):
    with pytest.raises(np.linalg.LinAlgError, match="need a positive definite covariance"):
        baselines.gmv_weights(covariance)
