# SPDX-License-Identifier: Apache-2.0
"""Scores of one estimate, by hand and against a population."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from sigmahat_trainer.evaluation.scores import (
    RandomPortfolios,
    draw_random,
    hold,
    negative_log_likelihood,
    no_portfolio,
    qlike,
    turnover,
)


def test_scores_of_two_assets_by_hand():
    """Variances 1 and 4, uncorrelated: weights 0.8 and 0.2, forecast variance 0.8."""
    forward = np.array([[1.0, 0.0], [0.0, -5.0], [1.0, 1.0]])
    random = RandomPortfolios(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.5, -0.5]]), half=np.array([1]))
    held = hold(np.diag([1.0, 4.0]), forward, random)
    score = held.score
    np.testing.assert_allclose(held.gmv_weights, [0.8, 0.2])
    np.testing.assert_allclose(held.gmv_returns, [0.8, -1.0, 1.0])
    realised = (0.64 + 1 + 1) / 3
    assert score.gmv_variance == pytest.approx(realised)
    assert score.gmv_log_variance == pytest.approx(math.log(realised))
    assert score.gmv_square == pytest.approx(realised / 0.8)
    assert score.gmv_error == pytest.approx(0.5 * math.log(realised / 0.8))
    assert score.gmv_gross == pytest.approx(1.0)
    assert score.gmv_names == pytest.approx(1 / 0.68)
    assert score.long_only_variance == pytest.approx(realised)  # the bounds do not bind
    assert score.long_only_names == pytest.approx(1 / 0.68)
    # The second asset alone tracks half of each: its active weights are -0.5 and 0.5, of which 1.25 was forecast.
    np.testing.assert_allclose(held.tracking_returns, [-0.5, -2.5, 0.0])
    tracking = (0.25 + 6.25) / 3
    assert score.tracking_variance == pytest.approx(tracking)
    assert score.tracking_log_variance == pytest.approx(math.log(tracking))
    assert score.tracking_square == pytest.approx(tracking / 1.25)
    assert score.gmv_largest == pytest.approx(0.8)
    assert score.log10_condition == pytest.approx(math.log10(4))
    # 1/N is one of the halves below.
    assert score.equal_weight_square == pytest.approx(2.0)
    assert score.equal_weight_qlike == pytest.approx(2.0 - math.log(2.0) - 1)
    # ln det = ln 4; r' inv(Sigma) r = 1, 25 / 4, 1 + 1 / 4 of the days.
    expected = (math.log(2 * math.pi) + (math.log(4) + (1 + 6.25 + 1.25) / 3) / 2) / 2
    assert score.negative_log_likelihood == pytest.approx(expected)
    # Random portfolios: halves realise (0.25 + 6.25 + 1) / 3 = 2.5 where 1.25 was forecast, the first asset 2/3 for 1.
    ratios = [2.5 / 1.25, (2 / 3) / 1.0]
    assert score.random_long_only_square == pytest.approx(sum(ratios) / 2)
    assert score.random_long_only_qlike == pytest.approx(sum(r - math.log(r) - 1 for r in ratios) / 2)
    ratio = (0.25 + 6.25 + 0) / 3 / 1.25
    assert score.random_long_short_square == pytest.approx(ratio)
    assert score.random_long_short_qlike == pytest.approx(ratio - math.log(ratio) - 1)


def test_short_sales_count_in_gross_leverage_and_are_kept_out_of_the_long_only_portfolio():
    covariance = np.array([[1.0, 1.5], [1.5, 4.0]])
    held = hold(covariance, np.ones((3, 2)), draw_random(np.random.default_rng(0), 2))
    np.testing.assert_allclose(held.gmv_weights, [1.25, -0.25])
    assert held.score.gmv_gross == pytest.approx(1.5)
    assert held.score.long_only_names == pytest.approx(1.0)
    np.testing.assert_allclose(held.long_only_returns, 1.0)


def test_the_truth_is_unbiased_and_its_double_is_not():
    rng = np.random.default_rng(1)
    basis = rng.standard_normal((12, 30))
    covariance = 1e-4 * basis @ basis.T
    forward = rng.multivariate_normal(np.zeros(12), covariance, 20_000)
    random = draw_random(rng, 12)
    score, double = hold(covariance, forward, random).score, hold(2 * covariance, forward, random).score
    for name in (name for name in score._fields if name.endswith("_square")):
        assert getattr(score, name) == pytest.approx(1.0, abs=0.05)
        assert getattr(double, name) == pytest.approx(0.5 * getattr(score, name))
    assert score.random_long_only_qlike < 0.001 < double.random_long_only_qlike
    assert double.gmv_variance == pytest.approx(score.gmv_variance)


def test_the_likelihood_is_that_of_scipy_an_asset_and_day():
    rng = np.random.default_rng(3)
    basis = rng.standard_normal((7, 12))
    covariance = 1e-4 * basis @ basis.T
    returns = 0.01 * rng.standard_normal((5, 7))
    expected = -multivariate_normal(np.zeros(7), covariance).logpdf(returns).mean() / 7
    assert negative_log_likelihood(covariance, returns) == pytest.approx(expected, rel=1e-10)


def test_qlike_is_least_where_the_forecast_is_right():
    ratios = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    values = qlike(ratios)
    assert values[2] == 0
    assert (np.diff(values) < 0).tolist() == [True, True, False, False]
    assert values[3] > values[1]  # risk twice the forecast is worse than half
    assert np.isfinite(qlike(np.zeros(1))).all()


def test_turnover_by_hand():
    """Half and half; the first doubles: 2/3 and 1/3 of what is there; back to half and half is 1/3 of trades."""
    half = np.array([0.5, 0.5])
    assert turnover(half, half, np.array([[1.0, 0.0]])) == pytest.approx(1 / 3)
    assert turnover(half, half, np.zeros((4, 2))) == 0
    assert turnover(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.zeros((4, 2))) == pytest.approx(2.0)


def test_no_portfolio_is_nan_throughout():
    held = no_portfolio(3, 5)
    assert np.isnan(held.score).all()
    assert np.isnan(held.gmv_weights).all()
    assert held.gmv_returns.shape == held.long_only_returns.shape == held.tracking_returns.shape == (5,)


def test_a_singular_estimate_has_no_score():
    with pytest.raises(np.linalg.LinAlgError):
        hold(np.ones((2, 2)), np.ones((3, 2)), draw_random(np.random.default_rng(0), 2))
