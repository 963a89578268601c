# SPDX-License-Identifier: Apache-2.0
"""Stale prices: the rule against a loop, its limits, panels with many true zeros, and every door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference import stale as reference

from sigmahat_kernels import stale as module
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.request import read_request
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status
from sigmahat_trainer.data.dataset import estimate_inputs

MARKETS = Path(__file__).parents[3] / "shared" / "markets"


def draw_returns(n_obs: int = 252, n_assets: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.01 * (rng.standard_normal((n_obs, n_assets)) + rng.standard_normal((n_obs, 1)))).astype(np.float32)


def one_with_zeros(share: float, run: int) -> np.ndarray:
    """252 rows with a run of that length at the end, and zeros spread evenly over the others."""
    returns = np.full(252, 0.01)
    returns[1::2] = -0.02
    every = np.arange(252 - run)
    returns[: 252 - run][np.floor((every + 1) * share) > np.floor(every * share)] = 0.0
    returns[252 - run :] = 0.0
    returns[251 - run] = 0.01
    return returns[:, None]


def test_equals_the_loop():
    rng = np.random.default_rng(1)
    some = 0
    for seed in range(250):
        returns = draw_returns(int(rng.integers(20, 300)), 6, seed)
        returns[rng.random(returns.shape) < rng.random() ** 2] = 0.0
        for i in range(3):
            start = rng.integers(0, len(returns))
            returns[start : start + rng.integers(0, 100), i] = 0.0
        returns[rng.random(returns.shape) < rng.choice([0.0, 0.1, 0.5])] = np.nan
        expected = reference.stale_cells(returns)
        cleaned, stale = without_stale(returns)
        np.testing.assert_array_equal(np.isnan(cleaned), np.isnan(returns) | expected)
        np.testing.assert_array_equal(cleaned[~np.isnan(cleaned)], returns[~np.isnan(cleaned)])
        np.testing.assert_array_equal(stale, expected.any(axis=0))
        some += expected.any()
    assert 100 < some < 250


@pytest.mark.parametrize(
    ("share", "run", "stale"),
    [
        (0.0, 9, False),
        (0.0, 10, True),
        (0.1, 9, False),
        (0.1, 10, True),
        (0.18, 11, False),
        (0.18, 12, True),
        (0.4, 21, False),
        (0.4, 23, True),
        (0.95, 60, False),
        (0.0, 251, True),
    ],
)
def test_limits(share, run, stale):
    """As the documentation has them."""
    assert without_stale(one_with_zeros(share, run))[1].tolist() == [stale]


def test_gaps_neither_end_a_run_nor_add_to_it():
    returns = one_with_zeros(0.0, 20)
    returns[240:250:2] = np.nan  # 15 zeros are left
    cleaned, stale = without_stale(returns)
    assert stale[0]
    assert np.isnan(cleaned[232:]).all()
    returns[233:243] = np.nan
    assert (returns[232:] == 0).sum() < 10
    assert not without_stale(returns)[1][0]


def test_one_price_a_month_and_nothing_but_zeros_are_kept():
    returns = np.zeros((252, 3))
    returns[::21, 0] = 0.01 * np.random.default_rng(0).standard_normal(12)
    returns[100:, 2] = np.nan
    cleaned, stale = without_stale(returns)
    assert cleaned is returns
    assert not stale.any()


def test_panels_without_zeros_are_not_copied_nor_looked_at_twice(monkeypatch):
    returns = draw_returns()
    monkeypatch.setattr(module, "stale_cells", None)
    assert without_stale(returns)[0] is returns
    few = returns.copy()
    few[np.random.default_rng(0).random(few.shape) < 0.05] = 0.0
    assert without_stale(few)[0] is few


def test_independent_zeros_are_returns():
    rng = np.random.default_rng(2)
    for share in (0.02, 0.1, 0.18, 0.3, 0.5):
        returns = draw_returns(252, 4_000, 3)
        returns[rng.random(returns.shape) < share] = 0.0
        assert not without_stale(returns)[1].any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "zeros", "flagged"),
    [("ph_pse_2000_2020", 0.1, 0.005), ("vn_hose_2007_2020", 0.08, 0.015), ("bd_dse_2012_2022", 0.05, 0.08)],
)
def test_markets_with_many_true_zeros_keep_them(name, zeros, flagged):
    """Share of zeros at least, share of assets and windows that lose any at most: closures and floor prices do."""
    path = MARKETS / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs the panel {path.name}")
    returns = np.load(path)["ret"]
    cells = lost = columns = touched = held = 0
    for start in range(0, len(returns) - 251, 252):
        window = returns[start : start + 252]
        window = window[:, (~np.isnan(window)).sum(axis=0) >= 20]
        cleaned, stale = without_stale(window)
        cells += (~np.isnan(window)).sum()
        held += (window == 0).sum()
        lost += (np.isnan(cleaned) & ~np.isnan(window)).sum()
        columns += len(stale)
        touched += stale.sum()
    assert held > zeros * cells
    assert touched <= flagged * columns
    assert lost <= 0.015 * cells


# ------------------------------------------------------------------------------------------------------ every door


def halted(n_zeros: int, missing: float = np.nan) -> tuple[np.ndarray, np.ndarray]:
    returns = draw_returns()
    returns[-n_zeros:, 2] = 0.0
    cleaned = returns.copy()
    cleaned[-n_zeros:, 2] = missing
    return returns, cleaned


@pytest.mark.parametrize("classic", [False, True])
def test_a_halted_asset_is_one_with_missing_returns(classic):
    parameters = split_parameters(np.random.default_rng(0).uniform(size=(1, N_PARAMETERS)))
    answers = []
    for returns in halted(100):
        request = read_request(returns, np.arange(6)[None])
        table = compute_features(request)
        assert table.status[0] == Status.GOOD
        answers.append((table.features, assemble(request, parameters, table.status, classic=classic)))
    for raw, cleaned in zip(*answers, strict=True):
        np.testing.assert_array_equal(raw, cleaned)


def test_training_reads_the_same():
    for raw, cleaned in zip(*map(estimate_inputs, halted(100)), strict=True):
        np.testing.assert_array_equal(raw, cleaned)


def test_too_few_prices_left_is_a_short_history_and_none_is_a_constant():
    for n_zeros, status in ((232, Status.GOOD), (233, Status.SHORT_HISTORY), (252, Status.CONSTANT_ASSET)):
        table = compute_features(read_request(halted(n_zeros)[0], np.array([[0, 1, 2], [3, 4, 5]])))
        assert table.status.tolist() == [status, Status.GOOD]
        assert table.status_asset.tolist() == [-1 if status == Status.GOOD else 2, -1]


def test_the_panel_that_was_sent_is_left_as_it_is():
    returns, _ = halted(100)
    before = returns.copy()
    compute_features(read_request(returns, np.arange(6)[None]))
    np.testing.assert_array_equal(returns, before)


def test_a_halted_asset_does_not_take_the_portfolio():
    """Its volatility of the days it traded, its correlation from them: the least variance is no longer its own."""
    rng = np.random.default_rng(7)
    returns = 0.015 * (np.sqrt(0.6) * rng.standard_normal((260, 1)) + np.sqrt(0.4) * rng.standard_normal((260, 6)))
    returns[-200:, 2] = 0.0
    parameters = split_parameters(np.full((1, N_PARAMETERS), 0.3))
    request = read_request(returns.astype(np.float32), np.arange(6)[None])
    (covariance,) = assemble(request, parameters, np.zeros(1, np.int32), classic=True).astype(float)
    weights = np.linalg.solve(covariance, np.ones(6))
    assert (weights / weights.sum())[2] < 0.5
