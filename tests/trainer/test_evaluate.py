# SPDX-License-Identifier: Apache-2.0
"""The protocol: its statistics against loops, its portfolios against known populations, and no look ahead."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from sigmahat_kernels.covariance import assemble
from sigmahat_kernels.parameters import HEADS, Parameters
from sigmahat_kernels.request import PADDING, read_request
from sigmahat_trainer.baselines import BASELINES, gmv_weights, qis_correlation, sample
from sigmahat_trainer.dataset import MIN_COVERAGE, eligible_assets
from sigmahat_trainer.evaluate import (
    HAC_LAGS,
    REFERENCE,
    as_json,
    closed_form,
    estimators,
    evaluate,
    learned_constants,
    newey_west_t,
    score,
    served,
)
from sigmahat_trainer.panels import ReturnPanel

CONSTANTS = {
    "target_intensity": [0.5, 0.1, 0.7],
    "target_weights": [0.4, 0.2, 0.4],
    "target_confidence": [0.5, 0.5, 0.5],
    "memory": [0.4],
    "volatility": [0.3, 0.5, 0.2, 0.1],
    "condition": [1.0],
    "expected_error": [0.1],
    "log_variance": [-2.0],
    "regime": [0.25, 0.25, 0.25, 0.25],
}
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


def run(panel, methods, *, n_assets=10, first="2015-01-01", draws=2, seed=0):
    return evaluate(
        panel, methods, n_assets=n_assets, n_obs=N_OBS, horizon=HORIZON, draws=draws, first=first, seed=seed
    )


def identity(request):
    return [np.eye(int((universe != PADDING).sum())) for universe in request.universes]


# -------------------------------------------------------------------------------------------------------- statistics


def newey_west_by_loop(values, lags):
    """Newey, West (1987), equation 5: autocovariances with divisor n, weights 1 - lag / (lags + 1)."""
    n = len(values)
    mean = sum(values) / n
    total = 0.0
    for lag in range(-lags, lags + 1):
        for t in range(n):
            if 0 <= t - lag < n:
                total += (1 - abs(lag) / (lags + 1)) * (values[t] - mean) * (values[t - lag] - mean) / n
    return mean / math.sqrt(total / n)


@pytest.mark.parametrize("lags", [0, 1, 3, 10])
@pytest.mark.parametrize("n", [12, 107])
def test_newey_west_equals_a_loop(n, lags):
    rng = np.random.default_rng(n)
    noise = rng.standard_normal(n + 1)
    values = 0.3 + noise[1:] + 0.7 * noise[:-1]
    assert newey_west_t(values, lags) == pytest.approx(newey_west_by_loop(values, lags), rel=1e-12)


def test_newey_west_by_hand():
    """1, 2, 3, 6: deviations -2, -1, 0, 3; autocovariances 14/4, 2/4, -3/4; with two lags 3.5 + 2 (2/3 x 0.5 - 1/4)."""
    long_run = 3.5 + 2 * (2 / 3 * 0.5 + 1 / 3 * -0.75)
    assert newey_west_t(np.array([1.0, 2.0, 3.0, 6.0]), 2) == pytest.approx(3.0 / math.sqrt(long_run / 4))
    assert newey_west_t(np.array([1.0, 2.0, 3.0, 6.0]), 0) == pytest.approx(3.0 / math.sqrt(3.5 / 4))


def test_newey_west_at_its_borders():
    assert newey_west_t(np.zeros(20), 3) == 0.0
    assert newey_west_t(np.array([0.4]), 3) == 0.0  # one date proves nothing
    # More lags than there are: autocovariances 1 and -1/2, the latter weighed 3/4.
    assert newey_west_t(np.array([1.0, 3.0]), 3) == pytest.approx(2 / math.sqrt((1 - 2 * 0.75 * 0.5) / 2))


def test_score_of_returns_made_by_hand():
    """Two dates of two draws of two days."""
    reference = np.array([[[0.01, -0.01], [0.02, 0.02]], [[0.01, 0.03], [0.0, 0.02]]])
    other = np.array([[[0.02, -0.02], [0.01, 0.01]], [[0.01, 0.01], [0.0, 0.02]]])
    scores = score({REFERENCE: reference, "other": other})
    assert scores.n_dates == 2
    mean_square = {
        REFERENCE: (1e-4 * (1 + 1 + 4 + 4 + 1 + 9 + 0 + 4)) / 8,
        "other": (1e-4 * (4 + 4 + 1 + 1 + 1 + 1 + 0 + 4)) / 8,
    }
    for name, value in mean_square.items():
        assert scores.annual_volatility[name] == pytest.approx(math.sqrt(252 * value))
    # ln of variance ratios: draws 4 and 1/4 on the first date, 1/5 and 1 on the second.
    first, second = 0.5 * (math.log(4) - math.log(4)) / 2, 0.5 * math.log(1 / 5) / 2
    assert scores.versus_reference["other"] == pytest.approx((first + second) / 2)
    assert scores.versus_reference[REFERENCE] == 0.0
    assert scores.t_statistic[REFERENCE] == 0.0
    assert scores.t_statistic["other"] == pytest.approx(newey_west_t(np.array([first, second]), HAC_LAGS))


def test_draws_of_one_date_are_one_unit():
    """The same draw a hundred times over is no more evidence than once."""
    rng = np.random.default_rng(2)
    reference, other = 0.01 * rng.standard_normal((2, 40, 1, 20))
    once = score({REFERENCE: reference, "other": other})
    often = score({REFERENCE: np.repeat(reference, 100, axis=1), "other": np.repeat(other, 100, axis=1)})
    assert often.t_statistic["other"] == pytest.approx(once.t_statistic["other"])
    assert often.n_dates == once.n_dates == 40


def test_as_json_rounds_to_percent():
    reference = np.array([[[0.01, -0.01]], [[0.01, 0.01]], [[0.01, 0.01]]])
    answer = as_json(score({REFERENCE: reference, "twice": 2 * reference}))
    assert answer["n_dates"] == 3
    assert answer["methods"]["twice"] == {
        "annual_volatility_percent": 31.749,  # 100 x 0.02 x sqrt(252)
        "versus_qis_correlation_percent": 69.31,  # 100 ln 2
        "t": 0.0,
    }
    assert answer["methods"][REFERENCE]["annual_volatility_percent"] == 15.875


# --------------------------------------------------------------------------------------------------------- estimators


def ragged_request():
    """Universes of different size and window."""
    panel, _ = make_panel(n_rows=120)
    universes = np.array([[4, 1, 7, 2], [9, 3, 5, PADDING]], np.int32)
    return read_request(panel.returns, universes, windows=np.array([[10, 90], [40, 120]]))


def test_closed_form_hands_each_universe_its_own_rows_and_columns():
    request = ragged_request()
    seen = []

    def estimator(returns):
        seen.append(returns)
        return sample(returns)

    covariances = closed_form(estimator)(request)
    for returns, universe, rows in zip(seen, ([4, 1, 7, 2], [9, 3, 5]), (slice(10, 90), slice(40, 120)), strict=True):
        np.testing.assert_array_equal(returns, request.panel[rows][:, universe])
        assert returns.dtype == np.float64
    assert [matrix.shape for matrix in covariances] == [(4, 4), (3, 3)]
    np.testing.assert_allclose(covariances[1], np.cov(seen[1].T), rtol=1e-10)


def test_closed_form_counts_missing_returns_as_zero():
    request = ragged_request()
    holed = request.panel.copy()
    holed[50, 4] = np.nan
    covariances = closed_form(sample)(request._replace(panel=holed))
    filled = np.nan_to_num(holed)[10:90][:, [4, 1, 7, 2]].astype(float)
    np.testing.assert_allclose(covariances[0], np.cov(filled.T), rtol=1e-10)


def test_learned_constants_are_one_answer_for_all_universes():
    request = ragged_request()
    covariances = learned_constants(CONSTANTS)(request)
    parameters = Parameters(**{name: np.array([values, values]) for name, values in CONSTANTS.items()})
    expected = assemble(request, parameters, np.zeros(2, int))
    np.testing.assert_array_equal(covariances[0], expected[0])
    np.testing.assert_array_equal(covariances[1], expected[1][:3, :3])
    assert covariances[0].dtype == np.float64
    assert set(CONSTANTS) == set(HEADS)


def test_served_is_the_pipeline_without_padding():
    request = ragged_request()
    matrices = np.full((2, 4, 4), np.nan, np.float32)
    matrices[0], matrices[1, :3, :3] = np.arange(16).reshape(4, 4), np.arange(9).reshape(3, 3)
    seen = []

    def estimate(given):
        seen.append(given)
        return SimpleNamespace(covariance=matrices)

    covariances = served(SimpleNamespace(estimate=estimate))(request)
    assert seen == [request]
    np.testing.assert_array_equal(covariances[0], matrices[0])
    np.testing.assert_array_equal(covariances[1], np.arange(9).reshape(3, 3))


def test_estimators_are_all_baselines_and_ours():
    pipeline = SimpleNamespace(estimate=lambda request: SimpleNamespace(covariance=None))
    methods = estimators(pipeline, CONSTANTS)
    assert list(methods) == [*BASELINES, "learned_constants", "sigmahat"]
    request = ragged_request()
    for name, estimator in BASELINES.items():
        for ours, rows in zip(methods[name](request), (slice(10, 90), slice(40, 120)), strict=True):
            assert ours.shape == (len(ours), len(ours))
            universe = [4, 1, 7, 2] if rows.start == 10 else [9, 3, 5]
            expected = estimator(request.panel[rows][:, universe].astype(float))
            np.testing.assert_allclose(ours, expected, rtol=1e-10)


# ----------------------------------------------------------------------------------------------------- the protocol


def test_the_truth_beats_the_sample_and_reaches_what_theory_says():
    panel, truth = make_panel(n_rows=1_600)

    def oracle(request):
        return [truth[np.ix_(universe, universe)] for universe in request.universes]

    methods = {"oracle": oracle, "sample": closed_form(sample), REFERENCE: closed_form(qis_correlation)}
    scores = run(panel, methods, n_assets=20)
    assert scores.n_dates == (1_600 - N_OBS) // HORIZON
    volatility = scores.annual_volatility
    assert volatility["oracle"] < volatility[REFERENCE] < volatility["sample"]
    # Minimum variance of a random half is 1 / (1' inv(covariance) 1), and a sample costs about T / (T - N) of it.
    rng = np.random.default_rng(0)
    variances = []
    for _ in range(200):
        u = rng.choice(30, 20, replace=False)
        weights = gmv_weights(truth[np.ix_(u, u)])
        variances.append(weights @ truth[np.ix_(u, u)] @ weights)
    assert volatility["oracle"] == pytest.approx(math.sqrt(252 * np.mean(variances)), rel=0.04)
    assert (volatility["sample"] / volatility["oracle"]) ** 2 == pytest.approx(N_OBS / (N_OBS - 20), rel=0.15)
    assert scores.versus_reference["oracle"] < 0 < scores.versus_reference["sample"]
    assert scores.t_statistic["oracle"] < -3
    assert scores.t_statistic["sample"] > 3


def test_scores_equal_a_loop_over_dates():
    """With universes of all assets nothing is random; one name dies, and earns nothing from then on."""
    panel, _ = make_panel(n_rows=200, n_assets=6)
    panel.returns[133:, 2] = np.nan
    first = str(panel.dates[90])
    inverse_variance = closed_form(lambda returns: np.diag(returns.var(axis=0)))
    methods = {REFERENCE: identity, "inverse_variance": inverse_variance}
    scores = run(panel, methods, n_assets=6, first=first, draws=1)

    returns = panel.returns.astype(float)
    squares = {name: [] for name in methods}
    n_dates = 0
    for stop in range(90, 200 - HORIZON + 1, HORIZON):
        if np.isnan(returns[stop - 1]).any():
            continue  # five names left, six wanted
        n_dates += 1
        inverse = 1 / returns[stop - N_OBS : stop].var(axis=0)
        weights = {REFERENCE: np.full(6, 1 / 6), "inverse_variance": inverse / inverse.sum()}
        for name, w in weights.items():
            for day in returns[stop : stop + HORIZON]:
                squares[name].append(sum(0.0 if np.isnan(r) else w[i] * r for i, r in enumerate(day)) ** 2)
    assert scores.n_dates == n_dates == 3
    for name, values in squares.items():
        assert scores.annual_volatility[name] == pytest.approx(math.sqrt(252 * np.mean(values)), rel=1e-5)


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


def test_estimators_are_shown_the_past_and_nothing_else():
    panel, _ = make_panel()
    first = str(panel.dates[100])
    recorder = record(panel, first=first, draws=3)
    stops = list(range(100, 400 - HORIZON + 1, HORIZON))
    assert len(recorder.requests) == len(stops)
    for request, stop in zip(recorder.requests, stops, strict=True):
        np.testing.assert_array_equal(request.panel, panel.returns[:stop])
        np.testing.assert_array_equal(request.market, panel.market[:stop])
        np.testing.assert_array_equal(request.dates, panel.dates[:stop].astype(int))
        np.testing.assert_array_equal(request.windows, [[stop - N_OBS, stop]] * 3)
        assert request.universes.shape == (3, 10)
        assert (np.diff(request.universes, axis=1) > 0).all()
    assert len({tuple(u) for request in recorder.requests for u in request.universes}) == 3 * len(stops)


def test_first_window_is_never_cut_short():
    """Nor does a holding period begin before `first`."""
    panel, _ = make_panel(n_rows=200)
    stops = [len(request.panel) for request in record(panel, first="2000-01-01").requests]
    assert stops[0] == N_OBS
    saturday = "2015-05-02"
    (monday,) = np.flatnonzero(panel.dates == np.datetime64("2015-05-04"))
    stops = [len(request.panel) for request in record(panel, first=saturday).requests]
    assert stops[0] == monday
    assert stops[-1] + HORIZON <= 200 < stops[-1] + 2 * HORIZON  # holding periods are whole and follow one another


def test_changing_the_future_changes_no_earlier_estimate():
    panel, _ = make_panel()
    before = record(panel)
    for row in (160, 161, 399):
        future = panel.returns.copy()
        future[row:] = np.where(np.random.default_rng(3).random(future[row:].shape) < 0.3, np.nan, 0.2)
        after = record(panel._replace(returns=future))
        known = [k for k, request in enumerate(before.requests) if len(request.panel) <= row]
        assert len(known) >= 6
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


def test_a_date_with_too_few_names_is_left_out_and_those_after_it_are_not():
    panel, _ = make_panel(n_rows=200)
    panel.returns[N_OBS + HORIZON - 1] = np.nan  # the last row before the second date
    stops = [len(request.panel) for request in record(panel).requests]
    assert stops == [N_OBS, *range(N_OBS + 2 * HORIZON, 200 - HORIZON + 1, HORIZON)]


def test_same_seed_same_universes():
    panel, _ = make_panel(n_rows=150)
    universes = [np.stack([r.universes for r in record(panel, seed=seed).requests]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(universes[0], universes[1])
    assert (universes[0] != universes[2]).any()


def test_too_few_names_is_an_error():
    panel, _ = make_panel(n_rows=150, n_assets=6)
    with pytest.raises(ValueError, match="simulated has no date from 2015-01-01 on with 7 assets of 60 returns"):
        run(panel, {REFERENCE: identity}, n_assets=7)
    with pytest.raises(ValueError, match="no date from 2030-01-01 on"):
        run(panel, {REFERENCE: identity}, n_assets=5, first="2030-01-01")


def test_a_method_without_a_portfolio_is_left_out_and_spoils_no_other():
    panel, _ = make_panel(n_assets=50)
    methods = {"qis_correlation": closed_form(qis_correlation), "sample": closed_form(sample)}
    scores = evaluate(panel, methods, n_assets=40, n_obs=30, horizon=5, draws=2, first="2016-01-01", seed=0)
    assert np.isnan(scores.annual_volatility["sample"])  # 40 assets, rank 29
    assert set(as_json(scores)["methods"]) == {"qis_correlation"}
    assert scores.annual_volatility["qis_correlation"] > 0
