# SPDX-License-Identifier: Apache-2.0
"""The tests of significance against loops, hand-made numbers, and how often they reject what is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from sigmahat_trainer.evaluation.significance import (
    HAC_LAGS,
    bootstrap_variance_test,
    confidence_set,
    moments_of,
    newey_west_t,
    variance_test,
)


def newey_west_by_loop(values, lags):
    """Newey, West (1987), equation 5: autocovariances with divisor n, weights 1 - lag / (lags + 1)."""
    n = len(values)
    mean = sum(values) / n
    total = 0.0
    for lag in range(-lags, lags + 1):
        for t in range(n):
            if 0 <= t - lag < n:
                total += (1 - abs(lag) / (lags + 1)) * (values[t] - mean) * (values[t - lag] - mean) / n
    return mean / math.sqrt(total / n)


@pytest.mark.parametrize("lags", [0, 1, 3, 10])
@pytest.mark.parametrize("n", [12, 107])
def test_newey_west_equals_a_loop(n, lags):
    rng = np.random.default_rng(n)
    noise = rng.standard_normal(n + 1)
    values = 0.3 + noise[1:] + 0.7 * noise[:-1]
    assert newey_west_t(values, lags) == pytest.approx(newey_west_by_loop(values, lags), rel=1e-12)
    assert newey_west_t(values) == newey_west_t(values, HAC_LAGS)


def test_newey_west_by_hand():
    """1, 2, 3, 6: deviations -2, -1, 0, 3; autocovariances 14/4, 2/4, -3/4; with two lags 3.5 + 2 (2/3 x 0.5 - 1/4)."""
    long_run = 3.5 + 2 * (2 / 3 * 0.5 + 1 / 3 * -0.75)
    assert newey_west_t(np.array([1.0, 2.0, 3.0, 6.0]), 2) == pytest.approx(3.0 / math.sqrt(long_run / 4))
    assert newey_west_t(np.array([1.0, 2.0, 3.0, 6.0]), 0) == pytest.approx(3.0 / math.sqrt(3.5 / 4))


def test_newey_west_at_its_borders():
    assert newey_west_t(np.zeros(20), 3) == 0.0
    assert newey_west_t(np.array([0.4]), 3) == 0.0  # one date proves nothing
    # More lags than there are: autocovariances 1 and -1/2, the latter weighed 3/4.
    assert newey_west_t(np.array([1.0, 3.0]), 3) == pytest.approx(2 / math.sqrt((1 - 2 * 0.75 * 0.5) / 2))


# ------------------------------------------------------------------------------------------------- test of variances


def pair(rng, n, *, ratio=1.0, correlation=0.6, persistence=0.0):
    """Moments of two strategies; the second variance is 1 / ratio of the first, both move with one volatility."""
    first = rng.standard_normal(n)
    second = correlation * first + math.sqrt(1 - correlation**2) * rng.standard_normal(n)
    level, path = 0.0, np.empty(n)
    for t in range(n):
        level = persistence * level + 0.3 * rng.standard_normal()
        path[t] = level
    first, second = 0.01 * np.exp(path) * first, 0.01 / math.sqrt(ratio) * np.exp(path) * second
    return moments_of((first, first**2), (second, second**2))


def test_variance_test_of_independent_days_equals_the_delta_method():
    """Gaussian pairs, correlation r: the standard error of the log variance ratio is 2 sqrt((1 - r^2) / n)."""
    covariance = 0.6 * math.sqrt(1.3)
    gaussian = np.random.default_rng(1).multivariate_normal([0, 0], [[1.3, covariance], [covariance, 1]], 20_000)
    moments = moments_of((gaussian[:, 0], gaussian[:, 0] ** 2), (gaussian[:, 1], gaussian[:, 1] ** 2))
    result = variance_test(moments)
    assert result.log_ratio == pytest.approx(math.log(gaussian[:, 0].var() / gaussian[:, 1].var()), rel=1e-9)
    assert result.standard_error == pytest.approx(2 * math.sqrt((1 - 0.36) / 20_000), rel=0.05)
    assert result.p_value == pytest.approx(2 * norm.sf(abs(result.log_ratio) / result.standard_error), rel=1e-6)


def test_variance_test_sees_that_volatility_lasts():
    """Two independent strategies of one persistent volatility each: many days are fewer observations."""
    rng = np.random.default_rng(2)
    one, two = (pair(rng, 4_000, persistence=0.95) for _ in range(2))
    result = variance_test(np.column_stack([one[:, 0], two[:, 0], one[:, 2], two[:, 2]]))
    days = rng.permutation(4_000)
    shuffled = np.column_stack([one[days, 0], two[days, 0], one[days, 2], two[days, 2]])
    assert result.standard_error > 1.7 * variance_test(shuffled).standard_error


def test_variance_tests_reject_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    p_values = [variance_test(pair(rng, 500, persistence=0.9)).p_value for _ in range(200)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.12
    p_values = [bootstrap_variance_test(pair(rng, 250, persistence=0.9), resamples=99, seed=k) for k in range(60)]
    assert np.mean(np.array(p_values) < 0.1) < 0.25


def test_variance_tests_find_a_difference_and_agree_about_it():
    moments = pair(np.random.default_rng(4), 750, ratio=1.25, correlation=0.9)
    assert variance_test(moments).p_value < 0.01
    assert bootstrap_variance_test(moments, resamples=499) < 0.02
    near = pair(np.random.default_rng(5), 750, ratio=1.05, correlation=0.9)
    assert bootstrap_variance_test(near, resamples=999) == pytest.approx(variance_test(near).p_value, abs=0.1)


def test_the_order_of_two_strategies_does_not_matter():
    moments = pair(np.random.default_rng(6), 300, ratio=1.1)
    swapped = moments[:, [1, 0, 3, 2]]
    assert variance_test(swapped).log_ratio == pytest.approx(-variance_test(moments).log_ratio)
    assert variance_test(swapped).p_value == pytest.approx(variance_test(moments).p_value)
    assert bootstrap_variance_test(swapped, resamples=99) == bootstrap_variance_test(moments, resamples=99)


def test_the_same_strategy_twice_is_equal_to_itself():
    moments = pair(np.random.default_rng(7), 100)
    same = moments[:, [0, 0, 2, 2]]
    assert variance_test(same) == (0.0, 0.0, 1.0)
    assert bootstrap_variance_test(same) == 1.0


def test_too_few_days_for_the_bootstrap_are_an_error():
    with pytest.raises(ValueError, match="at least two blocks of 10 days, got 19 days"):
        bootstrap_variance_test(pair(np.random.default_rng(8), 19))


# --------------------------------------------------------------------------------------------------- confidence set


def test_confidence_set_keeps_the_good_and_drops_the_bad():
    rng = np.random.default_rng(9)
    common = rng.standard_normal(100)
    losses = {name: common + 0.2 * rng.standard_normal(100) + worse for name, worse in (("a", 0), ("b", 0), ("c", 0.5))}
    p_values = confidence_set(losses, resamples=200)
    assert set(p_values) == {"a", "b", "c"}
    assert p_values["c"] < 0.05
    assert min(p_values["a"], p_values["b"]) > 0.1
    assert max(p_values.values()) == 1.0


def test_methods_of_the_same_losses_share_their_place():
    rng = np.random.default_rng(10)
    good, bad = rng.standard_normal(60), rng.standard_normal(60) + 3
    p_values = confidence_set({"bad": bad, "twin": bad.copy(), "good": good}, resamples=100)
    assert p_values["twin"] == p_values["bad"] < 0.05
    assert p_values["good"] == 1.0
    assert confidence_set({"one": good, "two": good}) == {"one": 1.0, "two": 1.0}


def test_one_date_tells_nothing_apart():
    assert confidence_set({"good": np.zeros(1), "bad": np.ones(1)}) == {"good": 1.0, "bad": 1.0}
