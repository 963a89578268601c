# SPDX-License-Identifier: Apache-2.0
"""CM-IEWMA against the paper's problem as a convex solver solves it, on moving averages by pandas."""

from __future__ import annotations

import cvxpy
import numpy as np
import pandas as pd
import pytest

from sigmahat_trainer.baselines.cm_iewma import Record, cm_iewma, combination_weights

HALFLIVES = ((5.0, 10.0), (10.0, 21.0), (21.0, 63.0))


def expert(returns, halflives, added):
    """The forecast after the last row, sums by pandas."""
    variances = (returns**2).ewm(halflife=halflives[0]).mean()
    standardised = returns / np.sqrt(variances)
    moment = np.array(
        [
            [(standardised[i] * standardised[j]).ewm(halflife=halflives[1]).mean().iloc[-1] for i in returns]
            for j in returns
        ]
    )
    volatility = np.sqrt(variances.iloc[-1].to_numpy())
    scale = volatility / np.sqrt(moment.diagonal())
    covariance = moment * np.outer(scale, scale)
    return covariance + added * np.diag(covariance.diagonal())


def combined(returns, days=10):
    """(weights, covariance): the factors of inverses by NumPy, the likelihood term by term in cvxpy."""
    frame = pd.DataFrame(returns)
    weights = cvxpy.Variable(len(HALFLIVES), nonneg=True)

    def factors(t):
        """L of each expert, of what is known before row t."""
        forecasts = [expert(frame.iloc[:t], pair, 0.05 * (k == 0)) for k, pair in enumerate(HALFLIVES)]
        return [np.linalg.cholesky(np.linalg.inv(forecast)) for forecast in forecasts]

    terms = []
    for t in range(len(returns) - days, len(returns)):
        each = factors(t)
        diagonal = np.column_stack([np.diag(factor) for factor in each]) @ weights
        whitened = np.column_stack([factor.T @ returns[t] for factor in each]) @ weights
        terms.append(cvxpy.sum(cvxpy.log(diagonal)) - 0.5 * cvxpy.sum_squares(whitened))
    cvxpy.Problem(cvxpy.Maximize(sum(terms)), [cvxpy.sum(weights) == 1]).solve()
    factor = np.tensordot(weights.value, factors(len(returns)), 1)
    return weights.value, np.linalg.inv(factor @ factor.T)


@pytest.fixture(scope="module")
def returns():
    """Volatility that doubled 25 days ago: neither the fastest nor the slowest expert is right."""
    rng = np.random.default_rng(5)
    scale = np.where(np.arange(70) < 45, 0.01, 0.02)[:, None]
    return scale * (rng.standard_normal((70, 1)) + rng.standard_normal((70, 4)))


def test_it_is_the_solution_of_the_problem_in_the_paper(returns):
    weights, expected = combined(returns)
    assert sorted(weights > 0.05) == [False, True, True]  # a corner would prove less
    np.testing.assert_allclose(cm_iewma(returns, halflives=HALFLIVES) / expected, 1.0, atol=1e-4)


def test_weights_are_those_of_the_expert_that_was_right():
    """Of forecasts that are the truth, half and four times it, on as many days as one likes."""
    rng = np.random.default_rng(0)
    roots = np.array([1.0, 2**-0.5, 2.0])  # of one over the variance
    draws = rng.standard_normal(40_000)
    whitened = roots[:, None] * draws
    record = Record(np.tile(roots, (len(draws), 1)), whitened @ whitened.T)
    weights = combination_weights(record)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ roots == pytest.approx(1 / draws.std(), abs=0.01)


def test_one_expert_is_the_iterated_average(returns):
    expected = expert(pd.DataFrame(returns), HALFLIVES[2], 0.05)
    found = cm_iewma(returns, halflives=HALFLIVES[2:])
    np.testing.assert_allclose(found / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-10)


def test_more_assets_than_observations_have_no_combination():
    rng = np.random.default_rng(1)
    with pytest.raises(np.linalg.LinAlgError):
        cm_iewma(rng.standard_normal((30, 40)))
