# SPDX-License-Identifier: Apache-2.0
"""The protocol: its portfolios against known populations and a loop over dates, and no look ahead."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from trainer.some_constants import CONSTANTS

from sigmahat_kernels.request import PADDING
from sigmahat_trainer.baselines.adapters import closed_form, learned_constants
from sigmahat_trainer.baselines.closed_form import qis_correlation, sample
from sigmahat_trainer.data.dataset import MIN_COVERAGE, eligible_assets
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.split import PERIODS, Period
from sigmahat_trainer.evaluation.methods import HINDSIGHT, Methods
from sigmahat_trainer.evaluation.portfolios import gmv_weights
from sigmahat_trainer.evaluation.rolling import Cell, evaluate, plan, request_of

REFERENCE = "qis_correlation"
N_OBS, HORIZON = 60, 20


def population(n_assets, rng):
    beta = rng.uniform(0.2, 1.6, n_assets)
    return 1e-4 * (np.outer(beta, beta) + np.diag(rng.uniform(0.3, 3.0, n_assets)))


def make_panel(*, n_rows=400, n_assets=30, seed=0):
    """(panel, its true covariance): Gaussian returns of one population."""
    rng = np.random.default_rng(seed)
    covariance = population(n_assets, rng)
    returns = rng.multivariate_normal(np.zeros(n_assets), covariance, n_rows).astype(np.float32)
    dates = np.busday_offset(np.datetime64("2015-01-01"), np.arange(n_rows), roll="forward")
    market = rng.uniform(1.0, 30.0, (n_rows, 4)).astype(np.float32)
    return ReturnPanel("simulated", returns, dates, market), covariance


def run(panel, estimators, *, n_assets=10, first="2015-01-01", last=None, draws=2, seed=0, hindsight=None):
    cell, methods = Cell(n_assets, N_OBS, HORIZON), Methods(estimators, {}, hindsight)
    return evaluate(panel, cell, Period(first, last), methods, draws=draws, seed=seed).scores


def volatility(scores):
    return np.sqrt(252 * scores.groupby("method")["gmv_variance"].mean())


def identity(request):
    return [np.eye(int((universe != PADDING).sum())) for universe in request.universes]


class Recorder:
    """An estimator that keeps what it was shown and what it answered."""

    def __init__(self, estimator):
        self.estimator, self.requests, self.covariances = estimator, [], []

    def __call__(self, request):
        self.requests.append(request)
        self.covariances.append(self.estimator(request))
        return self.covariances[-1]


def record(panel, **settings):
    recorder = Recorder(learned_constants(CONSTANTS))
    run(panel, {REFERENCE: recorder}, **settings)
    return recorder


def stops_of(panel, **settings):
    return [len(request.panel) for request in record(panel, **settings).requests]


# ------------------------------------------------------------------------------------------------------- its numbers


def test_the_truth_beats_the_sample_and_reaches_what_theory_says():
    panel, truth = make_panel(n_rows=1_600)

    def oracle(request):
        return [truth[np.ix_(universe, universe)] for universe in request.universes]

    methods = {"oracle": oracle, "sample": closed_form(sample), REFERENCE: closed_form(qis_correlation)}
    scores = run(panel, methods, n_assets=20)
    assert scores["date"].nunique() == (1_600 - N_OBS) // HORIZON
    found = volatility(scores)
    assert found["oracle"] < found[REFERENCE] < found["sample"]
    # Minimum variance is 1 / (1' inv(covariance) 1), and a sample costs about T / (T - N) of it.
    variances = []
    for step in plan(panel, Cell(20, N_OBS, HORIZON), Period("2015-01-01", None), draws=2, seed=0):
        for u in step.universes:
            weights = gmv_weights(truth[np.ix_(u, u)])
            variances.append(weights @ truth[np.ix_(u, u)] @ weights)
    assert found["oracle"] == pytest.approx(math.sqrt(252 * np.mean(variances)), rel=0.04)
    assert (found["sample"] / found["oracle"]) ** 2 == pytest.approx(N_OBS / (N_OBS - 20), rel=0.15)
    means = scores.groupby("method").mean(numeric_only=True)
    for column in (column for column in means if column.endswith("_square")):
        assert means.loc["oracle", column] == pytest.approx(1.0, abs=0.04)
    tracking = means["tracking_variance"]
    assert tracking["oracle"] < tracking[REFERENCE] < tracking["sample"]
    assert means.loc["sample", "gmv_square"] > 2  # the forecast of what was optimised is far too low


def test_scores_equal_a_loop_over_dates():
    """With universes of all assets nothing is random; one name dies, and earns nothing from then on."""
    panel, _ = make_panel(n_rows=200, n_assets=6)
    panel.returns[153:, 2] = np.nan
    first = str(panel.dates[90 - HORIZON])
    methods = {REFERENCE: identity, "inverse": closed_form(lambda returns: np.diag(returns.var(axis=0)))}
    scores = run(panel, methods, n_assets=6, first=first, draws=1)

    returns = panel.returns.astype(float)
    rows = {name: scores[scores["method"] == name].reset_index(drop=True) for name in methods}
    before = {}
    stops = [stop for stop in range(90, 200 - HORIZON + 1, HORIZON) if not np.isnan(returns[stop - 1]).any()]
    assert len(stops) == len(rows["inverse"]) == 4  # five names left at the last date, six wanted
    for k, stop in enumerate(stops):
        inverse = 1 / returns[stop - N_OBS : stop].var(axis=0)
        for name, w in {REFERENCE: np.full(6, 1 / 6), "inverse": inverse / inverse.sum()}.items():
            days = [
                sum(0.0 if np.isnan(r) else w[i] * r for i, r in enumerate(day))
                for day in returns[stop : stop + HORIZON]
            ]
            row = rows[name].loc[k]
            assert row["date"] == panel.dates[stop - 1]
            assert row["gmv_variance"] == pytest.approx(np.mean(np.square(days)), rel=1e-5)
            np.testing.assert_allclose(row["gmv_returns"], days, rtol=1e-4, atol=1e-8)
            np.testing.assert_allclose(row["gmv_squares"], np.square(days), rtol=1e-4, atol=1e-12)
            if k:
                grown = before[name] * np.prod(1 + np.nan_to_num(returns[stop - HORIZON : stop]), axis=0)
                assert row["turnover"] == pytest.approx(np.abs(w - grown / grown.sum()).sum(), rel=1e-5)
            else:
                assert np.isnan(row["turnover"])
            before[name] = w


def test_draws_are_averaged_and_their_days_too():
    panel, _ = make_panel(n_rows=120)
    scores = run(panel, {REFERENCE: identity}, draws=3)
    steps = plan(panel, Cell(10, N_OBS, HORIZON), Period("2015-01-01", None), draws=3, seed=0)
    assert len(scores) == len(steps)
    for (_, row), step in zip(scores.iterrows(), steps, strict=True):
        forward = panel.returns[step.stop : step.stop + HORIZON].astype(float)
        daily = np.stack([forward[:, u].mean(axis=1) for u in step.universes])
        assert row["gmv_variance"] == pytest.approx((daily**2).mean())
        assert row["gmv_log_variance"] == pytest.approx(np.log((daily**2).mean(axis=1)).mean())
        np.testing.assert_allclose(row["gmv_returns"], daily.mean(axis=0))
        np.testing.assert_allclose(row["gmv_squares"], (daily**2).mean(axis=0))
        for kind in ("gmv", "long_only", "tracking"):
            assert row[f"{kind}_squares"].mean() == pytest.approx(row[f"{kind}_variance"])
            assert (row[f"{kind}_squares"] > row[f"{kind}_returns"] ** 2).all()


def test_a_method_without_a_portfolio_is_nan_and_spoils_no_other():
    panel, _ = make_panel(n_assets=50)
    scores = evaluate(
        panel,
        Cell(40, 30, 5),
        Period("2016-01-01", None),
        Methods({REFERENCE: closed_form(qis_correlation), "sample": closed_form(sample)}, {}),
        draws=2,
        seed=0,
    ).scores.set_index("method")
    assert scores.loc["sample", "gmv_log_variance"].isna().all()  # 40 assets, rank 29
    assert scores.loc[REFERENCE, "gmv_log_variance"].notna().all()


def test_a_slow_method_is_asked_at_every_so_many_holding_periods():
    """The same of them in every panel: by the number of the period, not by how many there have been."""
    panel, _ = make_panel(n_rows=300)
    methods = Methods({REFERENCE: identity, "slow": identity}, {}, every={"slow": 3})
    scores = evaluate(panel, Cell(10, N_OBS, HORIZON), Period("2015-01-01", None), methods, draws=1, seed=0).scores
    steps = {name: rows["step"].tolist() for name, rows in scores.groupby("method")}
    assert steps["slow"] == [step for step in steps[REFERENCE] if step % 3 == 0]
    assert len(steps["slow"]) > 1
    slow = scores[scores["method"] == "slow"]
    assert slow["turnover"].isna().all()  # the portfolio before is three holding periods old
    assert slow["gmv_variance"].notna().all()
    assert (scores["until"] == panel.dates[np.searchsorted(panel.dates, scores["date"]) + HORIZON]).all()


def test_hindsight_is_no_worse_than_the_constants_it_starts_from():
    panel, _ = make_panel(n_rows=300)
    scores = run(panel, {"learned_constants": learned_constants(CONSTANTS)}, hindsight=CONSTANTS)
    means = scores.groupby("method")["gmv_log_variance"].mean()
    assert means[HINDSIGHT] < means["learned_constants"] - 0.01


# ------------------------------------------------------------------------------------------------------ no look ahead


def test_estimators_are_shown_the_past_and_nothing_else():
    panel, _ = make_panel()
    recorder = record(panel, first=str(panel.dates[100 - HORIZON]), draws=3)
    stops = list(range(100, 400 - HORIZON + 1, HORIZON))
    assert len(recorder.requests) == len(stops)
    for request, stop in zip(recorder.requests, stops, strict=True):
        np.testing.assert_array_equal(request.panel, panel.returns[:stop])
        np.testing.assert_array_equal(request.market, panel.market[:stop])
        np.testing.assert_array_equal(request.dates, panel.dates[:stop].astype(int))
        np.testing.assert_array_equal(request.windows, [[stop - N_OBS, stop]] * 3)
        assert request.universes.shape == (3, 10)
        assert (np.diff(request.universes, axis=1) > 0).all()


def test_holding_periods_are_whole_do_not_overlap_and_lie_in_the_period():
    panel, _ = make_panel(n_rows=300)
    first = stops_of(panel, first="2000-01-01")[0]
    assert N_OBS <= first < N_OBS + HORIZON  # the first window is never cut short
    saturday, last = "2015-05-02", str(panel.dates[250])
    (monday,) = np.flatnonzero(panel.dates == np.datetime64("2015-05-04"))
    stops = stops_of(panel, first=saturday, last=last)
    assert stops[0] == monday + HORIZON  # the purge
    assert set(np.diff(stops)) == {HORIZON}
    assert stops[-1] + HORIZON <= 251 < stops[-1] + 2 * HORIZON


def test_changing_the_future_changes_no_earlier_estimate():
    panel, _ = make_panel()
    before = record(panel)
    for row in (160, 161, 399):
        future = panel.returns.copy()
        future[row:] = np.where(np.random.default_rng(3).random(future[row:].shape) < 0.3, np.nan, 0.2)
        after = record(panel._replace(returns=future))
        known = [k for k, request in enumerate(before.requests) if len(request.panel) <= row]
        assert len(known) >= 5
        for k in known:
            np.testing.assert_array_equal(before.requests[k].universes, after.requests[k].universes)
            for here, there in zip(before.covariances[k], after.covariances[k], strict=True):
                np.testing.assert_array_equal(here, there)


def test_universes_are_drawn_from_names_that_qualify_by_their_past():
    panel, _ = make_panel()
    panel.returns[150:, 4] = np.nan  # dies
    panel.returns[:200, 8] = np.nan  # is listed late
    panel.returns[:, 12] *= 1e-3  # pinned
    seen = set()
    for request in record(panel, n_assets=20, draws=4).requests:
        stop = len(request.panel)
        eligible = set(eligible_assets(panel.returns[stop - N_OBS : stop], MIN_COVERAGE))
        drawn = set(request.universes.ravel().tolist())
        assert drawn <= eligible
        assert 12 not in drawn
        assert 4 not in drawn or stop <= 150
        assert 8 not in drawn or stop > 250
        seen |= drawn
    assert {4, 8} <= seen


def test_the_first_universe_of_a_date_keeps_its_names_and_the_others_do_not():
    panel, _ = make_panel()
    panel.returns[150:, 4:8] = np.nan
    steps = plan(panel, Cell(20, N_OBS, HORIZON), Period("2015-01-01", None), draws=3, seed=1)
    for before, after in itertools.pairwise(steps):
        eligible = eligible_assets(panel.returns[after.stop - N_OBS : after.stop], MIN_COVERAGE)
        kept = np.intersect1d(before.universes[0], eligible)
        assert np.isin(kept, after.universes[0]).all()
    assert (steps[0].universes[1] != steps[1].universes[1]).any()
    assert len(np.setdiff1d(steps[0].universes[0], steps[-1].universes[0])) <= 4


def test_holding_periods_of_one_number_happen_at_one_time():
    """Whatever the length of the window, and in a panel that begins a year and a half after the others too."""
    panel, _ = make_panel(n_rows=900)
    late = panel._replace(returns=panel.returns[397:], dates=panel.dates[397:], market=panel.market[397:])
    first = str(panel.dates[30])
    by_number = {
        (which.name, len(which.dates), n_obs): {
            step.number: which.dates[step.stop]
            for step in plan(which, Cell(10, n_obs, HORIZON), Period(first, None), draws=1, seed=0)
        }
        for which in (panel, late)
        for n_obs in (60, 71, 90)
    }
    whole = by_number["simulated", 900, 60]
    assert [*whole] == list(range(1, 42))  # from row 50 on, but 60 rows are needed before
    assert whole[1] == panel.dates[70]
    for (_, n_rows, n_obs), dates in by_number.items():
        start = (397 if n_rows < 900 else 0) + n_obs
        wanted = [number for number, date in whole.items() if date >= panel.dates[start]]
        assert {number: whole[number] for number in wanted} == dates


def test_a_panel_that_begins_later_is_tested_after_its_first_third_at_the_time_of_the_others():
    panel, _ = make_panel(n_rows=900)
    dates = np.busday_offset(np.datetime64("2016-01-01"), np.arange(900))
    whole, late = panel._replace(dates=dates), panel._replace(dates=dates)
    whole = whole._replace(dates=np.concatenate([[np.datetime64("2012-12-31")], dates[1:]]))
    cell = Cell(10, N_OBS, HORIZON)

    def held(which, part):
        steps = plan(which, cell, PERIODS[part], draws=1, seed=0)
        return {step.number: which.dates[step.stop] for step in steps}

    tested, validated = held(late, "test"), held(late, "validation")
    assert min(tested.values()) >= dates[300 + HORIZON]  # the purge
    assert max(validated.values()) <= dates[300 - HORIZON]
    others = held(whole, "test")
    numbers = tested.keys() & others.keys()
    assert len(numbers) >= len(tested) - 1  # whole lacks the row of the first day
    assert max(abs((tested[number] - others[number]).astype(int)) for number in numbers) <= 4


def test_a_date_with_too_few_names_is_left_out_and_those_after_it_are_not():
    panel, _ = make_panel(n_rows=200)
    panel.returns[N_OBS + HORIZON - 1] = np.nan  # the last row before the second date
    assert stops_of(panel) == [N_OBS, *range(N_OBS + 2 * HORIZON, 200 - HORIZON + 1, HORIZON)]
    scores = run(panel, {REFERENCE: identity})
    first = (N_OBS - HORIZON) // HORIZON  # dates count from the period's first, for which there was no window yet
    assert scores["step"].tolist() == [first, *range(first + 2, first + 1 + len(scores))]
    assert scores["turnover"].isna().tolist() == [True, True, *[False] * (len(scores) - 2)]


def test_same_seed_same_universes():
    panel, _ = make_panel(n_rows=150)
    universes = [np.stack([r.universes for r in record(panel, seed=seed).requests]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(universes[0], universes[1])
    assert (universes[0] != universes[2]).any()


def test_a_request_is_that_of_its_step():
    panel, _ = make_panel(n_rows=150)
    cell = Cell(10, N_OBS, HORIZON)
    step = plan(panel, cell, Period("2015-01-01", None), draws=2, seed=0)[1]
    request = request_of(panel, cell, step)
    assert len(request.panel) == step.stop
    np.testing.assert_array_equal(request.universes, step.universes)


def test_too_few_names_is_an_error():
    panel, _ = make_panel(n_rows=150, n_assets=6)
    with pytest.raises(ValueError, match="no date from 2015-01-01 to its end with 7 assets of 60 returns"):
        run(panel, {REFERENCE: identity}, n_assets=7)
    with pytest.raises(ValueError, match="no date from 2030-01-01 to 2031-01-01"):
        run(panel, {REFERENCE: identity}, n_assets=5, first="2030-01-01", last="2031-01-01")
