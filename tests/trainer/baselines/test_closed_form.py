# SPDX-License-Identifier: Apache-2.0
"""The closed-form estimators against slow loops, scikit-learn, numerical optimisers and published efficiency."""

from __future__ import annotations

import numpy as np
import pytest
from reference import estimators as reference
from scipy.integrate import quad
from scipy.optimize import minimize
from sklearn.covariance import OAS, LedoitWolf

from sigmahat_trainer.baselines import closed_form as baselines
from sigmahat_trainer.baselines import linear as baselines_linear
from sigmahat_trainer.baselines import spectral as baselines_spectral

LINEAR_TARGETS = ["identity", "diagonal", "constant_correlation", "single_factor"]
MULTI_TARGETS = ["diagonal", "constant_correlation", "single_factor"]
KEEP_VARIANCES = [
    "inverse_variance",
    "lis_correlation",
    "analytical_correlation",
    "rie",
    "ledoit_wolf_constant_correlation",
    "ledoit_wolf_single_factor",
    "multi_target_ledoit_wolf",
    "qis_correlation",
]
KEEP_TRACE = ["equal_weight", "ledoit_wolf_identity", "oas", "qis"]
NOT_WIDE = ["lis", "lis_correlation", "rie"]  # need as many observations as assets
ANALYTICAL = ["analytical", "analytical_correlation"]  # where there are more assets, 12 observations too
TIMED = ["ewma", "iterated_ewma"]  # the order of the observations counts
SHRINK = [name for name in baselines.BASELINES if name not in ("sample", *TIMED)]
SHAPES = [(40, 7), (9, 7), (8, 7), (7, 12)]  # (n_obs, n_assets): n_effective above, equal to and below n_assets

ORACLES = {
    "equal_weight": reference.equal_weight,
    "inverse_variance": reference.inverse_variance,
    "ewma": reference.ewma,
    "iterated_ewma": reference.iterated_ewma,
    "lis": reference.lis,
    "analytical": reference.analytical,
    "lis_correlation": lambda returns: reference.on_correlations(reference.lis, returns),
    "analytical_correlation": lambda returns: reference.on_correlations(reference.analytical, returns),
    "rie": reference.rie,
    "sample": reference.sample,
    "ledoit_wolf_identity": lambda returns: reference.linear_shrinkage(returns, "identity")[0],
    "ledoit_wolf_constant_correlation": lambda returns: reference.linear_shrinkage(returns, "constant_correlation")[0],
    "ledoit_wolf_single_factor": lambda returns: reference.linear_shrinkage(returns, "single_factor")[0],
    "oas": lambda returns: reference.oas(returns)[0],
    "multi_target_ledoit_wolf": lambda returns: reference.multi_target_shrinkage(returns, MULTI_TARGETS)[0],
    "qis": reference.qis,
    "qis_correlation": reference.qis_correlation,
}
EXISTING = [
    (name, shape)
    for name in baselines.BASELINES
    for shape in SHAPES
    if shape[0] > shape[1] or name not in (*NOT_WIDE, *ANALYTICAL)
] + [(name, (20, 25)) for name in ANALYTICAL]


def existing(names):
    """Names and shapes for which there is an estimate."""
    return [(name, shape) for name, shape in EXISTING if name in names]


def assert_close_covariance(actual, expected, *, rtol):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0.0, atol=rtol)


def simulate_returns(n_obs, n_assets, *, seed=1):
    """Daily returns with a mean, one common factor, volatilities from 0.5 % to 5 % and fat tails."""
    rng = np.random.default_rng(seed)
    factor = 0.01 * rng.standard_t(6, (n_obs, 1)) * rng.uniform(0.5, 1.5, n_assets)
    return 0.001 + factor + np.geomspace(0.005, 0.05, n_assets) * rng.standard_t(6, (n_obs, n_assets))


# --------------------------------------------------------------------------------------------- independent oracles


@pytest.mark.parametrize(("name", "shape"), EXISTING)
def test_estimator_equals_loops(name, shape):
    returns = simulate_returns(*shape)
    assert_close_covariance(baselines.BASELINES[name](returns), ORACLES[name](returns), rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", LINEAR_TARGETS)
def test_intensity_and_its_parts_equal_loops(target, shape):
    returns = simulate_returns(*shape)
    moments = baselines_linear.measure(returns)
    matrix, rho = getattr(baselines_linear, target)(moments)
    expected_matrix, expected_rho = reference.TARGETS[target](returns)
    pi = reference.pi(returns)
    assert moments.pi == pytest.approx(pi, rel=1e-10)
    assert rho / pi == pytest.approx(expected_rho / pi, abs=1e-10)  # only pi - rho is used: pi is the scale
    assert_close_covariance(matrix, expected_matrix, rtol=1e-10)
    intensity = baselines_linear.shrink(moments, baselines_linear.Target(matrix, rho)).intensity
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
    moments = baselines_linear.measure(returns)
    targets = [getattr(baselines_linear, target)(moments) for target in MULTI_TARGETS]
    covariance, intensities = baselines_linear.shrink_multi_target(moments, targets)
    expected_covariance, expected_intensities = reference.multi_target_shrinkage(returns, MULTI_TARGETS)
    assert ((expected_intensities > 1e-9) == used).all()  # each case has its own stationary point
    assert (expected_intensities.sum() > 1 - 1e-9) == budget_spent
    np.testing.assert_allclose(intensities, expected_intensities, atol=1e-9)
    assert_close_covariance(covariance, expected_covariance, rtol=1e-10)


def test_multi_target_with_one_target_is_single_target_shrinkage():
    moments = baselines_linear.measure(simulate_returns(40, 7))
    for target in LINEAR_TARGETS:
        single = baselines_linear.shrink(moments, getattr(baselines_linear, target)(moments))
        multi = baselines_linear.shrink_multi_target(moments, [getattr(baselines_linear, target)(moments)])
        assert multi.intensities[0] == pytest.approx(single.intensity, rel=1e-10)
        assert_close_covariance(multi.covariance, single.covariance, rtol=1e-10)


@pytest.mark.parametrize("shape", [(252, 20), (30, 40)])
def test_ledoit_wolf_identity_equals_scikit_learn_at_its_divisor(shape):
    """scikit-learn divides by n_obs after demeaning, in the covariance and in the intensity."""
    returns = simulate_returns(*shape)
    peer = LedoitWolf(store_precision=False).fit(returns)
    moments = baselines_linear.measure(returns, n_effective=len(returns))
    covariance, intensity = baselines_linear.shrink(moments, baselines_linear.identity(moments))
    assert 0.01 < intensity < 0.99
    assert intensity == pytest.approx(peer.shrinkage_, rel=1e-10)
    assert_close_covariance(covariance, peer.covariance_, rtol=1e-12)


@pytest.mark.parametrize("shape", [(252, 20), (30, 40)])
def test_oas_equals_scikit_learn_at_its_divisor(shape):
    returns = simulate_returns(*shape)
    peer = OAS(store_precision=False).fit(returns)
    covariance, intensity = baselines_linear.shrink_oas(baselines_linear.measure(returns, n_effective=len(returns)))
    assert 0.01 < intensity < 0.99
    assert intensity == pytest.approx(peer.shrinkage_, rel=1e-10)
    assert_close_covariance(covariance, peer.covariance_, rtol=1e-12)


def test_oas_relation_to_scikit_learn():
    """OAS depends on the divisor by a factor of the covariance and by n + 1 in the intensity, nothing else."""
    returns = simulate_returns(60, 20)
    n_obs = len(returns)
    peer = OAS(store_precision=False).fit(returns)
    covariance, intensity = baselines_linear.shrink_oas(baselines_linear.measure(returns))
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
    assert prial["analytical"] == pytest.approx(97.9, abs=0.5)  # the paper's figure 1: about 97 to 98
    assert prial["ledoit_wolf_identity"] == pytest.approx(68.0, abs=1.0)
    assert prial["oas"] == pytest.approx(prial["ledoit_wolf_identity"], abs=0.2)  # Gaussian: both are right


# ------------------------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize(("name", "shape"), existing(SHRINK))
def test_symmetric_and_positive_definite(name, shape):
    covariance = baselines.BASELINES[name](simulate_returns(*shape))
    np.testing.assert_array_equal(covariance, covariance.T)
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert eigenvalues[0] > 1e-6 * eigenvalues[-1]


@pytest.mark.parametrize("factor", [100.0, 1e-4, -1.0])
@pytest.mark.parametrize(("name", "shape"), EXISTING)
def test_rescaled_returns_rescale_the_covariance(name, factor, shape):
    returns = simulate_returns(*shape)
    estimator = baselines.BASELINES[name]
    assert_close_covariance(estimator(factor * returns), factor**2 * estimator(returns), rtol=1e-10)


@pytest.mark.parametrize(("name", "shape"), existing(set(baselines.BASELINES) - set(TIMED)))
def test_order_of_assets_and_of_observations_is_irrelevant(name, shape):
    returns = simulate_returns(*shape)
    estimator = baselines.BASELINES[name]
    rng = np.random.default_rng(1)
    assets, times = rng.permutation(shape[1]), rng.permutation(shape[0])
    expected = estimator(returns)[np.ix_(assets, assets)]
    assert_close_covariance(estimator(returns[times][:, assets]), expected, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in baselines.BASELINES if name != "iterated_ewma"])
def test_mean_return_is_irrelevant(name):
    returns = simulate_returns(40, 7)
    estimator = baselines.BASELINES[name]
    assert_close_covariance(estimator(returns + np.linspace(-0.1, 0.1, 7)), estimator(returns), rtol=1e-10)


@pytest.mark.parametrize(("name", "shape"), existing(KEEP_VARIANCES))
def test_sample_variances_are_kept(name, shape):
    returns = simulate_returns(*shape)
    variances = baselines.BASELINES[name](returns).diagonal()
    np.testing.assert_allclose(variances, returns.var(axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize(("name", "shape"), existing(KEEP_TRACE))
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
    rule = baselines_spectral.quadratic_inverse
    assert_close_covariance(baselines_spectral.shrink_spectrum(sample, 10**10, rule), sample, rtol=1e-4)


@pytest.mark.parametrize("q", [0.2, 0.7])
def test_rie_of_pure_noise_is_nearly_the_identity(q):
    """The best rotationally invariant estimate of a unit matrix is the unit matrix itself."""
    n_assets = 300
    returns = np.random.default_rng(3).standard_normal((int(n_assets / q) + 1, n_assets))
    shrunk = np.linalg.eigvalsh(baselines.BASELINES["rie"](returns / returns.std(axis=0, ddof=1)))
    raw = np.linalg.eigvalsh(np.corrcoef(returns.T))
    assert shrunk.std() < 0.15 * raw.std()


def test_hilbert_transform_far_out_equals_a_numerical_integral():
    """Both forms: the direct one below |z| = 5, and the series where the direct one cancels."""

    def epanechnikov(x):
        return 3 / (4 * np.sqrt(5)) * np.maximum(1 - x**2 / 5, 0)

    edge = np.sqrt(5)
    for z in (0.3, -1.7, 4.9, 5.1, -9.0, 80.0, 1e5):
        if abs(z) < edge:  # a principal value, which the weight "cauchy" is for
            expected = quad(epanechnikov, -edge, edge, weight="cauchy", wvar=z)[0] / np.pi
        else:
            expected = quad(lambda x, z=z: epanechnikov(x) / (x - z), -edge, edge)[0] / np.pi
        actual = baselines_spectral._epanechnikov_hilbert(np.array([z]))[0]
        assert actual == pytest.approx(expected, rel=1e-9), z


# --------------------------------------------------------------------------------------------------------- borders


def test_intensity_is_clipped_at_both_ends():
    moments = baselines_linear.measure(simulate_returns(40, 7))
    matrix = baselines_linear.single_factor(moments).matrix
    covariance, intensity = baselines_linear.shrink(moments, baselines_linear.Target(matrix, rho=2 * moments.pi))
    assert intensity == 0.0
    np.testing.assert_array_equal(covariance, moments.sample)
    covariance, intensity = baselines_linear.shrink(moments, baselines_linear.Target(matrix, rho=-1e6 * moments.pi))
    assert intensity == 1.0
    np.testing.assert_array_equal(covariance, matrix)


def test_oas_intensity_is_at_most_one():
    returns = np.random.default_rng(0).standard_normal((3, 50))
    assert baselines_linear.shrink_oas(baselines_linear.measure(returns)).intensity == 1.0


def test_target_equal_to_sample_gives_the_sample():
    returns = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moments = baselines_linear.measure(returns)
    sample = 4 / 3 * np.eye(2)
    np.testing.assert_allclose(
        baselines_linear.shrink(moments, baselines_linear.identity(moments)).covariance, sample, rtol=1e-15
    )
    np.testing.assert_allclose(baselines_linear.shrink_oas(moments).covariance, sample, rtol=1e-15)
    copies = [baselines_linear.Target(moments.sample, rho=0.0)] * 2
    np.testing.assert_array_equal(baselines_linear.shrink_multi_target(moments, copies).intensities, [0.0, 0.0])


def test_constant_correlation_of_two_assets_takes_no_budget():
    """It is the sample covariance itself, so the other two targets must get what they get without it."""
    for seed in range(5):
        moments = baselines_linear.measure(simulate_returns(30, 2, seed=seed))
        others = [baselines_linear.diagonal(moments), baselines_linear.single_factor(moments)]
        expected = baselines_linear.shrink_multi_target(moments, others).covariance
        assert np.abs(expected / moments.sample - 1).max() > 1e-3
        assert_close_covariance(
            baselines.multi_target_ledoit_wolf(simulate_returns(30, 2, seed=seed)), expected, rtol=1e-9
        )


def test_qis_refuses_assets_with_the_same_returns():
    returns = simulate_returns(40, 7)
    returns[:, 3] = returns[:, 5]
    with pytest.raises(np.linalg.LinAlgError, match=r"7 assets must have rank 7.*returns of some assets the same"):
        baselines.qis(returns)


@pytest.mark.parametrize("name", NOT_WIDE)
def test_more_assets_than_observations_are_refused_where_the_formula_ends(name):
    with pytest.raises(np.linalg.LinAlgError, match=r"as many observations as assets, got 6 .* and 12"):
        baselines.BASELINES[name](simulate_returns(7, 12))


def test_analytical_of_few_observations_and_more_assets_is_refused():
    with pytest.raises(np.linalg.LinAlgError, match="needs 12 of these, got 11"):
        baselines.BASELINES["analytical"](simulate_returns(12, 20))


# ----------------------------------------------------------------------------------------------- quadratic programme


def test_minimise_over_simplex_equals_numerical_optimiser():
    rng = np.random.default_rng(5)
    counts = {"none": 0, "inside": 0, "budget spent": 0, "one": 0, "all": 0}
    for _ in range(60):
        basis = rng.standard_normal((3, 5))
        A = 1e-8 * basis @ basis.T
        b = 1e-8 * rng.normal(0.5, 2.0, 3)
        delta = baselines_linear.minimise_over_simplex(A, b)
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
    delta = baselines_linear.minimise_over_simplex(A, b)
    assert (delta >= 0).all()
    np.testing.assert_allclose([delta[0] + delta[1], delta[2]], [0.5, 0.25], rtol=1e-9)
