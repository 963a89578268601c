# SPDX-License-Identifier: Apache-2.0
"""HAR against scikit-learn's regression on rows that a loop over assets and days collects."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from sigmahat_trainer.baselines.closed_form import qis_correlation
from sigmahat_trainer.baselines.har import har_qis, har_variances

HORIZON = 10


def looped(returns, horizon):
    """One regression over all assets and days, day by day."""
    squares = (returns - returns.mean(axis=0)) ** 2
    n_obs, n_assets = squares.shape
    level = squares.sum(axis=0) / (n_obs - 1)
    rows, values = [], []
    for i in range(n_assets):
        own = squares[:, i] / level[i]
        for t in range(20, n_obs - horizon):
            rows.append([own[t], own[t - 4 : t + 1].mean(), own[t - 20 : t + 1].mean()])
            values.append(own[t + 1 : t + 1 + horizon].mean())
    model = LinearRegression().fit(rows, values)
    forecasts = []
    for i in range(n_assets):
        own = squares[:, i] / level[i]
        (forecast,) = model.predict([[own[-1], own[-5:].mean(), own[-21:].mean()]])
        past = [own[t : t + horizon].mean() for t in range(n_obs - horizon + 1)]
        forecasts.append(level[i] * min(max(forecast, min(past)), max(past)))
    return np.array(forecasts)


@pytest.fixture(scope="module")
def returns():
    """Volatilities that wander, each asset at its own level."""
    rng = np.random.default_rng(2)
    volatility = np.exp(0.1 * rng.standard_normal((120, 5)).cumsum(axis=0)) * np.linspace(0.005, 0.03, 5)
    return volatility * (rng.standard_normal((120, 1)) + rng.standard_normal((120, 5)))


def test_variances_are_those_of_one_regression_over_all_assets(returns):
    for rows in (returns, returns[:80], returns[-50:]):
        np.testing.assert_allclose(har_variances(rows, horizon=HORIZON), looped(rows, HORIZON), rtol=1e-9)


def test_the_correlation_is_that_of_qis(returns):
    covariance, qis = har_qis(returns, horizon=HORIZON), qis_correlation(returns)
    np.testing.assert_allclose(covariance.diagonal(), har_variances(returns, horizon=HORIZON))

    def correlation(matrix):
        volatility = np.sqrt(matrix.diagonal())
        return matrix / np.outer(volatility, volatility)

    np.testing.assert_allclose(correlation(covariance), correlation(qis), atol=1e-12)


def test_forecasts_scale_with_the_returns_and_stay_within_the_past(returns):
    np.testing.assert_allclose(
        har_variances(7 * returns, horizon=HORIZON), 49 * har_variances(returns, horizon=HORIZON)
    )
    calm_then_wild = np.concatenate([returns, 20 * returns[-1:]])
    squares = (calm_then_wild - calm_then_wild.mean(axis=0)) ** 2
    worst = np.max([squares[t : t + HORIZON].mean(axis=0) for t in range(len(squares) - HORIZON + 1)], axis=0)
    assert (har_variances(calm_then_wild, horizon=HORIZON) <= worst * (1 + 1e-12)).all()


def test_a_window_without_a_month_and_a_holding_period_has_no_forecast(returns):
    with pytest.raises(np.linalg.LinAlgError, match="more than 31 observations, got 31"):
        har_variances(returns[:31], horizon=HORIZON)
