# SPDX-License-Identifier: Apache-2.0
"""The ridge of volatilities: its statistics by loops, its coefficients by the normal equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sigmahat_trainer.baselines.closed_form import qis_correlation
from sigmahat_trainer.baselines.ridge import STATISTICS, Ridge, fit_ridge, ridge_qis, ridge_volatilities, statistics
from sigmahat_trainer.data.episodes import Episode
from sigmahat_trainer.data.panels import ReturnPanel

HORIZON = 10


@pytest.fixture(scope="module")
def panel():
    """Volatilities that wander, each asset at its own level; now and then nothing moves."""
    rng = np.random.default_rng(3)
    volatility = np.exp(0.05 * rng.standard_normal((400, 8)).cumsum(axis=0)) * np.linspace(0.005, 0.03, 8)
    returns = volatility * (rng.standard_normal((400, 1)) + rng.standard_normal((400, 8)))
    returns[rng.random(returns.shape) < 0.02] = 0.0
    dates = np.arange(np.datetime64("2005-01-01"), np.datetime64("2005-01-01") + 400)
    return ReturnPanel("north", returns.astype(np.float32), dates, np.full((400, 4), np.nan, np.float32))


def weighted(values, halflife):
    ages = range(len(values) - 1, -1, -1)
    weights = [2 ** (-age / halflife) for age in ages]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def test_statistics_are_those_of_loops(panel):
    returns = panel.returns[:120].astype(float)
    x = returns - returns.mean(axis=0)
    market = [row.mean() for row in x]
    found = {"ln_volatility_21": [], "ln_cut_63": [], "ln_absolute_10": [], "ln_residual": [], "ln_downside_63": []}
    found |= {"ln_largest_21": [], "ln_kurtosis": [], "still_share": []}
    for i in range(8):
        column = x[:, i].tolist()
        sd = math.sqrt(sum(v**2 for v in column) / 119)
        slope = sum(m * v for m, v in zip(market, column, strict=True)) / sum(m**2 for m in market)
        left = [v - slope * m for m, v in zip(market, column, strict=True)]
        found["ln_volatility_21"].append(0.5 * math.log(weighted([v**2 for v in column], 21)))
        found["ln_cut_63"].append(0.5 * math.log(weighted([min(abs(v), 2 * sd) ** 2 for v in column], 63)))
        found["ln_absolute_10"].append(math.log(weighted([abs(v) for v in column], 10)))
        found["ln_residual"].append(0.5 * math.log(sum(v**2 for v in left) / 120))
        found["ln_downside_63"].append(0.5 * math.log(weighted([min(v, 0) ** 2 for v in column], 63)))
        found["ln_largest_21"].append(math.log(max(abs(v) for v in column[-21:])))
        found["ln_kurtosis"].append(math.log(sum((v / sd) ** 4 for v in column) / 120))
        found["still_share"].append(sum(v == 0 for v in returns[:, i].tolist()) / 120)
    ours = statistics(returns)
    assert len(set(STATISTICS)) == ours.shape[1] == 32
    for name, values in found.items():
        expected = np.array(values) - np.mean(values)
        np.testing.assert_allclose(ours[:, STATISTICS.index(name)], expected, rtol=1e-9, atol=1e-12, err_msg=name)


def test_coefficients_solve_the_normal_equations(panel):
    episodes = [Episode(panel, stop, 120, np.arange(8)) for stop in range(120, 380, 5)]
    ridge = fit_ridge(episodes, horizon=HORIZON)
    rows, values = [], []
    for episode in episodes:
        logs = 0.5 * np.log((episode.forward(HORIZON) ** 2).mean(axis=0))
        rows.append(statistics(episode.past()))
        values.append(logs - logs.mean())
    X, y = np.concatenate(rows), np.concatenate(values)
    scale = X.std(axis=0)
    Z = X / scale
    expected = np.linalg.solve(Z.T @ Z + ridge.penalty * np.eye(Z.shape[1]), Z.T @ y) / scale
    np.testing.assert_allclose(ridge.coefficients, expected, rtol=1e-6, atol=1e-9)
    assert ((y - X @ ridge.coefficients) ** 2).sum() < 0.9 * (y**2).sum()


def test_assets_that_stop_moving_teach_nothing(panel):
    still = panel.returns.copy()
    still[300:, 0] = 0.0
    episodes = [Episode(panel, 300, 120, np.arange(1, 8)), Episode(panel, 250, 120, np.arange(8))]
    stopped = [Episode(panel._replace(returns=still), 300, 120, np.arange(8)), episodes[1]]
    expected = fit_ridge(episodes, horizon=HORIZON)
    np.testing.assert_allclose(fit_ridge(stopped, horizon=HORIZON).coefficients, expected.coefficients)


def test_forecasts_scale_with_the_returns_and_stay_within_the_past(panel, tmp_path):
    returns = panel.returns[:120].astype(float)
    for slope in (0.3, 50.0):
        ridge = Ridge(np.full(len(STATISTICS), slope / len(STATISTICS)), 1.0)
        found = ridge_volatilities(returns, ridge)
        np.testing.assert_allclose(ridge_volatilities(7 * returns, ridge), 7 * found)
        x = returns - returns.mean(axis=0)
        past = [x.std(axis=0, ddof=1)]
        past += [
            [math.sqrt(weighted((x[:, i] ** 2).tolist(), halflife)) for i in range(8)]
            for halflife in (5, 10, 21, 42, 63, 126)
        ]
        assert (found <= np.max(past, axis=0) * (1 + 1e-12)).all()
        assert (found >= np.min(past, axis=0) * (1 - 1e-12)).all()
    ridge.save(tmp_path / "ridge.json")
    again = Ridge.load(tmp_path / "ridge.json")
    np.testing.assert_array_equal(again.coefficients, ridge.coefficients)
    covariance, qis = ridge_qis(again)(returns), qis_correlation(returns)
    np.testing.assert_allclose(np.sqrt(covariance.diagonal()), found)
    volatility = np.sqrt(qis.diagonal())
    np.testing.assert_allclose(covariance / np.outer(found, found), qis / np.outer(volatility, volatility), atol=1e-12)


def test_a_ridge_of_other_statistics_is_refused(tmp_path):
    (tmp_path / "ridge.json").write_text('{"coefficients": {"ln_window": 1.0}, "penalty": 1.0}')
    with pytest.raises(ValueError, match="other statistics than this version: run sigmahat fit-baselines again"):
        Ridge.load(tmp_path / "ridge.json")
