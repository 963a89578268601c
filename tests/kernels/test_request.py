# SPDX-License-Identifier: Apache-2.0
"""What a request may hold: errors of a whole request with their words, statuses of single universes, blocks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmahat_kernels import request as request_module
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.groups import group_by_window
from sigmahat_kernels.request import (
    MARKET_COLUMNS,
    PADDING,
    block_ids,
    check_universes,
    read_request,
    with_blocks,
)
from sigmahat_kernels.status import MIN_ASSETS, MIN_OBSERVATIONS, InvalidRequest, Status

N_ROWS, N_COLUMNS = 60, 12


def simulate_returns(n_obs=N_ROWS, n_assets=N_COLUMNS, *, seed=1):
    rng = np.random.default_rng(seed)
    return (0.01 * (rng.standard_normal((n_obs, 1)) + rng.standard_normal((n_obs, n_assets)))).astype(np.float32)


def answer(panel, universes, windows=None, **optional):
    """(status code, offending entry) of each universe; a row has features if and only if it is GOOD."""
    table = compute_features(read_request(panel, np.asarray(universes, np.int32), windows, **optional))
    assert (np.isfinite(table.features).all(axis=1) == (table.status == Status.GOOD)).all()
    assert (np.isnan(table.features).all(axis=1) == (table.status != Status.GOOD)).all()
    assert table.status.dtype == table.status_asset.dtype == np.int32
    return list(zip(map(Status, table.status.tolist()), table.status_asset.tolist(), strict=True))


# ------------------------------------------------------------------------------------------ the request as a whole

PANEL = simulate_returns(30, 4)
UNIVERSES = np.array([[0, 1, 2], [1, 3, -1]], np.int32)
GOOD = {"panel": PANEL, "universes": UNIVERSES}

INVALID = [
    ({"panel": PANEL[0]}, "PANEL must have shape (rows, assets), got (4,)"),
    ({"panel": PANEL[None]}, "PANEL must have shape (rows, assets), got (1, 30, 4)"),
    ({"panel": np.zeros((30, 4), np.int64)}, "PANEL must hold floating point returns, got int64"),
    ({"panel": PANEL.astype(complex)}, "PANEL must hold floating point returns, got complex128"),
    ({"panel": PANEL.astype(object)}, "PANEL must hold floating point returns, got object"),
    ({"panel": PANEL[:0]}, "PANEL is empty: shape (0, 4)"),
    ({"panel": PANEL[:, :0]}, "PANEL is empty: shape (30, 0)"),
    (
        {"panel": np.broadcast_to(np.float32(0.01), (50_001, 1_000))},
        "PANEL has 50,001,000 cells, more than the limit of 50,000,000",
    ),
    ({"universes": UNIVERSES.astype(float)}, "UNIVERSES must hold integers, got float64"),
    ({"universes": UNIVERSES.astype(bool)}, "UNIVERSES must hold integers, got bool"),
    ({"universes": UNIVERSES[0]}, "UNIVERSES must have shape (universes, assets), got (3,)"),
    ({"universes": UNIVERSES[:0]}, "UNIVERSES is empty: shape (0, 3)"),
    ({"universes": UNIVERSES[:, :0]}, "UNIVERSES is empty: shape (2, 0)"),
    ({"universes": np.zeros((1, 1_001), np.int32)}, "a universe has up to 1001 assets, more than the limit of 1000"),
    ({"universes": np.zeros((4_097, 2), np.int32)}, "the request has 4097 universes, more than the limit of 4096"),
    ({"universes": np.array([[0, 2**32 + 1]])}, "UNIVERSES holds integers that do not fit into 32 bits"),
    ({"universes": np.array([[0, 1, 2**32 - 1]], np.uint32)}, "UNIVERSES holds integers that do not fit into 32 bits"),
    ({"windows": np.array([0, 30])}, "WINDOWS must have shape (2, 2), got (2,)"),
    ({"windows": np.array([[0, 30]])}, "WINDOWS must have shape (2, 2), got (1, 2)"),
    ({"windows": np.zeros((2, 3), np.int32)}, "WINDOWS must have shape (2, 2), got (2, 3)"),
    ({"windows": np.zeros((2, 2))}, "WINDOWS must hold integers, got float64"),
    ({"market": np.zeros(30)}, "MARKET must have shape (30, 1 to 4), got (30,)"),
    ({"market": np.zeros((29, 4))}, "MARKET must have shape (30, 1 to 4), got (29, 4)"),
    ({"market": np.zeros((30, 5))}, "MARKET must have shape (30, 1 to 4), got (30, 5)"),
    ({"market": np.zeros((30, 0))}, "MARKET must have shape (30, 1 to 4), got (30, 0)"),
    ({"market": np.zeros((30, 4), np.int32)}, "MARKET must be floating point, got int32"),
    ({"dates": np.arange(30.0)}, "DATES must hold integers, got float64"),
    ({"dates": np.arange(29)}, "DATES must have shape (30,), got (29,)"),
    ({"dates": np.arange(30)[:, None]}, "DATES must have shape (30,), got (30, 1)"),
    ({"dates": np.arange(30)[::-1]}, "DATES must be strictly increasing"),
    ({"dates": np.arange(30) // 2}, "DATES must be strictly increasing"),
    ({"dates": np.r_[np.arange(29) + 2**31 - 29, -(2**31)]}, "DATES must be strictly increasing"),
    ({"blocks": np.zeros((2, 3))}, "BLOCKS must hold integers, got float64"),
    ({"blocks": np.zeros((2, 2), np.int32)}, "BLOCKS must have shape (2, 3), got (2, 2)"),
    ({"blocks": np.array([[0, 0, -1], [0, 0, 0]])}, "BLOCKS must give every asset a block id of 0 or more"),
]


@pytest.mark.parametrize(("wrong", "words"), INVALID, ids=[words for _, words in INVALID])
def test_unreadable_request_says_what_was_wanted_and_got(wrong, words):
    with pytest.raises(InvalidRequest, match=f"^{re.escape(words)}$"):
        read_request(**{**GOOD, **wrong})


def test_the_request_that_the_errors_start_from_is_readable():
    request = read_request(**GOOD)
    assert request.windows.tolist() == [[0, 30], [0, 30]]
    assert request.market is request.dates is request.blocks is None


def test_limits_themselves_are_allowed(monkeypatch):
    monkeypatch.setattr(request_module, "MAX_PANEL_CELLS", PANEL.size)
    monkeypatch.setattr(request_module, "MAX_ASSETS", 3)
    monkeypatch.setattr(request_module, "MAX_UNIVERSES", 6)  # two universes, each with two blocks
    blocks = np.array([[0, 0, 5], [5, 0, 0]])
    optional = {"market": np.zeros((30, len(MARKET_COLUMNS))), "dates": np.arange(30), "blocks": blocks}
    read_request(**GOOD, **optional)
    monkeypatch.setattr(request_module, "MAX_UNIVERSES", 5)
    with pytest.raises(InvalidRequest, match=r"^universes x \(1 \+ blocks\) is 6, more than the limit of 5$"):
        read_request(**GOOD, **optional)


def test_published_limits():
    assert (request_module.MAX_PANEL_CELLS, request_module.MAX_ASSETS, request_module.MAX_UNIVERSES) == (
        50_000_000,
        1_000,
        4_096,
    )


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64])
def test_any_integer_type_is_read(kind):
    used = np.array([[0, 1, 2]])
    request = read_request(PANEL, used.astype(kind), dates=np.arange(30).astype(kind))
    assert request.universes.dtype == request.dates.dtype == np.int32
    assert request.universes.tolist() == used.tolist()


# ------------------------------------------------------------------------------------------ statuses of one universe


def test_codes_are_never_renumbered():
    assert {status.name: int(status) for status in Status} == {
        "GOOD": 0,
        "TOO_FEW_ASSETS": 1,
        "UNKNOWN_ASSET": 2,
        "DUPLICATE_ASSET": 3,
        "WINDOW_OUT_OF_RANGE": 4,
        "TOO_FEW_OBSERVATIONS": 5,
        "NON_FINITE": 6,
        "NOT_RETURNS": 7,
        "SHORT_HISTORY": 8,
        "CONSTANT_ASSET": 9,
        "IMPOSSIBLE_RETURN": 10,
        "LEVELS": 11,
    }
    assert (MIN_OBSERVATIONS, MIN_ASSETS) == (20, 2)
    explanations = [status.explanation for status in Status]
    assert len(set(explanations)) == len(Status)
    assert all(explanations)


@pytest.mark.parametrize(
    ("universe", "expected"),
    [
        ([0, 1, 2], (Status.GOOD, -1)),
        ([11, 0, -1], (Status.GOOD, -1)),
        ([-1, -1, -1], (Status.TOO_FEW_ASSETS, -1)),
        ([3, -1, -1], (Status.TOO_FEW_ASSETS, -1)),
        ([0, 12, 1], (Status.UNKNOWN_ASSET, 12)),
        ([0, 1, 2**31 - 1], (Status.UNKNOWN_ASSET, 2**31 - 1)),
        ([0, 1, -2], (Status.UNKNOWN_ASSET, -2)),
        ([0, 1, -(2**31)], (Status.UNKNOWN_ASSET, -(2**31))),
        ([0, 99, 98], (Status.UNKNOWN_ASSET, 99)),
        ([0, -1, 1], (Status.UNKNOWN_ASSET, -1)),  # padding before an asset is no padding
        ([-1, 0, 1], (Status.UNKNOWN_ASSET, -1)),
        ([-1, -1, 1], (Status.UNKNOWN_ASSET, -1)),
        ([4, 2, 4], (Status.DUPLICATE_ASSET, 4)),
        ([2, 2, -1], (Status.DUPLICATE_ASSET, 2)),
        ([0, 0, 0], (Status.DUPLICATE_ASSET, 0)),
        ([50, 50, 1], (Status.UNKNOWN_ASSET, 50)),  # unknown comes before duplicate
        ([50, -1, -1], (Status.UNKNOWN_ASSET, 50)),  # and before too few
    ],
)
def test_list_of_assets(universe, expected):
    panel = simulate_returns()
    assert answer(panel, [universe]) == [expected]
    assert answer(panel, [[0, 1, -1], universe, [2, 3, 4]]) == [(Status.GOOD, -1), expected, (Status.GOOD, -1)]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([0, 60], Status.GOOD),
        ([40, 60], Status.GOOD),
        ([41, 60], Status.TOO_FEW_OBSERVATIONS),
        ([59, 60], Status.TOO_FEW_OBSERVATIONS),
        ([0, 61], Status.WINDOW_OUT_OF_RANGE),
        ([-1, 60], Status.WINDOW_OUT_OF_RANGE),
        ([30, 30], Status.WINDOW_OUT_OF_RANGE),
        ([40, 20], Status.WINDOW_OUT_OF_RANGE),
        ([60, 90], Status.WINDOW_OUT_OF_RANGE),
        ([-(2**31), 2**31 - 1], Status.WINDOW_OUT_OF_RANGE),
        ([2**31 - 1, -(2**31)], Status.WINDOW_OUT_OF_RANGE),
    ],
)
def test_window(window, expected):
    windows = np.array([[0, 60], window], np.int32)
    assert answer(simulate_returns(), [[0, 1], [2, 3]], windows) == [(Status.GOOD, -1), (expected, -1)]


def test_panel_with_too_few_rows():
    assert answer(simulate_returns(19), [[0, 1]]) == [(Status.TOO_FEW_OBSERVATIONS, -1)]
    assert answer(simulate_returns(20), [[0, 1]]) == [(Status.GOOD, -1)]


def test_window_comes_before_assets():
    universes = [[0, 99], [0, 99], [1, 1]]
    windows = np.array([[0, 99], [0, 10], [0, 10]])
    expected = [Status.WINDOW_OUT_OF_RANGE, Status.TOO_FEW_OBSERVATIONS, Status.TOO_FEW_OBSERVATIONS]
    assert answer(simulate_returns(), universes, windows) == [(status, -1) for status in expected]


def spoil(column, kind):
    """A copy of the column that the named check refuses, and the check's status."""
    column = column.copy()
    if kind == "infinite":
        column[5] = np.inf
    elif kind == "minus infinite":
        column[:] = -np.inf
    elif kind == "one move above +1000 %":
        column[5] = 10.01
    elif kind == "one price":
        column[5] = 123.4
    elif kind == "one move below -100 %":
        column[5] = -1.01
    elif kind == "a code for missing":
        column[5:25] = -999.25
    elif kind == "exchange rates":
        column[:] = 0.007 * np.cumprod(1.0 + column)
    elif kind == "yields below zero":
        column[:] = -0.004 * np.cumprod(1.0 + column)
    elif kind == "prices":
        column[:] = 100.0 * np.cumprod(1.0 + column)
    elif kind == "prices near one":
        column[:] = np.cumprod(1.0 + column)
    elif kind == "percentages":
        column *= 100.0
    elif kind == "percentages of which most are missing":
        column *= 100.0
        column[:30] = np.nan
    elif kind == "largest floats":
        column[:] = np.finfo(column.dtype).max
    elif kind == "19 returns":
        column[19:] = np.nan
    elif kind == "no returns":
        column[:] = np.nan
    elif kind == "zeros":
        column[:] = 0.0
    elif kind == "one value":
        column[:] = 0.01
        column[7] = np.nan
    return column


REFUSED = {
    "infinite": Status.NON_FINITE,
    "minus infinite": Status.NON_FINITE,
    "one move above +1000 %": Status.NOT_RETURNS,
    "one price": Status.NOT_RETURNS,
    "one move below -100 %": Status.IMPOSSIBLE_RETURN,
    "a code for missing": Status.IMPOSSIBLE_RETURN,
    "exchange rates": Status.LEVELS,
    "yields below zero": Status.LEVELS,
    "prices": Status.NOT_RETURNS,
    "prices near one": Status.NOT_RETURNS,
    "percentages": Status.NOT_RETURNS,
    "percentages of which most are missing": Status.NOT_RETURNS,
    "largest floats": Status.NOT_RETURNS,
    "19 returns": Status.SHORT_HISTORY,
    "no returns": Status.SHORT_HISTORY,
    "zeros": Status.CONSTANT_ASSET,
    "one value": Status.CONSTANT_ASSET,
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("fault", REFUSED)
def test_asset_that_cannot_be_used_is_named(fault, kind):
    panel = simulate_returns().astype(kind)
    panel[:, 7] = spoil(panel[:, 7], fault)
    universes = [[0, 1, 2], [2, 7, 3], [7, 8, -1], [3, 4, 5]]
    good, bad = (Status.GOOD, -1), (REFUSED[fault], 7)
    assert answer(panel, universes) == [good, bad, bad, good]


@pytest.mark.parametrize("fault", REFUSED)
def test_neighbours_of_a_bad_universe_keep_their_values(fault):
    clean = simulate_returns()
    dirty = clean.copy()
    dirty[:, 7] = spoil(clean[:, 7], fault)
    universes = np.array([[0, 1, 2, -1], [2, 7, 3, 99], [7, 8, -1, -1], [3, 4, 5, 1]], np.int32)
    alone = compute_features(read_request(clean, universes[[0, 3]]))
    beside = compute_features(read_request(dirty, universes))
    np.testing.assert_allclose(beside.features[[0, 3]], alone.features, rtol=1e-6, atol=1e-6)


def test_fault_outside_the_window_is_none():
    panel = simulate_returns()
    for row, fault in enumerate([np.inf, 100.0, np.nan, 0.5]):
        panel[row, 3] = fault
    windows = np.array([[4, 60], [0, 60]])
    assert answer(panel, [[3, 4], [3, 4]], windows) == [(Status.GOOD, -1), (Status.NON_FINITE, 3)]


def test_first_bad_asset_in_the_universes_own_order_is_named():
    panel = simulate_returns()
    panel[:, 2], panel[:, 9], panel[25:, 5] = 0.0, np.inf, np.nan
    panel[:25, 5] = 0.01 * (-1.0) ** np.arange(25)
    expected = [(Status.NON_FINITE, 9), (Status.CONSTANT_ASSET, 2), (Status.GOOD, -1)]
    assert answer(panel, [[1, 9, 2], [1, 2, 9], [1, 5, 0]]) == expected


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (["zeros", "19 returns"], Status.SHORT_HISTORY),
        (["prices", "19 returns"], Status.NOT_RETURNS),
        (["one move below -100 %", "19 returns"], Status.IMPOSSIBLE_RETURN),
        (["percentages", "one move below -100 %"], Status.NOT_RETURNS),
        (["exchange rates", "19 returns"], Status.SHORT_HISTORY),
        (["exchange rates", "one value"], Status.CONSTANT_ASSET),
        (["percentages", "infinite"], Status.NON_FINITE),
        (["19 returns", "infinite"], Status.NON_FINITE),
    ],
)
def test_precedence_of_faults_of_one_asset(faults, expected):
    panel = simulate_returns()
    for fault in faults:
        panel[:, 0] = spoil(panel[:, 0], fault)
    assert answer(panel, [[0, 1]]) == [(expected, 0)]


@pytest.mark.parametrize("largest", [10.0, -1.0, np.float32(-1.0000005)])
def test_a_tenfold_move_and_a_total_loss_are_still_returns(largest):
    panel = simulate_returns()
    panel[5, 0] = largest
    assert answer(panel, [[0, 1]]) == [(Status.GOOD, -1)]


def test_average_move_is_taken_over_the_returns_that_are_there():
    panel = simulate_returns()
    panel[:, 0] = np.where(np.arange(60) % 2 == 0, 0.74, -0.74)
    assert answer(panel, [[0, 1, 2]]) == [(Status.GOOD, -1)]
    assert answer(panel, [[0, 1]]) == [(Status.NOT_RETURNS, 0)]  # half of the universe is above 0.3
    panel[:, 0] *= 0.76 / 0.74
    assert answer(panel, [[0, 1, 2]]) == [(Status.NOT_RETURNS, 0)]
    panel[::2, 0] = np.nan
    panel[1, 0] = 0.75
    assert answer(panel, [[0, 1, 2]]) == [(Status.NOT_RETURNS, 0)]


def test_returns_whose_squares_underflow_are_constant():
    panel = simulate_returns().astype(np.float64)
    panel[:, 3] *= 1e-200
    assert answer(panel, [[0, 1], [2, 3]]) == [(Status.GOOD, -1), (Status.CONSTANT_ASSET, 3)]


def test_smallest_float32_returns_are_returns():
    panel = simulate_returns()
    panel[:, 3] *= 1e-40
    assert answer(panel, [[0, 1], [2, 3]]) == [(Status.GOOD, -1)] * 2


def test_every_universe_refused():
    panel = simulate_returns()
    panel[:, 0] = 0.0
    assert answer(panel, [[0, 1], [0, 2]]) == [(Status.CONSTANT_ASSET, 0)] * 2


def test_statuses_that_need_no_returns_come_from_check_universes():
    universes = np.array([[0, 1, -1], [0, 50, -1], [7, 7, -1], [4, -1, -1]], np.int32)
    status, asset = check_universes(read_request(simulate_returns(), universes))
    assert status.tolist() == [Status.GOOD, Status.UNKNOWN_ASSET, Status.DUPLICATE_ASSET, Status.TOO_FEW_ASSETS]
    assert asset.tolist() == [-1, 50, 7, -1]


# ------------------------------------------------------------------------------------------------ groups and blocks


@pytest.mark.parametrize("n_columns", [9, 400])  # few for the width, and so many that assets are sorted
def test_assets_are_judged_row_by_row(n_columns, monkeypatch):
    monkeypatch.setattr(request_module, "_BLOCK_CELLS", 64)  # a few rows at a time
    rng = np.random.default_rng(n_columns)
    universes = np.full((300, 8), PADDING, np.int32)
    expected = []
    for row in universes:
        size = rng.integers(2, 9)
        row[:size] = rng.choice(n_columns, size, replace=False)
        for _ in range(rng.integers(0, 3)):
            row[rng.integers(8)] = rng.choice([-7, PADDING, 0, n_columns - 1, n_columns, 2**31 - 1])
        named = [i for i, asset in enumerate(row) if asset != PADDING]
        inside = row[: named[-1] + 1].tolist() if named else []
        unknown = [asset for asset in inside if not 0 <= asset < n_columns]
        twice = sorted(asset for asset in set(inside) if inside.count(asset) > 1 and asset != PADDING)
        faults = [(Status.UNKNOWN_ASSET, asset) for asset in unknown] + [(Status.DUPLICATE_ASSET, a) for a in twice]
        faults += [(Status.TOO_FEW_ASSETS, PADDING)] * (len(named) < MIN_ASSETS) + [(Status.GOOD, PADDING)]
        expected.append(faults[0])
    found = check_universes(read_request(simulate_returns(n_assets=n_columns), universes))
    assert list(zip(*(values.tolist() for values in found), strict=True)) == expected
    assert len(set(found[0].tolist())) >= 3


def test_universes_are_grouped_by_window():
    universes = np.array([[4, 2, -1], [0, 1, -1], [2, 7, 9], [5, 6, -1]], np.int32)
    windows = np.array([[0, 60], [10, 60], [0, 60], [0, 50]])
    request = read_request(simulate_returns(), universes, windows)
    groups = [
        (group.start, group.stop, group.universes.tolist(), group.columns.tolist())
        for group in group_by_window(request, np.array([0, 1, 2]))
    ]
    assert groups == [(0, 60, [0, 2], [2, 4, 7, 9]), (10, 60, [1], [0, 1])]


def test_blocks_become_universes_of_their_own():
    universes = np.array([[5, 3, 8, 1], [2, 9, 4, -1]], np.int32)
    blocks = np.array([[70, 4, 70, 4], [4, 4, 4, 70]], np.int32)  # the last entry is padding: its block is none
    windows = np.array([[0, 60], [20, 60]], np.int32)
    market = np.ones((60, 2), np.float32)
    request = read_request(simulate_returns(), universes, windows, market, np.arange(60), blocks)
    assert block_ids(universes, blocks).tolist() == [4, 70]
    expanded = with_blocks(request)
    assert expanded.universes.tolist() == [
        [5, 3, 8, 1],
        [3, 1, -1, -1],
        [5, 8, -1, -1],
        [2, 9, 4, -1],
        [2, 9, 4, -1],
        [-1, -1, -1, -1],
    ]
    assert expanded.windows.tolist() == [[0, 60]] * 3 + [[20, 60]] * 3
    assert expanded.blocks is None
    assert expanded.market is market
    assert expanded.dates.tolist() == list(range(60))
    table = compute_features(expanded)
    assert table.status.tolist() == [0, 0, 0, 0, 0, Status.TOO_FEW_ASSETS]
    np.testing.assert_allclose(table.features[4], table.features[3], rtol=1e-6)


def test_without_blocks_nothing_is_expanded():
    request = read_request(simulate_returns(), np.array([[0, 1]]))
    assert with_blocks(request) is request


def test_padding_has_no_block():
    universes = np.array([[0, 1, -1]])
    assert block_ids(universes, np.array([[2, 3, 9]])).tolist() == [2, 3]
    read_request(simulate_returns(), universes, blocks=np.array([[2, 3, -7]]))


# ----------------------------------------------------------------------------------------- whatever a caller sends

ENTRIES = st.one_of(st.integers(-1, N_COLUMNS), st.sampled_from([-1, -(2**31), -2, 2**31 - 1]))
EDGES = st.one_of(st.integers(-1, N_ROWS + 1), st.sampled_from([0, N_ROWS, -(2**31), 2**31 - 1]))
CELLS = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-45, -3e38, 3e38, 10.0, 0.3, 1e-30])
SPOILED = 4  # columns that hypothesis may write into; the neighbours live on the others
NEIGHBOURS = np.array([[4, 5, 6, -1], [8, 7, 11, 10]], np.int32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    garbage=st.lists(st.tuples(st.lists(ENTRIES, min_size=4, max_size=4), EDGES, EDGES), max_size=6),
    cells=st.lists(
        st.tuples(st.integers(0, N_ROWS), st.integers(1, N_ROWS), st.integers(0, SPOILED - 1), CELLS), max_size=8
    ),
    blocks=st.one_of(st.none(), st.integers(0, 3)),
)
def test_garbage_gets_a_status_and_spoils_nothing(garbage, cells, blocks):
    panel = simulate_returns()
    (expected,) = (compute_features(read_request(panel, NEIGHBOURS)).features,)
    for start, length, column, value in cells:
        panel[start : start + length, column] = value
    universes = np.array([NEIGHBOURS[0].tolist(), *(row for row, _, _ in garbage), NEIGHBOURS[1].tolist()])
    windows = np.array([[0, N_ROWS], *([start, stop] for _, start, stop in garbage), [0, N_ROWS]])
    if blocks is not None:
        blocks = np.add.outer(np.zeros(len(universes), int), np.arange(4) % (blocks + 1))
    request = with_blocks(read_request(panel, universes, windows, blocks=blocks))
    table = compute_features(request)
    assert set(table.status.tolist()) <= set(Status)
    good = table.status == Status.GOOD
    assert np.isfinite(table.features[good]).all()
    assert np.isnan(table.features[~good]).all()
    own = np.arange(len(table.status)).reshape(len(universes), -1)[[0, -1], 0]
    assert (table.status[own] == Status.GOOD).all()
    np.testing.assert_allclose(table.features[own], expected, rtol=1e-6, atol=1e-6)
    for status, asset, row in zip(table.status, table.status_asset, request.universes, strict=True):
        assert asset == PADDING or asset in row
        names_an_asset = status not in (
            Status.GOOD,
            Status.TOO_FEW_ASSETS,
            Status.WINDOW_OUT_OF_RANGE,
            Status.TOO_FEW_OBSERVATIONS,
        )
        assert names_an_asset or asset == PADDING


ARRAYS = st.sampled_from(
    [
        None,
        np.zeros(0),
        np.zeros((0, 0), np.int32),
        np.array(3),
        np.array("x"),
        np.array([[None]]),
        np.arange(30),
        np.arange(30.0)[:, None],
        np.array([[0, 1]]),
        np.array([[0, 1], [2, 2]], np.uint8),
        np.array([[2**63]], np.uint64),
        np.array([[0, 30]]),
        np.full((30, 2), np.nan),
        np.zeros((30, 2), np.float16),
        np.zeros((2, 30, 2), np.float32),
        np.array(["2020-01-01"] * 30, "datetime64[D]"),
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(panel=ARRAYS.filter(lambda x: x is not None), universes=ARRAYS, windows=ARRAYS, market=ARRAYS, dates=ARRAYS)
def test_arrays_of_any_kind_raise_nothing_but_invalid_request(panel, universes, windows, market, dates):
    for blocks in (None, universes, windows):
        try:
            request = read_request(panel, universes, windows, market, dates, blocks)
        except InvalidRequest:
            continue
        compute_features(with_blocks(request))
