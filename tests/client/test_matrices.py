# SPDX-License-Identifier: Apache-2.0
"""Helpers around matrices and prices, against loops from the definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import InvalidRequest, annualise, returns_from_prices, single_factor, to_correlation
from sigmahat_client.matrices import plot_matrix
from sigmahat_kernels.targets import mix_targets

ASSETS = ["A", "B", "C", "D"]


@pytest.fixture
def covariance() -> pd.DataFrame:
    draws = 0.01 * np.random.default_rng(2).standard_normal((40, 4)) @ np.triu(np.ones((4, 4)))
    return pd.DataFrame(np.cov(draws.T), ASSETS, ASSETS)


def test_correlation_is_covariance_over_both_volatilities(covariance: pd.DataFrame) -> None:
    found = to_correlation(covariance)
    for a in ASSETS:
        for b in ASSETS:
            wanted = covariance.loc[a, b] / (covariance.loc[a, a] * covariance.loc[b, b]) ** 0.5
            assert found.loc[a, b] == pytest.approx(wanted, rel=1e-14)
    assert (np.diag(found) == 1.0).all()
    stack = np.stack([covariance, 4 * covariance])
    np.testing.assert_allclose(to_correlation(stack), np.stack([found, found]), rtol=1e-14)
    assert stack[0, 0, 0] == covariance.iloc[0, 0]  # what was given is left alone


def test_annual_volatility_grows_by_the_root(covariance: pd.DataFrame) -> None:
    year = annualise(covariance, 252)
    assert isinstance(year, pd.DataFrame)
    np.testing.assert_allclose(np.sqrt(np.diag(year)), np.sqrt(252) * np.sqrt(np.diag(covariance)), rtol=1e-14)
    # Sums of 252 independent draws have that covariance.
    sums = np.random.default_rng(3).multivariate_normal(np.zeros(4), covariance, (4000, 252)).sum(axis=1)
    np.testing.assert_allclose(np.cov(sums.T) / year, np.ones((4, 4)), atol=0.1)


def test_single_factor_is_the_regression_on_the_mean_of_standardised_returns(covariance: pd.DataFrame) -> None:
    found = single_factor(covariance)
    weights = 1 / np.sqrt(np.diag(covariance))  # of the factor, whatever its scale
    variance = weights @ covariance.to_numpy() @ weights
    for i, asset in enumerate(ASSETS):
        beta = covariance.to_numpy()[i] @ weights / np.sqrt(variance)
        assert found.loadings[asset] == pytest.approx(beta, rel=1e-12)
        assert found.idiosyncratic[asset] == pytest.approx(covariance.iloc[i, i] - beta**2, rel=1e-10)


def test_single_factor_gives_the_models_target_back(covariance: pd.DataFrame) -> None:
    """The target of the kernels has the same off-diagonal, and taking the factor out twice changes nothing."""
    values = covariance.to_numpy()
    loadings, idiosyncratic = single_factor(values)
    built = np.outer(loadings, loadings) + np.diag(idiosyncratic)
    target = mix_targets(to_correlation(values)[None], np.array([[0.0, 0.0, 1.0]]))[0]
    np.testing.assert_allclose(to_correlation(built), target, atol=1e-12)
    np.testing.assert_allclose(np.diag(built), np.diag(values), rtol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), r"shape \(..., N, N\), got \(2, 3\)"),
        (pd.DataFrame(np.diag([1.0, 0.0]), ["A", "B"], ["A", "B"]), "must be positive, got 0 of asset 'B'"),
        (np.diag([-1.0, 1.0]), "must be positive, got -1 of asset 0"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix: np.ndarray, message: str) -> None:
    for function in (to_correlation, single_factor):
        with pytest.raises(InvalidRequest, match=message):
            function(matrix)


def test_a_year_has_some_periods() -> None:
    with pytest.raises(InvalidRequest, match="positive number of periods a year, got 0"):
        annualise(np.eye(2), 0)


def test_plot_draws_the_numbers_with_their_labels(covariance: pd.DataFrame) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    ax = plot_matrix(to_correlation(covariance), title="all")
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), to_correlation(covariance))
    assert image.get_clim() == (-1.0, 1.0)
    assert [label.get_text() for label in ax.get_xticklabels()] == ASSETS
    assert ax.get_title() == "all"
    matplotlib.pyplot.close("all")


def test_returns_are_what_a_holder_earns() -> None:
    rng = np.random.default_rng(4)
    dates = pd.bdate_range("2024-01-01", periods=30)
    prices = pd.DataFrame(50 * np.exp(0.02 * rng.standard_normal((30, 2)).cumsum(axis=0)), dates, ["A", "B"])
    simple, logs = returns_from_prices(prices), returns_from_prices(prices, "log")
    assert simple.index.equals(dates[1:])
    for t in range(1, 30):
        assert simple.loc[dates[t], "B"] == pytest.approx(
            (prices["B"].iloc[t] - prices["B"].iloc[t - 1]) / prices["B"].iloc[t - 1], rel=1e-11
        )
    np.testing.assert_allclose((1 + simple).prod(), prices.iloc[-1] / prices.iloc[0], rtol=1e-12)
    np.testing.assert_allclose(logs.sum(), np.log(prices.iloc[-1] / prices.iloc[0]), rtol=1e-10)
    np.testing.assert_array_equal(returns_from_prices(prices.to_numpy()), simple)


def test_a_return_over_a_gap_is_missing() -> None:
    returns = returns_from_prices(np.array([[1.0], [np.nan], [2.0], [4.0]]))
    np.testing.assert_array_equal(returns, [[np.nan], [np.nan], [1.0]])


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        (pd.DataFrame({"A": [1.0, 0.0]}, ["mon", "tue"]), "must be positive, got 0 in row tue, asset 'A'"),
        (np.array([[1.0], [-2.0]]), "got -2 in row 1, column 0"),
        (np.ones((1, 3)), r"2 rows or more, assets\), got float64 of shape \(1, 3\)"),
        (np.array([["a"], ["b"]]), "must be numbers"),
    ],
)
def test_what_are_no_prices_is_refused(prices: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        returns_from_prices(prices)


def test_kind_of_return_is_one_of_two() -> None:
    with pytest.raises(InvalidRequest, match='"simple" or "log", got \'ln\''):
        returns_from_prices(np.ones((2, 2)), "ln")
