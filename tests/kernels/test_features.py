# SPDX-License-Identifier: Apache-2.0
"""Every published feature against a loop from its definition, and what must not change a feature."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from reference import features as reference

from sigmahat_kernels.correlation import CORRELATION
from sigmahat_kernels.features import FEATURE_NAMES, FEATURES, N_FEATURES, compute_features
from sigmahat_kernels.market import MARKET
from sigmahat_kernels.missing import MISSING
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.regime import REGIME
from sigmahat_kernels.request import read_request
from sigmahat_kernels.solvers import SolverError
from sigmahat_kernels.spectrum import SPECTRUM, correlation_spectrum, dual_spectrum, spectrum_features
from sigmahat_kernels.status import Status
from sigmahat_kernels.temporal import SEASON, TEMPORAL

GROUPS = [SPECTRUM, CORRELATION, REGIME, TEMPORAL, SEASON, MARKET, MISSING]

# Features are float32 (6e-8 relative); sums are float64. The absolute part is for values that are exactly zero.
RTOL, ATOL = 1e-6, 2e-7


def simulate_returns(n_obs, n_assets, *, seed=1, degrees=5, factor=1.0, drift=0.0):
    """Daily returns with one common factor, volatilities from 0.5 % to 3 % and fat tails."""
    rng = np.random.default_rng(seed)
    common = rng.standard_t(degrees, (n_obs, 1)) * rng.uniform(0.5, 1.5, n_assets)
    own = rng.standard_t(degrees, (n_obs, n_assets))
    returns = drift + np.geomspace(0.005, 0.03, n_assets) * (factor * common + own)
    return np.clip(returns, -0.9, 5.0).astype(np.float32)


def with_gaps(returns, *, share=0.15, seed=2):
    """Cells missing at random, one late start, one early end, some prices that stand still, one empty row."""
    rng = np.random.default_rng(seed)
    returns = returns.copy()
    n_obs = len(returns)
    returns[rng.random(returns.shape) < 0.05] = 0.0
    returns[rng.random(returns.shape) < share] = np.nan
    returns[: n_obs // 2, 0] = np.nan
    returns[n_obs // 2 :, -1] = np.nan
    returns[n_obs // 3] = np.nan
    return returns


def short_histories():
    """An asset listed 20 rows ago, one that left after 20 rows, one with 90 % of the rows, one with a row less."""
    returns = simulate_returns(150, 6, seed=5)
    returns[:-20, 0] = np.nan
    returns[20:, 1] = np.nan
    returns[:15, 2] = np.nan
    returns[:16, 3] = np.nan
    return returns


def three_sectors():
    """Three factors above the Marchenko-Pastur edge; the largest gap of the spectrum is behind the third."""
    rng = np.random.default_rng(10)
    sectors = np.repeat(rng.standard_normal((200, 3)), 6, axis=1)
    returns = 0.01 * (sectors + 0.4 * rng.standard_normal((200, 18)))
    returns[-40:, 3:5] *= 3.0
    return returns.astype(np.float32)


def hedged():
    returns = simulate_returns(60, 1, seed=6)
    return np.hstack([returns, -returns])


def quiet_end(*, n_quiet=150):
    """Prices that hardly move lately: the floors under recent volatility."""
    returns = simulate_returns(200, 5, seed=8)
    returns[-n_quiet:] *= 1e-4
    return returns


def still_end():
    """A market that ends where it began and hardly moves lately: the floor under a block's and a recent volatility."""
    rng = np.random.default_rng(15)
    early = 0.01 * rng.standard_normal((40, 4))
    late = 1e-7 * rng.standard_normal((84, 4))
    return np.vstack([early, -early, late - late.mean(axis=0)]).astype(np.float32)


def common_volatility():
    """Uncorrelated assets that are loud on the same days: the closed-form intensity would be above one."""
    rng = np.random.default_rng(6)
    return (0.01 * np.exp(rng.standard_normal((100, 1))) * rng.standard_normal((100, 3))).astype(np.float32)


def eleven_sectors():
    """The largest gap of the spectrum stands behind the eleventh eigenvalue, one later than is looked at."""
    rng = np.random.default_rng(17)
    factors = rng.standard_normal((90, 11))
    factors, _ = np.linalg.qr(factors - factors.mean(axis=0))  # orthogonal, of equal length: equal eigenvalues
    sectors = 90**0.5 * np.repeat(factors, 2, axis=1)
    return (0.01 * (sectors + 0.1 * rng.standard_normal((90, 22)))).astype(np.float32)


def stressed_end():
    returns = simulate_returns(160, 9, seed=9, drift=0.001)
    returns[-25:, :6] *= 4.0
    returns[-30:] -= 0.01
    return returns


PANELS = {
    "more rows than assets": lambda: simulate_returns(120, 8),
    "fewer rows than assets": lambda: simulate_returns(30, 40, seed=3),
    "as many rows as assets": lambda: simulate_returns(25, 25, seed=4),
    "one row more than assets": lambda: simulate_returns(25, 24, seed=4),
    "missing": lambda: with_gaps(simulate_returns(100, 10)),
    "missing, fewer rows than assets": lambda: with_gaps(simulate_returns(60, 62, seed=12), share=0.05),
    "short histories": short_histories,
    "two assets": lambda: simulate_returns(60, 2),
    "heavy tails": lambda: simulate_returns(200, 12, degrees=2, seed=7),
    "20 rows": lambda: simulate_returns(20, 5),
    "41 rows": lambda: simulate_returns(41, 3),
    "45 rows": lambda: simulate_returns(45, 7),
    "three sectors": three_sectors,
    "two sectors": lambda: three_sectors()[:, :12],
    "no common factor": lambda: simulate_returns(80, 16, factor=0.0),
    "fall": lambda: simulate_returns(90, 4, drift=-0.004),
    "rise": lambda: simulate_returns(90, 4, drift=0.02, factor=0.1),
    "quiet end": quiet_end,
    "quiet end, long ago noisy": lambda: quiet_end(n_quiet=199),
    "still end": still_end,
    "stressed end": stressed_end,
    "common volatility": common_volatility,
    "eleven sectors": eleven_sectors,
    "hedged exactly": hedged,
    "twins": lambda: np.repeat(simulate_returns(50, 2), 2, axis=1),
}


def compute(panel, universes, **optional):
    table = compute_features(read_request(panel, np.asarray(universes, np.int32), **optional))
    assert (table.status == Status.GOOD).all()
    assert np.isfinite(table.features).all()
    return table.features


@cache
def computed_and_expected(name):
    returns = PANELS[name]()
    (row,) = compute(returns, [np.arange(returns.shape[1])])
    return dict(zip(FEATURE_NAMES, row.tolist(), strict=True)), reference.features(returns)


def indicators(n_rows, *, seed=1):
    """VIX, turnover, illiquidity and days to the next event, with gaps and values that are no values."""
    rng = np.random.default_rng(seed)
    market = np.exp(np.cumsum(rng.normal(0, 0.05, (n_rows, 4)), axis=0)) * [20.0, 3e9, 1e-4, 1.0]
    market[:, 3] = np.arange(n_rows)[::-1] % 13
    market[rng.random(market.shape) < 0.1] = np.nan
    market[:7, 0] = np.nan
    market[11, 0] = np.inf
    market[12, 1], market[13, 2] = 0.0, -1.0
    return market.astype(np.float32)


def dates_of(n_rows):
    return (14_000 + np.arange(n_rows) * 7 // 5).astype(np.int32)


# --------------------------------------------------------------------------------------------- independent oracles


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_feature_equals_its_definition(name, panel):
    computed, expected = computed_and_expected(panel)
    np.testing.assert_allclose(computed[name], expected[name], rtol=RTOL, atol=ATOL)


def test_definitions_are_tested_away_from_their_trivial_values():
    """Of all panels, some must have factors, stress, tails, gaps ...: a feature that is always 0 is not tested."""
    values = {name: {round(computed_and_expected(panel)[1][name], 9) for panel in PANELS} for name in FEATURE_NAMES}
    optional = {*SEASON, *MARKET}  # not sent here; the tests below send them
    assert [name for name in FEATURE_NAMES if len(values[name]) < 3 and name not in optional] == []


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4])
@pytest.mark.parametrize("stop", [20, 33, 150, 299, 300, 320])
def test_market_and_season_equal_their_definitions(stop, n_columns):
    returns, market, dates = simulate_returns(320, 3), indicators(320)[:, :n_columns], dates_of(320)
    window = [max(0, stop - 100), stop]
    (row,) = compute(returns, [[0, 1, 2]], windows=np.array([window]), market=market, dates=dates)
    expected = reference.features(returns[slice(*window)], market=market[:stop], dates=dates[:stop])
    computed = dict(zip(FEATURE_NAMES, row.tolist(), strict=True))
    assert computed.keys() == expected.keys()
    for name in (*MARKET, *SEASON):
        np.testing.assert_allclose(computed[name], expected[name], rtol=RTOL, atol=ATOL, err_msg=name)


def test_indicators_that_never_came_are_zero():
    market = np.full((60, 4), np.nan, np.float32)
    (row,) = compute(simulate_returns(60, 3), [[0, 1, 2]], market=market)
    assert [row[FEATURE_NAMES.index(name)] for name in MARKET] == [0.0] * len(MARKET)


def test_an_event_that_has_passed_counts_as_today():
    market = np.full((30, 4), np.nan, np.float32)
    market[-1, 3] = -2.0
    (row,) = compute(simulate_returns(30, 2), [[0, 1]], market=market)
    assert row[FEATURE_NAMES.index("event_proximity")] == 1.0


def test_an_event_count_is_not_carried_forward():
    market = np.full((30, 4), np.nan, np.float32)
    market[-2, 3] = 3.0
    (row,) = compute(simulate_returns(30, 2), [[0, 1]], market=market)
    assert row[FEATURE_NAMES.index("has_event")] == row[FEATURE_NAMES.index("event_proximity")] == 0.0


@pytest.mark.parametrize(
    ("date", "sine", "cosine"), [("1970-01-01", 0.0, 1.0), ("2022-04-02", 1.0, 0.0), ("2023-07-02", 0.0, -1.0)]
)
def test_season_turns_with_the_calendar(date, sine, cosine):
    last = int((np.datetime64(date) - np.datetime64("1970-01-01")).astype(int))
    dates = np.arange(last - 29, last + 1)
    (row,) = compute(simulate_returns(30, 2), [[0, 1]], dates=dates)
    season = [row[FEATURE_NAMES.index(name)] for name in ("has_dates", "season_sin", "season_cos")]
    np.testing.assert_allclose(season, [1.0, sine, cosine], atol=0.02)  # a day is 0.017 radians


@pytest.mark.parametrize(("n_obs", "n_assets"), [(20, 21), (20, 60), (25, 25)])
def test_dual_spectrum_is_that_of_the_correlation_matrix(n_obs, n_assets):
    """Its null eigenvalues, N - T + 1 of them, are exactly zero; those of the large matrix are rounding errors."""
    factors = [correlation_factor(prepare_window(simulate_returns(n_obs, n_assets, seed=seed))) for seed in range(10)]
    dual = dual_spectrum(np.stack([factor.T for factor in factors]))
    primal = correlation_spectrum(np.stack([factor.T @ factor for factor in factors]))
    assert dual.shape == primal.shape == (10, n_assets)
    np.testing.assert_allclose(dual, primal, rtol=0.0, atol=1e-12)
    assert ((dual == 0).sum(axis=1) == n_assets - n_obs + 1).all()


def test_sketch_keeps_the_distance_of_two_spectra():
    """Johnson-Lindenstrauss: within a factor, of two spectra with the same ends and rank."""
    n_assets = np.array([40, 40])
    bulk = np.array([np.linspace(0.2, 1.0, 39), np.r_[np.full(20, 0.2), np.full(19, 1.0)]])
    eigenvalues = np.hstack([bulk, 40.0 - bulk.sum(axis=1, keepdims=True)])
    features = spectrum_features(eigenvalues, n_assets, 250, np.array([249.0, 249.0]))
    sketch = np.stack([features[f"sketch_{k}"] for k in range(1, 9)], axis=1)
    levels = np.rint((np.arange(32) + 0.5) / 32 * 39).astype(int)
    distance = np.linalg.norm(np.diff(np.log(eigenvalues[:, levels]), axis=0))
    assert 0.5 < np.linalg.norm(np.diff(sketch, axis=0)) / distance / 8**0.5 * 32**0.5 < 1.5


# -------------------------------------------------------------------------------------------------- published list


def test_published_list_is_every_group_in_order():
    assert list(FEATURES) == [name for group in GROUPS for name in group]
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == N_FEATURES == sum(len(group) for group in GROUPS)
    assert N_FEATURES >= 40
    assert all(len(group) > 0 for group in GROUPS)
    assert all(definition.strip() for definition in FEATURES.values())


def test_every_feature_has_an_oracle_and_no_oracle_is_left_over():
    assert list(reference.features(simulate_returns(20, 2))) == list(FEATURE_NAMES)


@pytest.mark.parametrize("panel", PANELS)
def test_rows_are_filled_completely(panel):
    returns = PANELS[panel]()
    features = compute(returns, [np.arange(returns.shape[1])], market=indicators(len(returns))[:, :2])
    assert features.dtype == np.float32
    assert features.shape == (1, N_FEATURES)


BOUNDS = {
    **dict.fromkeys(["top_share", "top3_share", "effective_rank", "participation", "factor_share"], (0, 1)),
    **dict.fromkeys(["top10_share", "numerical_rank", "recent_missing_share"], (0, 1)),
    **dict.fromkeys(["correlation_q10", "correlation_q50", "correlation_q90"], (-1, 1)),
    **dict.fromkeys(["correlation_stability", "squared_autocorrelation"], (-1, 1)),
    **dict.fromkeys(["null_share", "negative_share", "correlation_std", "constant_misfit"], (0, 1)),
    **dict.fromkeys(["factor_r2", "dispersion_share", "tail_share", "stress_share", "missing_share"], (0, 1)),
    **dict.fromkeys(["ledoit_wolf_identity", "short_history_share", "zero_share"], (0, 1)),
    **dict.fromkeys(["mean_correlation", "market_autocorrelation", "volatility_clustering"], (-1, 1)),
    **dict.fromkeys(["stable_rank", "drawdown", "log_gap", "eigenvalue_ratio"], (0, np.inf)),
    "log_condition": (0, 10),
}


@pytest.mark.parametrize("panel", PANELS)
def test_features_stay_in_their_published_range(panel):
    computed, _ = computed_and_expected(panel)
    outside = {n: computed[n] for n, (low, high) in BOUNDS.items() if not low - 1e-6 <= computed[n] <= high + 1e-6}
    assert outside == {}


# ----------------------------------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("panel", PANELS)
def test_order_of_assets_is_irrelevant(panel):
    returns = PANELS[panel]()
    order = np.random.default_rng(3).permutation(returns.shape[1])
    together = compute(returns, [np.arange(len(order)), order])
    shuffled = compute(returns[:, order], [np.arange(len(order))])
    for row in (together[1], shuffled[0]):
        np.testing.assert_allclose(row, together[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 0.25, 3.0])
def test_no_feature_has_a_scale(scale, gaps):
    """Returns of another unit are the same universe: from a thousandth to 3, the largest that passes as returns."""
    returns = simulate_returns(300, 6).astype(float)
    if gaps:
        returns[~np.isfinite(with_gaps(returns))] = np.nan
    window, louder = prepare_window(returns), prepare_window(returns * scale)
    np.testing.assert_allclose(louder.standardised, window.standardised, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(louder.volatilities, scale * window.volatilities, rtol=1e-12)
    (before,), (after,) = (compute(returns * c, [np.arange(6)]) for c in (1.0, scale))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_scale_of_one_asset_leaves_the_correlations_alone():
    returns = simulate_returns(90, 6)
    louder = returns * np.array([1, 1, 4, 1, 1, 1], np.float32)
    (before,), (after,) = (compute(panel, [np.arange(6)]) for panel in (returns, louder))
    same = [FEATURE_NAMES.index(name) for name in (*SPECTRUM, *CORRELATION)]
    np.testing.assert_allclose(after[same], before[same], rtol=1e-5, atol=1e-5)
    assert after[FEATURE_NAMES.index("volatility_dispersion")] != before[FEATURE_NAMES.index("volatility_dispersion")]


def test_strangers_are_irrelevant():
    """Other universes, other columns (unusable ones too), padding, and rows after the window."""
    returns, market, dates = with_gaps(simulate_returns(100, 7)), indicators(130), dates_of(130)
    (alone,) = compute(returns, [np.arange(7)], market=market[:100], dates=dates[:100])

    wide = np.full((130, 20), np.nan, np.float32)
    wide[:, :7] = simulate_returns(130, 7, seed=20)
    wide[:100, 10:17] = returns
    wide[:, 7:10] = 1e-6 * simulate_returns(130, 3, seed=21)
    wide[50, 8] = np.inf
    wide[:, 19] = 100.0
    wide[100:, 10:17] = 0.5
    universes = np.full((5, 9), -1, np.int32)
    universes[0, :2] = 0, 1
    universes[1, :3] = 7, 8, 10
    universes[2, :7] = np.arange(10, 17)
    universes[3, :2] = 10, 19
    universes[4, :4] = 7, 9, 11, 12
    windows = np.array([[0, 100], [0, 100], [0, 100], [0, 100], [0, 100]], np.int32)
    later = market.copy()
    later[100:] = 1e9
    table = compute_features(read_request(wide, universes, windows=windows, market=later, dates=dates))
    assert table.status.tolist() == [0, Status.NON_FINITE, 0, Status.NOT_RETURNS, 0]
    np.testing.assert_allclose(table.features[2], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stop", [40, 99])
def test_the_future_is_not_read(stop):
    """A window that stops before the last row gives the same answer whatever comes later."""
    returns, market, dates = simulate_returns(100, 5), indicators(100), dates_of(100)
    windows, universes = np.array([[10, stop]]), [np.arange(5)]
    before = compute(returns, universes, windows=windows, market=market, dates=dates)
    for fill in (np.nan, 1e6):
        future, future_market, future_dates = returns.copy(), market.copy(), dates.copy()
        future[stop:], future_market[stop:] = fill, fill
        future_dates[stop:] += 1000
        after = compute(future, universes, windows=windows, market=future_market, dates=future_dates)
        np.testing.assert_array_equal(after, before)


def many_universes():
    """A panel and 40 universes of five sizes in three windows, some of them longer than others."""
    rng = np.random.default_rng(11)
    returns = with_gaps(simulate_returns(140, 30, seed=14), share=0.05)[:, 1:-1]
    universes = np.full((40, 25), -1, np.int32)
    for row, size in zip(universes, rng.choice([2, 3, 8, 20, 25], 40), strict=True):
        row[:size] = rng.choice(28, size, replace=False)
    windows = np.array([[0, 140], [30, 140], [50, 80]])[rng.integers(0, 3, 40)]
    return returns, universes, windows


def test_all_at_once_equals_one_at_a_time():
    returns, universes, windows = many_universes()
    together = compute(returns, universes, windows=windows)
    for row, universe, window in zip(together, universes, windows, strict=True):
        used = universe[universe >= 0]
        (alone,) = compute(returns[slice(*window)][:, used], [np.arange(len(used))])
        np.testing.assert_allclose(row, alone, rtol=1e-5, atol=1e-5)


def test_window_equals_the_panel_cut_there():
    returns, dates = with_gaps(simulate_returns(140, 8), share=0.02), dates_of(140)
    universe = [np.arange(1, 7)]
    for start, stop in [(0, 140), (0, 70), (60, 140), (33, 133), (80, 110)]:
        windowed = compute(returns, universe, windows=np.array([[start, stop]]), dates=dates)
        cut = compute(returns[start:stop], universe, dates=dates[start:stop])
        np.testing.assert_array_equal(windowed, cut)


def test_percentiles_run_from_the_first_row_sent():
    """The market's history before the window counts, unlike its returns."""
    market = np.linspace(30.0, 10.0, 90, dtype=np.float32)[:, None]
    market[-1] = 25.0
    (row,) = compute(simulate_returns(90, 2), [[0, 1]], windows=np.array([[60, 90]]), market=market)
    at_most = float((market[:, 0] <= 25.0).mean())
    assert row[FEATURE_NAMES.index("vix_percentile")] == pytest.approx(at_most, rel=1e-6)


@pytest.mark.parametrize("same_window", [True, False])
def test_threads_do_not_change_a_bit(same_window):
    returns, universes, windows = many_universes()
    request = read_request(returns, universes, None if same_window else windows)
    one, two = (compute_features(request, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_array_equal(one.status, two.status)


def test_stacks_of_one_size_are_cut_without_a_seam(monkeypatch):
    returns, universes, _ = many_universes()
    whole = compute(returns, universes)
    monkeypatch.setattr("sigmahat_kernels.groups.CHUNK_CELLS", 150)
    monkeypatch.setattr("sigmahat_kernels.groups._MIN_PART", 3)
    np.testing.assert_allclose(compute(returns, universes), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pack", [1, 10**6])
def test_windows_side_by_side_answer_as_each_by_itself(monkeypatch, pack):
    """Of two lengths, with gaps in some, unusable columns in others, rows of unequal distance, and several sizes."""
    rng = np.random.default_rng(5)
    returns = simulate_returns(160, 30)
    returns[rng.random(returns.shape) < 0.002] = np.nan
    returns[100:, 3] = np.inf
    returns[:, 4] = 0.0
    returns[:, 5] = returns[:, 6]
    universes = np.full((24, 12), -1, np.int32)
    for row, size in zip(universes, rng.integers(1, 13, 24), strict=True):
        row[:size] = rng.choice(30, size, replace=False)
    starts = np.repeat(np.arange(8) * 9, 3)
    windows = np.stack([starts, starts + np.where(np.arange(24) % 4, 80, 60)], axis=1)
    request = read_request(returns, universes, windows, dates=np.cumsum(rng.integers(1, 9, 160)))

    monkeypatch.setattr("sigmahat_kernels.groups.BATCH_CELLS", 1)
    alone = compute_features(request)
    monkeypatch.setattr("sigmahat_kernels.groups.BATCH_CELLS", 10**6)
    monkeypatch.setattr("sigmahat_kernels.groups.PART_CELLS", pack)
    together = compute_features(request)
    np.testing.assert_array_equal(together.status, alone.status)
    np.testing.assert_array_equal(together.status_asset, alone.status_asset)
    for flags, expected in zip(together.warnings, alone.warnings, strict=True):
        np.testing.assert_array_equal(flags, expected)
    np.testing.assert_allclose(together.features, alone.features, rtol=1e-6, atol=1e-6)
    assert {Status.GOOD, Status.NON_FINITE, Status.CONSTANT_ASSET, Status.TOO_FEW_ASSETS} <= set(alone.status.tolist())
    assert alone.warnings.of_universe.any()


def test_solver_is_named_in_the_result():
    request = read_request(simulate_returns(40, 5), np.array([[0, 1, 2], [1, 2, 4]], np.int32))
    assert compute_features(request).solvers == compute_features(request, solver="lanes").solvers == ("lanes",)
    assert compute_features(request, solver="lapack").solvers == ("lapack",)
    with pytest.raises(SolverError, match="'kernels' needs the panel on a GPU"):
        compute_features(request, solver="kernels")


def test_float64_returns_give_the_same_features():
    returns = with_gaps(simulate_returns(90, 6))
    (single,), (double,) = (compute(returns.astype(kind), [np.arange(6)]) for kind in (np.float32, np.float64))
    np.testing.assert_array_equal(single, double)


def test_asset_that_left_a_very_long_window_early_is_finite():
    """Its newest return is more half-lives old than a float has exponents; its neighbours must not see it either."""
    returns = simulate_returns(70_000, 3)
    returns[100:, 2] = np.nan
    alone = compute(returns, [[0, 1]])
    both = compute(returns, [[0, 1], [1, 2]])
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-5, atol=1e-5)
