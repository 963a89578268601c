# SPDX-License-Identifier: Apache-2.0
"""Shares of markets and panels by hand, and in what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from sigmahat_trainer.data.dataset import draw_dataset
from sigmahat_trainer.data.markets import market_of, panel_shares
from sigmahat_trainer.data.panels import ReturnPanel

N_ASSETS = 12
ROWS = {"us_stocks": 800, "us_broad": 200, "uk_stocks": 250, "nepal": 90}


def make_panel(name, n_rows, first):
    returns = 0.01 * np.random.default_rng(n_rows).standard_normal((n_rows, N_ASSETS)).astype(np.float32)
    dates = np.busday_offset(np.datetime64(first), np.arange(n_rows), roll="forward")
    return ReturnPanel(name, returns, dates, np.full((n_rows, 4), np.nan, np.float32))


@pytest.fixture(scope="module")
def panels():
    """Each in a decade of its own, by which its samples are known."""
    return [make_panel(name, n, f"{1970 + 10 * k}-01-01") for k, (name, n) in enumerate(ROWS.items())]


def test_the_market_is_the_name_up_to_the_first_underscore_and_that_of_funds_another():
    assert [market_of(name) for name in ("us_sp500_1999_2021", "us", "north")] == ["us", "us", "north"]
    funds = ("us_etf18_2006_2022", "us_funds", "us_factors_1963_2022", "uk_etf")
    assert [market_of(name) for name in funds] == ["us funds", "us funds", "us funds", "uk funds"]
    assert market_of("us_sp500_etf") == "us"  # of the second word alone


def test_shares_by_hand(panels):
    """Roots of 1000, 250 and 90; the first is parted as the roots of 800 and 200, two to one."""
    roots = np.sqrt([1000, 250, 90])
    us, uk, nepal = roots / roots.sum()
    np.testing.assert_allclose(panel_shares(panels, 0.5), [us * 2 / 3, us / 3, uk, nepal], rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_funds_have_a_quarter_beside_others_and_their_own_shares_without(panels, power):
    funds = [panels[1]._replace(name="us_etf"), panels[2]._replace(name="uk_funds")]
    alone = panel_shares(funds, power)
    mixed = panel_shares([panels[0], panels[3], *funds], power)
    assert alone.sum() == pytest.approx(1)
    np.testing.assert_allclose(mixed[2:], 0.25 * alone, rtol=1e-12)
    np.testing.assert_allclose(mixed[:2], 0.75 * panel_shares([panels[0], panels[3]], power), rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
def test_the_power_goes_from_markets_alike_to_returns_alike(panels, power):
    shares = panel_shares(panels, power)
    assert shares.sum() == pytest.approx(1)
    of_markets = np.array([shares[:2].sum(), *shares[2:]])
    np.testing.assert_allclose(of_markets / of_markets[0], (np.array([1000, 250, 90]) / 1000) ** power, rtol=1e-12)
    np.testing.assert_allclose(shares[0] / shares[1], 4**power, rtol=1e-12)


def test_only_returns_that_are_known_count(panels):
    gaps = panels[2].returns.copy()
    gaps[:, 3:] = np.nan
    shares = panel_shares([panels[2]._replace(name="half", returns=gaps), panels[2]], 0.5)
    np.testing.assert_allclose(shares[0] / shares[1], np.sqrt(3 / 12), rtol=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_samples_are_drawn_by_these_shares(panels, power):
    drawn = draw_dataset(panels, n_samples=1_800, simulated_share=0.0, horizon=10, seed=0, market_power=power)
    decade = np.concatenate([stack.period for stack in drawn.by_size.values()]) // 120
    counts = np.bincount(decade, minlength=4) / len(decade)
    np.testing.assert_allclose(counts, panel_shares(panels, power), atol=0.08)  # three errors of 300 windows
