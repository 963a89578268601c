# SPDX-License-Identifier: Apache-2.0
"""Warnings: each flag on what it is for and not beside it, whoever the neighbours are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sigmahat_kernels.features import compute_features
from sigmahat_kernels.oddities import Warnings
from sigmahat_kernels.request import read_request
from sigmahat_kernels.status import USUAL_ASSETS, USUAL_ROWS, Status, WarningFlag
from sigmahat_trainer.data import dataset

N_OBS, N_ASSETS = 252, 8


def draw_returns(n_obs: int = N_OBS, n_assets: int = N_ASSETS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.01 * (rng.standard_t(5, (n_obs, n_assets)) + rng.standard_normal((n_obs, 1)))).astype(np.float32)


def flags(returns: np.ndarray, universes: np.ndarray | None = None, **options) -> Warnings:
    universes = np.arange(returns.shape[1])[None] if universes is None else np.asarray(universes)
    table = compute_features(read_request(returns, universes, **options))
    odd = table.warnings
    universe_level = odd.of_universe & ~np.bitwise_or.reduce(odd.of_asset, axis=1)
    assert (universe_level & sum(flag for flag in WarningFlag if flag.of_assets) == 0).all()
    return odd


def few(x: np.ndarray) -> None:
    x[: N_OBS // 2 + 1, 3] = np.nan


def stale(x: np.ndarray) -> None:
    x[100:130, 3] = 0.0


def split(x: np.ndarray) -> None:
    x[200, 3] = -0.75


def quiet(x: np.ndarray) -> None:
    x[:, 3] *= 0.005


def loud(x: np.ndarray) -> None:
    x[:, 3] = np.clip(18 * x[:, 3], -0.95, 3.0)


def copy(x: np.ndarray) -> None:
    x[:, 3] = 2 * x[:, 5]


def mirror(x: np.ndarray) -> None:
    x[:, 3] = -x[:, 5]


def copy_of_a_complete_one(x: np.ndarray) -> None:
    x[:, 3] = 2 * x[:, 5]
    x[:120, 3] = np.nan


def copy_listed_late(x: np.ndarray) -> None:
    x[:, 3] = 2 * x[:, 5]
    x[:120, 3] = np.nan
    x[-10:, 5] = np.nan


@pytest.mark.parametrize(
    ("spoil", "flag", "assets"),
    [
        (few, WarningFlag.FEW_RETURNS, [3]),
        (stale, WarningFlag.STALE_PRICES, [3]),
        (split, WarningFlag.DOMINANT_RETURN, [3]),
        (quiet, WarningFlag.UNUSUAL_VOLATILITY, [3]),
        (loud, WarningFlag.UNUSUAL_VOLATILITY, [3]),
        (copy, WarningFlag.NEAR_COPY, [3, 5]),
        (mirror, WarningFlag.NEAR_COPY, [3, 5]),
        (copy_of_a_complete_one, WarningFlag.NEAR_COPY, [3, 5]),
        (copy_listed_late, WarningFlag.NEAR_COPY, [3, 5]),
    ],
)
def test_an_odd_asset_is_named_and_nothing_else(spoil: Callable[[np.ndarray], None], flag, assets):
    returns = draw_returns()
    assert not flags(returns).of_universe.any()
    spoil(returns)
    odd = flags(returns, [[0, 1, 2, 3, 4, 5], [7, 6, 4, 2, 1, -1], [5, 1, 3, 2, 0, -1], [0, 1, 2, 4, 5, -1]])
    expected = np.zeros((4, 6), np.int32)
    for u, universe in enumerate([[0, 1, 2, 3, 4, 5], [7, 6, 4, 2, 1], [5, 1, 3, 2, 0], [0, 1, 2, 4, 5]]):
        if set(assets) <= set(universe) or flag != WarningFlag.NEAR_COPY:
            for asset in set(assets) & set(universe):
                expected[u, universe.index(asset)] = flag
    np.testing.assert_array_equal(odd.of_asset, expected)
    np.testing.assert_array_equal(odd.of_universe, expected.max(axis=1))


def test_copies_are_compared_over_the_rows_that_both_have():
    rng = np.random.default_rng(5)
    returns = draw_returns(n_assets=12)
    noise = np.array([0.0, 0.05, 0.15, 0.4, 1.0, 0.0])
    returns[:, 6:] = returns[:, :6] * (1 + np.arange(6)) + 0.01 * noise * rng.standard_normal((N_OBS, 6))
    returns[rng.random(returns.shape) < 0.6] = np.nan
    returns[:, [5, 11]] = np.nan  # a copy for 19 rows: too few to tell
    returns[:60, 5], returns[41:110, 11] = returns[:60, 0], returns[41:110, 0]
    returns[41:60, [5, 11]] = rng.standard_normal((19, 1)) * 0.01
    returns[60:100, 5] = np.nan
    common = [np.isfinite(returns[:, [i, j]]).all(axis=1) for i in range(12) for j in range(12)]
    expected = np.zeros(12, bool)
    for rows, (i, j) in zip(common, np.ndindex(12, 12), strict=True):
        if i != j and rows.sum() >= 20:
            expected[[i, j]] |= abs(np.corrcoef(returns[rows][:, [i, j]].T)[0, 1]) > 0.999
    assert 4 <= expected.sum() <= 8
    np.testing.assert_array_equal(flags(returns).of_asset[0] & WarningFlag.NEAR_COPY > 0, expected)


def test_assets_that_stand_still_together_are_no_copies():
    returns = draw_returns()
    returns[:100, 3], returns[150:, 5] = np.nan, np.nan
    returns[100:150, [3, 5]] = 0.0001
    assert not flags(returns).of_universe & WarningFlag.NEAR_COPY


def test_half_of_the_rows_are_not_few():
    returns = draw_returns()
    returns[: N_OBS // 2, 3] = np.nan
    assert not flags(returns).of_universe.any()


def test_several_flags_of_one_asset_are_joined():
    returns = draw_returns()
    stale(returns)
    split(returns)
    odd = flags(returns)
    assert odd.of_asset[0, 3] == WarningFlag.STALE_PRICES | WarningFlag.DOMINANT_RETURN
    assert odd.of_universe[0] == odd.of_asset[0, 3]


@pytest.mark.parametrize(("share", "flag"), [(0.5, 0), (0.8, WarningFlag.DOMINANT_RETURN)])
def test_a_return_dominates_by_its_share_of_all_squares_however_old_it_is(share, flag):
    """Rows beyond a year count less in the volatility: an old jump is no larger for that, nor a smaller part."""
    returns = draw_returns(800)
    others = returns[:, 3] - returns[:, 3].mean()
    returns[20, 3] = np.sqrt((others**2).sum() * share / (1 - share))
    assert flags(returns).of_asset[0, 3] == flag


def test_a_crash_of_the_whole_market_is_no_outlier():
    returns = draw_returns(60)
    returns[30] = -0.25
    assert not flags(returns).of_universe.any()
    returns[30, 1:] = draw_returns(1, 7)
    assert flags(returns).of_asset.tolist() == [[WarningFlag.DOMINANT_RETURN] + [0] * 7]


def test_a_day_is_the_market_s_by_the_assets_of_the_universe_alone():
    """The same crash of four assets: the universe of these is a market, one that holds a single of them is not."""
    returns = draw_returns(60, 12)
    returns[30, :5] = -0.25
    odd = flags(returns, [[0, 1, 2, 3, 4], [0, 7, 8, 9, 10]])
    assert odd.of_universe.tolist() == [0, WarningFlag.DOMINANT_RETURN]


@pytest.mark.parametrize(("n_assets", "odd"), [(4, True), (5, False)])
def test_small_universes(n_assets, odd):
    found = flags(draw_returns(), [list(range(n_assets)) + [-1] * (8 - n_assets)])
    assert found.of_universe.tolist() == [WarningFlag.UNUSUAL_SIZE * odd]
    assert not found.of_asset.any()


@pytest.mark.parametrize(("n_obs", "odd"), [(29, True), (30, False), (1000, False), (1001, True)])
def test_short_and_long_windows(n_obs, odd):
    assert flags(draw_returns(1001), windows=[[1001 - n_obs, 1001]]).of_universe.tolist() == [
        WarningFlag.UNUSUAL_LENGTH * odd
    ]


@pytest.mark.parametrize(
    ("dates", "odd"),
    [
        (np.arange(N_OBS), False),
        (np.busday_offset("2020-01-01", np.arange(N_OBS), roll="forward").astype(int), False),
        (np.arange(N_OBS) * 7, True),
        (np.arange(N_OBS) * 2, True),
    ],
)
def test_spacing_of_dates(dates, odd):
    found = flags(draw_returns(), dates=dates.astype(np.int32))
    assert found.of_universe.tolist() == [WarningFlag.UNUSUAL_SPACING * odd]


def test_a_universe_that_is_refused_has_no_flags():
    returns = draw_returns()
    split(returns)
    returns[:, 7] = 0.0
    table = compute_features(read_request(returns, np.array([[3, 1, 2], [3, 7, 2], [3, 3, 1], [3, 99, -1]])))
    assert table.status.tolist() == [
        Status.GOOD,
        Status.CONSTANT_ASSET,
        Status.DUPLICATE_ASSET,
        Status.UNKNOWN_ASSET,
    ]
    assert table.warnings.of_universe.tolist() == [WarningFlag.DOMINANT_RETURN | WarningFlag.UNUSUAL_SIZE, 0, 0, 0]
    assert not table.warnings.of_asset[1:].any()


def test_the_usual_ranges_are_those_of_training():
    assert (min(dataset.SIZES), max(dataset.SIZES)) == USUAL_ASSETS
    assert (min(dataset.WINDOW_LENGTHS), max(dataset.WINDOW_LENGTHS)) == USUAL_ROWS


def test_published_bits():
    """Part of the protocol: never renumbered."""
    assert {flag.name: flag.value for flag in WarningFlag} == {
        "FEW_RETURNS": 1,
        "STALE_PRICES": 2,
        "DOMINANT_RETURN": 4,
        "NEAR_COPY": 8,
        "UNUSUAL_VOLATILITY": 16,
        "UNUSUAL_SIZE": 32,
        "UNUSUAL_LENGTH": 64,
        "UNUSUAL_SPACING": 128,
    }
    assert [flag.name for flag in WarningFlag if not flag.of_assets] == [
        "UNUSUAL_SIZE",
        "UNUSUAL_LENGTH",
        "UNUSUAL_SPACING",
    ]
    assert all(flag.explanation for flag in WarningFlag)
