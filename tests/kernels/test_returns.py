# SPDX-License-Identifier: Apache-2.0
"""Returns are told from prices, rates, percentages and codes, against a loop in plain words."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sigmahat_kernels.features import compute_features
from sigmahat_kernels.request import read_request
from sigmahat_kernels.returns import (
    column_status,
    explain_column,
    judge_columns,
    mean_abs_limit,
    mean_row_days,
    universe_status,
)
from sigmahat_kernels.status import Status

DAY, WEEK, MONTH, QUARTER = 1.449, 7.0, 30.44, 91.3


def plain_status(column, row_days):
    """The rules, value by value."""
    seen = [float(x) for x in column if not math.isnan(x)]
    if any(math.isinf(x) for x in seen):
        return Status.NON_FINITE
    possible = [abs(x) for x in seen if x >= -1]
    mean = sum(possible) / len(possible) if possible else 0.0
    if seen and (max(seen) > 10 or mean > 0.75 * math.sqrt(row_days / 7)):
        return Status.NOT_RETURNS
    if mean > 0.3 * math.sqrt(row_days / 7):  # as all of its universe, which is this asset
        return Status.NOT_RETURNS
    if seen and min(seen) < -1.000001:
        return Status.IMPOSSIBLE_RETURN
    if len(seen) < 20:
        return Status.SHORT_HISTORY
    if max(seen) == min(seen):
        return Status.CONSTANT_ASSET
    pairs = [(a, b) for a, b in itertools.pairwise(column) if not math.isnan(a) and not math.isnan(b)]
    a2, b2, ab = (sum(f(float(a), float(b)) for a, b in pairs) for f in (_first, _second, _product))
    if (min(seen) > 0 or max(seen) < 0) and a2 * b2 > 0 and ab / math.sqrt(a2 * b2) > 0.95:
        a_year = abs(sum(seen) / len(seen)) * 365.2425 / row_days
        return Status.GOOD if a_year < 0.25 and 2 * sum(a == b for a, b in pairs) > len(pairs) else Status.LEVELS
    return Status.GOOD


def _first(a, b):
    return a * a


def _second(a, b):
    return b * b


def _product(a, b):
    return a * b


RNG = np.random.default_rng(11)


def normal(deviation, n=252):
    return deviation * RNG.standard_normal(n)


def walk(start, deviation, n=252):
    return start * np.cumprod(1 + normal(deviation, n))


COLUMNS = {
    # name: (values, days from row to row, status)
    "a stock": (normal(0.02), DAY, Status.GOOD),
    "a bond fund": (normal(0.002), DAY, Status.GOOD),
    "a bond fund in percent": (normal(0.2), DAY, Status.NOT_RETURNS),
    "a long bond fund in percent": (normal(0.9), DAY, Status.NOT_RETURNS),
    "a bond fund in percent, by week": (normal(0.5), WEEK, Status.NOT_RETURNS),
    "a bond fund in percent, by month": (normal(1.1), MONTH, Status.NOT_RETURNS),
    "a stock in basis points": (normal(150), DAY, Status.NOT_RETURNS),
    "a coin by day": (normal(0.08), 1.0, Status.GOOD),
    "a coin by month": (np.maximum(np.expm1(normal(0.4, 48)), -0.95), MONTH, Status.GOOD),
    "a coin by quarter": (np.maximum(np.expm1(normal(0.7, 40)), -0.99), QUARTER, Status.GOOD),
    "venture capital by year": (np.maximum(np.expm1(normal(1.0, 30)), -1.0), 365.25, Status.GOOD),
    "a price": (walk(100, 0.02), DAY, Status.NOT_RETURNS),
    "an exchange rate at 1.1": (walk(1.1, 0.005), DAY, Status.NOT_RETURNS),
    "an exchange rate at 0.007": (walk(0.007, 0.005), DAY, Status.LEVELS),
    "an exchange rate at 0.00004": (walk(0.00004, 0.005), DAY, Status.LEVELS),
    "a yield of 4 %": (0.04 + np.cumsum(normal(0.0005)), DAY, Status.LEVELS),
    "a yield below zero": (-0.004 + np.cumsum(normal(0.00001)), DAY, Status.LEVELS),
    "a spread by month": (0.012 * np.exp(np.cumsum(normal(0.1, 60))), MONTH, Status.LEVELS),
    "a volatility index in fractions": (0.0018 * np.exp(0.3 * np.sin(np.arange(252) / 9)), DAY, Status.LEVELS),
    "a policy rate": (np.repeat([0.04, 0.0425, 0.045, 0.0475], 63), DAY, Status.LEVELS),
    "interest of a day, set every month": (np.repeat([0.0001, 0.00012, 0.00015, 0.0002], 63), DAY, Status.GOOD),
    "interest of a month, set twice a year": (np.repeat([0.003, 0.0035, 0.004, 0.002], 6), MONTH, Status.GOOD),
    "interest of a day, set every day": (0.0001 + 0.00001 * np.sin(np.arange(252) / 50), DAY, Status.LEVELS),
    "a good year": (np.abs(normal(0.01)), DAY, Status.GOOD),
    "smooth and of both signs": (0.01 * np.sin(np.arange(252) / 30), DAY, Status.GOOD),
    "a code for missing": (np.where(np.arange(252) % 9 == 0, -9.99, normal(0.01)), DAY, Status.IMPOSSIBLE_RETURN),
    "log returns of a crash": (np.append(normal(0.01), -1.2), DAY, Status.IMPOSSIBLE_RETURN),
    "a total loss": (np.append(normal(0.01), -1.0), DAY, Status.GOOD),
    "a price with gaps": (np.where(RNG.random(252) < 0.3, np.nan, walk(0.01, 0.02)), DAY, Status.LEVELS),
    "short": (np.append(normal(0.01, 19), np.full(9, np.nan)), DAY, Status.SHORT_HISTORY),
    "nothing": (np.full(60, np.nan), DAY, Status.SHORT_HISTORY),
    "infinite": (np.append(normal(0.01), -np.inf), DAY, Status.NON_FINITE),
    "zeros": (np.zeros(60), DAY, Status.CONSTANT_ASSET),
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", COLUMNS)
def test_each_column_is_judged_as_by_the_loop(name, kind):
    values, row_days, expected = COLUMNS[name]
    values = values.astype(kind)
    assert column_status(values[:, None], row_days).tolist() == [expected] == [plain_status(values, row_days)]


def test_columns_are_judged_alone():
    columns = [values[:252] for values, row_days, _ in COLUMNS.values() if len(values) >= 252 and row_days == DAY]
    together = judge_columns(np.column_stack(columns), DAY)
    alone = [judge_columns(column[:, None], DAY) for column in columns]
    assert together.status.tolist() == [int(judged.status[0]) for judged in alone]
    assert together.large.tolist() == [bool(judged.large[0]) for judged in alone]


WILD = normal(0.25)  # a penny stock, or a bond fund in percent
PERCENT = {  # assets of a universe, and how many of them, the first ones, are refused
    "one of four": ([WILD, normal(0.01), normal(0.02), normal(0.01)], 0),
    "two of four": ([WILD, normal(0.2), normal(0.02), normal(0.01)], 2),
    "half of those that remain": ([normal(50), np.zeros(252), WILD, normal(0.01)], 3),
    "below -1, as percentages are": ([np.append(normal(0.3, 251), -1.4), WILD, normal(0.01), normal(0.01)], 2),
    "a price beside it": ([walk(100, 0.01), normal(0.01), WILD, normal(0.01), normal(0.01)], 1),
}


@pytest.mark.parametrize("name", PERCENT)
def test_percentages_show_where_half_of_a_universe_moves_too_much(name):
    columns, n_refused = PERCENT[name]
    panel = np.column_stack(columns)
    status = column_status(panel, DAY)
    assert (status[:n_refused] != Status.GOOD).all()
    assert (status[n_refused:] == Status.GOOD).all()
    # What remains without them is accepted; and the asset alone among calm ones is.
    assert (column_status(panel[:, n_refused:], DAY) == Status.GOOD).all()


def test_universes_are_judged_by_their_own_assets():
    panel = np.column_stack([WILD, normal(0.2), normal(0.01), normal(0.01), normal(0.01), np.zeros(252)])
    places = np.array([[0, 1, 2, 0], [0, 2, 3, 4], [5, 2, 0, 0], [0, 0, 0, 0]])
    held = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    found = universe_status(judge_columns(panel, DAY), places, held)
    assert found.tolist() == [[7, 7, 0, 0], [0, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]]
    universes = np.where(held, places, -1)[:3]
    dates = np.arange(252) * 7 // 5
    answered = compute_features(read_request(panel.astype(np.float32), universes, dates=dates))
    assert (answered.status.tolist(), answered.status_asset.tolist()) == ([7, 0, 9], [0, -1, 5])


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0])
def test_levels_are_levels_whatever_their_size(scale):
    assert column_status((scale * walk(0.02, 0.01))[:, None], DAY)[0] == Status.LEVELS


def test_the_limit_grows_with_the_root_of_the_distance():
    assert mean_abs_limit(0.3, 7.0) == pytest.approx(0.3)
    assert mean_abs_limit(0.3, 28.0) == pytest.approx(0.6)
    assert mean_row_days(None) == 7.0
    assert mean_row_days(np.array([100, 101, 104, 107], np.int32)) == pytest.approx(7 / 3)


def test_the_dates_of_the_window_decide():
    """The same values pass as monthly returns, and not as daily ones; other rows of the panel do not matter."""
    rng = np.random.default_rng(5)
    returns = 0.2 * rng.standard_normal((80, 3))
    returns = np.maximum(returns, -0.9).astype(np.float32)
    dates = np.concatenate([np.arange(40), 40 + 30 * np.arange(40)])
    windows = np.array([[0, 40], [40, 80]])
    universes = np.array([[0, 1, 2]] * 2)
    assert compute_features(read_request(returns, universes, windows, dates=dates)).status.tolist() == [7, 0]
    assert compute_features(read_request(returns, universes, windows)).status.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("column", "row_days", "code", "words"),
    [
        ([0.1, -9.99, -2], 1.0, Status.IMPOSSIBLE_RETURN, "-9.99 in row 1; 2 of 3 rows"),
        ([0.1, 12.5, np.nan], 1.0, Status.NOT_RETURNS, "12.5 in row 1; 1 of 3 rows above the limit 10"),
        (
            [0.5, -0.7, np.nan],
            1.0,
            Status.NOT_RETURNS,
            "mean absolute value 0.6, above the limit 0.283 for rows 1 days apart; 2 of 3 rows",
        ),
        (
            [0.2, -0.2, np.nan],
            1.0,
            Status.NOT_RETURNS,
            "mean absolute value 0.2, above the limit 0.113 for rows 1 days apart, as of half of the universe; "
            "2 of 3 rows",
        ),
        ([0.1, -np.inf, 0.2], 1.0, Status.NON_FINITE, "-inf in row 1; 1 of 3 rows"),
        ([0.1, np.nan, np.nan], 1.0, Status.SHORT_HISTORY, "1 of 3 rows"),
        ([0.1, 0.1, np.nan], 1.0, Status.CONSTANT_ASSET, "2 of 3 rows"),
        (
            [0.04, 0.041, 0.042],
            1.0,
            Status.LEVELS,
            r"0.04 to 0.042, autocorrelation 1.0000, above the limit 0.95; 3 of 3 rows",
        ),
        ([0.1, 0.2, 0.3], 1.0, 99, ""),
    ],
)
def test_what_is_wrong_is_said_with_value_and_limit(column, row_days, code, words):
    assert explain_column(np.array(column), code, row_days) == words


def test_rows_have_the_callers_names():
    said = explain_column(
        np.array([0.1, -3.0]), Status.IMPOSSIBLE_RETURN, 1.0, name_row=lambda i: f"2020-01-{i + 1:02}"
    )
    assert said == "-3 in 2020-01-02; 1 of 2 rows"
