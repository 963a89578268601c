# SPDX-License-Identifier: Apache-2.0
"""Answers come back in the caller's words and order, whatever requests they were cut into."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from client.fake_server import HEADS, FakeServer, fake_server

from sigmahat_client import Estimates, EstimateWarning, ServerError, ShrinkageClient, UniverseError
from sigmahat_kernels.asset_statistics import ASSET_STATISTICS
from sigmahat_kernels.status import Status

TICKERS = [f"T{i:03}" for i in range(500)]
DATES = pd.bdate_range("2020-01-01", periods=25)
BESIDE = ["STATUS", "STATUS_ASSET", "WARNINGS", "ASSET_WARNINGS"]
SCALARS = [name for name, (_, shape) in HEADS.items() if not shape or name in {"MEMORY", "FACTOR_MEMORY"}]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[ShrinkageClient]:
    server.received.clear()
    with ShrinkageClient(server.url) as client:
        yield client


def frame() -> pd.DataFrame:
    returns = 0.01 * np.random.default_rng(0).standard_normal((len(DATES), len(TICKERS)))
    return pd.DataFrame(returns, index=DATES, columns=TICKERS)


UNIVERSES = {
    "first": ["T003", "T001", "T004"],
    "unknown": ["T001", "XXX", "T002", "YYY"],
    "last": ["T007", "T005"],
}


def test_each_tensor_finds_its_field(client: ShrinkageClient):
    estimates = client.estimate(frame(), UNIVERSES)
    assert estimates.universes == ("first", "unknown", "last")
    assert estimates.assets == tuple(map(tuple, UNIVERSES.values()))
    assert len(estimates) == 3
    for name, (offset, shape) in HEADS.items():
        value = getattr(estimates, name.lower())
        expected = np.array([3.0, np.nan, 7.0])[:, None] + offset + np.arange(shape[0] if shape else 1)
        np.testing.assert_array_equal(value, expected[:, 0] if name in SCALARS else expected, err_msg=name)
    np.testing.assert_array_equal(estimates.status, [0, Status.UNKNOWN_ASSET, 0])
    assert estimates.covariance is None
    assert estimates.block_names == ()


def test_parameters_need_no_matrices(client: ShrinkageClient, server: FakeServer):
    client.estimate(frame(), UNIVERSES)
    (request,) = server.received
    assert request.model == "shrinkage"
    assert 59e6 < request.parameters.pop("timeout") < 60e6  # microseconds, so that it does not outlive the caller
    assert re.fullmatch("[0-9a-f]{16}", request.parameters.pop("caller"))
    assert request.parameters == {}
    assert request.tensors.keys() == {"PANEL", "UNIVERSES", "DATES"}
    assert sorted(request.outputs) == sorted([*HEADS, *BESIDE])


def test_all_that_was_handed_in_is_sent(client: ShrinkageClient, server: FakeServer):
    returns = frame()
    client.estimate(
        returns,
        UNIVERSES,
        windows={"last": (2, 24)},
        market=np.full((25, 2), 20.0),
        blocks=dict.fromkeys(TICKERS, "one"),
        covariance=True,
        classic=True,
    )
    (request,) = server.received
    assert request.model == "covariance"
    assert request.parameters["classic"] is True
    np.testing.assert_array_equal(request.tensors["PANEL"], returns.to_numpy(np.float32))
    np.testing.assert_array_equal(request.tensors["UNIVERSES"], [[3, 1, 4, -1], [1, 501, 2, 503], [7, 5, -1, -1]])
    np.testing.assert_array_equal(request.tensors["WINDOWS"], [[0, 25], [0, 25], [2, 24]])
    np.testing.assert_array_equal(request.tensors["MARKET"], np.full((25, 2), 20.0, np.float32))
    np.testing.assert_array_equal(request.tensors["BLOCKS"], [[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, -1, -1]])
    assert request.tensors["DATES"][0] == 18262
    assert sorted(request.outputs) == sorted([*HEADS, *BESIDE, "BLOCK_INTENSITY", "COVARIANCE"])


def test_universes_stay_in_order_when_answers_do_not():
    """100 universes of 500 assets are 32 + 32 + 32 + 4; the last request is answered first, and so on."""
    universes = np.stack([np.roll(np.arange(500), -i) for i in range(100)])
    turns = [threading.Event() for _ in range(5)]
    reported: list[tuple[int, int]] = []

    def last_first(server: FakeServer, number: int, context: object) -> None:
        chunk = server.received[number].tensors["UNIVERSES"][0, 0] // 32
        assert turns[3 - chunk].wait(20)

    def report(done: int, total: int) -> None:
        reported.append((done, total))
        turns[len(reported)].set()

    turns[0].set()
    with fake_server(last_first) as server, ShrinkageClient(server.url) as client:
        estimates = client.estimate(frame(), universes, progress=report)
    assert reported == [(4, 100), (36, 100), (68, 100), (100, 100)]
    np.testing.assert_array_equal(estimates.intensity, np.arange(100))
    np.testing.assert_array_equal(estimates.regime[:, 3], np.arange(100) + 8003)


def test_covariances_have_their_universes_size(client: ShrinkageClient, server: FakeServer):
    sizes = [500, 3, 500, 2] + [500] * 40
    universes = [[TICKERS[(u + i) % 500] for i in range(size)] for u, size in enumerate(sizes)]
    estimates = client.estimate(frame(), universes, covariance=True)
    assert len(server.received) == 2
    assert estimates.covariance is not None
    for u, (size, matrix) in enumerate(zip(sizes, estimates.covariance, strict=True)):
        columns = (u + np.arange(size)) % 500
        np.testing.assert_array_equal(matrix, (1000 * columns[:, None] + columns).astype(np.float32))


def test_blocks_find_their_names_in_every_request(client: ShrinkageClient, server: FakeServer):
    """Universe u holds blocks u and u + 1 of 125, of 4 assets each, so that requests hold different blocks."""
    names = [f"block {i}" for i in range(125)]
    universes = {str(u): TICKERS[4 * u : 4 * u + 8] for u in range(124)}
    estimates = client.estimate(frame(), universes, blocks={ticker: names[i // 4] for i, ticker in enumerate(TICKERS)})
    assert len(server.received) == 4  # 4096 / (1 + 125) = 32 universes a request
    assert estimates.block_names == tuple(names)
    expected = np.full((124, 125), np.nan)
    for u in range(124):
        expected[u, u], expected[u, u + 1] = 4 * u + 0.5, 4 * u + 4.5  # smallest column of each block + 0.5
    np.testing.assert_array_equal(estimates.block_intensity, expected)


def test_failures_name_universe_and_asset(client: ShrinkageClient):
    returns = frame()
    universes = {**UNIVERSES, "twice": ["T002", "T001", "T002"], "short": ["T001", "T002"], "single": ["T001"]}
    estimates = client.estimate(returns, universes, windows={"short": (0, 19)})
    found = {error.universe: (error.status, error.asset) for error in estimates.failures}
    assert found == {
        "unknown": (Status.UNKNOWN_ASSET, "XXX"),
        "twice": (Status.DUPLICATE_ASSET, "T002"),
        "short": (Status.TOO_FEW_OBSERVATIONS, None),
        "single": (Status.TOO_FEW_ASSETS, None),
    }
    assert (
        str(estimates.failures[0])
        == "universe 'unknown', asset 'XXX': the asset is not a column of the panel; 1 more: 'YYY' (UNKNOWN_ASSET)"
    )
    with pytest.raises(UniverseError, match="'unknown', asset 'XXX'") as raised:
        estimates.raise_for_status()
    assert raised.value.__notes__ == ["4 of 6 universes failed; see Estimates.failures"]
    assert repr(estimates) == "Estimates(6 universes, 4 failed, no covariances)"


@pytest.mark.parametrize(("universe", "culprit"), [([0, 1, 700], 700), ([-3, 1], -3), (np.array([[3, -1, 2]]), -1)])
def test_failures_name_columns_of_an_array(client: ShrinkageClient, universe: object, culprit: int):
    universes = universe if isinstance(universe, np.ndarray) else [universe]
    (error,) = client.estimate(frame().to_numpy(), universes).failures
    assert (error.status, error.asset) == (Status.UNKNOWN_ASSET, culprit)


def test_nothing_is_raised_when_all_is_good(client: ShrinkageClient):
    estimates = client.estimate(frame(), {"good": ["T001", "T002"]})
    assert estimates.failures == []
    estimates.raise_for_status()


def test_covariance_of_is_labelled(client: ShrinkageClient):
    estimates = client.estimate(frame(), UNIVERSES, covariance=True)
    expected = pd.DataFrame(
        [[7007.0, 7005.0], [5007.0, 5005.0]], index=["T007", "T005"], columns=["T007", "T005"], dtype=np.float32
    )
    pd.testing.assert_frame_equal(estimates.covariance_of("last"), expected)
    with pytest.raises(UniverseError, match="'XXX'"):
        estimates.covariance_of("unknown")
    with pytest.raises(KeyError, match="nonesuch"):
        estimates.covariance_of("nonesuch")


def test_covariance_of_an_array_without_labels_is_an_array(client: ShrinkageClient):
    matrix = client.estimate(frame().to_numpy(), [[7, 5]], covariance=True).covariance_of(0)
    assert isinstance(matrix, np.ndarray)
    np.testing.assert_array_equal(matrix, [[7007, 7005], [5007, 5005]])


def test_covariance_of_without_pandas_is_an_array(client: ShrinkageClient, monkeypatch: pytest.MonkeyPatch):
    estimates = client.estimate(frame(), UNIVERSES, covariance=True)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert isinstance(estimates.covariance_of("last"), np.ndarray)


def test_covariance_that_was_not_asked_for(client: ShrinkageClient):
    with pytest.raises(ValueError, match="covariance=True"):
        client.estimate(frame(), UNIVERSES).covariance_of("first")


def to_frame(client: ShrinkageClient) -> tuple[Estimates, pd.DataFrame]:
    estimates = client.estimate(frame(), UNIVERSES, blocks=dict.fromkeys(TICKERS, "tech"))
    return estimates, estimates.to_frame()


def test_frame_has_one_row_a_universe_and_flat_columns(client: ShrinkageClient):
    estimates, table = to_frame(client)
    assert table.index.tolist() == ["first", "unknown", "last"]
    assert table.index.name == "universe"
    assert table.columns.tolist() == [
        *("n_assets", "n_rows", "first_date", "last_date"),
        *("intensity", "weight_identity", "weight_constant_correlation", "weight_single_factor"),
        *("intensity_identity", "intensity_constant_correlation", "intensity_single_factor"),
        *("confidence_identity", "confidence_constant_correlation", "confidence_single_factor"),
        *("block_intensity_tech", "memory", "factor_memory"),
        *("volatility_window", "volatility_halflife_63", "volatility_halflife_21", "volatility_pull"),
        *(f"{head}_tilt_{name}" for head in ("intensity", "volatility") for name in ASSET_STATISTICS),
        *("level_log_volatility", "level_common_variance"),
        *("condition", "expected_error", "uncertainty_aleatoric", "uncertainty_epistemic"),
        *("regime_calm", "regime_normal", "regime_elevated", "regime_stressed"),
        *("warnings", "n_dropped", "status", "message"),
    ]
    row = table.loc["last"]
    assert (row["n_assets"], row["intensity"], row["weight_single_factor"], row["memory"]) == (2, 7.0, 1009.0, 4007.0)
    assert (row["volatility_pull"], row["regime_stressed"], row["block_intensity_tech"]) == (5010.0, 8010.0, 5.5)
    assert (row["volatility_tilt_log_unshared"], row["level_common_variance"]) == (11009.0, 12008.0)
    assert table["status"].tolist() == [0, 2, 0]
    assert table["message"].tolist() == ["", str(estimates.failures[0]), ""]


def test_frame_survives_parquet(client: ShrinkageClient, tmp_path):
    _, table = to_frame(client)
    table.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)


def test_an_empty_universe_fails_alone(client: ShrinkageClient):
    estimates = client.estimate(frame(), {"empty": [], "good": ["T001", "T002"]}, covariance=True)
    assert [(error.universe, error.status) for error in estimates.failures] == [("empty", Status.TOO_FEW_ASSETS)]
    assert estimates.covariance is not None
    assert estimates.covariance[0].shape == (0, 0)


# ---------------------------------------------------------------------------------------------------------- warnings


def odd(answer: dict[str, np.ndarray]) -> None:
    """In the first universe a return of T001 and T004 dominates, the latter is stale; in the last the size is odd."""
    answer["WARNINGS"] = np.array([2 | 4, 0, 32 | 1 << 20], np.int32)
    answer["ASSET_WARNINGS"] = np.array([[0, 1, 4], [0, 4, 2 | 4]], np.int32)


def test_warnings_come_by_name_with_their_assets():
    with fake_server(change=odd) as server, ShrinkageClient(server.url) as client:
        with pytest.warns(EstimateWarning) as said:
            estimates = client.estimate(frame(), UNIVERSES)
        streamed = next(client.stream(frame(), UNIVERSES))
    expected = (
        {"STALE_PRICES": ("T004",), "DOMINANT_RETURN": ("T001", "T004")},
        {},
        {"UNUSUAL_SIZE": (), "1048576": ()},
    )
    assert estimates.warnings == streamed.warnings == expected
    (line,) = [str(warning.message) for warning in said]
    assert line == (
        "'T004': long runs of returns of exactly zero, taken as missing; "
        "'T001', 'T004': one return makes up most of the variance: a split that was not adjusted?"
    )
    assert said[0].filename == __file__
    column = ["STALE_PRICES: T004; DOMINANT_RETURN: T001, T004", "", "UNUSUAL_SIZE; 1048576"]
    assert estimates.to_frame()["warnings"].tolist() == column
    assert estimates.to_arrow()["warnings"].to_pylist() == column


def test_what_concerns_a_whole_universe_needs_no_python_warning():
    def small(answer: dict[str, np.ndarray]) -> None:
        answer["WARNINGS"] = np.full(3, 32, np.int32)

    with fake_server(change=small) as server, ShrinkageClient(server.url) as client:
        assert client.estimate(frame(), UNIVERSES).warnings == ({"UNUSUAL_SIZE": ()},) * 3  # warnings are errors here


def test_many_odd_assets_are_counted():
    def many(answer: dict[str, np.ndarray]) -> None:
        answer["WARNINGS"] = np.array([4], np.int32)
        answer["ASSET_WARNINGS"] = np.array([[0, i, 4] for i in range(14)], np.int32)

    with (
        fake_server(change=many) as server,
        ShrinkageClient(server.url) as client,
        pytest.warns(EstimateWarning, match="'T009' and 4 more: one return"),
    ):
        client.estimate(frame())


def test_asset_warnings_of_another_shape_are_the_servers_error():
    def wide(answer: dict[str, np.ndarray]) -> None:
        answer["ASSET_WARNINGS"] = np.zeros((1, 4), np.int32)

    with (
        fake_server(change=wide) as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(ServerError, match=r"ASSET_WARNINGS of shape \(any, 3\), got shape \(1, 4\)"),
    ):
        client.estimate(frame(), UNIVERSES)
