# SPDX-License-Identifier: Apache-2.0
"""`risk` in process: its numbers against the matrices of `estimate`, what it takes, and what it refuses."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import (
    AssetsDropped,
    AsyncShrinkageClient,
    DeadlineExceeded,
    InvalidRequest,
    PortfolioError,
    Risks,
    ShrinkageClient,
    UniverseError,
)
from sigmahat_client.columns import describe
from sigmahat_client.intake import chunks, encode, job
from sigmahat_client.risks import MINIMUM_VARIANCE_RULES as CLIENTS_RULES
from sigmahat_client.risks import REGIME_RATIOS
from sigmahat_kernels.status import PortfolioStatus, Status

pytest.importorskip("onnxruntime", reason="needs sigmahat[serve]")
from sigmahat_kernels.risk import MINIMUM_VARIANCE_RULES

REPOSITORY = Path(__file__).parents[2] / "model_repository"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
UNIVERSES = {"one": ["A1", "A2", "A5"], "bad": ["A1", "XX"], "two": ["A3", "A4"]}


@pytest.fixture(scope="module")
def local() -> Iterator[ShrinkageClient]:
    with ShrinkageClient.local(REPOSITORY) as client:
        yield client


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = 0.01 * (rng.standard_normal((120, 1)) + rng.standard_t(5, (120, 12)))
    return pd.DataFrame(values, pd.bdate_range("2020-01-01", periods=120), [f"A{i}" for i in range(12)])


@pytest.fixture(scope="module")
def book(returns: pd.DataFrame) -> pd.DataFrame:
    """Portfolios in money: long, long and short, one share of one asset."""
    weights = pd.DataFrame(1e6, index=["long", "hedged", "A2"], columns=returns.columns)
    weights.loc["hedged"] *= [1, -1, 0.5, -0.7, 1, -0.2] * 2
    weights.loc["A2"] = 1.0 * (returns.columns == "A2")
    return weights


@pytest.fixture(scope="module")
def risks(local: ShrinkageClient, returns: pd.DataFrame, book: pd.DataFrame) -> Risks:
    return local.risk(returns, UNIVERSES, book, horizon=10, minimum_variance=True)


@pytest.fixture(scope="module")
def matrix(local: ShrinkageClient, returns: pd.DataFrame) -> pd.DataFrame:
    """Of universe one, over the horizon."""
    found = local.estimate(returns, UNIVERSES, covariance=True).covariance_of("one")
    assert isinstance(found, pd.DataFrame)
    return 10.0 * found.astype(float)


def test_every_number_is_that_of_the_matrix(risks: Risks, matrix: pd.DataFrame, book: pd.DataFrame) -> None:
    weights = book[matrix.index].T
    volatility = np.sqrt(np.diag(weights.T @ matrix @ weights))
    np.testing.assert_allclose(risks.volatility[0], volatility, rtol=1e-6)
    marginal = matrix @ weights / volatility
    pd.testing.assert_frame_equal(risks.weights_of("one"), weights)
    pd.testing.assert_frame_equal(risks.marginal_of("one"), marginal, rtol=1e-5)
    contributions = risks.contributions_of("one")
    pd.testing.assert_frame_equal(contributions, weights * marginal, rtol=1e-5)
    np.testing.assert_allclose(contributions.sum(), risks.volatility[0], rtol=1e-12)
    pd.testing.assert_frame_equal(risks.beta_of("one"), marginal / volatility, rtol=1e-5)
    own = pd.Series(np.sqrt(np.diag(matrix)), matrix.index)
    pd.testing.assert_series_equal(risks.asset_volatility_of("one"), own, rtol=1e-6)
    ratio = (weights.abs().T @ np.sqrt(np.diag(matrix))) / volatility
    np.testing.assert_allclose(risks.diversification_ratio[0], ratio, rtol=1e-6)
    shares = (weights * marginal).abs() / (weights * marginal).abs().sum()
    np.testing.assert_allclose(risks.effective_bets[0], 1 / (shares**2).sum(), rtol=1e-5)
    together = weights["long"] @ matrix @ weights["hedged"]
    np.testing.assert_allclose(
        risks.correlation("long", "hedged")[0], together / volatility[0] / volatility[1], rtol=1e-5
    )
    active = weights["long"] - weights["hedged"]
    np.testing.assert_allclose(risks.tracking_error("long", "hedged")[0], np.sqrt(active @ matrix @ active), rtol=1e-6)
    assert risks.tracking_error("long", "long")[0] == 0
    pd.testing.assert_frame_equal(risks.portfolio_covariance_of("one"), weights.T @ matrix @ weights, rtol=1e-5)
    least = risks.minimum_variance_of("one")
    inverse = np.linalg.inv(matrix).sum(axis=1)
    np.testing.assert_allclose(least["long_short"], inverse / inverse.sum(), rtol=1e-4)
    assert (least["long_only"] >= 0).all()
    np.testing.assert_allclose(risks.minimum_variance[0, 0], 1 / inverse.sum(), rtol=1e-5)
    assert CLIENTS_RULES == MINIMUM_VARIANCE_RULES


def test_stress_is_the_conditional_mean(risks: Risks, matrix: pd.DataFrame, book: pd.DataFrame) -> None:
    """Of a normal distribution: by blocks of the joint covariance of assets and portfolios."""
    weights = book[matrix.index].T
    for moves in ({"A2": -0.2}, {"long": -1e5, "A2": 0.1}, {}):
        given = weights[list(moves)]
        shift = matrix @ given @ np.linalg.inv(given.T @ matrix @ given) @ np.array(list(moves.values()), float)
        found = risks.stress("one", moves)
        np.testing.assert_allclose(found.assets, shift, rtol=0, atol=1e-6)
        assert found.assets.index.tolist() == ["A1", "A2", "A5"]
        np.testing.assert_allclose(found.portfolios, weights.T @ shift, rtol=1e-4, atol=1e-4 * 1e5)
        for name, move in moves.items():
            np.testing.assert_allclose(found.portfolios[name], move, rtol=1e-10)
    np.testing.assert_allclose(risks.stress("one", {"A2": -0.2}).assets["A2"], -0.2, rtol=1e-12)


def test_stress_refuses_what_cannot_be(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    portfolios = {"a": {"A1": 1.0, "A2": 2.0}, "twice": {"A1": 2.0, "A2": 4.0}, "none": {"A9": 1.0}}
    risks = local.risk(returns, UNIVERSES, portfolios)
    with pytest.raises(ValueError, match=r"the moves of \['a', 'twice'\] cannot be chosen freely"):
        risks.stress("one", {"a": 0.1, "twice": 0.1})
    with pytest.raises(PortfolioError, match="universe 'one', portfolio 'none': all weights"):
        risks.stress("one", {"none": 0.1})
    with pytest.raises(UniverseError, match="'XX'"):
        risks.stress("bad", {"a": 0.1})
    for universe, moves in (("nowhere", {"a": 0.1}), ("one", {"nobody": 0.1})):
        with pytest.raises(KeyError):
            risks.stress(universe, moves)


def test_the_mean_variance_of_the_regimes_is_the_forecast(risks: Risks) -> None:
    by_regime = risks.volatility_by_regime()
    probabilities = risks.estimates.regime.astype(float)
    mean = np.einsum("upr,ur->up", by_regime**2, probabilities)
    np.testing.assert_allclose(
        mean[[0, 2]], risks.variance[[0, 2]] * probabilities.sum(axis=1)[[0, 2], None], rtol=1e-6
    )
    np.testing.assert_allclose(by_regime[0, 0] / by_regime[0, 0, 1], np.array(REGIME_RATIOS) / REGIME_RATIOS[1])
    with pytest.raises(ValueError, match="one of each regime"):
        risks.volatility_by_regime((1.0, 2.0))


def test_failures_name_universe_portfolio_and_asset(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    portfolios = {"good": {"A1": 1.0, "A3": 1.0}, "lost": {"A2": np.nan, "A5": 1.0}, "huge": {"A5": 1e39, "A4": 1e30}}
    risks = local.risk(returns, UNIVERSES, portfolios)
    assert [str(error) for error in risks.failures] == [
        "universe 'bad', asset 'XX': the asset is not a column of the panel",
        "universe 'one', portfolio 'lost', asset 'A2': the weight of the asset is missing, infinite, or above 3.4e38",
        "universe 'one', portfolio 'huge', asset 'A5': the weight of the asset is missing, infinite, or above 3.4e38",
        "universe 'two', portfolio 'lost': all weights of the universe's assets are zero",
    ]
    error = copy.copy(risks.failures[1])  # by the road that pickle takes
    assert (error.universe, error.portfolio, error.status, error.asset) == (
        "one",
        "lost",
        PortfolioStatus.NON_FINITE_WEIGHT,
        "A2",
    )
    assert np.isfinite(risks.volatility[[0, 2], 0]).all()
    np.testing.assert_allclose(risks.volatility[2, 2], 1e30 * np.sqrt(risks.diagonal[2][1]), rtol=1e-6)
    with pytest.raises(UniverseError):
        risks.raise_for_status()
    frame = risks.to_frame()
    assert frame.index.names == ["universe", "portfolio"]
    assert frame.loc[("one", "lost"), "message"] == str(error)
    assert frame.loc[("one", "good"), "message"] == ""
    assert (frame.loc["bad", "status"] == Status.UNKNOWN_ASSET).all()
    held = risks.contributions_frame()
    assert held.index.tolist() == [("one", "good", "A1"), ("two", "good", "A3"), ("two", "huge", "A4")]
    np.testing.assert_allclose(held["contribution"], risks.volatility[[0, 2, 2], [0, 0, 2]], rtol=1e-12)


def test_arrow_tables_hold_the_frames(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    pytest.importorskip("pyarrow")
    universes = {("one", 1): ["A1", "A2", "A5"], "bad": ["A1", "XX"], 2: ["A3", "A4"]}
    risks = local.risk(returns, universes, {"good": {"A1": 1.0, "A3": 0.5}, 7: {"A5": np.nan, "A4": 1.0}})
    for frame, table in (
        (risks.to_frame(), risks.to_arrow()),
        (risks.contributions_frame(), risks.contributions_arrow()),
    ):
        names = frame.index.to_frame(index=False).map(str)  # of mixed types
        expected = pd.concat([names, frame.reset_index(drop=True)], axis=1)
        pd.testing.assert_frame_equal(table.to_pandas(), expected, check_dtype=False)
        for field in table.schema:
            column = describe(field.name)
            assert column is not None
            assert field.metadata == {b"unit": column.unit.encode(), b"meaning": column.meaning.encode()}
    assert risks.to_arrow()["universe"].to_pylist()[::2] == ["('one', 1)", "bad", "2"]
    assert risks.contributions_arrow()["asset"].to_pylist() == ["A1", "A3", "A4"]


def test_names_keep_their_type_in_arrow_tables(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    pa = pytest.importorskip("pyarrow")
    risks = local.risk(returns.to_numpy(), {1: [0, 1, 2], 2: [3, 4]}, {"a": {0: 1.0, 3: 1.0}})
    assert risks.to_arrow()["universe"].to_pylist() == [1, 2]
    assert risks.to_arrow()["portfolio"].type == pa.string()
    assert risks.contributions_arrow()["asset"].type == pa.int64()


def test_what_was_not_asked_for_says_how_to_ask(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    risks = local.risk(returns, UNIVERSES, {"a": {"A1": 1.0}}, contributions=False)
    assert "effective_bets" not in risks.to_frame()
    for ask in (lambda: risks.effective_bets, lambda: risks.contributions_of("one"), lambda: risks.stress("one", {})):
        with pytest.raises(ValueError, match="contributions=True"):
            ask()
    with pytest.raises(ValueError, match="minimum_variance=True"):
        risks.minimum_variance_of("one")


@pytest.mark.parametrize(
    "portfolios",
    [
        pd.DataFrame([[1.0, -2.0, 3.0]], ["p"], ["A1", "A2", "A5"]),
        pd.DataFrame([[3, -2, 1, 0]], ["p"], ["A5", "A2", "A1", "A9"]),
        pd.DataFrame([[1.0, -2.0, 3.0, 0.0]], ["p"], ["A1", "A2", "A5", "SOLD"]),
        pd.Series({"A1": 1.0, "A2": -2.0, "A5": 3.0}, name="p"),
        {"p": {"A1": 1.0, "A2": -2.0, "A5": 3.0}},
        {"p": pd.Series({"A1": 1.0, "A2": -2.0, "A5": 3.0})},
        {"A1": 1, "A2": -2, "A5": 3},
        {"one": {"p": {"A1": 1.0, "A2": -2.0, "A5": 3.0}}},
        {"one": pd.DataFrame([[1.0, -2.0, 3.0]], ["p"], ["A1", "A2", "A5"])},
        np.array([[0.0, 1.0, -2.0, 0, 0, 3.0, 0, 0, 0, 0, 0, 0]]),
        np.array([0, 1, -2, 0, 0, 3, 0, 0, 0, 0, 0, 0]),
        np.array([[[1.0, -2.0, 3.0]], [[0, 0, 0]], [[0, 0, 0]]]),
    ],
)
def test_every_way_to_say_it_is_the_same(local: ShrinkageClient, returns: pd.DataFrame, portfolios: Any) -> None:
    risks = local.risk(returns, UNIVERSES, portfolios)
    np.testing.assert_array_equal(risks.weights_of("one").to_numpy().ravel(), [1.0, -2.0, 3.0])
    expected = local.risk(returns, UNIVERSES, {"p": {"A1": 1.0, "A2": -2.0, "A5": 3.0}})
    np.testing.assert_array_equal(risks.volatility[0], expected.volatility[0])
    assert risks.portfolios[0] in ("p", "portfolio", 0)
    assert risks.portfolio_status[:, 0].tolist() == [0, PortfolioStatus.UNIVERSE_REFUSED, PortfolioStatus.NO_POSITIONS]


@pytest.mark.parametrize(
    ("portfolios", "words"),
    [
        ({"p": {"A1": 1.0, "ZZ": 2.0}}, "portfolio 'p' holds 'ZZ', which are not in returns"),
        ({"one": {"p": {"A7": 1.0}}}, "portfolio 'p' of universe 'one' holds 'A7', which are not in that universe"),
        ({"six": {"p": {"A7": 1.0}}}, "portfolios name universes that do not exist: 'six'"),
        ({"p": {"A1": "much"}}, "portfolio 'p' must hold numbers, got 'much' on asset 'A1'"),
        ({"p": {"A1": True}}, "portfolio 'p' must hold numbers, got True on asset 'A1'"),
        ({"p": {"A1": 1.0}, "q": 2.0}, "got a mapping that mixes them"),
        ({}, "portfolios are empty"),
        ("book", "portfolios must be a DataFrame with a row a portfolio .*, got 'book'"),
        (np.zeros((2, 5)), r"must have shape \(portfolios, 12\) or \(3, portfolios, 3\), got \(2, 5\)"),
        (np.zeros((2, 12), "U1"), "portfolios must hold numbers, got <U1"),
        (pd.DataFrame(1.0, ["p", "p"], ["A1"]), r"must have one row each, but \['p'\] have several"),
        (pd.DataFrame(1.0, ["p"], ["A1", "A1"]), r"portfolio 'p' has several weights on \['A1'\]"),
        (np.zeros((1001, 12)), "there are 1001 portfolios, more than the limit of 1,000"),
    ],
)
def test_what_cannot_be_read_is_refused(
    local: ShrinkageClient, returns: pd.DataFrame, portfolios: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        local.risk(returns, UNIVERSES, portfolios)


def test_textbook_shrinkage_is_measured_too(local: ShrinkageClient, returns: pd.DataFrame, book: pd.DataFrame) -> None:
    jumped = returns.copy()
    jumped.iloc[50, 1] = 0.1  # so that winsorising would show
    matrix = local.estimate(jumped, {"one": ["A1", "A2", "A5"]}, covariance=True, classic=True).covariance_of("one")
    weights = book[["A1", "A2", "A5"]].to_numpy()
    variance = np.einsum("pi,ij,pj->p", weights, np.asarray(matrix, float), weights)
    found = local.risk(jumped, {"one": ["A1", "A2", "A5"]}, book, classic=True).variance[0]
    np.testing.assert_allclose(found, variance, rtol=1e-6)


def test_many_portfolios_make_small_requests(returns: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has about so many cells, of matrices or of what portfolios have with assets and each other."""
    asked = encode(returns, [["A1", "A2", "A5"]] * 30)
    cells = returns.size
    assert [c.stop - c.start for c in chunks(asked, cells, n_portfolios=12)] == [10, 10, 10]
    assert [c.stop - c.start for c in chunks(asked, cells, n_portfolios=2)] == [30]
    monkeypatch.setattr(job, "MAX_RISK_CELLS", 5 * 12**2)  # a limit of the server's, however large the panel
    assert [c.stop - c.start for c in chunks(asked, cells, n_portfolios=12)] == [5] * 6


def test_horizon_and_year(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    portfolio = {"A1": 0.5, "A2": 0.5}
    day = local.risk(returns, None, portfolio).volatility
    asked: list[tuple[dict[str, Any], float]] = [
        ({"horizon": 21}, 21.0),
        ({"annualise": 250}, 250.0),
        ({"annualise": True}, 252.0),
        ({"annualise": True, "horizon": 5}, 252.0),
    ]
    for arguments, periods in asked:
        found = local.risk(returns, None, portfolio, **arguments)
        assert found.periods == periods
        np.testing.assert_allclose(found.volatility, np.sqrt(periods) * day, rtol=1e-12)
    weekly = returns.set_axis(pd.date_range("2018-01-05", periods=120, freq="W-FRI"))
    assert local.risk(weekly, None, portfolio, annualise=True).periods == 52
    refused: list[tuple[dict[str, Any], str]] = [
        ({"horizon": 0}, "horizon must be a positive number of periods, got 0"),
        ({"annualise": -1.0}, "annualise must be a positive number of periods a year, got -1.0"),
        ({"annualise": True, "returns": returns.reset_index(drop=True)}, "annualise=True needs dates: say how many"),
        ({"annualise": True, "returns": returns.set_axis(pd.date_range("1900", periods=120, freq="YS"))}, "days apart"),
    ]
    for arguments, words in refused:
        with pytest.raises(InvalidRequest, match=words):
            local.risk(arguments.pop("returns", returns), None, portfolio, **arguments)


def test_a_year_of_daily_risk_in_one_call_and_many_requests(
    local: ShrinkageClient, returns: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {str(day.date()): (row - 59, row + 1) for row, day in enumerate(returns.index) if row >= 60}
    universes = {day: list(returns) for day in days}
    book: dict[str, dict[str, float]] = {"book": dict.fromkeys(returns, 1.0), "hedge": {"A1": -1.0}}
    whole = local.risk(returns, universes, book, windows=days)
    assert whole.variance.shape == (60, 2)
    assert len(set(whole.volatility[:, 0])) == 60
    monkeypatch.setattr(job, "MAX_UNIVERSES", 16)
    seen: list[int] = []
    parts = list(local.stream_risk(returns, universes, book, windows=days, progress=lambda done, _: seen.append(done)))
    assert [len(part) for part in parts] == [16, 16, 16, 12]
    assert seen == [16, 32, 48, 60]
    joined = Risks.joined(parts)
    np.testing.assert_array_equal(joined.variance, whole.variance)
    own = {
        day: {name: {asset: k * w for asset, w in book[name].items()} for name in book} for k, day in enumerate(days, 1)
    }
    scaled = local.risk(returns, universes, own, windows=days).volatility
    np.testing.assert_allclose(scaled, whole.volatility * np.arange(1, 61)[:, None], rtol=1e-12)
    assert joined.estimates.universes == tuple(days)

    async def ask() -> tuple[Risks, list[Risks]]:
        async with AsyncShrinkageClient.local(REPOSITORY) as client:
            streamed = [part async for part in client.stream_risk(returns, universes, book, windows=days)]
            return await client.risk(returns, universes, book, windows=days), streamed

    awaited, streamed = asyncio.run(ask())
    np.testing.assert_array_equal(awaited.variance, whole.variance)
    np.testing.assert_array_equal(Risks.joined(streamed).variance, whole.variance)
    for ours, theirs in zip(awaited.marginal, whole.marginal, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_there_is_comes_with_the_error(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    with pytest.raises(DeadlineExceeded) as error:
        local.risk(returns, UNIVERSES, {"A1": 1.0}, deadline_s=1e-9, minimum_variance=True)
    risks = error.value.estimates
    assert np.isnan(risks.volatility).all()
    assert str(risks.failures[0]) == "universe 'one': no answer came"
    assert risks.to_frame()["message"].tolist()[2] == "universe 'two': no answer came"


def test_positions_in_dropped_assets_are_left_out_with_a_warning(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    still = returns.assign(A2=0.0)
    expected = local.risk(returns, {"one": ["A1", "A5"]}, {"p": {"A1": 1.0, "A5": 3.0}}).volatility
    given = {"p": {"A1": 1.0, "A2": -2.0, "A5": 3.0}}
    for portfolios in (given, {"one": given}):
        with pytest.warns(AssetsDropped, match="'A2'"):
            risks = local.risk(still, {"one": ["A1", "A2", "A5"]}, portfolios, on_bad_asset="drop")
        np.testing.assert_array_equal(risks.volatility, expected)
    with (
        pytest.warns(AssetsDropped),
        pytest.raises(InvalidRequest, match="must name their assets where some are dropped"),
    ):
        local.risk(still, {"one": ["A1", "A2", "A5"]}, np.ones((1, 1, 2)), on_bad_asset="drop")


def test_arrays_come_back_as_arrays(local: ShrinkageClient, returns: pd.DataFrame) -> None:
    risks = local.risk(returns.to_numpy(), np.array([[1, 2, 5], [3, 4, -1]]), np.ones((2, 12)))
    assert isinstance(risks.contributions_of(0), np.ndarray)
    np.testing.assert_allclose(risks.contributions_of(0).sum(axis=0), risks.volatility[0], rtol=1e-12)
    assert risks.contributions_of(1).shape == (2, 2)
    assert isinstance(risks.stress(1, {0: 1.0}).assets, np.ndarray)


# ----------------------------------------------------------------------------------------------------- examples


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_desks_make_the_book(local: ShrinkageClient, capsys: pytest.CaptureFixture[str]) -> None:
    table = example("book_of_desks").main(local, n_assets=60, n_desks=8, n_positions=160)
    np.testing.assert_allclose(table["contribution"].sum(), table["book"].iloc[0], rtol=1e-12)
    assert (table["contribution"] <= table["alone"]).all()
    np.testing.assert_allclose(table["contribution"], table["alone"] * table["correlation"], rtol=1e-9)
    assert "book: " in capsys.readouterr().out


def test_the_hedge_takes_the_market_out(local: ShrinkageClient, capsys: pytest.CaptureFixture[str]) -> None:
    table = example("hedging").main(local, n_stocks=20)
    assert table.loc["hedged", "volatility"] < 0.7 * table.loc["book", "volatility"]
    left = table.loc["hedged", ["correlation", "market -10 %"]].astype(float) / [1.0, 20e6]
    np.testing.assert_allclose(left, 0.0, atol=1e-6)
    assert table.loc["book", "market -10 %"] < -1e6
    assert "MARKET" in capsys.readouterr().out
