# SPDX-License-Identifier: Apache-2.0
"""Risk of portfolios against the matrices that `assemble` builds, its refusals, and its independence of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sigmahat_kernels import portfolios as limits
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, Parameters, split_parameters
from sigmahat_kernels.portfolios import Portfolios, read_portfolios
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.risk import Risk, measure_portfolios
from sigmahat_kernels.shared_window import KeptMoments
from sigmahat_kernels.status import InvalidRequest, PortfolioStatus, Status

N_COLUMNS, WIDEST = 40, 20


def draw(n_universes: int = 6, seed: int = 8) -> tuple[Request, Parameters, np.ndarray]:
    """Universes of several sizes over two windows, some returns missing; the second has no estimate."""
    rng = np.random.default_rng(seed)
    returns = 0.01 * (rng.standard_normal((150, N_COLUMNS)) + rng.standard_normal((150, 1)))
    returns[rng.random(returns.shape) < 0.005] = np.nan
    universes = np.full((n_universes, WIDEST), PADDING, np.int32)
    for row in universes:
        size = rng.choice([2, 9, WIDEST])
        row[:size] = rng.choice(N_COLUMNS, size, replace=False)
    universes[0] = np.arange(WIDEST)
    universes[1, 5:] = PADDING
    universes[1, :5] = np.arange(30, 35)
    windows = np.tile(np.array([[0, 120], [30, 150]], np.int32), (n_universes, 1))[:n_universes]
    parameters = split_parameters(rng.uniform(size=(n_universes, N_PARAMETERS)))
    status = np.zeros(n_universes, np.int32)
    status[1] = Status.CONSTANT_ASSET
    return read_request(returns.astype(np.float32), universes, windows), parameters, status


def positions(request: Request, n_portfolios: int = 3, seed: int = 2) -> np.ndarray:
    """Long and short positions in dollars on the assets of each universe."""
    rng = np.random.default_rng(seed)
    weights = 1e6 * rng.standard_normal((len(request.universes), n_portfolios, request.universes.shape[1]))
    return np.where(request.universes[:, None] == PADDING, 0.0, weights).astype(np.float32)


def ask(request: Request, parameters: Parameters, status: np.ndarray, weights: np.ndarray, **arguments: Any) -> Risk:
    return measure_portfolios(request, parameters, status, read_portfolios(request, weights), **arguments)


@pytest.mark.parametrize("classic", [False, True])
def test_every_number_is_that_of_the_matrix(classic: bool) -> None:
    request, parameters, status = draw()
    weights = positions(request)
    risk = ask(request, parameters, status, weights, classic=classic, minimum_variance=True)
    matrices = assemble(request, parameters, status, classic=classic)
    for u in np.flatnonzero(status == Status.GOOD):
        size = int((request.universes[u] != PADDING).sum())
        matrix = matrices[u, :size, :size].astype(float)
        np.testing.assert_array_equal(risk.diagonal[u, :size], np.diag(matrices[u, :size, :size]))
        assert np.isnan(risk.diagonal[u, size:]).all()
        for p, w in enumerate(weights[u, :, :size].astype(float)):
            variance = w @ matrix @ w
            np.testing.assert_allclose(risk.variance[u, p], variance, rtol=1e-6)
            scale = np.abs(matrix @ w).max()
            np.testing.assert_allclose(risk.marginal[u, p, :size] / scale, matrix @ w / scale, rtol=0, atol=1e-6)
            beta = matrix @ w / variance
            np.testing.assert_allclose(risk.beta[u, p, :size], beta, rtol=0, atol=1e-6 * np.abs(beta).max())
            for q, other in enumerate(weights[u, :, :size].astype(float)):
                gross = np.sqrt(variance * (other @ matrix @ other))
                actual = risk.portfolio_covariance[u, p, q]
                np.testing.assert_allclose(actual / gross, w @ matrix @ other / gross, rtol=0, atol=1e-6)
        assert np.isnan(risk.marginal[u, :, size:]).all()
        assert np.isnan(risk.beta[u, :, size:]).all()
        inverse = np.linalg.inv(matrix).sum(axis=1)
        long_short, long_only = risk.minimum_variance_weights[u, :, :size].astype(float)
        np.testing.assert_allclose(long_short, inverse / inverse.sum(), rtol=0, atol=1e-4 * np.abs(long_short).max())
        least, least_long = risk.minimum_variance[u]
        np.testing.assert_allclose(least, 1 / inverse.sum(), rtol=1e-5)
        np.testing.assert_allclose(least_long, long_only @ matrix @ long_only, rtol=1e-5)
        assert (long_only >= 0).all()
        assert least <= least_long * (1 + 1e-12) <= np.diag(matrix).min() * (1 + 1e-5)


def test_contributions_add_up_in_double_precision() -> None:
    request, parameters, status = draw()
    weights = positions(request)
    risk = ask(request, parameters, status, weights)
    contributions = weights * np.nan_to_num(risk.marginal) / np.sqrt(risk.variance)[:, :, None]
    volatility = np.sqrt(risk.variance)
    good = status == Status.GOOD
    gross = np.abs(contributions).sum(axis=2)
    assert (np.abs(contributions.sum(axis=2) - volatility)[good] <= 1e-12 * gross[good]).all()


def test_nothing_of_a_refused_universe_and_nothing_that_was_not_asked_for() -> None:
    request, parameters, status = draw()
    risk = ask(request, parameters, status, positions(request))
    for name in ("variance", "portfolio_covariance", "marginal", "beta", "diagonal"):
        assert np.isnan(getattr(risk, name)[1]).all(), name
    assert (risk.portfolio_status[1] == PortfolioStatus.UNIVERSE_REFUSED).all()
    assert (np.delete(risk.portfolio_status, 1, axis=0) == PortfolioStatus.GOOD).all()
    assert risk.minimum_variance_weights.shape == (6, 0, WIDEST)
    assert risk.minimum_variance.shape == (6, 0)


def test_nested_books_give_each_universe_its_own_positions() -> None:
    request, parameters, status = draw(30)
    book = np.random.default_rng(3).standard_normal((7, N_COLUMNS)).astype(np.float32)
    own = np.where(request.universes[:, None] == PADDING, 0.0, np.moveaxis(book[:, request.universes], 0, 1))
    nested = measure_portfolios(request, parameters, status, read_portfolios(request, portfolios=book))
    for name, value in ask(request, parameters, status, own.astype(np.float32))._asdict().items():
        np.testing.assert_array_equal(getattr(nested, name), value, err_msg=name)


def test_a_bad_portfolio_has_a_status_and_spoils_no_other() -> None:
    request, parameters, status = draw()
    weights = positions(request, 5)
    clean = ask(request, parameters, status, weights)
    size = int((request.universes[2] != PADDING).sum())
    assert size < WIDEST
    weights[2, 0, 1] = np.nan
    weights[2, 1, 0] = -np.inf
    weights[2, 2, size] = 1.0
    weights[2, 3] = 0.0
    risk = ask(request, parameters, status, weights)
    assert risk.portfolio_status[2].tolist() == [
        PortfolioStatus.NON_FINITE_WEIGHT,
        PortfolioStatus.NON_FINITE_WEIGHT,
        PortfolioStatus.OUTSIDE_UNIVERSE,
        PortfolioStatus.NO_POSITIONS,
        PortfolioStatus.GOOD,
    ]
    assert risk.portfolio_asset[2].tolist() == [request.universes[2, 1], request.universes[2, 0], -1, -1, -1]
    for name in ("variance", "marginal", "beta"):
        actual, expected = getattr(risk, name), getattr(clean, name)
        assert np.isnan(actual[2, :4]).all(), name
        np.testing.assert_array_equal(actual[2, 4], expected[2, 4], err_msg=name)
        np.testing.assert_array_equal(np.delete(actual, 2, 0), np.delete(expected, 2, 0), err_msg=name)
    assert np.isnan(risk.portfolio_covariance[2, :4]).all()
    assert np.isnan(risk.portfolio_covariance[2, :, :4]).all()
    assert np.isfinite(risk.portfolio_covariance[2, 4, 4])


def test_no_weight_that_can_be_sent_overflows() -> None:
    request, parameters, status = draw()
    for factor in (np.finfo(np.float32).max, np.finfo(np.float32).tiny):
        weights = np.where(request.universes[:, None] == PADDING, 0.0, factor).astype(np.float32)
        risk = ask(request, parameters, status, weights)
        unit = ask(request, parameters, status, (weights != 0).astype(np.float32))
        np.testing.assert_allclose(risk.variance, unit.variance * float(factor) ** 2, rtol=1e-6)
        assert np.isfinite(risk.beta[0]).all()


def test_units_and_threads_and_neighbours_and_kept_moments() -> None:
    request, parameters, status = draw(12)
    weights = positions(request)
    risk = ask(request, parameters, status, weights, minimum_variance=True)
    kept = KeptMoments()
    compute_features(request, kept=kept)
    threads = ask(request, parameters, status, weights, minimum_variance=True, threads=3)
    for name, value in threads._asdict().items():
        np.testing.assert_array_equal(value, getattr(risk, name), err_msg=name)
    # Products of other columns beside them round in another place.
    for name, value in ask(request, parameters, status, weights, minimum_variance=True, kept=kept)._asdict().items():
        expected = getattr(risk, name)
        scale = np.abs(np.nan_to_num(expected)).max(initial=0.0)
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=(1e-12 if value.dtype == float else 1e-7) * scale)
    doubled = ask(request, parameters, status, 2 * weights)
    np.testing.assert_array_equal(doubled.variance, 4 * risk.variance)
    np.testing.assert_array_equal(doubled.marginal, 2 * risk.marginal)
    for u in (0, 5):
        alone = request._replace(universes=request.universes[u : u + 1], windows=request.windows[u : u + 1])
        own = Parameters(*(head[u : u + 1] for head in parameters))
        single = ask(alone, own, status[u : u + 1], weights[u : u + 1])
        # Sums over the days of other columns beside them round in another place: the same bits have the kernels alone.
        np.testing.assert_allclose(single.variance[0], risk.variance[u], rtol=1e-13)
        scale = np.nanmax(np.abs(risk.marginal[u]))
        np.testing.assert_allclose(single.marginal[0], risk.marginal[u], rtol=1e-13, atol=1e-13 * scale)


def test_without_portfolios_there_is_still_a_diagonal() -> None:
    request, parameters, status = draw()
    risk = measure_portfolios(request, parameters, status, read_portfolios(request), minimum_variance=True)
    assert risk.variance.shape == (6, 0)
    assert np.isfinite(risk.diagonal[0]).all()
    assert np.isfinite(risk.minimum_variance[0]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": np.zeros((6, 20))}, r"WEIGHTS must have shape \(6, portfolios, 20\), got \(6, 20\)"),
        ({"weights": np.zeros((5, 1, 20))}, r"WEIGHTS must have shape \(6, portfolios, 20\), got \(5, 1, 20\)"),
        ({"weights": np.zeros((6, 1, 19))}, r"got \(6, 1, 19\)"),
        ({"weights": np.zeros((6, 1, 20), int)}, "WEIGHTS must be floating point, got int64"),
        ({"portfolios": np.zeros((2, 39))}, r"PORTFOLIOS must have shape \(portfolios, 40\), got \(2, 39\)"),
        ({"portfolios": np.zeros(40)}, r"PORTFOLIOS must have shape \(portfolios, 40\), got \(40,\)"),
        ({"portfolios": np.zeros((1, 40)), "weights": np.zeros((6, 1, 20))}, "got both"),
        ({"portfolios": np.zeros((1001, 40))}, "PORTFOLIOS has 1001 portfolios, more than the limit of 1,000"),
    ],
)
def test_what_cannot_be_read_is_refused(arguments: dict[str, np.ndarray], words: str) -> None:
    request, *_ = draw()
    with pytest.raises(InvalidRequest, match=words):
        read_portfolios(request, **arguments)


def test_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    request, *_ = draw()
    monkeypatch.setattr(limits, "MAX_RISK_CELLS", 6 * 3 * 20)
    assert isinstance(read_portfolios(request, np.zeros((6, 3, 20))), Portfolios)
    with pytest.raises(InvalidRequest, match="is 480, more than the limit of 360: send fewer universes"):
        read_portfolios(request, np.zeros((6, 4, 20)))
