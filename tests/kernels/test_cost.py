# SPDX-License-Identifier: Apache-2.0
"""The price of a request: the formula of the protocol page, added up naively."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sigmahat_kernels.cost import (
    MATRIX_PAIRS,
    MAX_COST,
    RISK,
    UNIVERSE,
    WINDOW,
    CostTooHigh,
    check_cost,
    features_cost,
    matrices_cost,
    risk_cost,
)
from sigmahat_kernels.request import MAX_ASSETS, Request, read_request


def draw(n_universes: int, n_assets: int, n_rows: int, n_columns: int, **optional: np.ndarray) -> Request:
    rng = np.random.default_rng(0)
    lists = [rng.choice(n_columns, n_assets, replace=False) for _ in range(n_universes)]
    return read_request(np.zeros((n_rows, n_columns), np.float32), np.array(lists, np.int32), **optional)


def by_hand(sizes: list[int], windows: list[tuple[int, int]], n_columns: int) -> tuple[float, float]:
    """Features and matrices; every universe of a window pays for the columns listed up to itself."""
    features = matrices = 0.0
    for window in set(windows):
        t = window[1] - window[0]
        here = [n for n, w in zip(sizes, windows, strict=True) if w == window]
        m = min(sum(here), n_columns)
        shared = WINDOW.one + WINDOW.cells * t * m + WINDOW.products * t * m**2
        features += shared
        matrices += shared
        for k, n in enumerate(here):
            columns = min(sum(here[: k + 1]), n_columns)
            spectrum = UNIVERSE.spectrum * n**2 * min(n, t)
            features += UNIVERSE.one + UNIVERSE.pairs * n**2 + spectrum + UNIVERSE.series * t * columns
            matrices += UNIVERSE.one + MATRIX_PAIRS * n**2
    return features, matrices


def test_the_sum_is_that_of_the_formula() -> None:
    windows = [(0, 100), (50, 120), (0, 100), (0, 120)]
    request = draw(4, 30, 120, 50, windows=np.array(windows, np.int32))
    request.universes[1, 20:] = -1
    features, matrices = by_hand([30, 20, 30, 30], windows, 50)
    assert math.isclose(features_cost(request), features)
    assert math.isclose(matrices_cost(request), matrices)


def test_risk_costs_its_matrices_and_its_own() -> None:
    request = draw(2, 30, 120, 50)
    request.universes[1, 20:] = -1
    products = RISK.products * 4 * (30**2 + 20**2)
    pairs, steps = RISK.minimum_variance_pairs * (30**2 + 20**2), RISK.minimum_variance_steps * (30**3 + 20**3)
    alone = risk_cost(request, 4, minimum_variance=False)
    assert math.isclose(alone, matrices_cost(request) + products)
    assert math.isclose(risk_cost(request, 4, minimum_variance=True), alone + pairs + steps)


def test_windows_out_of_range_cost_no_more_than_the_panel() -> None:
    windows = np.array([[-(2**31), 2**31 - 1], [2**31 - 1, -(2**31)]], np.int32)
    cost = features_cost(draw(2, 10, 40, 20, windows=windows))
    assert 0 < cost < features_cost(draw(2, 10, 40, 20)) + 2 * WINDOW.one


def test_blocks_are_computed_too() -> None:
    blocks = np.tile(np.arange(30, dtype=np.int32) % 3, (4, 1))
    plain, blocked = features_cost(draw(4, 30, 100, 50)), features_cost(draw(4, 30, 100, 50, blocks=blocks))
    assert blocked > plain + 3 * 4 * UNIVERSE.one


def test_what_one_universe_can_cost_is_within_the_limit() -> None:
    for n_rows in (20, 1_000, 50_000):
        check_cost(features_cost(draw(1, MAX_ASSETS, n_rows, MAX_ASSETS)), 1)


def test_a_request_above_the_limit_is_told_the_cost_the_limit_and_how_to_split() -> None:
    request = draw(4096, 900, 1000, 1000)
    cost = features_cost(request)
    parts = math.ceil(cost / MAX_COST)
    with pytest.raises(CostTooHigh) as raised:
        check_cost(cost, 4096)
    assert str(raised.value) == (
        f"the request costs {cost:,.0f} ms of one core, more than the limit of 120,000: "
        f"split it into {parts} or more, of at most {4096 // parts} of its 4096 universes"
    )
    assert parts > 1
    assert check_cost(MAX_COST, 1) == MAX_COST
