# SPDX-License-Identifier: Apache-2.0
"""The assembled covariance against loops, scikit-learn and the closed-form baselines' targets, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import covariance as reference
from sklearn.covariance import empirical_covariance, shrunk_covariance

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.asset_statistics import ASSET_STATISTICS, N_ASSET_STATISTICS, STATISTIC_LIMIT, asset_statistics
from sigmahat_kernels.covariance import blend_volatility, shrink_correlation
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.parameters import (
    HEADS,
    N_PARAMETERS,
    TARGETS,
    VOLATILITY_BASES,
    Parameters,
    intensity_of,
    split_parameters,
)
from sigmahat_kernels.request import read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.status import Status
from sigmahat_kernels.targets import mix_targets, single_factor_loadings
from sigmahat_trainer.baselines import linear as baselines

RTOL = 1e-6  # covariances are float32, their sums float64


def assert_close_covariance(actual, expected, *, rtol=RTOL):
    """Entry by entry in units of the two assets' volatilities, so that no quiet asset hides behind a loud one."""
    sd = np.sqrt(np.diagonal(expected, axis1=-2, axis2=-1))
    scale = sd[..., :, None] * sd[..., None, :]
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0.0, atol=rtol)


def simulate_returns(n_obs, n_assets, *, seed=1, missing=0.0):
    rng = np.random.default_rng(seed)
    common = rng.standard_t(4, (n_obs, 1)) * rng.uniform(0.2, 1.5, n_assets)
    returns = 0.001 + np.geomspace(0.004, 0.04, n_assets) * (common + rng.standard_t(4, (n_obs, n_assets)))
    returns = np.clip(returns, -0.9, 5.0).astype(np.float32)
    returns[rng.random(returns.shape) < missing] = np.nan
    return returns


def simulate_parameters(n, *, seed=1):
    """Random answers of a network: intensities in (0, 1), weights that sum to one, tilts of both signs."""
    rng = np.random.default_rng(seed)
    parameters = Parameters(*(rng.uniform(size=(n, columns)) for columns in HEADS.values()))
    blend = np.hstack([rng.dirichlet(np.ones(len(VOLATILITY_BASES)), n), rng.uniform(size=(n, 1))])
    tilts = rng.normal(size=(2, n, N_ASSET_STATISTICS))
    parameters = parameters._replace(
        target_weights=rng.dirichlet(np.ones(len(TARGETS)), n),
        volatility=blend,
        intensity_tilt=tilts[0],
        volatility_tilt=0.1 * tilts[1],
    )
    return Parameters(*(head.astype(np.float32) for head in parameters))


def chosen_parameters(*, weights, intensity, memory=0.0, factor_memory=0.0, volatility=(1.0, 0.0, 0.0, 0.0), **others):
    """One universe's answer; heads that are not named are 0."""
    rows = split_parameters(np.zeros((1, N_PARAMETERS)))
    return rows._replace(
        target_weights=np.array([weights], float),
        target_intensity=np.array([intensity], float),
        memory=np.array([[memory]], float),
        factor_memory=np.array([[factor_memory]], float),
        volatility=np.array([volatility], float),
        **{name: np.array([values], float) for name, values in others.items()},
    )


def estimate(returns, parameters, **options):
    """The covariance of one universe that holds all columns."""
    request = read_request(returns, np.arange(returns.shape[1])[None])
    assert compute_features(request).status[0] == Status.GOOD
    return assemble(request, parameters, np.zeros(1, np.int32), **options)[0].astype(float)


def looped_estimate(returns, parameters, row, **options):
    return reference.estimate(
        np.asarray(returns, float),
        target_weights=parameters.target_weights[row].tolist(),
        target_intensity=parameters.target_intensity[row].tolist(),
        memory=float(parameters.memory[row, 0]),
        factor_memory=float(parameters.factor_memory[row, 0]),
        volatility=parameters.volatility[row].tolist(),
        intensity_tilt=parameters.intensity_tilt[row].tolist(),
        volatility_tilt=parameters.volatility_tilt[row].tolist(),
        level=parameters.level[row].tolist(),
        **options,
    )


def correlation_of(covariance):
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return covariance / sd[..., :, None] / sd[..., None, :]


# --------------------------------------------------------------------------------------------- independent oracles

MIXED = np.array(
    [[0, 1, 2, 3, 4, 5, 6, 7], [7, 2, -1, -1, -1, -1, -1, -1], [5, 0, 3, -1, -1, -1, -1, -1], [1, 6, 4, 2, 9, 8, 0, 5]],
    np.int32,
)
SHAPES = [(120, 10, 0.0), (120, 10, 0.2), (22, 10, 0.0), (30, 10, 0.1), (300, 10, 0.0), (300, 10, 0.1)]


@pytest.mark.parametrize(("n_obs", "n_assets", "missing"), SHAPES)
def test_assemble_equals_loops(n_obs, n_assets, missing):
    returns, parameters = simulate_returns(n_obs, n_assets, missing=missing), simulate_parameters(len(MIXED))
    windows = np.array([[0, n_obs], [0, n_obs], [1, n_obs], [0, n_obs - 1]])
    request = read_request(returns, MIXED, windows)
    covariance = assemble(request, parameters, compute_features(request).status)
    assert covariance.dtype == np.float32
    assert covariance.shape == (4, 8, 8)
    for row, (universe, window) in enumerate(zip(MIXED, windows, strict=True)):
        used = universe[universe >= 0]
        expected = looped_estimate(returns[slice(*window)][:, used], parameters, row)
        assert_close_covariance(covariance[row, : len(used), : len(used)], expected)
        padding = np.full((8, 8), True)
        padding[: len(used), : len(used)] = False
        np.testing.assert_array_equal(np.isnan(covariance[row]), padding)


def test_fewer_rows_than_assets_equals_loops():
    returns, parameters = simulate_returns(21, 30), simulate_parameters(1)
    assert_close_covariance(estimate(returns, parameters), looped_estimate(returns, parameters, 0))


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_blocks_equal_loops(missing):
    """Each asset takes its block's intensity; columns of `block_intensity` follow the sorted block ids."""
    returns, parameters = simulate_returns(80, 10, missing=missing), simulate_parameters(len(MIXED))
    blocks = np.array([[9, 2, 9, 2, 30, 30, 30, 2], [30, 9] + [-1] * 6, [2, 2, 2] + [-1] * 5, [9] * 4 + [2] * 4])
    intensities = np.random.default_rng(3).uniform(size=(4, 3)).astype(np.float32)
    intensities[3] = [0.0, 1.0, 0.5]
    request = read_request(returns, MIXED, blocks=blocks)
    covariance = assemble(request, parameters, np.zeros(4, np.int32), block_intensity=intensities)
    column = {2: 0, 9: 1, 30: 2}
    for row, universe in enumerate(MIXED):
        used = universe[universe >= 0]
        own = [float(intensities[row, column[block]]) for block in blocks[row, : len(used)]]
        expected = looped_estimate(returns[:, used], parameters, row, asset_intensity=own)
        assert_close_covariance(covariance[row, : len(used), : len(used)], expected)


def test_block_intensity_without_blocks_is_not_used():
    returns, parameters = simulate_returns(40, 5), simulate_parameters(1)
    with_intensity = estimate(returns, parameters, block_intensity=np.array([[0.9]]))
    np.testing.assert_array_equal(with_intensity, estimate(returns, parameters))


@pytest.mark.parametrize(
    "weights", [(0.3, 0.2, 0.4), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.1, 0.0, 0.0)]
)
@pytest.mark.parametrize(("n_obs", "n_assets", "missing"), SHAPES)
def test_classic_equals_textbook_shrinkage_of_the_plain_sample(n_obs, n_assets, missing, weights):
    """Memory, blend, tilts and level are ignored; neither is the data winsorised."""
    returns = simulate_returns(n_obs, n_assets, missing=missing)
    parameters = chosen_parameters(
        weights=weights,
        intensity=(1.0, 1.0, 1.0),
        memory=0.7,
        factor_memory=0.4,
        volatility=(0.1, 0.2, 0.3, 0.5),
        intensity_tilt=[1.0] * N_ASSET_STATISTICS,
        volatility_tilt=[0.1] * N_ASSET_STATISTICS,
        level=[0.2, 0.3],
    )
    expected = reference.classic(returns.astype(float), weights)
    assert_close_covariance(estimate(returns, parameters, classic=True), expected)


@pytest.mark.parametrize("intensity", [0.0, 0.13, 0.8])
def test_classic_toward_identity_is_scikit_learn_on_standardised_returns(intensity):
    returns = simulate_returns(60, 8)
    parameters = chosen_parameters(weights=(1.0, 0.0, 0.0), intensity=(intensity, 0.5, 0.5))
    x = returns.astype(float)
    sd = x.std(axis=0, ddof=1)
    # Standardised by n, the variances are one, and so is scikit-learn's mean variance.
    expected = shrunk_covariance(empirical_covariance(x / x.std(axis=0)), shrinkage=intensity) * np.outer(sd, sd)
    assert_close_covariance(estimate(returns, parameters, classic=True), expected)


def targets(correlation):
    """Each target alone, shape (3, ..., N, N)."""
    stack = correlation.reshape(-1, *correlation.shape[-2:])
    alone = [mix_targets(stack, np.tile(weights, (len(stack), 1))) for weights in np.eye(3)]
    return np.stack(alone).reshape(3, *correlation.shape)


@pytest.mark.parametrize(
    ("k", "baseline"), list(enumerate([baselines.diagonal, baselines.constant_correlation, baselines.single_factor]))
)
def test_targets_are_those_of_the_closed_forms_on_standardised_returns(k, baseline):
    returns = simulate_returns(60, 8).astype(float)
    moments = baselines.measure(returns / returns.std(axis=0, ddof=1))
    np.testing.assert_allclose(targets(moments.sample)[k], baseline(moments).matrix, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("n_assets", [2, 3, 30])
def test_targets_equal_loops(n_assets, missing):
    returns = simulate_returns(40, n_assets, missing=missing)
    factor = correlation_factor(prepare_window(returns))
    looped = reference.correlation_targets(reference.standardised(returns.astype(float)))
    stack = targets(np.stack([factor.T @ factor, np.eye(n_assets)]))
    assert stack.shape == (3, 2, n_assets, n_assets)
    np.testing.assert_allclose(reference.targets_of(factor.T @ factor), looped, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(stack[:, 0], looped, rtol=0.0, atol=1e-12)


def test_targets_of_assets_that_hedge_each_other_exactly():
    R = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert single_factor_loadings(R.sum(axis=1)).tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(targets(R), [np.eye(2), R, np.eye(2)])


def test_published_layout_of_parameters():
    """The layout is part of the protocol: heads, their order and their widths."""
    assert TARGETS == ("identity", "constant_correlation", "single_factor")
    assert VOLATILITY_BASES == ("window", "halflife_63", "halflife_21")
    assert HEADS == {
        "target_intensity": 3,
        "target_weights": 3,
        "target_confidence": 3,
        "memory": 1,
        "factor_memory": 1,
        "volatility": 4,
        "intensity_tilt": 12,
        "volatility_tilt": 12,
        "level": 2,
        "condition": 1,
        "expected_error": 1,
        "log_variance": 1,
        "regime": 4,
    }
    assert tuple(HEADS) == Parameters._fields
    heads = split_parameters(np.arange(2 * N_PARAMETERS).reshape(2, -1))
    assert [head.shape[-1] for head in heads] == list(HEADS.values())
    assert np.concatenate(heads, axis=1).tolist() == np.arange(2 * N_PARAMETERS).reshape(2, -1).tolist()


def test_intensity_is_the_sum_of_the_targets_weights():
    parameters = chosen_parameters(weights=(0.5, 0.3, 0.2), intensity=(0.1, 0.2, 0.4))
    np.testing.assert_allclose(intensity_of(parameters), [0.05 + 0.06 + 0.08], rtol=1e-15)


# ------------------------------------------------------------------------------------------------------- the limits


@pytest.fixture
def returns():
    return simulate_returns(70, 9, missing=0.05)


def sample_parts(returns):
    z = reference.standardised(returns.astype(float))
    slow = reference.expected_correlation(z)
    return slow, reference.expected_correlation(z, 63.0), reference.targets_of(slow)


def test_nothing_shrunk_and_no_memory_is_the_slow_correlation(returns):
    parameters = chosen_parameters(weights=(0.2, 0.3, 0.5), intensity=(0.0, 0.0, 0.0))
    np.testing.assert_allclose(correlation_of(estimate(returns, parameters)), sample_parts(returns)[0], atol=RTOL)


def test_full_memory_is_the_fast_correlation(returns):
    parameters = chosen_parameters(weights=(0.2, 0.3, 0.5), intensity=(0.0, 0.0, 0.0), memory=1.0)
    np.testing.assert_allclose(correlation_of(estimate(returns, parameters)), sample_parts(returns)[1], atol=RTOL)


def test_full_factor_memory_is_the_fast_correlation_by_its_factors(returns):
    """Nothing of the pair correlations is left, whatever memory mixes them."""
    parameters = chosen_parameters(weights=(1, 0, 0), intensity=(0, 0, 0), memory=0.6, factor_memory=1.0)
    expected = reference.leading_factors(sample_parts(returns)[1])
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(correlation_of(estimate(returns, parameters)), expected, atol=RTOL)


@pytest.mark.parametrize("k", range(3))
def test_full_intensity_is_the_target(returns, k):
    parameters = chosen_parameters(weights=np.eye(3)[k], intensity=(1.0, 1.0, 1.0), memory=0.3)
    np.testing.assert_allclose(correlation_of(estimate(returns, parameters)), sample_parts(returns)[2][k], atol=RTOL)


def test_weights_that_round_to_more_than_one_still_give_a_matrix(returns):
    weights = np.array([0.33333334, 0.33333334, 0.33333337], np.float32)
    assert weights.sum(dtype=np.float64) > 1
    covariance = estimate(returns, chosen_parameters(weights=weights, intensity=(1.0, 1.0, 1.0)))
    expected = sum(sample_parts(returns)[2]) / 3
    np.testing.assert_allclose(correlation_of(covariance), expected, atol=RTOL)


@pytest.mark.parametrize(("k", "halflife"), list(enumerate(reference.HALFLIVES)))
def test_volatility_of_one_basis(returns, k, halflife):
    parameters = chosen_parameters(weights=(1, 0, 0), intensity=(0.4, 0, 0), volatility=[*np.eye(3)[k], 0.0])
    expected = [reference.volatility(returns, i, halflife) for i in range(returns.shape[1])]
    np.testing.assert_allclose(np.sqrt(np.diag(estimate(returns, parameters))), expected, rtol=RTOL)


def test_full_pull_gives_all_assets_the_geometric_mean(returns):
    parameters = chosen_parameters(weights=(1, 0, 0), intensity=(0.4, 0, 0), volatility=(0.2, 0.3, 0.5, 1.0))
    sd = np.sqrt(np.diag(estimate(returns, parameters)))
    own = reference.blended_volatilities(returns, (0.2, 0.3, 0.5), 0.0)
    np.testing.assert_allclose(sd, np.exp(np.mean(np.log(own))), rtol=RTOL)


def test_blend_of_a_stack_equals_one_at_a_time():
    rng = np.random.default_rng(5)
    volatilities, blend = rng.uniform(0.01, 0.05, (3, 4, 6)), rng.dirichlet(np.ones(4), 4)
    stack = blend_volatility(volatilities, blend)
    for n in range(4):
        np.testing.assert_allclose(stack[n], blend_volatility(volatilities[:, [n]], blend[[n]])[0], rtol=1e-14)


# ------------------------------------------------------------------------------------------------- tilts and levels


def measured_statistics(returns):
    moments = share_window(returns).moments.gather(np.arange(returns.shape[1])[None], Scratch(np))
    before = moments.slow.copy()
    statistics = asset_statistics(*moments)[0]
    np.testing.assert_allclose(moments.slow, before, rtol=0.0, atol=1e-14)  # the correlation is used afterwards
    return statistics


@pytest.mark.parametrize(("n_obs", "n_assets", "missing"), [*SHAPES, (40, 2, 0.0)])
def test_asset_statistics_equal_loops(n_obs, n_assets, missing):
    returns = simulate_returns(n_obs, n_assets, missing=missing)
    expected = reference.asset_statistics(returns.astype(float))
    np.testing.assert_allclose(measured_statistics(returns), expected, rtol=0.0, atol=1e-9)


def test_a_hedge_is_as_near_as_a_copy():
    """The closest neighbour is by absolute correlation."""
    returns = simulate_returns(60, 6)
    returns[:, 1] = 0.05 * returns[:, 1] - returns[:, 0]
    expected = reference.asset_statistics(returns.astype(float))
    np.testing.assert_allclose(measured_statistics(returns), expected, rtol=0.0, atol=1e-9)
    unshared = measured_statistics(returns)[:, list(ASSET_STATISTICS).index("log_unshared")]
    assert np.corrcoef(returns.T)[0, 1] < -0.5
    assert unshared[0] == unshared.min()


def test_statistics_of_assets_that_are_almost_one_are_limited():
    returns = simulate_returns(60, 6)
    returns[:, 1] = returns[:, 0] * np.float32(1.5)
    unshared = measured_statistics(returns)[:, list(ASSET_STATISTICS).index("log_unshared")]
    assert unshared[0] == pytest.approx(unshared[1])
    assert unshared[0] == -STATISTIC_LIMIT


def test_a_tilt_shrinks_the_assets_that_have_more_of_the_statistic(returns):
    """Only what an asset shares with others is scaled: the share kept between i and j is sqrt((1 - d_i)(1 - d_j))."""
    tilt = np.eye(N_ASSET_STATISTICS)[3]  # ln volatility
    parameters = chosen_parameters(weights=(1, 0, 0), intensity=(0.3, 0, 0), intensity_tilt=tilt)
    R, slow = correlation_of(estimate(returns, parameters)), sample_parts(returns)[0]
    statistics = measured_statistics(returns)[:, 3]
    intensity = 1 / (1 + (0.7 / 0.3) * np.exp(-statistics))
    assert np.argsort(intensity).tolist() == np.argsort(np.diag(estimate(returns, parameters))).tolist()
    off_diagonal = ~np.eye(len(R), dtype=bool)
    kept = np.sqrt(np.outer(1 - intensity, 1 - intensity))
    np.testing.assert_allclose(R[off_diagonal], (kept * slow)[off_diagonal], atol=RTOL)


@pytest.mark.parametrize("intensity", [0.0, 1.0])
def test_nothing_tilts_an_intensity_of_none_or_all(returns, intensity):
    tilt = np.full(N_ASSET_STATISTICS, 2.0)
    straight = chosen_parameters(weights=(0, 1, 0), intensity=(0, intensity, 0))
    tilted = chosen_parameters(weights=(0, 1, 0), intensity=(0, intensity, 0), intensity_tilt=tilt)
    np.testing.assert_array_equal(estimate(returns, tilted), estimate(returns, straight))


def test_log_volatility_level_scales_the_matrix(returns):
    parameters, level = simulate_parameters(1), np.array([[0.3, 0.5]], np.float32)
    scaled = estimate(returns, parameters._replace(level=level))
    plain = estimate(returns, parameters._replace(level=level * np.array([0.0, 1.0])))
    np.testing.assert_allclose(scaled, plain * np.exp(2 * 0.3), rtol=1e-6)


def test_common_variance_moves_no_fully_invested_minimum_variance_portfolio(returns):
    parameters = chosen_parameters(weights=(1, 0, 0), intensity=(0.4, 0, 0))
    plain = estimate(returns, parameters)
    raised = estimate(returns, parameters._replace(level=np.array([[0.0, 2.0]])))
    harmonic_mean = 1 / np.mean(1 / np.diag(plain))
    np.testing.assert_allclose(raised - plain, 2 * harmonic_mean, rtol=1e-4)
    ones = np.ones(len(plain))
    for matrix in (plain, raised):
        weights = np.linalg.solve(matrix, ones)
        matrix[0] = weights / weights.sum()
    np.testing.assert_allclose(raised[0], plain[0], atol=1e-5)


def test_two_assets():
    returns = simulate_returns(40, 2)
    parameters = simulate_parameters(1)
    assert_close_covariance(estimate(returns, parameters), looped_estimate(returns, parameters, 0))


# ------------------------------------------------------------------------------------------------------- properties

SHARES = st.floats(0.0, 1.0, width=32)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    n_obs=st.integers(20, 60),
    n_assets=st.integers(2, 25),
    missing=st.sampled_from([0.0, 0.0, 0.3]),
    weights=st.lists(SHARES, min_size=3, max_size=3),
    intensity=st.lists(SHARES, min_size=3, max_size=3),
    memory=SHARES,
    factor_memory=SHARES,
    blend=st.lists(SHARES, min_size=4, max_size=4),
    blocks=st.lists(SHARES, min_size=1, max_size=4),
    tilt=st.lists(st.floats(-2.0, 2.0, width=32), min_size=N_ASSET_STATISTICS, max_size=N_ASSET_STATISTICS),
    level=st.tuples(st.floats(-1.0, 1.0, width=32), st.floats(0.0, 3.0, width=32)),
    classic=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_covariance_is_symmetric_and_positive_semi_definite_for_any_parameters(
    n_obs, n_assets, missing, weights, intensity, memory, factor_memory, blend, blocks, tilt, level, classic, seed
):
    returns = simulate_returns(n_obs + 15, n_assets, missing=missing, seed=seed)
    total = sum(weights[:3])
    weights = [weight / total for weight in weights] if total > 1e-3 else [1 / 3] * 3
    parameters = chosen_parameters(
        weights=weights,
        intensity=intensity,
        memory=memory,
        factor_memory=factor_memory,
        volatility=blend,
        intensity_tilt=tilt,
        volatility_tilt=0.1 * np.array(tilt),
        level=level,
    )
    block_of = np.arange(n_assets)[None] % len(blocks)
    universe = np.arange(n_assets)[None]
    request = read_request(returns, universe, blocks=block_of)
    if compute_features(request).status[0] != Status.GOOD:  # an asset with too many missing cells
        return
    used = np.array([blocks[: min(n_assets, len(blocks))]])
    (C,) = assemble(request, parameters, np.zeros(1, np.int32), block_intensity=used, classic=classic).astype(float)
    np.testing.assert_array_equal(C, C.T)
    R = correlation_of(C)
    # float32 rounds entries of R by up to 6e-8: an eigenvalue moves by as much as N times that.
    assert np.linalg.eigvalsh(R).min() > -6e-8 * n_assets
    assert np.abs(R).max() < 1 + 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_shrunk_correlation_keeps_the_unit_diagonal(seed):
    rng = np.random.default_rng(seed)
    returns = simulate_returns(50, 12, missing=0.3 * (seed % 2), seed=seed)
    window = prepare_window(returns)
    slow, fast = (z.T @ z for z in (correlation_factor(window), correlation_factor(window, halflife=63.0)))
    R = shrink_correlation(
        slow[None],
        fast[None],
        rng.uniform(size=1),
        rng.uniform(size=1),
        rng.dirichlet(np.ones(3), 1),
        rng.uniform(size=(1, 3)),
        rng.uniform(size=(1, 12)),
    )[0]
    np.testing.assert_allclose(np.diag(R), 1.0, rtol=1e-14)
    assert np.linalg.eigvalsh(R).min() > 0


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_scaled_returns_scale_the_covariance_by_the_square(returns, scale, classic):
    parameters = simulate_parameters(1)
    scaled = estimate(returns * np.float32(scale), parameters, classic=classic)
    assert_close_covariance(scaled, scale**2 * estimate(returns, parameters, classic=classic))


@pytest.mark.parametrize("classic", [False, True])
def test_order_of_assets_is_kept(returns, classic):
    parameters, order = simulate_parameters(1), np.random.default_rng(1).permutation(9)
    request = read_request(returns, order[None])
    (permuted,) = assemble(request, parameters, np.zeros(1, np.int32), classic=classic).astype(float)
    assert_close_covariance(permuted, estimate(returns, parameters, classic=classic)[np.ix_(order, order)])


def test_classic_keeps_the_sample_variances(returns):
    covariance = estimate(returns, simulate_parameters(1), classic=True)
    np.testing.assert_allclose(np.diag(covariance), np.nanvar(returns.astype(float), axis=0, ddof=1), rtol=RTOL)


def test_equal_block_intensities_are_the_universes_own(returns):
    parameters = simulate_parameters(1)
    request = read_request(returns, np.arange(9)[None], blocks=np.arange(9)[None] // 4)
    same = np.repeat(intensity_of(parameters)[:, None], 3, axis=1)
    (blocked,) = assemble(request, parameters, np.zeros(1, np.int32), block_intensity=same).astype(float)
    assert_close_covariance(blocked, estimate(returns, parameters))


def test_blocks_at_their_limits(returns):
    """A block at 0 keeps its own correlations, one at 1 has the target's, and between the two nothing is left."""
    parameters = chosen_parameters(weights=(0.0, 0.0, 1.0), intensity=(0.0, 0.0, 0.6))
    blocks = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1]])
    request = read_request(returns, np.arange(9)[None], blocks=blocks)
    (C,) = assemble(request, parameters, np.zeros(1, np.int32), block_intensity=np.array([[0.0, 1.0]])).astype(float)
    R, (slow, _, F) = correlation_of(C), sample_parts(returns)
    np.testing.assert_allclose(R[:4, :4], slow[:4, :4], atol=RTOL)
    np.testing.assert_allclose(R[4:, 4:], F[2][4:, 4:], atol=RTOL)
    np.testing.assert_array_equal(R[:4, 4:], 0.0)


# ------------------------------------------------------------------------------------- bad universes, equal paths


def test_bad_universes_and_padding_are_nan_and_neighbours_are_untouched(returns):
    universes = np.array([[0, 1, 2, -1], [3, 3, 4, -1], [5, 77, 6, 7], [8, 7, 6, 5]], np.int32)
    parameters = simulate_parameters(4)
    request = read_request(returns, universes)
    status = compute_features(request).status
    assert status.tolist() == [0, Status.DUPLICATE_ASSET, Status.UNKNOWN_ASSET, 0]
    bad_rows = np.where((status == 0)[:, None], 0.0, np.nan)
    covariance = assemble(request, Parameters(*(head + bad_rows for head in parameters)), status)
    assert np.isnan(covariance[[1, 2]]).all()
    assert np.isnan(covariance[0, 3]).all()
    assert np.isnan(covariance[0, :, 3]).all()
    alone = assemble(
        read_request(returns, universes[[0, 3]]),
        Parameters(*(head[[0, 3]] for head in parameters)),
        np.zeros(2, np.int32),
    )
    np.testing.assert_allclose(covariance[[0, 3]], alone, rtol=1e-6)


def test_unusable_column_of_a_refused_universe_spoils_nothing(returns):
    dirty = returns.copy()
    dirty[:, 4], dirty[3, 5] = 0.0, np.inf
    universes = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]], np.int32)
    parameters = simulate_parameters(3)
    request = read_request(dirty, universes)
    status = compute_features(request).status
    assert status.tolist() == [0, Status.CONSTANT_ASSET, 0]
    covariance = assemble(request, parameters, status)
    clean = assemble(read_request(returns, universes), parameters, np.zeros(3, np.int32))
    assert np.isnan(covariance[1]).all()
    np.testing.assert_allclose(covariance[[0, 2]], clean[[0, 2]], rtol=1e-6)


def test_nothing_but_padding_with_blocks():
    request = read_request(simulate_returns(30, 3), np.full((2, 3), -1), blocks=np.zeros((2, 3), np.int32))
    status = compute_features(request).status
    covariance = assemble(request, simulate_parameters(2), status, block_intensity=np.empty((2, 0)))
    assert np.isnan(covariance).all()


def many_universes():
    rng = np.random.default_rng(2)
    universes = np.full((30, 12), -1, np.int32)
    for row, size in zip(universes, rng.choice([2, 5, 12], 30), strict=True):
        row[:size] = rng.choice(20, size, replace=False)
    windows = np.array([[0, 90], [20, 90]])[rng.integers(0, 2, 30)]
    return simulate_returns(90, 20, missing=0.05), universes, windows


@pytest.mark.parametrize("classic", [False, True])
def test_all_at_once_equals_one_at_a_time(classic):
    returns, universes, windows = many_universes()
    parameters = simulate_parameters(30)
    together = assemble(read_request(returns, universes, windows), parameters, np.zeros(30, np.int32), classic=classic)
    for row, (universe, window) in enumerate(zip(universes, windows, strict=True)):
        used = universe[universe >= 0]
        own = Parameters(*(head[[row]] for head in parameters))
        alone = estimate(returns[slice(*window)][:, used], own, classic=classic)
        assert_close_covariance(together[row, : len(used), : len(used)], alone)


def test_threads_do_not_change_a_bit():
    returns, universes, windows = many_universes()
    request, parameters = read_request(returns, universes, windows), simulate_parameters(30)
    one, two = (assemble(request, parameters, np.zeros(30, np.int32), threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_rows_after_the_window_are_not_read():
    returns, parameters = simulate_returns(80, 5), simulate_parameters(1)
    later = returns.copy()
    later[60:] = 7.0
    windows = np.array([[10, 60]])
    before, after = (
        assemble(read_request(panel, np.arange(5)[None], windows), parameters, np.zeros(1, np.int32))
        for panel in (returns, later)
    )
    np.testing.assert_array_equal(before, after)
