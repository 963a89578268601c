# SPDX-License-Identifier: Apache-2.0
"""What a window's universes share, against loops; and that one process shares it once, within its memory."""

from __future__ import annotations

import numpy as np
import pytest
from reference import covariance as reference

from sigmahat_kernels import features, pipeline, shared_window
from sigmahat_kernels.groups import group_by_window
from sigmahat_kernels.parameters import N_PARAMETERS
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import KeptMoments, WindowMoments, share_window
from sigmahat_kernels.status import Status

N_ROWS, N_COLUMNS = 120, 30


def draw_returns(seed: int = 1, missing: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    returns = 0.01 * (rng.standard_t(4, (N_ROWS, N_COLUMNS)) + rng.standard_normal((N_ROWS, 1)))
    returns[rng.random(returns.shape) < missing] = np.nan
    return returns.astype(np.float32)


def draw_request(*, windows: int, blocks: bool = False, returns: np.ndarray | None = None) -> Request:
    """Four universes of up to 12 assets in each window."""
    rng = np.random.default_rng(2)
    universes = np.full((4 * windows, 12), PADDING, np.int32)
    for row in universes:
        size = rng.integers(2, 13)
        row[:size] = rng.choice(N_COLUMNS, size, replace=False)
    stops = np.repeat(N_ROWS - np.arange(windows), 4)
    return read_request(
        draw_returns() if returns is None else returns,
        universes,
        windows=np.stack([stops - 60, stops], axis=1).astype(np.int32),
        blocks=rng.integers(0, 3, universes.shape).astype(np.int32) if blocks else None,
    )


def member(seed: int):
    """A network's stand-in: every answer in (0, 1), and different for different features."""
    weights = np.random.default_rng(seed).normal(0.0, 0.1, (features.N_FEATURES, N_PARAMETERS))
    return lambda rows: (1.0 / (1.0 + np.exp(-np.tanh(np.nan_to_num(rows)) @ weights))).astype(np.float32)


PIPELINE = Pipeline.of([member(seed) for seed in range(3)])


def test_products_equal_loops():
    returns = draw_returns(missing=0.2)[:, :6]
    z = reference.standardised(returns.astype(float))
    products = share_window(returns).products
    np.testing.assert_allclose(products.slow, reference.correlation(z), rtol=0, atol=1e-12)
    np.testing.assert_allclose(products.fast, reference.correlation(z, reference.FAST_HALFLIFE), rtol=0, atol=1e-12)
    first = np.array(reference.unit_columns(z))[: N_ROWS // 2]
    np.testing.assert_allclose(products.first_half, first.T @ first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("winsor_limit", [3.0, None])
def test_the_factor_multiplies_out_to_the_product(winsor_limit):
    shared = share_window(draw_returns(), winsor_limit=winsor_limit)
    np.testing.assert_allclose(shared.factor.T @ shared.factor, shared.products.slow, rtol=0, atol=1e-14)
    assert (np.abs(shared.window.standardised).max() > 3.5) == (winsor_limit is None)


def test_gathered_moments_are_those_of_the_columns():
    moments = share_window(draw_returns()).moments
    index = np.array([[3, 0, 7], [11, 29, 2]])
    gathered = moments.gather(index, Scratch(np))
    for u, columns in enumerate(index):
        expected = share_window(draw_returns()[:, columns]).moments.gather(np.arange(3)[None], Scratch(np))
        for actual, wanted in zip(
            (m[u] for m in (gathered.slow, gathered.fast)), (m[0] for m in expected[:2]), strict=True
        ):
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-14)
        np.testing.assert_allclose(gathered.volatilities[:, u], expected.volatilities[:, 0], rtol=1e-14)
        np.testing.assert_allclose(gathered.kurtosis[u], expected.kurtosis[0], rtol=1e-14)


def count_shared_windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shared = []
    multiply_out = shared_window._multiply_out

    def counted(slow, fast):
        shared.append(slow.shape)
        return multiply_out(slow, fast)

    monkeypatch.setattr(shared_window, "_multiply_out", counted)
    return shared


@pytest.mark.parametrize("windows", [1, 5])
def test_one_process_shares_each_window_once(monkeypatch, windows):
    shared = count_shared_windows(monkeypatch)
    PIPELINE.estimate(draw_request(windows=windows))
    assert len(shared) == windows


def test_classic_matrices_have_moments_of_their_own(monkeypatch):
    """Their returns are not winsorised."""
    shared = count_shared_windows(monkeypatch)
    PIPELINE.estimate(draw_request(windows=2), classic=True)
    assert len(shared) == 4


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(pipeline, "KeptMoments", lambda: KeptMoments(limit))


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize(("limit", "computed_again"), [(0, {5}), (25_000, {1, 2, 3, 4})])
def test_what_is_not_kept_is_computed_again_to_the_same_bit(monkeypatch, blocks, limit, computed_again):
    request = draw_request(windows=5, blocks=blocks)
    all_kept = PIPELINE.estimate(request)
    assert np.isfinite(all_kept.covariance[:, 0, 0]).all()
    shared = count_shared_windows(monkeypatch)
    limited(monkeypatch, limit)
    again = PIPELINE.estimate(request)
    np.testing.assert_array_equal(again.covariance, all_kept.covariance)
    assert len(shared) - 5 in computed_again


def test_a_refused_universe_leaves_its_neighbours_their_matrices(monkeypatch):
    """Its blocks without the bad column stay, so that more columns were kept than the matrices ask for."""
    returns = draw_returns(missing=0.0)
    returns[:, 0] = 0.01
    request = draw_request(windows=1, blocks=True, returns=returns)
    request.universes[0] = [0, *range(18, 29)]
    request.universes[1:][request.universes[1:] == 0] = 29
    request.blocks[0] = np.arange(12) // 3
    kept = PIPELINE.estimate(request)
    assert kept.status.tolist() == [Status.CONSTANT_ASSET, *[Status.GOOD] * 3]
    limited(monkeypatch, 0)
    again = PIPELINE.estimate(request)
    np.testing.assert_allclose(kept.covariance, again.covariance, rtol=1e-6)
    assert np.isfinite(kept.covariance[1:, 0, 0]).all()


def test_kept_moments_stay_within_their_limit():
    request = draw_request(windows=3)
    groups = list(group_by_window(request, np.arange(12)))
    moments = [WindowMoments(*(np.zeros(25) for _ in range(4)), None) for _ in groups]  # 800 bytes each
    kept = KeptMoments(2_000)
    for group, each in zip(groups, moments, strict=True):
        kept.keep(group, each)
    taken = [kept.take(group) for group in groups]
    assert [found is not None for found in taken] == [True, True, False]
    assert taken[1] is not None
    assert taken[1][1] is moments[1]
    assert kept.take(groups[0]) is None  # given back, so that its memory can go


def test_taken_moments_bring_the_place_of_their_columns():
    request = draw_request(windows=1)
    (group,) = group_by_window(request, np.arange(4))
    (fewer,) = group_by_window(request, np.arange(2))
    kept = KeptMoments()
    kept.keep(group, share_window(draw_returns()[:, group.columns]).moments)
    found = kept.take(fewer)
    assert found is not None
    np.testing.assert_array_equal(found[0].universes, fewer.universes)
    np.testing.assert_array_equal(found[0].columns, group.columns)
    np.testing.assert_array_equal(found[0].place, group.place)
    assert shared_window.KEPT_BYTES == 256 * 2**20
