# SPDX-License-Identifier: Apache-2.0
"""A window's volatilities and standardised returns against loops; its correlations stay correlations."""

from __future__ import annotations

import numpy as np
import pytest
from reference import covariance as reference

from sigmahat_kernels import panel
from sigmahat_kernels.panel import correlation_factor, exponential_weights, memory_weights, prepare_window


def simulate_returns(n_obs, n_assets, *, seed=1, missing=0.0, degrees=3):
    rng = np.random.default_rng(seed)
    returns = 0.001 + np.geomspace(0.004, 0.04, n_assets) * rng.standard_t(degrees, (n_obs, n_assets))
    returns[rng.random(returns.shape) < missing] = np.nan
    return returns.astype(np.float32)


def early_leaver():
    """The last asset has returns only in the first 25 rows, the first only in the last 25."""
    returns = simulate_returns(400, 5)
    returns[25:, -1] = np.nan
    returns[:-25, 0] = np.nan
    return returns


PANELS = {
    "complete": simulate_returns(90, 6),
    "missing": simulate_returns(90, 6, missing=0.3),
    "fewer rows than assets": simulate_returns(24, 40, missing=0.05),
    "one outlier": np.vstack([simulate_returns(60, 3, degrees=50), np.full((1, 3), 0.9, np.float32)]),
    "early leaver": early_leaver(),
    "two years": simulate_returns(504, 4, missing=0.1),
}


@pytest.fixture(params=PANELS)
def returns(request):
    return PANELS[request.param]


def test_published_constants():
    assert (panel.WINSOR_LIMIT, panel.FAST_HALFLIFE, panel.VOLATILITY_HALFLIVES) == (3.0, 63.0, (63.0, 21.0))
    assert panel.VOLATILITY_FLOOR == 0.1
    assert (panel.RECENT_ROWS, panel.ROBUST_LIMIT) == (252, 2.0)


def test_volatilities_equal_loops(returns):
    window = prepare_window(returns)
    for i in range(returns.shape[1]):
        expected = {
            "window": reference.volatility(returns, i),
            "halflife_63": reference.volatility(returns, i, 63.0),
            "halflife_21": reference.volatility(returns, i, 21.0),
            "halflife_126": reference.volatility(returns, i, 126.0),
            "cut_21": reference.volatility(returns, i, 21.0, cut=2.0),
            "absolute": reference.volatility(returns, i, power=1),
            "absolute_21": reference.volatility(returns, i, 21.0, power=1),
        }
        assert tuple(expected) == panel.VOLATILITIES
        np.testing.assert_allclose(window.volatilities[:, i], list(expected.values()), rtol=1e-12)
        assert window.n_effective[i] == pytest.approx(reference.effective(returns, i), rel=1e-12)


def test_rows_of_the_last_year_count_alike_and_older_ones_less():
    weights = memory_weights(np, 504)  # oldest first: the last row has age 1
    np.testing.assert_array_equal(weights[-252:], 1.0)
    assert weights[0] == 0.25
    assert weights[504 - 378] == pytest.approx((2 / 3) ** 2, rel=1e-15)
    assert (np.diff(weights[:253]) > 0).all()
    np.testing.assert_array_equal(memory_weights(np, 252), 1.0)
    np.testing.assert_array_equal(memory_weights(np, 30), 1.0)


def test_a_window_of_a_year_keeps_every_bit_of_equal_weights():
    """Up to 252 rows nothing is multiplied by ones, so plain sums over rows are met to the bit."""
    returns = simulate_returns(252, 5)
    window = prepare_window(returns)
    np.testing.assert_array_equal(window.weights, 1.0)
    np.testing.assert_array_equal(window.n_effective, window.n_observed)
    deviations = returns.astype(float) - returns.astype(float).sum(axis=0) / 252
    np.testing.assert_array_equal(window.volatilities[0], np.sqrt((deviations**2).sum(axis=0) / 251))
    z = window.standardised
    np.testing.assert_array_equal(correlation_factor(window), z / np.sqrt((z**2).sum(axis=0)))
    assert prepare_window(simulate_returns(253, 5)).weights[0] == pytest.approx((252 / 253) ** 2, rel=1e-15)


def test_textbook_moments_weigh_all_rows_alike():
    window = prepare_window(simulate_returns(600, 4), winsor_limit=None)
    np.testing.assert_array_equal(window.weights, 1.0)
    np.testing.assert_array_equal(window.n_effective, 600)
    expected = simulate_returns(600, 4).astype(float).std(axis=0, ddof=1)
    np.testing.assert_allclose(window.volatilities[0], expected, rtol=1e-12)


def test_variance_of_weighted_rows_is_unbiased():
    """Of independent rows the expected sum of w (x - mean)^2 is a trace; what it is divided by is that, nearly.

    The mean is of all rows alike, the degree of freedom that of a mean by the same weights: 3 parts in 10,000 apart,
    where the sum of weights alone would be 20 too large.
    """
    returns = simulate_returns(504, 3)
    w, window = memory_weights(np, 504), prepare_window(returns)
    deviations = returns - returns.astype(float).mean(axis=0)
    divisor = w @ deviations**2 / window.volatilities[0] ** 2
    centring = np.eye(504) - 1 / 504
    np.testing.assert_allclose(np.trace(centring @ np.diag(w) @ centring) / divisor, 1.0, atol=5e-4)


def test_a_jump_counts_less_in_the_robust_volatilities():
    returns = simulate_returns(120, 1, degrees=50)
    jump = returns.copy()
    jump[-5] = 0.5
    before, after = (
        dict(zip(panel.VOLATILITIES, prepare_window(x).volatilities[:, 0], strict=True)) for x in (returns, jump)
    )
    rise = {name: after[name] / before[name] for name in before}
    assert rise["halflife_21"] > 5
    assert rise["absolute_21"] < 0.5 * rise["halflife_21"]
    assert rise["cut_21"] < 0.75 * rise["halflife_21"]


@pytest.mark.parametrize("limit", [3.0, 1.0, None])
def test_standardised_returns_equal_loops(returns, limit):
    window = prepare_window(returns, winsor_limit=limit)
    expected = reference.standardised(returns.astype(float), limit)
    np.testing.assert_allclose(window.standardised, np.nan_to_num(expected), rtol=0.0, atol=1e-12)
    np.testing.assert_array_equal(window.observed, ~np.isnan(returns))
    np.testing.assert_array_equal(window.n_observed, (~np.isnan(returns)).sum(axis=0))
    np.testing.assert_array_equal(window.returns, np.nan_to_num(returns))


def test_the_cut_is_at_three_standard_deviations_by_default():
    returns = PANELS["one outlier"]
    np.testing.assert_array_equal(
        prepare_window(returns).standardised, prepare_window(returns, winsor_limit=3.0).standardised
    )
    # The outlier is cut to 3 and the column demeaned once more: 61 rows move by what was cut off, over 61.
    window, uncut = prepare_window(returns), prepare_window(returns, winsor_limit=None)
    assert (uncut.standardised[-1] > 5).all()
    np.testing.assert_allclose(window.standardised[-1] - window.standardised[0], 3 - uncut.standardised[0], rtol=1e-12)
    np.testing.assert_allclose(window.standardised.sum(axis=0), 0.0, atol=1e-12)
    np.testing.assert_array_equal(uncut.tail_share, 0.0)
    np.testing.assert_allclose(window.tail_share, 1 / 61, rtol=1e-12)


def test_kurtosis_is_that_of_the_uncut_returns(returns):
    window = prepare_window(returns)
    for i in range(returns.shape[1]):
        x = returns[~np.isnan(returns[:, i]), i].astype(float)
        scaled = [(value - x.mean()) / reference.volatility(returns, i) for value in x]
        assert window.kurtosis[i] == pytest.approx(sum(value**4 for value in scaled) / len(x), rel=1e-10)
        assert window.tail_share[i] == pytest.approx(sum(abs(value) > 3 for value in scaled) / len(x), abs=1e-15)


def test_volatility_of_a_stale_price_has_a_floor():
    returns = simulate_returns(400, 3)
    returns[40:, 1] = returns[:40, 1].mean()
    window, half_63, half_21 = prepare_window(returns).volatilities[:3]
    np.testing.assert_allclose(half_21[1], 0.1 * window[1], rtol=1e-12)
    assert half_63[1] >= 0.1 * window[1]
    assert (half_21[[0, 2]] > 0.3 * window[[0, 2]]).all()


def test_exponential_weights():
    weights = exponential_weights(np, 127, 63.0)
    np.testing.assert_allclose(weights[[-1, -64, 0]], [1.0, 0.5, 0.25], rtol=1e-14)
    np.testing.assert_allclose(weights[1:] / weights[:-1], 2 ** (1 / 63), rtol=1e-13)
    assert (exponential_weights(np, 200_000, 21.0) > 0).all()


@pytest.mark.parametrize("halflife", [None, 63.0, 5.0])
def test_correlations_equal_loops(returns, halflife):
    factor = correlation_factor(prepare_window(returns), halflife=halflife)
    expected = reference.correlation(reference.standardised(returns.astype(float)), halflife or reference.WINDOW)
    np.testing.assert_allclose(factor.T @ factor, expected, rtol=0.0, atol=1e-11)


def test_plain_correlation_is_numpys():
    returns = PANELS["complete"].astype(float)
    factor = correlation_factor(prepare_window(returns, winsor_limit=None))
    np.testing.assert_allclose(factor.T @ factor, np.corrcoef(returns.T), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("halflife", [None, 63.0])
def test_correlations_are_positive_semi_definite_with_a_unit_diagonal(returns, halflife):
    factor = correlation_factor(prepare_window(returns), halflife=halflife)
    R = factor.T @ factor
    np.testing.assert_allclose(np.diag(R), 1.0, rtol=1e-13)
    assert np.linalg.eigvalsh(R).min() > -1e-13
    assert np.abs(R).max() <= 1 + 1e-13


def test_rank_is_that_of_demeaned_returns():
    factor = correlation_factor(prepare_window(PANELS["fewer rows than assets"]))
    eigenvalues = np.linalg.eigvalsh(factor.T @ factor)
    assert (eigenvalues[: 40 - 23] < 1e-13).all()
    assert (eigenvalues[40 - 23 :] > 1e-6).all()


def test_arithmetic_is_float64(returns):
    for value in prepare_window(returns):
        assert value is None or value.dtype == np.float64
