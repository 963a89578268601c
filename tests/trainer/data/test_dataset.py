# SPDX-License-Identifier: Apache-2.0
"""Training windows against the panel that they were drawn from, cell by cell, and no look into its future."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from sigmahat_kernels.asset_statistics import asset_statistics
from sigmahat_kernels.fast_factors import leading_factors
from sigmahat_kernels.features import FEATURE_NAMES, compute_features
from sigmahat_kernels.market import MARKET
from sigmahat_kernels.panel import prepare_window
from sigmahat_kernels.parameters import REGIMES
from sigmahat_kernels.request import read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.temporal import SEASON
from sigmahat_trainer.data import dataset as module
from sigmahat_trainer.data.baskets import draw_baskets
from sigmahat_trainer.data.dataset import (
    LOOSE_COVERAGE,
    MIN_COVERAGE,
    SIZES,
    UNIVERSES_PER_WINDOW,
    WINDOW_LENGTHS,
    Dataset,
    Sample,
    Size,
    draw_dataset,
    eligible_assets,
    equivalent_returns,
    holding_returns,
    open_dataset,
    regime_label,
    save_dataset,
)
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.simulate import Simulated

N_ROWS, N_ASSETS, HORIZON = 420, 26, 10
PINNED, SILENT, STALE, HOLED, LATE, FLAT_LATELY = 3, 5, 7, 9, 11, 13
DEATHS = {15: 150, 16: 230, 17: 310}  # column -> first row without a return
EXCHANGE_HOLIDAY = 200  # a row without any return


def make_panel(*, seed=0, name="panel", n_rows=N_ROWS):
    """A panel in which every kind of name occurs that a universe must treat with care."""
    rng = np.random.default_rng(seed)
    factor = 0.01 * rng.standard_normal((n_rows, 1)) * rng.uniform(0.5, 1.5, N_ASSETS)
    returns = factor + rng.uniform(0.008, 0.012, N_ASSETS) * rng.standard_normal((n_rows, N_ASSETS))
    returns[:, PINNED] *= 1e-3  # a takeover target at its offer price
    returns[:, SILENT] = 0.0
    returns[n_rows // 2 :, STALE] = 0.0
    returns[rng.random(n_rows) < 0.3, HOLED] = np.nan
    returns[: n_rows // 3, LATE] = np.nan
    returns[-5:, FLAT_LATELY] = np.nan
    for column, row in DEATHS.items():
        returns[row:, column] = np.nan
    returns[EXCHANGE_HOLIDAY : EXCHANGE_HOLIDAY + 1] = np.nan  # no row at all of a short panel
    dates = np.busday_offset(np.datetime64("2010-01-04"), np.arange(n_rows))
    market = rng.uniform(1.0, 40.0, (n_rows, 4)).astype(np.float32)
    market[:, 3] = rng.integers(0, 20, n_rows)
    return ReturnPanel(name, returns.astype(np.float32), dates, market)


@pytest.fixture(scope="module", autouse=True)
def _assets_alone():
    """Universes of the panel's own columns, which can be found again; funds have a test of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BASKET_SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def panel():
    return make_panel()


def draw(panels, *, n_samples=240, simulated_share=0.0, horizon=HORIZON, seed=1, first=None):
    return draw_dataset(
        panels,
        n_samples=n_samples,
        simulated_share=simulated_share,
        horizon=horizon,
        seed=seed,
        market_power=0.5,
        first=first,
    )


@pytest.fixture(scope="module")
def drawn(panel):
    return draw([panel], n_samples=480)


def rows_of(dataset):
    """Every sample by itself."""
    for stack in dataset.by_size.values():
        for k in range(len(stack.features)):
            yield Sample(*(field[k] for field in stack))


class Origin(NamedTuple):
    """Where in the panel a sample was measured."""

    stop: int
    n_obs: int
    universe: np.ndarray


class Detective:
    """Finds a sample's rows and columns again, from its holding period and its correlations."""

    def __init__(self, panel, horizon=HORIZON):
        self.panel, self.horizon = panel, horizon
        self.columns = {}  # bytes of a holding period -> (stop, column); only names that earn something in it
        for stop in range(1, len(panel.dates) - horizon + 1):
            ahead = np.nan_to_num(panel.returns[stop : stop + horizon])
            for column in np.flatnonzero(ahead.any(axis=0)):
                self.columns[ahead[:, column].tobytes()] = (stop, column)

    def find(self, sample):
        found = [self.columns.get(np.ascontiguousarray(column).tobytes()) for column in sample.forward.T]
        stops = {place[0] for place in found if place}
        assert len(stops) == 1, "the holding period is not one of the panel's"
        stop = stops.pop()
        # A name whose last move is the window's earns nothing ahead: at each date there is at most one.
        (still,) = [column for column, row in DEATHS.items() if row == stop] or [STALE]
        universe = np.array([place[1] if place else still for place in found])
        for n_obs in sorted({min(n, stop) for n in WINDOW_LENGTHS}):
            window = prepare_window(without_stale(self.panel.returns[stop - n_obs : stop, universe])[0])
            if np.allclose(np.log(window.volatilities[:3]), sample.log_volatility, atol=1e-6):
                return Origin(stop, n_obs, universe)
        raise AssertionError(f"no window before row {stop} has these volatilities")


@pytest.fixture(scope="module")
def origins(panel, drawn):
    detective = Detective(panel)
    return [(sample, detective.find(sample)) for sample in rows_of(drawn)]


# ----------------------------------------------------------------------------------------------- drawing, cell by cell


def test_samples_are_what_the_kernels_measure_on_their_window(panel, origins):
    for sample, (stop, n_obs, universe) in origins:
        past = panel.returns[stop - n_obs : stop, universe]
        measured = share_window(without_stale(past)[0]).moments.gather(np.arange(len(universe))[None], Scratch(np))
        np.testing.assert_allclose(sample.slow, measured.slow[0], atol=1e-6)
        np.testing.assert_allclose(sample.fast, measured.fast[0], atol=1e-6)
        np.testing.assert_allclose(sample.loadings, leading_factors(measured.fast)[0], atol=1e-5)
        np.testing.assert_allclose(sample.log_volatility, np.log(measured.volatilities[:3, 0]), atol=1e-6)
        np.testing.assert_allclose(sample.asset_statistics, asset_statistics(*measured)[0], atol=1e-5)
        assert sample.regime == regime_label(past, sample.forward)
        assert sample.period == (panel.dates[stop - 1].astype("datetime64[M]") - np.datetime64("1970-01")).astype(int)


def test_features_are_those_of_a_request_that_ends_with_the_window(panel, origins):
    """Indicators and dates are left out of some windows: their features are then 0, else those of the whole past."""
    columns = {name: k for k, name in enumerate(FEATURE_NAMES)}
    optional = [columns[name] for name in (*MARKET, *SEASON)]
    core = np.setdiff1d(np.arange(len(FEATURE_NAMES)), optional)
    with_market = np.zeros(len(columns), int)
    for sample, (stop, n_obs, universe) in origins:
        request = read_request(
            panel.returns[:stop],
            universe.astype(np.int32)[None],
            windows=np.array([[stop - n_obs, stop]]),
            market=panel.market[:stop],
            dates=panel.dates[:stop].astype(int),
        )
        expected = compute_features(request).features[0]
        np.testing.assert_allclose(sample.features[core], expected[core], rtol=2e-4, atol=2e-5)
        given = sample.features != 0
        with_market += given
        chosen = np.intersect1d(optional, np.flatnonzero(given))
        np.testing.assert_allclose(sample.features[chosen], expected[chosen], rtol=2e-4, atol=2e-5)
    share = with_market / len(origins)
    for name in ("has_vix", "has_turnover", "has_illiquidity", "has_event"):
        assert 0.4 < share[columns[name]] < 0.8, name  # 0.7 of the windows, less 0.15 of the columns
    dated = max(share[columns[name]] for name in SEASON)
    assert 0.65 < dated < 0.95  # 0.8 of the windows


def test_windows_have_the_lengths_and_sizes_that_are_published(origins):
    lengths = {origin.n_obs for _, origin in origins if origin.n_obs != origin.stop}
    assert lengths <= set(WINDOW_LENGTHS)
    assert len(lengths) >= 4
    sizes = {len(origin.universe) for _, origin in origins}
    assert sizes == {size for size in SIZES if size <= 20}  # 26 columns, of which some never qualify
    for sample, (_, n_obs, universe) in origins:
        assert (np.diff(universe) > 0).all()
        assert sample.forward.shape == (HORIZON, len(universe))
        assert n_obs >= min(WINDOW_LENGTHS)


def test_universes_hold_names_that_qualify_by_their_past(panel, origins):
    loose = 0
    for _, (stop, n_obs, universe) in origins:
        past = panel.returns[stop - n_obs : stop]
        strict = set(universe) <= set(eligible_assets(past, MIN_COVERAGE))
        assert strict or set(universe) <= set(eligible_assets(past, LOOSE_COVERAGE))
        loose += not strict
    assert 0 < loose / len(origins) < 0.2  # a tenth of the windows is loose


def test_names_without_life_are_never_drawn_and_those_that_die_are(origins):
    ever = {column for _, origin in origins for column in origin.universe.tolist()}
    assert not {PINNED, SILENT} & ever
    assert STALE in ever
    assert LATE in ever
    assert set(DEATHS) <= ever
    for _, (stop, _, universe) in origins:
        assert all(row >= stop for column, row in DEATHS.items() if column in universe)
        assert STALE not in universe or stop < N_ROWS // 2 + 20


def test_a_name_earns_nothing_after_its_death_and_stays_in_its_universe(panel, origins):
    seen = 0
    for sample, (stop, _, universe) in origins:
        for column, row in DEATHS.items():
            if column in universe and row < stop + HORIZON:
                returns = sample.forward[:, list(universe).index(column)]
                np.testing.assert_array_equal(returns[row - stop :], 0.0)
                np.testing.assert_array_equal(returns[: row - stop], panel.returns[stop:row, column])
                seen += row > stop
    assert seen > 10


def test_no_sample_reaches_outside_the_dates_that_it_may_use(panel):
    """Rows after the panel's cut are marked by huge returns, and rows before `first` may only be past."""
    cut = 300
    returns = panel.returns.copy()
    returns[cut:] = 0.25 * np.sign(np.random.default_rng(0).standard_normal(returns[cut:].shape))
    last, first = str(panel.dates[cut - 1]), str(panel.dates[220])
    usable = panel._replace(returns=returns).between(None, last)
    dataset = draw([usable], n_samples=300, first=first)
    detective = Detective(panel)
    stops, lengths = [], []
    for sample in rows_of(dataset):
        assert np.abs(sample.forward).max() < 0.2
        origin = detective.find(sample)
        stops.append(origin.stop)
        lengths.append(origin.n_obs)
    assert min(stops) >= 220
    assert max(stops) + HORIZON <= cut
    assert min(stops) < 230  # the first and last dates that are allowed are used
    assert max(stops) + HORIZON > cut - 10
    assert max(lengths) > 200  # windows do reach back before `first`


def test_holding_periods_start_on_the_first_row_from_first_on():
    """On a weekend too: the bound is a date and not a row."""
    panel = make_panel(n_rows=120)
    saturday = "2010-06-05"
    rows = np.flatnonzero(panel.dates >= np.datetime64(saturday))
    dataset = draw([panel], n_samples=200, first=saturday, horizon=6)
    stops = {Detective(panel, horizon=6).find(sample).stop for sample in rows_of(dataset)}
    assert min(stops) == rows[0]
    assert panel.dates[min(stops)] == np.datetime64("2010-06-07")
    assert max(stops) + 6 == len(panel.dates)


def test_future_rows_do_not_change_what_is_known():
    """Same draws on a panel whose last rows differ: only returns ahead and their label may change."""
    panel = make_panel(n_rows=70)
    changed = panel._replace(returns=panel.returns.copy(), market=panel.market.copy())
    changed.returns[61:] *= -2.0
    changed.market[61:] += 5.0
    first = str(panel.dates[60])  # so that windows end before row 60 or 61
    here, there = (list(rows_of(draw([p], n_samples=60, first=first, horizon=9))) for p in (panel, changed))
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        assert (a.forward != b.forward).any()
        for name in ("slow", "fast", "loadings", "log_volatility", "asset_statistics", "features", "period"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# ------------------------------------------------------------------------------------------------------- the mixture


def test_funds_hold_the_same_assets_in_the_window_and_ahead(monkeypatch):
    """Thirty mixes of two series: a fund is one too, and what it holds ahead explains its volatility in the window."""
    monkeypatch.setattr(module, "BASKET_SHARE", 1.0)
    rng = np.random.default_rng(0)
    two = rng.standard_normal((300, 2)) * np.array([0.01, 0.004])
    returns = (two @ rng.dirichlet([1.0, 1.0], 30).T).astype(np.float32)
    dates = np.busday_offset(np.datetime64("2010-01-04"), np.arange(300))
    panel = ReturnPanel("two", returns, dates, np.full((300, 4), np.nan, np.float32))
    samples = list(rows_of(draw([panel], n_samples=60)))
    assert len(samples) > 40
    for sample in samples:
        misfits = {}
        for stop in range(30, 300 - HORIZON + 1):
            held, misfit, *_ = np.linalg.lstsq(two[stop : stop + HORIZON], sample.forward, rcond=None)
            misfits[misfit.sum()] = stop, held
        assert min(misfits) < 1e-10
        stop, held = misfits[min(misfits)]
        expected = [(two[max(stop - n, 0) : stop] @ held).std(axis=0, ddof=1) for n in WINDOW_LENGTHS]
        measured = np.exp(sample.log_volatility[0])
        assert min(np.abs(volatility / measured - 1).max() for volatility in expected) < 1e-4
    own = {column.tobytes() for stop in range(291) for column in returns[stop : stop + HORIZON].T}
    alone = [column.tobytes() in own for sample in samples for column in sample.forward.T]
    assert 0.1 < np.mean(alone) < 0.9  # funds, and some of the assets beside them


@pytest.mark.parametrize("n_assets", [20, 300])
def test_weights_of_baskets(n_assets):
    shorted = 0
    for seed in range(40):
        weights = draw_baskets(np.random.default_rng(seed), n_assets)
        assert len(weights) == n_assets
        held = (weights != 0).sum(axis=0)
        assert held.min() >= 1
        short = (weights < 0).any(axis=0)
        np.testing.assert_allclose(weights[:, ~short].sum(axis=0), 1.0)
        np.testing.assert_allclose(weights[:, short].sum(axis=0), 0.0, atol=1e-12)
        assert held[~short].max() <= 60
        shorted += short.any()
    assert 2 <= shorted <= 25  # three of ten


def test_same_seed_same_samples(panel):
    here, there = (draw([panel], simulated_share=0.3, n_samples=48, seed=5) for _ in range(2))
    other = draw([panel], simulated_share=0.3, n_samples=48, seed=6)
    assert list(here.by_size) == list(there.by_size)
    for size, stack in here.by_size.items():
        for a, b in zip(stack, there.by_size[size], strict=True):
            np.testing.assert_array_equal(a, b)
    assert here.features().tobytes() != other.features().tobytes()


def test_nothing_simulated_at_share_0_and_nothing_real_at_share_1(panel):
    real = draw([panel], n_samples=120, simulated_share=0.0)
    assert real.periods().min() >= 480  # January 2010
    assert max(real.by_size).n_assets <= N_ASSETS
    simulated = draw([panel], n_samples=120, simulated_share=1.0)
    assert simulated.periods().max() < 0
    assert len(simulated) == 120
    columns = {name: k for k, name in enumerate(FEATURE_NAMES)}
    assert (simulated.features()[:, [columns[name] for name in (*MARKET, *SEASON)]] == 0).all()
    assert max(simulated.by_size).n_assets > N_ASSETS


def test_share_of_simulated_windows(panel):
    mixed = draw([panel], n_samples=480, simulated_share=0.4)
    assert (np.concatenate([s.period for s in mixed.by_size.values()]) < 0).mean() == pytest.approx(0.4, abs=0.15)


@pytest.mark.parametrize("n_assets", [5, 40])
def test_equivalent_returns_give_every_portfolio_its_true_variance(n_assets):
    rng = np.random.default_rng(n_assets)
    factor = rng.standard_normal((n_assets, n_assets))
    covariance = 1e-4 * (factor @ factor.T / n_assets + 0.1 * np.eye(n_assets))
    weights = rng.standard_normal((7, n_assets))
    rows = equivalent_returns(covariance)
    assert rows.shape == (n_assets, n_assets)
    expected = [w @ covariance @ w for w in weights]
    np.testing.assert_allclose(((weights @ rows.T) ** 2).mean(axis=1), expected, rtol=1e-10)


def test_simulated_samples_are_scored_by_the_covariance_after_their_window(monkeypatch):
    """By that of the holding period's rows, and not on rows that they were measured on."""
    n_rows, asked = [], set()

    def recognisable_design(rng, n_obs, n_assets):
        n_rows.append(n_obs)
        returns = 0.01 * rng.standard_normal((n_obs, n_assets))
        returns[-HORIZON:] = 0.2

        def ahead(n_ahead):
            asked.add(n_ahead)
            return np.diag(1.0 + np.arange(n_assets))

        return Simulated(returns, ahead)

    monkeypatch.setattr(module, "TRAINING_DESIGNS", (recognisable_design,))
    dataset = draw([], n_samples=60, simulated_share=1.0)
    assert {n - HORIZON for n in n_rows} <= set(WINDOW_LENGTHS)
    assert asked == {HORIZON}
    for sample in rows_of(dataset):
        n_assets = len(sample.slow)
        covariance = sample.forward.T @ sample.forward / n_assets
        variances = np.diag(covariance)
        np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-4 * n_assets)
        np.testing.assert_allclose(variances, np.round(variances), rtol=1e-4)  # of its own assets, in their order
        assert (np.diff(np.round(variances)) >= 1).all()
        assert (sample.log_volatility < np.log(0.03)).all()


def test_the_regime_of_a_simulated_sample_is_that_of_its_true_market_variance():
    rng = np.random.default_rng(0)
    covariance = 1e-4 * (np.full((6, 6), 0.3) + 0.7 * np.eye(6))
    past = rng.multivariate_normal(np.zeros(6), covariance, 5_000)
    for ratio, name in ((0.5, "calm"), (0.8, "normal"), (1.2, "elevated"), (2.0, "stressed")):
        assert REGIMES[regime_label(past, equivalent_returns(ratio**2 * covariance))] == name


def test_number_of_windows_asked_for(panel):
    assert len(draw([], n_samples=60, simulated_share=1.0)) == 60
    assert len(draw([], n_samples=61, simulated_share=1.0)) == 60 + UNIVERSES_PER_WINDOW
    assert 200 < len(draw([panel], n_samples=240)) <= 240  # a date at which too few names qualify gives fewer


def test_large_panels_count_by_the_root_of_their_size():
    small, large = make_panel(name="small", n_rows=200), make_panel(seed=9, name="large", n_rows=450)
    wide = np.concatenate([large.returns] * 4, axis=1) + 1e-4 * np.random.default_rng(0).standard_normal((450, 104))
    large = shifted(large._replace(returns=wide.astype(np.float32)))
    dataset = draw([small, large], n_samples=900)
    periods = np.concatenate([stack.period for stack in dataset.by_size.values()])
    # sqrt(450 x 104 / (200 x 26)) = 3
    assert (periods >= 600).mean() == pytest.approx(0.75, abs=0.1)


def shifted(panel, years=10):
    return panel._replace(dates=panel.dates + np.timedelta64(365 * years, "D"))


def test_panels_too_short_for_a_window_and_a_holding_period_are_left_out(panel):
    shortest = min(WINDOW_LENGTHS) + HORIZON
    short = shifted(make_panel(seed=3, n_rows=shortest - 1))
    assert draw([short, panel], n_samples=60).periods().max() < 600
    enough = shifted(make_panel(seed=3, n_rows=shortest))
    dataset = draw([enough], n_samples=12)
    assert dataset.periods().tolist() == [int((enough.dates[29].astype("datetime64[M]")).astype(int))]


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_no_panel_with_enough_rows_is_an_error(panel, share):
    """Simulated windows must not take the place of real ones in silence."""
    short = make_panel(n_rows=min(WINDOW_LENGTHS) + HORIZON - 1)
    with pytest.raises(ValueError, match="no panel has 30 days and a holding period of 10 from its start on"):
        draw([short], n_samples=12, simulated_share=share)
    with pytest.raises(ValueError, match="a holding period of 10 from 2030-01-01 on"):
        draw([panel], n_samples=12, simulated_share=share, first="2030-01-01")
    assert draw([short], n_samples=12, simulated_share=1.0).periods().max() < 0


# --------------------------------------------------------------------------------------------------- universe, pieces


def test_eligible_assets_keep_the_rules_of_the_docstring(panel):
    past = panel.returns[100:160]
    expected = []
    for column in range(N_ASSETS):
        series = past[:, column]
        known = [r for r in series if not np.isnan(r)]
        recent = [0.0 if np.isnan(r) else float(r) for r in series[-20:]]
        if np.isnan(series[-1]) or len(known) < 0.95 * len(series) or len(known) < 30 or not any(recent):
            continue
        expected.append((column, 0.5 * np.log(sum(r**2 for r in recent) / 20)))
    low, high = np.quantile([v for _, v in expected], [0.25, 0.75])
    kept = [column for column, v in expected if v >= low - 1.5 * (high - low)]
    assert PINNED in [column for column, _ in expected]
    assert PINNED not in kept
    np.testing.assert_array_equal(eligible_assets(past, MIN_COVERAGE), kept)


def test_eligibility_of_each_name(panel):
    at = {stop: set(eligible_assets(panel.returns[stop - 60 : stop], MIN_COVERAGE)) for stop in (150, 151, 240, 415)}
    assert 15 in at[150]  # its last return stands on the last row
    assert 15 not in at[151]  # dead since yesterday
    assert STALE not in at[240]
    assert FLAT_LATELY in at[415]
    assert FLAT_LATELY not in set(eligible_assets(panel.returns[-60:], MIN_COVERAGE))
    for names in at.values():
        assert not {PINNED, SILENT, HOLED} & names
    # 70 % of a history is enough, given a return on the last row.
    loose = [HOLED in eligible_assets(panel.returns[stop - 60 : stop], LOOSE_COVERAGE) for stop in range(60, 100)]
    observed = ~np.isnan(panel.returns[59:99, HOLED])
    assert sum(loose) > 15
    assert not (loose & ~observed).any()


@pytest.mark.parametrize(
    ("n_rows", "n_known", "eligible"), [(60, 30, True), (60, 29, False), (29, 29, True), (29, 28, False)]
)
def test_thirty_returns_are_needed_or_all_whatever_the_coverage(n_rows, n_known, eligible):
    past = 0.01 * np.random.default_rng(0).standard_normal((n_rows, 3))
    past[: n_rows - n_known, 1] = np.nan
    assert (1 in eligible_assets(past, 0.1)) == eligible


def test_few_names_are_not_compared_with_each_other():
    past = 0.01 * np.random.default_rng(0).standard_normal((40, 3)) * [1.0, 1.0, 1e-3]
    np.testing.assert_array_equal(eligible_assets(past, 0.95), [0, 1, 2])


def test_choices_do_not_depend_on_the_future(panel):
    """Whatever happens from a row on, what was eligible before it stays so."""
    rng = np.random.default_rng(2)
    for stop in (100, 150, 230, 400):
        changed = panel.returns.copy()
        changed[stop:] = np.where(rng.random(changed[stop:].shape) < 0.5, np.nan, 3.0)
        for coverage in (MIN_COVERAGE, LOOSE_COVERAGE):
            here, there = (eligible_assets(returns[stop - 60 : stop], coverage) for returns in (panel.returns, changed))
            np.testing.assert_array_equal(here, there)


def test_holding_returns_start_at_their_row_and_are_zero_after_death():
    returns = np.arange(20.0).reshape(10, 2)
    returns[6:, 1] = np.nan
    returns[5, 0] = np.inf
    np.testing.assert_array_equal(holding_returns(returns, 4, 4), [[8, 9], [0, 11], [12, 0], [14, 0]])
    assert np.isnan(returns[6:, 1]).all()  # the panel keeps its own


# ------------------------------------------------------------------------------------------------------------ regime


def label_by_loop(past, forward):
    """Means over names, then volatility of the window around its mean and of the holding period around zero."""
    before = []
    for row in past:
        known = [r for r in row if not np.isnan(r)]
        if known:
            before.append(sum(known) / len(known))
    mean = sum(before) / len(before)
    variance = sum((b - mean) ** 2 for b in before) / len(before)
    after = sum((sum(row) / len(row)) ** 2 for row in forward) / len(forward)
    ratio = np.sqrt(after / variance)
    return next((k for k, edge in enumerate((0.7, 1.0, 1.5)) if ratio < edge), 3)


def test_regime_label_equals_a_loop():
    rng = np.random.default_rng(3)
    labels = []
    for _ in range(200):
        past = 0.01 * rng.standard_normal((60, 4)) + 0.005
        past[rng.random(past.shape) < 0.1] = np.nan
        forward = 0.01 * rng.uniform(0.3, 2.5) * rng.standard_normal((21, 4))
        labels.append(regime_label(past, forward))
        assert labels[-1] == label_by_loop(past, forward)
    assert set(labels) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("ratio", "name"),
    [
        (0.0, "calm"),
        (0.699, "calm"),
        (0.701, "normal"),
        (0.999, "normal"),
        (1.0, "elevated"),  # exactly as volatile as before is not below
        (1.499, "elevated"),
        (1.5, "stressed"),
        (40.0, "stressed"),
    ],
)
def test_regime_label_at_its_edges(ratio, name):
    past = np.tile([[1.0], [-1.0]], (20, 3))  # volatility 1 around a mean of 0
    forward = np.full((21, 3), ratio)
    assert REGIMES[regime_label(past, forward)] == name


def test_a_row_without_any_return_does_not_count_in_the_regime():
    past = np.tile([[1.0], [-1.0]], (20, 3))
    past[:4] = np.nan  # before the youngest name was listed, or a holiday
    assert REGIMES[regime_label(past, np.full((21, 3), 0.5))] == "calm"
    assert REGIMES[regime_label(past, np.full((21, 3), 1.2))] == "elevated"


# ----------------------------------------------------------------------------------------------------------- storage


def test_dataset_returns_from_disk_as_it_was(tmp_path, drawn):
    save_dataset(drawn, tmp_path / "new" / "folder")
    opened = open_dataset(tmp_path / "new" / "folder")
    assert list(opened.by_size) == list(drawn.by_size)
    assert len(opened) == len(drawn)
    for size, stack in drawn.by_size.items():
        for name, values in stack._asdict().items():
            stored = getattr(opened.by_size[size], name)
            assert isinstance(stored, np.memmap)  # processes share its pages
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values)
    np.testing.assert_array_equal(opened.features(), drawn.features())
    np.testing.assert_array_equal(opened.periods(), drawn.periods())


def test_dataset_counts_and_collects_over_sizes(drawn):
    assert len(drawn) == sum(1 for _ in rows_of(drawn))
    assert drawn.features().shape == (len(drawn), len(FEATURE_NAMES))
    assert np.isfinite(drawn.features()).all()
    assert drawn.periods().tolist() == sorted({int(sample.period) for sample in rows_of(drawn)})
    assert list(drawn.by_size) == sorted(drawn.by_size)
    for (size, n_ahead), stack in drawn.by_size.items():
        assert stack.slow.shape[1:] == stack.fast.shape[1:] == (size, size)
        assert stack.log_volatility.shape[1:] == (3, size)
        assert stack.forward.shape[1:] == (n_ahead, size) == (HORIZON, size)
        for name in ("features", "slow", "fast", "log_volatility", "forward"):
            assert getattr(stack, name).dtype == np.float32, name
        assert stack.regime.dtype == stack.period.dtype == np.int64


def test_sizes_of_two_digits_are_not_taken_for_others(tmp_path):
    stack = Sample(*(np.zeros((2, 1), np.float32) for _ in Sample._fields))
    sizes = [Size(5, 21), Size(50, 21), Size(50, 50), Size(150, 21)]
    save_dataset(Dataset(dict.fromkeys(sizes, stack)), tmp_path)
    assert list(open_dataset(tmp_path).by_size) == sizes
