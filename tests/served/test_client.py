# SPDX-License-Identifier: Apache-2.0
"""The client on the real server: every way to ask gives the same, and shared memory leaves nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sigmahat_client import AsyncShrinkageClient, Estimates, ShrinkageClient
from sigmahat_client.shared_memory import key_headers

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"


@pytest.fixture
def universes(panel: np.ndarray) -> np.ndarray:
    """400 universes of 10 to 60 assets, 5.8 MB of matrices: above the size from which shared memory is used."""
    rng = np.random.default_rng(1)
    rows = np.full((400, 60), -1, np.int32)
    for row in rows:
        size = rng.integers(10, 61)
        row[:size] = rng.permutation(panel.shape[1])[:size]
    return rows


@pytest.fixture(scope="module")
def in_process() -> Iterator[ShrinkageClient]:
    with ShrinkageClient.local(REPOSITORY) as client:
        yield client


@pytest.fixture
def many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of about 100 universes."""
    monkeypatch.setattr("sigmahat_client.questions.chunks", small_chunks)


def small_chunks(job: Any) -> list[slice]:
    n = len(job.names)
    return [slice(start, min(start + 100, n)) for start in range(0, n, 100)]


def assert_equal(actual: Estimates, expected: Estimates) -> None:
    assert actual.universes == expected.universes
    pd.testing.assert_frame_equal(actual.to_frame(), expected.to_frame(), rtol=1e-5)
    assert actual.covariance is not None
    assert expected.covariance is not None
    for one, other in zip(actual.covariance, expected.covariance, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(other)))


def regions_of_this_process(url: str) -> list[str]:
    with triton.InferenceServerClient(url) as client:
        regions = client.get_system_shared_memory_status(headers=key_headers(url), as_json=True).get("regions", {})
    return [name for name in regions if name.startswith(f"sigmahat_client_{os.getpid()}_")]


@pytest.mark.usefixtures("many_requests")
def test_every_way_gives_the_same(
    served: str, panel: np.ndarray, universes: np.ndarray, in_process: ShrinkageClient
) -> None:
    expected = in_process.estimate(panel, universes, covariance=True)

    async def ask() -> Estimates:
        async with AsyncShrinkageClient(served) as client:
            return await client.estimate(panel, universes, covariance=True)

    with ShrinkageClient(served) as shared:
        assert_equal(shared.estimate(panel, universes, covariance=True), expected)
        parts = list(shared.stream(panel, universes, covariance=True))
        assert len(parts) == 4
        assert 1 <= len(regions_of_this_process(served)) <= 4  # so it was shared memory, used again
        assert_equal(Estimates.joined(parts), expected)
        assert not list(Path("/dev/shm").glob(f"sigmahat_client_{os.getpid()}_*"))
    assert regions_of_this_process(served) == []
    with ShrinkageClient(served, shared_memory=False) as plain:
        assert_equal(plain.estimate(panel, universes, covariance=True), expected)
        assert regions_of_this_process(served) == []
    assert_equal(asyncio.run(ask()), expected)


@pytest.mark.usefixtures("many_requests")
def test_shared_memory_that_the_server_lost_is_made_anew(
    served: str, panel: np.ndarray, universes: np.ndarray, in_process: ShrinkageClient
) -> None:
    """As after a restart of the server."""
    expected = in_process.estimate(panel, universes, covariance=True)
    with ShrinkageClient(served) as client, triton.InferenceServerClient(served) as other:
        client.estimate(panel, universes, covariance=True)
        deadline = time.monotonic() + 10
        while regions_of_this_process(served):  # Triton refuses while it still holds the answer that it has sent
            with suppress(InferenceServerException):
                other.unregister_system_shared_memory(headers=key_headers(served))
            assert time.monotonic() < deadline
        assert_equal(client.estimate(panel, universes, covariance=True), expected)
        assert regions_of_this_process(served)


@pytest.mark.parametrize("obstacle", ["register", "mmap", "posix_fallocate"])
def test_without_shared_memory_answers_come_through_grpc(
    served: str,
    panel: np.ndarray,
    universes: np.ndarray,
    in_process: ShrinkageClient,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(f"no {obstacle}")

    places = {"register": "transport.Connection._register", "mmap": "shared_memory.mmap.mmap"}
    monkeypatch.setattr(f"sigmahat_client.{places.get(obstacle, 'shared_memory.os.posix_fallocate')}", fail)
    with ShrinkageClient(served) as client:
        assert_equal(
            client.estimate(panel, universes, covariance=True), in_process.estimate(panel, universes, covariance=True)
        )
    assert not list(Path("/dev/shm").glob(f"sigmahat_client_{os.getpid()}_*"))


def test_what_the_caller_gave_up_is_dropped_in_the_queue(served: str, panel: np.ndarray, universes: np.ndarray) -> None:
    """Its deadline goes along as Triton's own timeout: refused there, not cancelled, which could crash the server."""
    many = np.tile(universes, (10, 1))

    def inputs(rows: np.ndarray) -> list[Any]:
        tensors = {"PANEL": (panel, "FP32"), "UNIVERSES": (rows, "INT32")}
        return [triton.InferInput(n, t.shape, kind).set_data_from_numpy(t) for n, (t, kind) in tensors.items()]

    answers: SimpleQueue[Any] = SimpleQueue()
    with triton.InferenceServerClient(served) as client:
        client.async_infer("shrinkage", inputs(many), lambda result, error: answers.put(("long", error)))
        for _ in range(20):
            client.async_infer(
                "shrinkage", inputs(universes[:2]), lambda result, error: answers.put(("short", error)), timeout=1_000
            )
        found = [answers.get(timeout=60) for _ in range(21)]
    refused = [str(error) for kind, error in found if kind == "short" and error is not None]
    assert len(refused) > 10
    assert all("StatusCode.UNAVAILABLE" in text and "Request timeout expired" in text for text in refused)
    assert [error for kind, error in found if kind == "long"] == [None]
    with ShrinkageClient(served) as client:
        assert not client.estimate(panel, universes).failures


def write_inputs(folder: Path, panel: np.ndarray) -> list[list[str]]:
    labels = [f"A{i}" for i in range(panel.shape[1])]
    dates = pd.bdate_range("2020-01-01", periods=len(panel))
    pd.DataFrame(panel, dates, labels).to_parquet(folder / "returns.parquet")
    assets = [labels[u : u + 5] for u in range(40)]
    names = [f"u{u}" for u in range(40)]
    pd.DataFrame({"universe": names, "assets": assets}).to_parquet(folder / "universes.parquet")
    return assets


@pytest.mark.parametrize(
    ("example", "package"), [("dask", "dask.dataframe"), ("spark", "pyspark"), ("ray", "ray.data")]
)
def test_examples_run(served: str, panel: np.ndarray, tmp_path: Path, example: str, package: str) -> None:
    pytest.importorskip(package, reason=f"{example} is not installed: it is too large for the test environment")
    assets = write_inputs(tmp_path, panel)
    module = load(ROOT / "docs" / "examples" / f"with_{example}.py")
    module.main(served, *(str(tmp_path / name) for name in ("returns.parquet", "universes.parquet", "out")))
    found = pd.read_parquet(tmp_path / "out").set_index("universe")
    assert len(found) == 40
    with ShrinkageClient(served) as client:
        expected = client.estimate(pd.read_parquet(tmp_path / "returns.parquet"), assets)
    np.testing.assert_allclose(found.loc[[f"u{u}" for u in range(40)], "intensity"], expected.intensity, atol=0.01)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_server_continues_the_callers_trace(panel: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Triton that exports spans names the client's span as the parent of its own."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from sigmahat_deploy.server import local_server

    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    exported = threading.Event()
    spans: list[dict[str, Any]] = []

    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in body["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.end_headers()
            exported.set()

        def log_message(self, *_: object) -> None:
            pass

    sink = HTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    options = [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url=http://127.0.0.1:{sink.server_port}/v1/traces",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
    ]
    with local_server(REPOSITORY, grpc_port=0, http_port=0, metrics_port=0, extra_args=options) as server:
        root = provider.get_tracer("test").start_span("root")
        with trace.use_span(root), ShrinkageClient(server.grpc_url) as client:
            client.estimate(panel)
        assert exported.wait(60)
    sink.shutdown()
    sink.server_close()
    assert f"{root.get_span_context().trace_id:032x}" in {span["traceId"] for span in spans}
