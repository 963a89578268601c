# SPDX-License-Identifier: Apache-2.0
"""DCC-NL against loops from its definition, and on returns that were drawn from a known one."""

from __future__ import annotations

import numpy as np
import pytest
from reference import dcc as reference
from reference.estimators import qis_correlation

from sigmahat_kernels.request import PADDING, read_request
from sigmahat_trainer.baselines import dcc
from sigmahat_trainer.baselines.dcc import (
    Dcc,
    Garch,
    composite_likelihood,
    dcc_nl,
    fit_dcc,
    fit_garch,
    forecast_covariance,
)

HORIZON = 21
MOVEMENT = Dcc(0.05, 0.90)
GARCH = [(2e-6, 0.06, 0.91), (8e-6, 0.10, 0.82), (3e-6, 0.12, 0.85), (4e-6, 0.05, 0.93)]


def correlation(n_assets, rng):
    loading = rng.uniform(0.3, 0.9, n_assets)
    C = np.outer(loading, loading)
    np.fill_diagonal(C, 1.0)
    return C


@pytest.fixture(scope="module")
def long():
    """(C, returns) of a DCC-GARCH of known parameters, 3,000 days of 4 assets."""
    rng = np.random.default_rng(4)
    C = correlation(4, rng)
    return C, reference.simulate(rng, C, *MOVEMENT, GARCH, 3_000)


def test_the_likelihood_is_that_of_a_loop_over_days_and_pairs():
    """But for ln(2 pi), twice a day."""
    rng = np.random.default_rng(1)
    C, s = correlation(5, rng), rng.standard_normal((40, 5))
    for movement in (Dcc(0.0, 0.0), Dcc(0.1, 0.7), Dcc(0.3, 0.0)):
        expected = reference.composite_log_likelihood(s, C, *movement) + 40 * np.log(2 * np.pi)
        assert composite_likelihood(s, C, movement) == pytest.approx(expected, rel=1e-12)


def test_the_forecast_is_that_of_a_loop_over_days_ahead(monkeypatch):
    rng = np.random.default_rng(2)
    returns = 0.01 * rng.standard_normal((60, 4))
    fits = []
    for (omega, alpha, beta), column in zip(GARCH, returns.T, strict=True):
        variance = reference.garch_variances(column, omega, alpha, beta, 1e-4)
        ahead = [variance[-1]]
        for _ in range(HORIZON - 1):
            ahead.append(omega + (alpha + beta) * ahead[-1])
        fits.append(Garch(np.array([omega, alpha, beta]), column / np.sqrt(variance[:-1]), np.array(ahead)))
    monkeypatch.setattr(dcc, "fit_dcc", lambda s, C: MOVEMENT)
    s = np.column_stack([fit.standardised for fit in fits])
    C = reference.correlation(qis_correlation(s))
    today = [
        (*fit.parameters, (column[-1] / fit.standardised[-1]) ** 2) for fit, column in zip(fits, returns.T, strict=True)
    ]
    expected = reference.mean_forecast(returns, today, s, C, *MOVEMENT, HORIZON)
    np.testing.assert_allclose(forecast_covariance(fits), expected, rtol=1e-9)


def test_garch_follows_its_own_equation_and_no_parameters_near_by_are_likelier(long):
    returns = long[1][:500, 1]
    fit = fit_garch(returns, HORIZON)
    variance = (returns / fit.standardised) ** 2
    loop = reference.garch_variances(returns, *fit.parameters, variance[0])
    np.testing.assert_allclose(variance, loop[:-1], rtol=1e-8)
    assert fit.forecast[0] == pytest.approx(loop[-1])
    omega, alpha, beta = fit.parameters
    assert fit.forecast[-1] == pytest.approx(
        omega / (1 - alpha - beta) + (alpha + beta) ** (HORIZON - 1) * (loop[-1] - omega / (1 - alpha - beta))
    )
    best = reference.garch_log_likelihood(returns, *fit.parameters, variance[0])
    for k in range(3):
        for factor in (0.9, 1.1):
            other = fit.parameters.copy()
            other[k] *= factor
            assert reference.garch_log_likelihood(returns, *other, variance[0]) < best


def test_known_parameters_are_found(long):
    C, returns = long
    fits = [fit_garch(column, HORIZON) for column in returns.T]
    np.testing.assert_allclose([fit.parameters[1:] for fit in fits], np.array(GARCH)[:, 1:], atol=0.05)
    s = np.column_stack([fit.standardised for fit in fits])
    np.testing.assert_allclose(s.var(axis=0), 1.0, atol=0.03)
    found = fit_dcc(s, C)
    assert found.alpha == pytest.approx(MOVEMENT.alpha, abs=0.015)
    assert found.beta == pytest.approx(MOVEMENT.beta, abs=0.05)
    still = fit_dcc(np.random.default_rng(0).standard_normal((3_000, 4)) @ np.linalg.cholesky(C).T, C)
    assert still.alpha < 0.01


def test_no_parameters_near_by_or_far_off_are_likelier():
    rng = np.random.default_rng(5)
    for C in (correlation(6, rng), np.eye(6)):
        s = rng.standard_t(5, (250, 6)) @ np.linalg.cholesky(C).T / np.sqrt(5 / 3)
        found = fit_dcc(s, C)
        best = composite_likelihood(s, C, found)
        assert min(found) >= 0
        assert sum(found) <= dcc.LARGEST_PERSISTENCE + 1e-9
        for alpha in np.linspace(0, 0.4, 21):
            for beta in np.linspace(0, 0.99 - alpha, 23):
                assert composite_likelihood(s, C, Dcc(alpha, beta)) <= best + 1e-3


def test_it_sees_what_moved(long):
    """After 3,000 days of a known DCC it forecasts better than the sample does, by the truth's own forecast."""
    C, returns = long
    truth_s = np.empty_like(returns)
    today = []
    for k, (omega, alpha, beta) in enumerate(GARCH):
        variance = reference.garch_variances(returns[:, k], omega, alpha, beta, omega / (1 - alpha - beta))
        truth_s[:, k] = returns[:, k] / np.sqrt(variance[:-1])
        today.append((omega, alpha, beta, variance[-2]))
    truth = reference.mean_forecast(returns, today, truth_s, C, *MOVEMENT, HORIZON)
    request = read_request(returns.astype(np.float32), np.arange(4, dtype=np.int32)[None])
    (found,) = dcc_nl(HORIZON)(request)
    error, of_sample = (np.linalg.norm(matrix - truth) / np.linalg.norm(truth) for matrix in (found, np.cov(returns.T)))
    assert error < 0.1 < of_sample


def test_universes_share_fits_and_are_as_alone(monkeypatch):
    rng = np.random.default_rng(6)
    returns = (0.01 * rng.standard_normal((80, 1)) + 0.01 * rng.standard_normal((80, 5))).astype(np.float32)
    returns[:30, 2] = np.nan
    universes = np.array([[0, 1, 2], [2, 3, PADDING], [0, 1, 2]], np.int32)
    windows = np.array([[0, 80], [0, 80], [5, 80]], np.int32)
    calls = []

    def counted(column, horizon):
        calls.append(column)
        return fit_garch(column, horizon)

    monkeypatch.setattr(dcc, "fit_garch", counted)
    together = dcc_nl(HORIZON)(read_request(returns, universes, windows=windows))
    assert len(calls) == 4 + 3
    for matrix, universe, window in zip(together, universes, windows, strict=True):
        (alone,) = dcc_nl(HORIZON)(read_request(returns, universe[universe >= 0][None], windows=window[None]))
        np.testing.assert_array_equal(matrix, alone)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix)[0] > 0


def test_scale_is_kept_and_twins_have_no_estimate():
    rng = np.random.default_rng(7)
    returns = (0.02 * rng.standard_normal((120, 3))).astype(np.float32)
    panel = np.column_stack([returns, returns[:, 0]])
    universes = np.array([[0, 1, 2], [0, 1, 3]], np.int32)
    whole, twins = dcc_nl(5)(read_request(panel, universes))
    assert np.isnan(twins).all()
    np.testing.assert_allclose(whole.diagonal(), returns.var(axis=0), rtol=0.5)
