# SPDX-License-Identifier: Apache-2.0
"""Universes with missing cells: their correlations against loops, the truth, and definiteness, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import covariance as reference

from sigmahat_kernels import assemble as assembling
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.gaps import complete_correlations, incomplete
from sigmahat_kernels.groups import chunks_by_size, group_by_window
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.parameters import HEADS, Parameters, intensity_of
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.status import Status


def draw_returns(rng: np.random.Generator, n_obs: int, n_assets: int, correlation: float = 0.6) -> np.ndarray:
    market, own = rng.standard_normal((n_obs, 1)), rng.standard_normal((n_obs, n_assets))
    return 0.02 * (np.sqrt(correlation) * market + np.sqrt(1.0 - correlation) * own)


def at_random(x: np.ndarray, rng: np.random.Generator, share: float = 0.6) -> None:
    x[rng.random(x.shape) < share] = np.nan


def one_late(x: np.ndarray, rng: np.random.Generator, n_known: int = 20) -> None:
    x[:-n_known, 0] = np.nan


def all_but_one_late(x: np.ndarray, rng: np.random.Generator) -> None:
    for i in range(1, x.shape[1]):
        x[: rng.integers(0, len(x) - 19), i] = np.nan


def calendars(x: np.ndarray, rng: np.random.Generator) -> None:
    x[np.ix_(np.arange(len(x)) % 7 >= 5, np.arange(x.shape[1]) % 2 == 0)] = np.nan


def no_common_row(x: np.ndarray, rng: np.random.Generator) -> None:
    x[: len(x) // 2, ::2] = np.nan
    x[len(x) // 2 :, 1::2] = np.nan


def one_common_row(x: np.ndarray, rng: np.random.Generator) -> None:
    x[: len(x) // 2, 0] = np.nan
    x[len(x) // 2 + 1 :, 1:] = np.nan


def empty_rows(x: np.ndarray, rng: np.random.Generator) -> None:
    x[rng.random(len(x)) < 0.3] = np.nan
    x[: len(x) // 4, 1:] = np.nan


def halted_lately(x: np.ndarray, rng: np.random.Generator) -> None:
    for i in range(0, x.shape[1], 2):
        x[25:, i] = np.nan


PATTERNS: list[Callable[[np.ndarray, np.random.Generator], None]] = [
    at_random,
    one_late,
    all_but_one_late,
    calendars,
    no_common_row,
    one_common_row,
    empty_rows,
    halted_lately,
]


def usable(x: np.ndarray) -> np.ndarray:
    """Assets with enough returns, and at least one cell missing."""
    x = x[:, (~np.isnan(x)).sum(axis=0) >= 20]
    x[0, :1] = np.nan
    return x


def correlations(x: np.ndarray, winsor_limit: float | None = 3.0) -> tuple[np.ndarray, np.ndarray]:
    window = incomplete(prepare_window(x, winsor_limit=winsor_limit))
    assert window is not None
    slow, fast = complete_correlations(window, np.arange(x.shape[1])[None], Scratch(np))
    return slow[0], fast[0]


# ------------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("winsor_limit", [3.0, None])
@pytest.mark.parametrize("n_assets", [2, 3, 8])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equals_loops(pattern, n_assets, winsor_limit):
    rng = np.random.default_rng(n_assets)
    x = draw_returns(rng, 70, n_assets)
    pattern(x, rng)
    x = usable(x)
    z = reference.standardised(x, winsor_limit)
    slow, fast = correlations(x, winsor_limit)
    np.testing.assert_allclose(slow, reference.expected_correlation(z), rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast, reference.expected_correlation(z, reference.FAST_HALFLIFE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 1.0 - 1e-9])
def test_equals_loops_at_the_limits_of_the_average_correlation(correlation):
    """Mirror images, so that the average is below zero; near copies, so that nothing is left beside the factor."""
    rng = np.random.default_rng(3)
    x = draw_returns(rng, 60, 4, correlation)
    if correlation == 0.0:
        x[:, 2:] = -x[:, :2]
    at_random(x, rng, 0.3)
    z = reference.standardised(x)
    slow, fast = correlations(x)
    np.testing.assert_allclose(slow, reference.expected_correlation(z), rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast, reference.expected_correlation(z, reference.FAST_HALFLIFE), rtol=0, atol=1e-12)
    assert (slow.mean() < 0.3) == (correlation == 0.0)


def test_two_assets_without_a_common_row_are_not_correlated():
    x = draw_returns(np.random.default_rng(1), 60, 2)
    no_common_row(x, np.random.default_rng(1))
    for matrix in correlations(x):
        np.testing.assert_array_equal(matrix, np.eye(2))


def test_one_common_row_does_not_make_a_copy():
    """An asset that shares a single row with the others: its slope is the universe's, whatever that row holds."""
    rng = np.random.default_rng(4)
    x = draw_returns(rng, 60, 6)
    one_common_row(x, rng)
    for value in (0.06, -0.06):
        x[30, 0] = value
        slow, _ = correlations(x)
        assert 0.2 < slow[0, 1:].mean() < 0.85


# --------------------------------------------------------------------------------------------------------- the truth


@pytest.mark.parametrize("winsor_limit", [3.0, None])
@pytest.mark.parametrize(
    ("n_assets", "gap"),
    [
        (8, lambda x, rng: one_late(x, rng, 126)),
        (8, lambda x, rng: one_late(x, rng, 60)),
        (8, one_late),
        (8, calendars),
        (8, at_random),
        (30, all_but_one_late),
    ],
)
def test_the_true_correlation_comes_back(n_assets, gap, winsor_limit):
    """Where both assets have all rows, a short history or another calendar; zeros in the gaps would say far less."""
    expected, filled = [], []
    for seed in range(25):
        rng = np.random.default_rng(100 + seed)
        x = draw_returns(rng, 252, n_assets)
        gap(x, rng)
        window = prepare_window(x, winsor_limit=winsor_limit)
        touched = np.isnan(x).any(axis=0)
        pairs = (touched[:, None] | touched) & ~np.eye(n_assets, dtype=bool)
        expected.append(correlations(x, winsor_limit)[0][pairs].mean())
        factor = correlation_factor(window)
        filled.append((factor.T @ factor)[pairs].mean())
    assert np.mean(expected) == pytest.approx(0.6, abs=0.035)
    assert np.mean(filled) < 0.56


# ------------------------------------------------------------------------------------------------------ definiteness


def random_parameters(rng: np.random.Generator, n: int) -> Parameters:
    """Answers of a network, with a weight of the identity that is not zero."""
    heads = Parameters(*(rng.uniform(size=(n, columns)) for columns in HEADS.values()))
    return heads._replace(
        target_weights=0.1 + 0.7 * rng.dirichlet(np.ones(3), n),
        target_intensity=rng.uniform(0.1, 0.9, (n, 3)),
        volatility=np.hstack([rng.dirichlet(np.ones(3), n), rng.uniform(size=(n, 1))]),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n_obs=st.integers(20, 150),
    n_assets=st.integers(2, 40),
    pattern=st.sampled_from(PATTERNS),
    kind=st.sampled_from(["one factor", "near copies", "mirror images", "wild"]),
    seed=st.integers(0, 10_000),
)
def test_positive_definite_whatever_is_missing(n_obs, n_assets, pattern, kind, seed):
    rng = np.random.default_rng(seed)
    x = draw_returns(rng, n_obs, n_assets, rng.uniform(0.0, 0.95))
    half = n_assets // 2
    if kind == "near copies":
        x[:, half : 2 * half] = x[:, :half] + 1e-9 * rng.standard_normal((n_obs, half))
    if kind == "mirror images":
        x[:, half : 2 * half] = -x[:, :half]
    if kind == "wild":
        x *= rng.standard_t(2, x.shape)
        x = np.clip(x, -0.9, 5.0)
    pattern(x, rng)
    x = x[:, (~np.isnan(x)).sum(axis=0) >= 20].astype(np.float32)
    if x.shape[1] < 2 or not np.isnan(x).any():
        return
    for winsor_limit in (3.0, None):
        for matrix in correlations(x, winsor_limit):
            np.testing.assert_array_equal(np.diag(matrix), 1.0)
            np.testing.assert_array_equal(matrix, matrix.T)
            assert np.abs(matrix).max() <= 1.0 + 1e-12
            assert np.linalg.eigvalsh(matrix)[0] > -1e-13 * len(matrix)
    request = read_request(x, np.arange(x.shape[1])[None])
    if compute_features(request).status[0] != Status.GOOD:
        return
    parameters = random_parameters(rng, 1)
    for classic in (False, True):
        (covariance,) = assemble(request, parameters, np.zeros(1, np.int32), classic=classic).astype(float)
        np.testing.assert_array_equal(covariance, covariance.T)
        sd = np.sqrt(np.diag(covariance))
        lowest = np.linalg.eigvalsh(covariance / sd[:, None] / sd)[0]
        # Whatever the tilts are, an asset keeps at least this part of the identity's weight.
        assert lowest > (0.0 if classic else -1e-6)
        if classic:
            weights = parameters.target_weights[0] * parameters.target_intensity[0]
            assert lowest > 0.99 * weights[0] / weights.sum() * intensity_of(parameters)[0] - 1e-6


# -------------------------------------------------------------------------------------------------------- to the bit


def mixed_request(n_universes: int = 60) -> Request:
    """Columns from 20 on miss returns; half of the universes hold none of them."""
    rng = np.random.default_rng(5)
    x = draw_returns(rng, 90, 40, 0.3)
    x[:, 20:][rng.random((90, 20)) < 0.3] = np.nan
    universes = np.full((n_universes, 18), PADDING, np.int32)
    for u, row in enumerate(universes):
        size = rng.choice([2, 7, 18])
        row[:size] = rng.choice(20 if u % 2 else 40, size, replace=False)
        if not u % 2:
            row[0] = 39 if 39 not in row else row[0]
    windows = np.array([[0, 90], [20, 90]])[np.arange(n_universes) // 2 % 2]
    return read_request(x.astype(np.float32), universes, windows)


def whole(request: Request) -> np.ndarray:
    return np.array(
        [
            not np.isnan(request.panel[slice(*window)][:, universe[universe != PADDING]]).any()
            for universe, window in zip(request.universes, request.windows, strict=True)
        ]
    )


@pytest.mark.parametrize("classic", [False, True])
def test_universes_without_gaps_do_not_notice_those_with_gaps(monkeypatch, classic):
    request = mixed_request()
    parameters, status = random_parameters(np.random.default_rng(1), 60), np.zeros(60, np.int32)
    complete = whole(request)
    assert 20 < complete.sum() < 40
    answer = assemble(request, parameters, status, classic=classic)

    def shared_without(returns: np.ndarray, **options):
        shared = share_window(returns, **options)
        moments = shared.moments._replace(incomplete=None)
        return type("Shared", (), {"moments": moments})

    monkeypatch.setattr(assembling, "share_window", shared_without)
    filled = assemble(request, parameters, status, classic=classic)
    np.testing.assert_array_equal(answer[complete], filled[complete])
    for u in np.flatnonzero(~complete):
        assert not np.array_equal(answer[u], filled[u], equal_nan=True)


@pytest.mark.parametrize("n_obs", [33, 252])
@pytest.mark.parametrize("n_assets", [2, 5, 24, 61])
def test_a_universe_is_the_same_alone_as_among_others(n_obs, n_assets):
    rng = np.random.default_rng(n_assets)
    x = draw_returns(rng, n_obs, 100)
    at_random(x, rng, 0.2)
    index = np.array([rng.choice(100, n_assets, replace=False) for _ in range(9)])
    window = incomplete(prepare_window(x[:, np.arange(100)]))  # in memory as `groups.group_returns` leaves it
    assert window is not None
    together = [matrix.copy() for matrix in complete_correlations(window, index, Scratch(np))]
    scratch = Scratch(np)  # used before, so that its memory holds something
    for u in (4, 0, 8):
        for matrix, alone in zip(together, complete_correlations(window, index[[u]], scratch), strict=True):
            np.testing.assert_array_equal(matrix[u], alone[0])
    columns = index[3]
    own = incomplete(prepare_window(x[:, columns]))
    assert own is not None
    for matrix, alone in zip(together, complete_correlations(own, np.arange(n_assets)[None], scratch), strict=True):
        np.testing.assert_array_equal(matrix[3], alone[0])


@pytest.mark.parametrize("classic", [False, True])
def test_neither_threads_nor_neighbours_change_a_bit(classic):
    request = mixed_request()
    parameters, status = random_parameters(np.random.default_rng(1), 60), np.zeros(60, np.int32)
    one, two = (assemble(request, parameters, status, threads=n, classic=classic) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    back = assemble(
        request._replace(universes=request.universes[::-1], windows=request.windows[::-1]),
        Parameters(*(head[::-1] for head in parameters)),
        status,
        classic=classic,
    )
    np.testing.assert_array_equal(one, back[::-1])


def test_order_of_assets_is_kept():
    rng = np.random.default_rng(6)
    x = draw_returns(rng, 80, 12)
    at_random(x, rng, 0.4)
    order = rng.permutation(12)
    for matrix, permuted in zip(correlations(x), correlations(x[:, order]), strict=True):
        np.testing.assert_allclose(permuted, matrix[np.ix_(order, order)], rtol=0, atol=1e-12)


def test_chunks_hold_universes_of_one_kind_within_their_memory(monkeypatch):
    request = mixed_request()
    monkeypatch.setattr("sigmahat_kernels.groups.CHUNK_CELLS", 7_000)
    complete = whole(request)
    for group in group_by_window(request, np.arange(60)):
        missing = np.isnan(request.panel[group.start : group.stop][:, group.columns]).any(axis=0)
        seen = []
        for chunk in chunks_by_size(request, group, missing):
            universes = group.universes[chunk]
            size = (request.universes[universes] != PADDING).sum(axis=1)
            assert len(set(size.tolist())) == len(set(complete[universes].tolist())) == 1
            cells = size[0] ** 2 if complete[universes[0]] else size[0] * 2 * (group.stop - group.start)
            assert len(chunk) == 1 or len(chunk) * cells <= 7_000
            seen += chunk.tolist()
        assert sorted(seen) == list(range(len(group.universes)))
