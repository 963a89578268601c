# SPDX-License-Identifier: Apache-2.0
"""Figures of rows made by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from sigmahat_trainer.evaluation.figures import (
    SQUARES,
    cell_figures,
    every_cell,
    make_figures,
    outside_crash,
    pool,
    pool_against_all,
    pool_bias,
    pool_confidence,
)
from sigmahat_trainer.evaluation.results import Biases, Figures, cell_name, to_json
from sigmahat_trainer.evaluation.scores import PORTFOLIOS, Score
from sigmahat_trainer.evaluation.significance import moments_of, newey_west_t, variance_test


def made_scores(log_variances, *, panel="north", n_assets=50, start="2013-01-02", seed=0):
    """Rows of some methods; of each a series of ln variances, one a month."""
    rng = np.random.default_rng(seed)
    rows = []
    dates = pd.date_range(start, periods=len(next(iter(log_variances.values()))), freq="31D", unit="s")
    shocks = rng.standard_normal((len(dates), 21))
    for name, values in log_variances.items():
        for step, (date, value, shock) in enumerate(zip(dates, values, shocks, strict=True)):
            returns = 0.01 * shock * math.exp(value / 2)
            numbers = dict.fromkeys(Score._fields, 1.0)
            variance = {"gmv_variance": 1e-4 * math.exp(value), "gmv_log_variance": value + math.log(1e-4)}
            days = {
                f"{kind}_{what}": v
                for kind in PORTFOLIOS
                for what, v in (("returns", returns), ("squares", returns**2))
            }
            where = {"panel": panel, "n_assets": n_assets, "n_obs": 252, "horizon": 21, "method": name}
            rows.append(
                {
                    **where,
                    "step": step,
                    "date": date,
                    "until": date + pd.Timedelta(days=30),
                    **numbers,
                    **variance,
                    **days,
                    "turnover": 0.25,
                    "milliseconds": 2.0,
                }
            )
    return pd.DataFrame(rows)


def series(n=36, seed=1):
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal(n)
    return {"qis_correlation": reference, "better": reference - 0.1 + 0.05 * rng.standard_normal(n)}


def test_a_cell_by_hand():
    values = series()
    rows = made_scores(values)
    rows.loc[rows["method"] == "better", "random_long_only_qlike"] = 0.75
    rows["random_long_short_square"] = 1.44
    rows.loc[rows["method"] == "better", ["tracking_variance", "tracking_log_variance"]] = [4e-6, 0.5]
    cell = cell_figures(rows, [], resamples=0)
    assert (cell.n_assets, cell.n_dates, cell.first, cell.last) == (50, 36, "2013-01-02", "2015-12-23")
    assert (cell.n_obs, cell.horizon) == (252, 21)
    better = cell.methods["better"]
    variance = 1e-4 * np.exp(values["better"])
    assert better.annual_volatility_percent == pytest.approx(100 * math.sqrt(252 * variance.mean()))
    assert better.levels.mean_window_volatility_percent == pytest.approx(100 * np.sqrt(252 * variance).mean())
    assert better.levels.turnover_per_year == pytest.approx(0.25 * 12)
    assert better.levels.milliseconds_per_universe == 2.0
    assert better.bias.random_long_short.value == pytest.approx(1.2)
    assert better.bias.random_long_short.standard_error == pytest.approx(0.0, abs=1e-12)
    assert better.levels.annual_tracking_error_percent == pytest.approx(0.2 * math.sqrt(252))
    assert better.bias.tracking.value == 1.0
    versus = better.versus["qis_correlation"]
    assert versus.tracking.difference == pytest.approx(50 * (0.5 - 1.0))
    difference = values["better"] - values["qis_correlation"]
    assert versus.gmv.difference == pytest.approx(50 * difference.mean())
    assert versus.gmv.t == pytest.approx(newey_west_t(difference))
    assert versus.random_long_only_qlike.difference == pytest.approx(-0.25)
    days = [
        [np.concatenate(rows.loc[rows["method"] == name, f"gmv_{what}"].to_list()) for what in ("returns", "squares")]
        for name in ("better", "qis_correlation")
    ]
    assert versus.gmv.p == pytest.approx(variance_test(moments_of(*days)).p_value)
    assert versus.gmv.bootstrap_p is None
    assert better.confidence_set_p == 1.0
    assert cell.methods["qis_correlation"].versus["qis_correlation"].gmv.difference == 0.0


def test_pipelines_get_a_bootstrap_and_others_do_not():
    cell = cell_figures(made_scores(series()), ["better"], resamples=49)
    versus = {name: row.versus["qis_correlation"].gmv for name, row in cell.methods.items()}
    assert 0 < versus["better"].bootstrap_p <= 1
    assert versus["qis_correlation"].bootstrap_p is None


def test_pipelines_are_compared_with_all_references_and_the_bound_is_in_no_contest():
    values = series()
    values["learned_constants"] = values["qis_correlation"] + 0.05
    values["hindsight_constants"] = values["better"] - 1
    rows = made_scores(values)
    methods = cell_figures(rows, ["better"], resamples=0).methods
    assert set(methods["better"].versus) == {"qis_correlation", "learned_constants"}
    assert set(methods["learned_constants"].versus) == {"qis_correlation"}
    assert methods["better"].confidence_set_p == 1.0  # the best of those that may be compared
    assert methods["hindsight_constants"].confidence_set_p is None
    pooled = pool(rows, ["better"])
    assert set(pooled["better"]) == {"qis_correlation", "learned_constants"}
    assert set(pooled["hindsight_constants"]) == {"qis_correlation"}


def test_a_pipeline_is_compared_with_each_method_where_that_one_was_asked():
    """A slow one has fewer steps, and one of its own steps without a portfolio."""
    values = {**series(), "slow": series()["qis_correlation"] + 0.2}
    rows = made_scores(values)
    rows = rows[(rows["method"] != "slow") | (rows["step"] % 3 == 0)]
    rows.loc[(rows["method"] == "slow") & (rows["step"] == 6), "gmv_log_variance"] = np.nan
    rows.loc[rows["method"] == "better", "negative_log_likelihood"] = 0.75
    pooled = pool_against_all(rows, "better")
    assert {name: of.n_steps for name, of in pooled.items()} == {"qis_correlation": 36, "slow": 11}
    steps = [step for step in range(0, 36, 3) if step != 6]
    difference = (values["better"] - values["slow"])[steps]
    assert pooled["slow"].differences.gmv.difference == pytest.approx(50 * difference.mean())
    assert pooled["slow"].differences.gmv.t == pytest.approx(newey_west_t(difference))
    assert pooled["qis_correlation"].differences.negative_log_likelihood.difference == pytest.approx(-0.25)


def test_holding_periods_that_touch_the_crash_are_told_from_those_that_do_not():
    """The first date is the last day before a holding period, the second its last day."""
    days = [
        ("2020-01-15", "2020-02-14", True),
        ("2020-01-16", "2020-02-15", False),
        ("2020-04-01", "2020-04-30", False),
        ("2020-05-30", "2020-06-29", False),
        ("2020-05-31", "2020-06-30", True),
    ]
    rows = pd.DataFrame(days, columns=["date", "until", "outside"]).assign(
        date=lambda t: pd.to_datetime(t["date"]), until=lambda t: pd.to_datetime(t["until"])
    )
    assert outside_crash(rows).index.tolist() == rows.index[rows["outside"]].tolist()
    scores = made_scores(series(), start="2018-01-01")
    spring = (scores["date"] >= "2020-01-20") & (scores["date"] < "2020-05-31")
    assert spring.any()
    scores.loc[spring, "equal_weight_square"] = 9.0
    found = make_figures(scores, pd.DataFrame(), pd.DataFrame(), resamples=0)
    assert found.bias["north"]["better"].equal_weight.value > 1.2
    assert found.bias_outside_crash["north"]["better"].equal_weight.value == 1.0
    only_crash = make_figures(scores[spring], pd.DataFrame(), pd.DataFrame(), resamples=0)
    assert only_crash.bias_outside_crash == {"all": {}, "north": {}}


def test_a_method_without_a_portfolio_at_one_date_is_named_and_has_no_figures():
    values = series()
    values["sample"] = values["better"].copy()
    rows = made_scores(values)
    rows.loc[rows[rows["method"] == "sample"].index[3], "gmv_log_variance"] = np.nan
    cell = cell_figures(rows, [], resamples=0)
    assert cell.without_portfolio == ["sample"]
    assert set(cell.methods) == {"qis_correlation", "better"}


def test_pooling_averages_cells_then_panels_of_a_step():
    """Cells of one panel are no more evidence than one, and a panel of many cells no more than one of few."""
    zero = np.zeros(24)
    parts = [
        made_scores({"qis_correlation": zero, "m": zero + 0.02 * k}, n_assets=size, panel=panel)
        for panel, size, k in (("north", 50, 1), ("north", 100, 3), ("south", 50, 4))
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows.loc[rows["method"] == "m", "gmv_log_variance"] += np.tile(np.linspace(-1, 1, 24), 3)
    pooled = pool(rows, [])
    versus = pooled["m"]["qis_correlation"]
    assert versus.differences.gmv.difference == pytest.approx(50 * ((0.02 + 0.06) / 2 + 0.08) / 2)
    assert versus.n_steps == 24
    expected = np.linspace(-1, 1, 24) + 0.06
    assert versus.differences.gmv.t == pytest.approx(newey_west_t(expected))
    splits = versus.gmv_splits
    assert splits.first_third.difference == pytest.approx(50 * expected[:8].mean())
    assert splits.last_third.difference == pytest.approx(50 * expected[16:].mean())
    small = rows[rows["n_assets"] == 50]
    often = pd.concat([small, small.assign(n_assets=60)])
    once, twice = (pool(part, [])["m"]["qis_correlation"].differences.gmv for part in (small, often))
    assert twice.t == pytest.approx(once.t)


def test_times_are_called_turbulent_by_the_market_and_not_by_a_method_that_is_compared():
    """Two methods that differ by luck alone: neither wins where the other's variance happened to be high."""
    rng = np.random.default_rng(3)
    market = rng.standard_normal(2_000)
    luck = {name: market + rng.standard_normal(2_000) for name in ("qis_correlation", "m")}
    splits = pool(made_scores({"equal_weight": market, **luck}), [])["m"]["qis_correlation"].gmv_splits
    difference = luck["m"] - luck["qis_correlation"]
    high = market > np.median(market)
    assert splits.turbulent.difference == pytest.approx(50 * difference[high].mean())
    assert splits.calm.difference == pytest.approx(50 * difference[~high].mean())
    assert max(abs(splits.calm.t), abs(splits.turbulent.t)) < 2.5
    without = pool(made_scores(luck), [])["m"]["qis_correlation"].gmv_splits
    assert (without.calm, without.turbulent) == (None, None)
    assert without.second_third is not None


def test_bias_statistics_and_their_errors_over_cells_and_panels():
    """The first of each step is the mean over panels of the mean over their cells; errors by the delta method."""
    rng = np.random.default_rng(4)
    squares = rng.chisquare(5, (3, 24)) / 5
    parts = []
    for (panel, size), values in zip((("north", 50), ("north", 100), ("south", 50)), squares, strict=True):
        part = made_scores({"m": np.zeros(24), "none": np.zeros(24)}, panel=panel, n_assets=size)
        part.loc[part["method"] == "m", "random_long_only_square"] = values
        part.loc[part["method"] == "none", list(SQUARES.values())] = np.nan
        parts.append(part)
    bias = pool_bias(pd.concat(parts))
    assert set(bias) == {"m"}
    assert isinstance(bias["m"], Biases)
    means = (squares[:2].mean(axis=0) + squares[2]) / 2
    found = bias["m"].random_long_only
    assert found.value == pytest.approx(math.sqrt(means.mean()))
    assert found.standard_error == pytest.approx(means.mean() / newey_west_t(means) / 2 / math.sqrt(means.mean()))
    assert bias["m"].tracking.value == 1.0


def test_the_confidence_set_over_cells_and_panels():
    """A method that is worse in one panel only is out where that counts; one that lacks a date does not take part."""
    rng = np.random.default_rng(6)
    common, parts = rng.standard_normal(48), []
    for panel, loss in (("north", 0.0), ("south", 0.4)):
        values = {name: common + 0.1 * rng.standard_normal(48) for name in ("a", "b", "lacking", "hindsight_constants")}
        part = made_scores(values | {"worse": values["a"] + loss + 0.1 * rng.standard_normal(48)}, panel=panel)
        part.loc[part[part["method"] == "lacking"].index[:1], "gmv_log_variance"] = np.nan
        parts.append(part)
    found = pool_confidence(pd.concat(parts))
    assert set(found) == {"a", "b", "worse"}
    assert found["worse"] < 0.02
    assert min(found["a"], found["b"]) > 0.1
    assert pool_confidence(parts[0])["worse"] > 0.02


def test_one_table_says_where_a_pipeline_is_better():
    reference, rng = np.zeros(36), np.random.default_rng(5)
    parts = []
    for panel, size, mean in (("north", 50, -0.2), ("north", 100, 0.1), ("south", 50, -0.01)):
        values = {"qis_correlation": reference, "mine": mean + 0.3 * rng.permutation(np.linspace(-1, 1, 36))}
        parts.append(made_scores(values, panel=panel, n_assets=size))
    rows = pd.concat(parts)
    panels = {
        panel: [cell_figures(cell, ["mine"], resamples=0) for _, cell in part.groupby("n_assets")]
        for panel, part in rows.groupby("panel")
    }
    answers = every_cell(panels, "mine")
    assert set(answers) == {"qis_correlation"}
    found = answers["qis_correlation"]
    assert (found.cells, found.better, found.better_with_t_below_minus_2) == (3, 2, 1)
    assert [(cell.panel, cell.n_assets) for cell in found.table] == [("north", 50), ("north", 100), ("south", 50)]
    assert found.table[0].difference == pytest.approx(-10)
    assert found.table[0].t < -2
    assert found.worst == found.table[1]
    assert found.worst.difference == pytest.approx(5)


def test_pooling_leaves_out_cells_that_a_method_does_not_exist_in():
    zero = np.zeros(24)
    rows = pd.concat(
        [made_scores({"qis_correlation": zero, "m": zero + k}, n_assets=size) for size, k in ((50, 0.1), (100, np.nan))]
    )
    assert pool(rows, [])["m"]["qis_correlation"].differences.gmv.difference == pytest.approx(5.0)


def test_figures_are_all_there_is_for_the_rows_that_there_are():
    figures = make_figures(made_scores(series()), pd.DataFrame(), pd.DataFrame())
    assert isinstance(figures, Figures)
    assert [cell_name(cell) for cell in figures.panels["north"]] == ["N=50, T=252, H=21"]
    assert set(figures.pooled) == set(figures.confidence_set) == set(figures.bias) == {"all", "north"}
    assert figures.every_cell == figures.heads == figures.simulated == figures.every_shape == {}
    json.dumps(to_json(figures), allow_nan=False)
