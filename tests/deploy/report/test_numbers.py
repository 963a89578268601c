# SPDX-License-Identifier: Apache-2.0
"""Every number of a report against an oracle of its own."""

from __future__ import annotations

import base64
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deploy.report import studies
from reference import covariance as reference
from sklearn.covariance import LedoitWolf

from sigmahat_client import ShrinkageClient
from sigmahat_deploy.report import backtest, compared, correlation, data, intensity, model_says, portfolio, spectrum
from sigmahat_deploy.report import volatility as volatility_section
from sigmahat_deploy.report.compared import LEDOIT_WOLF, OURS, QIS, SAMPLE
from sigmahat_deploy.report.errors import ReportError
from sigmahat_deploy.report.release import release
from sigmahat_deploy.report.study import from_estimates, infer_periods_per_year
from sigmahat_kernels.asset_statistics import ASSET_STATISTICS
from sigmahat_kernels.status import WarningFlag

REPOSITORY = Path(__file__).parents[3] / "model_repository"


@pytest.mark.parametrize(
    ("freq", "per_year"), [("B", 252), ("D", 252), ("W", 52), ("ME", 12), ("QE", 4), ("YE", 1), ("h", 252 * 24)]
)
def test_periods_of_a_year(freq: str, per_year: float):
    assert infer_periods_per_year(pd.date_range("2020-01-01", periods=48, freq=freq)) == per_year


# ------------------------------------------------------------------------------------------------------------ the data


def test_missing_stale_and_outlying_cells_are_counted():
    returns = studies.panel()
    returns.iloc[:30, 2] = np.nan
    returns.iloc[5, 4] = np.nan
    returns.iloc[40:80, 1] = 0.0
    returns.iloc[7, 3] = 0.9
    facts = data.describe(studies.universe(returns))
    assert (facts.first, facts.last, facts.n_rows, facts.n_assets) == ("2020-01-01", "2020-06-16", 120, 8)
    assert (facts.n_missing, facts.missing, facts.stale) == (31, [("A2", 30), ("A4", 1)], [("A1", 40)])
    column = returns["A3"].to_numpy()
    median = np.median(column)
    robust = (0.9 - median) / (1.4826 * np.median(np.abs(column - median)))
    first = facts.outliers[0]
    assert first[:2] == ("2020-01-10", "A3")
    assert first[2:] == pytest.approx((0.9, robust), rel=1e-9)
    assert facts.n_outliers >= len(facts.outliers)


def test_where_half_of_the_returns_are_zero_the_measure_is_the_standard_deviation():
    returns = pd.DataFrame({"A": [0.0, 0.0, 0.0, 0.1, -0.1]})
    assert data.robust_deviations(returns)["A"].iloc[3] == pytest.approx(0.1 / returns["A"].std())


def test_the_map_holds_every_missing_cell():
    returns = studies.panel(n_rows=200)
    rng = np.random.default_rng(1)
    returns = returns.mask(rng.random(returns.shape) < 0.1)
    universe = studies.universe(returns)
    spec = data.missing_map(universe)
    cells = spec["data"]["values"]
    starts = sorted({cell["from"] for cell in cells})
    days = dict(zip(map(data.day, returns.index), range(200), strict=True))
    counted = sum(cell["share"] * (days[cell["to"]] - days[cell["from"]] + 1) for cell in cells)
    assert round(counted) == returns.isna().sum().sum()
    assert len(starts) <= 60
    assert data.missing_map(studies.universe(studies.panel())) is None


def test_warnings_are_told_in_words():
    universe = studies.universe(studies.panel())
    odd = {**universe.row, "warnings": "NEAR_COPY: A1, A2; UNUSUAL_SIZE"}
    found = data.describe(universe._replace(row=odd)).warnings
    assert [(one.flag, one.assets) for one in found] == [("NEAR_COPY", "A1, A2"), ("UNUSUAL_SIZE", "")]
    assert found[0].words == WarningFlag.NEAR_COPY.explanation


# --------------------------------------------------------------------------------------- volatility and correlation


def test_volatilities_are_annualised_roots_of_variances():
    returns = studies.panel()
    universe = studies.universe(returns)
    earlier = ["A1", "A0"], np.diag([0.02**2, 0.01**2])
    frame = volatility_section.volatilities(universe, earlier)
    for asset in returns:
        x = returns[asset].to_numpy()
        sample = math.sqrt(252 * sum((x - x.mean()) ** 2) / 119)
        assert frame.at[asset, SAMPLE] == pytest.approx(sample)
        assert frame.at[asset, OURS] == pytest.approx(sample)  # `shrunk` keeps variances
    assert frame["earlier"].dropna().to_dict() == pytest.approx({"A0": 0.01 * 252**0.5, "A1": 0.02 * 252**0.5})
    changes = volatility_section.changes(frame)
    assert set(changes.index) == {"A0", "A1"}
    assert changes["change"].abs().is_monotonic_decreasing
    assert changes.at["A0", "change"] == pytest.approx(frame.at["A0", OURS] / (0.01 * 252**0.5) - 1)


def test_filling_keeps_complete_panels_and_the_variances_of_others():
    returns = studies.panel()
    np.testing.assert_allclose(compared.filled(returns), returns)
    holed = returns.mask(np.random.default_rng(0).random(returns.shape) < 0.2)
    np.testing.assert_allclose(compared.filled(holed).var(axis=0, ddof=1), holed.var(), rtol=1e-12)


def test_closed_forms_are_those_of_their_authors_or_none():
    returns = studies.panel()
    found = compared.closed_forms(returns)
    np.testing.assert_allclose(found[SAMPLE], returns.cov(), rtol=1e-10)
    # scikit-learn divides by n_obs where n - 1 stands here: another intensity by a few hundredths
    theirs = LedoitWolf().fit(returns).covariance_ * 120 / 119
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(found[LEDOIT_WOLF] / scale, theirs / scale, atol=0.01)
    assert compared.closed_forms(returns.assign(copy=returns["A0"]))[QIS] is None


def test_clustering_puts_groups_together_and_moves_numbers_with_their_names():
    returns = studies.panel(n_rows=600, n_assets=12)
    found = correlation.correlations(studies.universe(returns))
    groups = [int(name[1:]) % 2 for name in found.assets]
    assert sum(a != b for a, b in pairwise(groups)) == 1
    np.testing.assert_allclose(found.sample, returns[found.assets].corr(), atol=1e-12)
    np.testing.assert_allclose(found.ours[0, 1:], 0.5 * found.sample[0, 1:], atol=1e-12)
    off = returns.corr().to_numpy()[~np.eye(12, dtype=bool)]
    assert found.mean(found.sample) == pytest.approx(off.mean())
    largest = found.most_changed[0]
    assert abs(largest.ours - largest.sample) == pytest.approx(np.abs(off).max() / 2)
    assert largest.sample == pytest.approx(returns[largest.first].corr(returns[largest.second]))


def test_correlations_travel_as_bytes_without_losing_two_decimals():
    matrix = studies.panel().corr().to_numpy()
    codes = np.frombuffer(base64.b64decode(correlation.encode(matrix, 1.0)), np.int8)
    unpacked = np.zeros(matrix.shape)
    unpacked[np.triu_indices(len(matrix))] = codes / 127
    np.testing.assert_allclose(unpacked, np.triu(matrix), atol=0.5 / 127)


# ------------------------------------------------------------------------------------------------------- the spectrum


def test_spectra_and_condition_numbers():
    returns = studies.panel()
    found = spectrum.spectra(studies.universe(returns))
    np.testing.assert_allclose(found.sample, np.sort(np.linalg.eigvals(returns.corr()).real)[::-1], rtol=1e-8)
    assert found.sample.sum() == pytest.approx(8)
    assert found.condition_sample == pytest.approx(np.linalg.cond(returns.cov()), rel=1e-8)
    assert found.condition_ours == pytest.approx(np.linalg.cond(studies.shrunk(returns)), rel=1e-8)
    wide = spectrum.spectra(studies.universe(studies.panel(n_rows=25, n_assets=40)))
    assert math.isinf(wide.condition_sample)
    assert math.isfinite(wide.condition_ours)
    drawn = spectrum.chart(wide)["layer"][0]["data"]["values"]
    assert sum(point["estimator"] == SAMPLE for point in drawn) == 24  # the zeros have no logarithm


def test_the_edge_is_where_noise_ends():
    noise = np.random.default_rng(0).standard_normal((1500, 300))
    largest = np.linalg.eigvalsh(np.corrcoef(noise, rowvar=False))[-1]
    assert spectrum.marchenko_pastur_edge(300, 1499) == pytest.approx(largest, rel=0.02)


# ------------------------------------------------------------------------------------------------------ the portfolio


def test_risk_contributions_are_derivatives_of_the_volatility():
    returns = studies.panel()
    universe = studies.universe(returns)
    weights = pd.Series({"A0": 0.7, "A3": 0.5, "A5": -0.2})
    found = portfolio.portfolio(universe, weights)
    w = weights.reindex(returns.columns, fill_value=0.0).to_numpy()

    def volatility(w: np.ndarray) -> float:
        return math.sqrt(252 * w @ universe.covariance @ w)

    assert (found.net, found.gross, found.n_held) == pytest.approx((1.0, 1.4, 3))
    assert found.volatility[OURS] == pytest.approx(volatility(w))
    assert found.volatility[SAMPLE] == pytest.approx((returns @ w).std() * 252**0.5)
    for i, asset in enumerate(returns.columns):
        if asset in weights:
            step = 1e-6 * np.eye(8)[i]
            slope = (volatility(w + step) - volatility(w - step)) / 2e-6
            assert found.contributions.at[asset, OURS] == pytest.approx(
                weights[asset] * slope / volatility(w), rel=1e-6
            )
    assert found.contributions[OURS].sum() == pytest.approx(1)
    assert found.contributions[SAMPLE].sum() == pytest.approx(1)
    assert portfolio.portfolio(universe, pd.Series({"A0": 1.0, "B": 1.0})) is None


# ------------------------------------------------------------------------------------------------------- the backtest


class Answer:
    """What `walk_forward` reads of `Estimates`: sample covariances, and a status that may be bad."""

    def __init__(self, panel: pd.DataFrame, windows: list[tuple[int, int]], bad: set[int]) -> None:
        self.status = np.array([8 if start in bad else 0 for start, _ in windows])
        self.covariance = [studies.shrunk(panel.iloc[start:stop]) for start, stop in windows]
        self.failures = ["universe '0': short"]


def test_the_walk_forward_knows_the_past_alone():
    returns = studies.panel(n_rows=200, n_assets=5)
    returns.iloc[150, 2] = np.nan  # in a holding period: it stays at its last trade
    weights = pd.Series({"A1": 0.5, "A2": 0.5})
    found = backtest.walk_forward(
        "u", returns, weights, lambda *asked: Answer(*asked, bad={21}), window=100, periods_per_year=252
    )
    assert found.n_failed == 1
    assert found.forecast.index.tolist() == [returns.index[99], returns.index[141], returns.index[162]]
    for date, stop in zip(found.forecast.index, (100, 142, 163), strict=True):
        past, future = returns.iloc[stop - 100 : stop], returns.iloc[stop : stop + 21].fillna(0.0)
        w = weights.reindex(returns.columns, fill_value=0.0)
        assert found.forecast.at[date, OURS] == pytest.approx(math.sqrt(252 * w @ studies.shrunk(past) @ w))
        assert found.realised[date] == pytest.approx(math.sqrt(252 * ((future @ w) ** 2).mean()))
        solved = np.linalg.solve(studies.shrunk(past), np.ones(5))
        best = solved / solved.sum()
        assert found.gmv_realised.at[date, OURS] == pytest.approx(math.sqrt(252 * ((future @ best) ** 2).mean()))
    complete = returns.iloc[:100]
    assert found.forecast.at[returns.index[99], SAMPLE] == pytest.approx((complete @ w).std() * 252**0.5)
    logs = np.log(found.gmv_realised)
    assert found.cumulative[QIS].iloc[-1] == pytest.approx((logs[OURS] - logs[QIS]).sum())
    assert found.gmv_volatility[OURS] == pytest.approx(math.sqrt((found.gmv_realised[OURS] ** 2).mean()))


def test_bias_is_one_for_right_forecasts_and_its_interval_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        forecast = pd.Series(rng.uniform(0.1, 0.3, 40))
        daily = forecast.to_numpy()[:, None] / 252**0.5 * rng.standard_normal((40, 21))
        realised = pd.Series(np.sqrt(252 * (daily**2).mean(axis=1)))
        found = backtest.bias(forecast, realised)
        assert found.value == pytest.approx(math.sqrt(np.mean((realised / forecast) ** 2)))
        covered += found.low < 1 < found.high
    assert 0.90 < covered / 300 < 0.99
    assert backtest.bias(pd.Series([np.nan, 0.1]), pd.Series([0.1, 0.1])) is None


def test_a_short_panel_and_one_without_estimates_are_refused():
    returns = studies.panel(n_rows=140, n_assets=5)
    with pytest.raises(ReportError, match=r"universe 'u' needs 163 rows .*the returns have 140: give more rows"):
        backtest.walk_forward("u", returns, None, lambda *_: None, window=100, periods_per_year=252)
    with pytest.raises(ReportError, match=r"no estimate at any date: universe '0': short"):
        backtest.walk_forward(
            "u", returns, None, lambda *asked: Answer(*asked, bad=set(range(140))), window=50, periods_per_year=252
        )


# ---------------------------------------------------------------------------------------------- what the model says


@pytest.fixture(scope="module")
def estimated(panel: np.ndarray):
    """A universe that the model itself estimated, with missing returns."""
    frame = pd.DataFrame(panel[:, :12], pd.bdate_range("2020-01-01", periods=300), [f"A{i}" for i in range(12)])
    with ShrinkageClient.local(REPOSITORY) as client:
        estimates = client.estimate(frame, covariance=True)
    return from_estimates(frame, estimates, {}).universe("all")


def test_intensities_by_asset_follow_from_a_loop_over_the_definition(estimated):
    found = intensity.intensities(estimated)
    statistics = reference.asset_statistics(estimated.cleaned.to_numpy())
    start = estimated.row["intensity"]
    for i, asset in enumerate(estimated.assets):
        shift = sum(
            estimated.row[f"intensity_tilt_{name}"] * statistics[i][k] for k, name in enumerate(ASSET_STATISTICS)
        )
        assert found.by_asset[asset] == pytest.approx(1 / (1 + (1 / start - 1) * math.exp(-shift)), rel=1e-4)
    assert found.by_asset.is_monotonic_decreasing
    assert found.most[0].asset == found.by_asset.index[0]
    assert found.least[0].asset == found.by_asset.index[-1]
    assert all(one.why for one in found.most)


def test_the_reason_is_the_statistic_that_pushed_most():
    words = intensity._WORDS
    statistics = np.array([1.0, 0.0, -2.0, 0.0, 0.0, 0.0, 3.0, *[0.0] * 5])
    tilt = np.array([0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 5])
    assert intensity._why(statistics, tilt * statistics) == [words["log_kurtosis"][0], words["mean_correlation"][0]]
    assert intensity._why(statistics, -tilt * statistics) == [words["log_unshared"][1]]


def test_what_is_said_has_the_numbers():
    universe = studies.universe(studies.panel())
    row = {
        **universe.row,
        **{
            "intensity": 0.42,
            "memory": 0.39,
            "factor_memory": 0.17,
            "expected_error": math.log(1.1),
            "level_log_volatility": math.log(0.9),
        },
        **{"uncertainty_aleatoric": 0.3, "uncertainty_epistemic": 0.4},
        **dict(
            zip(
                ("weight_identity", "weight_constant_correlation", "weight_single_factor"), (0.5, 0.0, 0.5), strict=True
            )
        ),
        **dict(
            zip(
                ("intensity_identity", "intensity_constant_correlation", "intensity_single_factor"),
                (0.2, 0.9, 0.6),
                strict=True,
            )
        ),
        **{"regime_calm": 0.1, "regime_normal": 0.2, "regime_elevated": 0.6, "regime_stressed": 0.1},
    }
    said = model_says.say(universe._replace(row=row))
    words = {statement.topic: statement.words for statement in said.statements}
    assert "58 % of the correlations are measured, 42 %" in words["Shrinkage"]
    assert "25 % identity, 0 % constant correlation and 75 % single factor" in words["Shrinkage"]
    assert "39 % are exponentially weighted with a half-life of 63 rows" in words["Memory"]
    assert "17 % of what these give are replaced by the three leading factors" in words["Memory"]
    assert "lowered by 10 % together" in words["Volatility"]
    low, high = 1.1 * math.exp(-0.5), 1.1 * math.exp(0.5)
    assert (
        f"1.10 times the volatility that the matrix gives it, between {low:.2f} and {high:.2f}"
        in words["Expected error"]
    )
    assert "Most likely elevated, with 60 %" in words["Regime"]


def test_the_release_is_that_of_the_model_card(tmp_path):
    found = release("of a file", REPOSITORY)
    assert (found.train_until, found.members) == ("2012-12-31", 3)
    assert release("of a file", tmp_path).card == ""
    (tmp_path / "model_card.json").write_text("{}")
    with pytest.raises(ReportError, match="is no model card: KeyError"):
        release("of a file", tmp_path)
