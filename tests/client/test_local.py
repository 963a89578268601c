# SPDX-License-Identifier: Apache-2.0
"""The in-process backend, and the doors to other libraries, which are tried through it."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest

from sigmahat_client import (
    AsyncShrinkageClient,
    DeadlineExceeded,
    InvalidRequest,
    ServerError,
    ShrinkageClient,
    UniverseError,
)
from sigmahat_client.shared_memory import Pool
from sigmahat_kernels.status import Status

pytest.importorskip("onnxruntime", reason="needs sigmahat[serve]")
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def local() -> Iterator[ShrinkageClient]:
    with ShrinkageClient.local(REPOSITORY) as client:
        yield client


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    values = 0.01 * (rng.standard_normal((120, 1)) + rng.standard_t(5, (120, 12)))
    return pd.DataFrame(values, pd.bdate_range("2020-01-01", periods=120), [f"A{i}" for i in range(12)])


UNIVERSES = {"one": ["A1", "A2", "A5"], "bad": ["A1", "XX"], "two": ["A3", "A4"]}


def test_local_is_the_pipeline(local: ShrinkageClient, returns: pd.DataFrame):
    estimates = local.estimate(returns, UNIVERSES, covariance=True, classic=True)
    request = read_request(
        returns.to_numpy(np.float32),
        np.array([[1, 2, 5], [1, 13, -1], [3, 4, -1]]),
        dates=(returns.index - pd.Timestamp("1970-01-01")).days.to_numpy(),
    )
    expected = Pipeline(REPOSITORY).estimate(request, classic=True)
    np.testing.assert_array_equal(estimates.intensity, expected.combined.intensity)
    np.testing.assert_array_equal(estimates.covariance_of("two"), expected.covariance[2, :2, :2])
    assert [(error.status, error.asset) for error in estimates.failures] == [(Status.UNKNOWN_ASSET, "XX")]


def test_local_with_blocks_and_asyncio(returns: pd.DataFrame, local: ShrinkageClient):
    blocks = {asset: "even" if int(asset[1:]) % 2 == 0 else "odd" for asset in returns}

    async def ask() -> Any:
        async with AsyncShrinkageClient.local(REPOSITORY) as client:
            return await client.estimate(returns, {"all": list(returns)}, blocks=blocks)

    estimates = asyncio.run(ask())
    np.testing.assert_array_equal(estimates.block_intensity, local.estimate(returns, blocks=blocks).block_intensity)
    assert np.isfinite(estimates.block_intensity).all()


def test_local_needs_nothing_that_only_linux_has(tmp_path: Path):
    """A process of its own, in which the names are gone before anything is imported."""
    code = f"""
import os, pathlib, sys
for name in ("sched_getaffinity", "posix_fallocate", "fork", "getuid"):
    delattr(os, name)
sys.modules.update(fcntl=None, resource=None, pwd=None, grp=None)
import numpy as np
from sigmahat_client import ShrinkageClient, AsyncShrinkageClient
from sigmahat_client.shared_memory import Pool
returns = 0.01 * np.random.default_rng(0).standard_normal((120, 5))
with ShrinkageClient.local({str(REPOSITORY)!r}) as client:
    client.estimate(returns, covariance=True).raise_for_status()
ShrinkageClient("127.0.0.1:1").close()
assert Pool(lambda *_: sys.exit("registered"), lambda _: None).take(1 << 20) is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("absent", ["os.posix_fallocate", "/dev/shm"])
def test_memory_is_shared_only_where_the_system_has_what_it_needs(
    absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    registered: list[str] = []

    def pool() -> Pool:
        return Pool(lambda name, nbytes: registered.append(name), lambda name: None)

    assert pool().take(1 << 20) is not None
    if absent == "/dev/shm":
        monkeypatch.setattr("sigmahat_client.shared_memory._FOLDER", tmp_path / "shm")
    else:
        monkeypatch.delattr(absent)
    assert pool().take(1 << 20) is None
    assert len(registered) == 1


def test_local_errors_are_the_same_classes(local: ShrinkageClient, returns: pd.DataFrame, tmp_path: Path):
    with pytest.raises(DeadlineExceeded, match="0 of 1"):
        local.estimate(returns, deadline_s=1e-9)
    with pytest.raises(InvalidRequest):
        local.estimate(returns, {})
    with pytest.raises(RuntimeError, match="no member at"):
        ShrinkageClient.local(tmp_path)


def test_an_arrow_table_is_read_with_its_dates(local: ShrinkageClient, returns: pd.DataFrame):
    pa = pytest.importorskip("pyarrow")
    holed = returns.mask(np.random.default_rng(0).random(returns.shape) < 0.02)
    table = pa.Table.from_pandas(holed.reset_index(names="date"), preserve_index=False)
    expected = local.estimate(holed, UNIVERSES, covariance=True)
    estimates = local.estimate(table, UNIVERSES, covariance=True)
    pd.testing.assert_frame_equal(estimates.to_frame(), expected.to_frame())
    pd.testing.assert_frame_equal(estimates.covariance_of("one"), expected.covariance_of("one"))
    for bad in (table.add_column(0, "name", pa.array(["x"] * 120)), table.select(["date"])):
        with pytest.raises(InvalidRequest, match="returns"):
            local.estimate(bad)


def test_estimates_become_an_arrow_table(local: ShrinkageClient, returns: pd.DataFrame, tmp_path: Path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    estimates = local.estimate(returns, UNIVERSES, covariance=True)
    pq.write_table(estimates.to_arrow(), tmp_path / "estimates.parquet")
    back = pd.read_parquet(tmp_path / "estimates.parquet")
    assert back["universe"].tolist() == list(UNIVERSES)
    assert [list(assets) for assets in back["assets"]] == list(UNIVERSES.values())
    np.testing.assert_array_equal(back["intensity"], estimates.intensity)
    np.testing.assert_array_equal(back["covariance"][0].reshape(3, 3), estimates.covariance_of("one"))
    assert back["covariance"][1] is None


def test_batches_of_any_kind(local: ShrinkageClient, returns: pd.DataFrame):
    pa = pytest.importorskip("pyarrow")
    from sigmahat_client.batches import result_schema, score_batches

    frame = pd.DataFrame({"universe": ["a", "a"], "assets": [["A1", "A2"], ["A3", "A1"]]})
    frame["start"], frame["stop"] = [0, 30], [100, 120]
    record_batch = pa.RecordBatch.from_pandas(frame)
    given = [frame, pa.Table.from_pandas(frame), record_batch, record_batch.slice(0, 0), frame.iloc[:0]]
    found = list(score_batches(given, returns, model_repository=REPOSITORY, covariance=True))
    assert list(map(type, found)) == list(map(type, given))
    assert [len(batch) for batch in found] == [2, 2, 2, 0, 0]
    expected = local.estimate(returns, frame["assets"].tolist(), windows=[[0, 100], [30, 120]], covariance=True)
    np.testing.assert_array_equal(found[0]["intensity"], expected.intensity)
    assert found[0]["universe"].tolist() == ["a", "a"]
    np.testing.assert_array_equal(found[0]["covariance"][1], expected.covariance_of(1).to_numpy().ravel())
    assert found[1].schema.equals(result_schema(covariance=True), check_metadata=False)
    assert found[3].schema.equals(found[2].schema, check_metadata=False)
    with pytest.raises(InvalidRequest, match=r"universe and assets, got \['assets'\]"):
        next(score_batches([frame[["assets"]]], returns, model_repository=REPOSITORY))


EXPECTED_FAILURES = {"check_n_features_in_after_fitting": "fits 15 samples; the service wants 20"}


@pytest.mark.filterwarnings("ignore::sigmahat_client.EstimateWarning")  # its data are no returns
def test_scikit_learn_accepts_the_estimator():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    from sigmahat_client.estimator import ShrinkageCovariance

    estimator = ShrinkageCovariance(model_repository=str(REPOSITORY))
    outcomes = checks.check_estimator(estimator, on_skip=None, expected_failed_checks=EXPECTED_FAILURES)
    assert {o["check_name"] for o in outcomes if o["status"] != "passed"} <= {
        *EXPECTED_FAILURES,
        "check_array_api_input",
    }
    assert len(outcomes) > 30


def test_the_estimator_gives_what_the_client_gives(local: ShrinkageClient, returns: pd.DataFrame):
    pytest.importorskip("sklearn")
    from sigmahat_client.estimator import ShrinkageCovariance

    fitted = ShrinkageCovariance(model_repository=REPOSITORY).fit(returns)
    expected = local.estimate(returns.to_numpy(), covariance=True)
    np.testing.assert_array_equal(fitted.covariance_, expected.covariance_of("all"))
    assert fitted.shrinkage_ == expected.intensity[0]
    np.testing.assert_allclose(fitted.precision_ @ fitted.covariance_, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(fitted.location_, returns.mean())
    assert fitted.feature_names_in_.tolist() == list(returns)
    pickle.loads(pickle.dumps(fitted)).score(returns)  # noqa: S301
    with pytest.raises(UniverseError, match="'A3': the asset's returns do not vary"):
        ShrinkageCovariance(model_repository=REPOSITORY).fit(returns.assign(A3=0.0))


def test_the_estimator_takes_values_of_any_size(returns: pd.DataFrame):
    pytest.importorskip("sklearn")
    from sigmahat_client.estimator import ShrinkageCovariance

    estimator = ShrinkageCovariance(model_repository=REPOSITORY)
    percent = estimator.fit(returns * 1e4).covariance_
    assert 0.5 < (percent / 1e8 / estimator.fit(returns).covariance_).diagonal().mean() < 2.0


def test_skfolio_walks_forward(returns: pd.DataFrame):
    pytest.importorskip("skfolio")
    from skfolio.model_selection import WalkForward, cross_val_predict
    from skfolio.optimization import MeanRisk
    from skfolio.prior import EmpiricalPrior

    from sigmahat_client.skfolio import ShrinkagePriorCovariance

    covariance = ShrinkagePriorCovariance(model_repository=str(REPOSITORY))
    model = MeanRisk(prior_estimator=EmpiricalPrior(covariance_estimator=covariance))
    portfolio = cross_val_predict(model, returns, cv=WalkForward(train_size=60, test_size=20))
    assert len(portfolio.portfolios) == 3
    for i, part in enumerate(portfolio.portfolios):
        fitted = covariance.fit(returns.iloc[20 * i : 20 * i + 60]).covariance_
        # The minimum-variance weights, long only: no other long-only weights have less variance under this matrix.
        weights = part.weights
        assert weights.min() > -1e-6
        gradient = fitted @ weights
        assert gradient[weights > 1e-3].max() <= gradient.min() * 1.02


class Spans:
    """An OpenTelemetry exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def export(self, spans: Any) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.found += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_a_call_is_a_span_and_the_server_gets_its_context(monkeypatch: pytest.MonkeyPatch):
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from client.fake_server import fake_server
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    spans = Spans()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    sent: list[str] = []
    panel = 0.01 * np.random.default_rng(0).standard_normal((25, 4))

    def hook(server: Any, number: int, context: Any) -> None:
        sent.append(dict(context.invocation_metadata())["traceparent"])
        if number == 2:
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    with fake_server(hook) as server, ShrinkageClient(server.url) as client:
        client.estimate(panel)
        list(client.stream(panel, covariance=True))
        with pytest.raises(ServerError):
            client.estimate(panel)
    assert [span.name for span in spans.found] == ["shrinkage", "covariance", "shrinkage"]
    for span, header in zip(spans.found, sent, strict=True):
        assert header.startswith(f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-")
    assert spans.found[0].attributes == {
        "sigmahat.universes": 1,
        "sigmahat.widest": 4,
        "sigmahat.requests": 1,
        "sigmahat.answered": 1,
    }
    assert not spans.found[2].status.is_ok
