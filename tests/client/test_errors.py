# SPDX-License-Identifier: Apache-2.0
"""Failures reach the caller as their own class, in time, and leave no request running."""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from client.fake_server import FakeServer, fake_server

import sigmahat_client
from sigmahat_client import (
    AsyncShrinkageClient,
    DeadlineExceeded,
    InvalidRequest,
    NoServer,
    RequestTooLarge,
    ServerError,
    ServerUnavailable,
    ShrinkageClient,
    SigmahatError,
    UniverseError,
)
from sigmahat_client.errors import UNANSWERED, error_from_grpc
from sigmahat_kernels import status

RETURNS = 0.01 * np.random.default_rng(0).standard_normal((25, 500)).astype(np.float32)
REQUESTS_OF_32 = [list(range(500))] * 320  # ten requests


def test_import_is_light():
    """Neither gRPC nor pandas is loaded before it is needed."""
    heavy = {"grpc", "tritonclient", "pandas", "sigmahat_kernels.features"}
    code = f"import sigmahat_client, sys; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_invalid_request_is_the_servers_own_class():
    assert sigmahat_client.InvalidRequest is status.InvalidRequest


@pytest.mark.parametrize(
    ("code", "message", "expected", "words"),
    [
        ("INVALID_ARGUMENT", "in ensemble 'covariance', PANEL is empty", InvalidRequest, "^PANEL is empty$"),
        ("UNAVAILABLE", "Exceeds maximum queue size", ServerUnavailable, "^{url}: Exceeds maximum queue size$"),
        ("NOT_FOUND", "'shrinkage' has no available versions", ServerUnavailable, "no available versions"),
        ("NOT_FOUND", "unknown model: 'shrinkage' is not found", ServerError, "^{url}: NOT_FOUND: unknown model"),
        ("INTERNAL", "internal error in model 'features'", ServerError, "INTERNAL: internal error in model 'features'"),
        ("INTERNAL", "in ensemble 'x', Stub process 'features_0_0' is not healthy.", ServerUnavailable, "not healthy"),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", ServerError, "UNAVAILABLE: This protocol"),
        ("RESOURCE_EXHAUSTED", "message larger than max", RequestTooLarge, "RESOURCE_EXHAUSTED"),
        ("INTERNAL", "Failed to increase the shared memory pool size", RequestTooLarge, "shared memory pool"),
        ("DEADLINE_EXCEEDED", "late", DeadlineExceeded, "0 of 1 universes were answered within 60 s"),
        ("CANCELLED", "cancelled", ServerError, "CANCELLED"),
    ],
)
def test_codes_become_classes(code: str, message: str, expected: type[Exception], words: str):
    def refuse(server: FakeServer, number: int, context: Any) -> None:
        context.abort(grpc.StatusCode[code], message)

    with (
        fake_server(refuse) as server,
        ShrinkageClient(server.url, retry_s=0) as client,
        pytest.raises(expected, match=words.format(url=server.url)) as raised,
    ):
        client.estimate(RETURNS)
    assert type(raised.value) is expected


def test_what_the_server_refuses_is_an_invalid_request(monkeypatch: pytest.MonkeyPatch):
    """Were the client's limit above the server's, the server's own words would come back."""
    monkeypatch.setattr("sigmahat_client.intake.universes.MAX_ASSETS", 2000)
    with (
        fake_server() as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(InvalidRequest, match=r"^a universe has up to 1001 assets, more than the limit of 1000$"),
    ):
        client.estimate(np.zeros((20, 1001)))


@pytest.fixture
def closed_ports() -> Iterator[list[str]]:
    """Two addresses at which nothing listens, and nothing else will."""
    with socket.socket() as one, socket.socket() as other:
        for unused in (one, other):
            unused.bind(("127.0.0.1", 0))
        yield [f"127.0.0.1:{unused.getsockname()[1]}" for unused in (one, other)]


WHAT_TO_TYPE = (
    "no server is there: start one with `sigmahat serve`, name another with url (--url), or compute without one by "
    "ShrinkageClient.local() (--local)"
)


@pytest.mark.parametrize("retry_s", [0.0, 1000.0])
def test_nobody_listens(closed_ports: list[str], retry_s: float):
    """However patient the client: what has never been there is not waited for, now or at the next call."""
    with ShrinkageClient(closed_ports[0], retry_s=retry_s, deadline_s=20.0) as client:
        for _ in range(2):
            with pytest.raises(NoServer) as raised:
                client.estimate(RETURNS, REQUESTS_OF_32)
            assert str(raised.value) == f"{closed_ports[0]}: {WHAT_TO_TYPE}"
    assert isinstance(raised.value, ServerUnavailable)
    assert isinstance(raised.value, ConnectionError)
    assert raised.value.estimates is not None
    assert (raised.value.estimates.status == UNANSWERED).all()


def test_nobody_listens_to_asyncio(closed_ports: list[str]):
    async def ask() -> None:
        async with AsyncShrinkageClient(closed_ports[0], deadline_s=20.0) as client:
            await client.estimate(RETURNS)

    with pytest.raises(NoServer, match=closed_ports[0]):
        asyncio.run(ask())


def test_nobody_listens_anywhere(closed_ports: list[str]):
    with ShrinkageClient(closed_ports, deadline_s=20.0) as client, pytest.raises(NoServer) as raised:
        client.estimate(RETURNS)
    assert str(raised.value) == f"{closed_ports[0]}, {closed_ports[1]}: {WHAT_TO_TYPE}"


def test_one_who_listens_is_enough(closed_ports: list[str]):
    """Though he is asked last."""
    with fake_server() as server, ShrinkageClient([*closed_ports, server.url], in_flight=1) as client:
        assert not client.estimate(RETURNS, REQUESTS_OF_32).failures
        assert len(server.received) == 10


@pytest.mark.parametrize(
    "message",
    [
        "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: "
        "Connection refused",
        "No connection could be made because the target machine actively refused it.",
        "errors resolving nowhere:8001: [field:hostname lookup error:Domain name not found]",
        "DNS resolution failed for nowhere:8001: C-ares status is not ARES_SUCCESS qtype=A name=nowhere",
    ],
)
def test_grpcs_words_for_nobody(message: str):
    error = error_from_grpc("StatusCode.UNAVAILABLE", message, "nowhere:8001")
    assert type(error) is NoServer
    assert str(error) == f"nowhere:8001: {WHAT_TO_TYPE}"


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with fake_server() as server, ShrinkageClient(server.url) as client:
        assert client.estimate(RETURNS).status == 0


def test_the_deadline_is_for_all_requests_together():
    """One request at a time, each 0.2 s: five of ten fit into 1.1 s, though none takes long."""

    def slow(*_: object) -> None:
        time.sleep(0.2)

    with fake_server(slow) as server, ShrinkageClient(server.url, in_flight=1) as client:
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"\d+ of 320 universes were answered within 1\.1 s") as raised:
            client.estimate(RETURNS, REQUESTS_OF_32, deadline_s=1.1)
        assert time.monotonic() - begin > 1.0
        assert 1 <= len(server.received) <= 6
    assert isinstance(raised.value, TimeoutError)
    assert not str(raised.value).startswith("0 ")


def test_the_clients_deadline_is_the_default():
    with (
        fake_server(lambda *_: time.sleep(0.5)) as server,
        ShrinkageClient(server.url, deadline_s=0.1) as client,
        pytest.raises(DeadlineExceeded, match=r"0 of 1 .* 0\.1 s"),
    ):
        client.estimate(RETURNS)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_requests_in_flight_are_bounded_and_the_bound_is_used(in_flight: int):
    gate = threading.Barrier(in_flight)

    def together(server: FakeServer, number: int, context: object) -> None:
        if number < 3:  # the barrier opens only when so many requests are there at a time
            gate.wait(10)
        time.sleep(0.02)

    with fake_server(together) as server, ShrinkageClient(server.url, in_flight=in_flight) as client:
        client.estimate(RETURNS, REQUESTS_OF_32)
        assert len(server.received) == 10
        assert server.most_at_once == in_flight


class OneOfThree:
    """A hook that lets the first request pass, or fails it, once two more are there; those wait to be let go."""

    def __init__(self, failure: str | None = None) -> None:
        self._failure = failure
        self._others = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.alive: SimpleQueue[bool] = SimpleQueue()

    def __call__(self, server: FakeServer, number: int, context: Any) -> None:
        if number > 0:
            self._others.release()
            assert self.let_go.wait(10)
            self.alive.put(context.is_active())
            return
        for _ in range(2):
            assert self._others.acquire(timeout=10)
        if self._failure is not None:
            context.abort(grpc.StatusCode.INTERNAL, self._failure)

    def assert_others_are_answered(self) -> None:
        time.sleep(0.2)  # time for a cancellation to arrive, if there were one
        self.let_go.set()
        assert [self.alive.get(timeout=10) for _ in range(2)] == [True, True]


def test_one_failure_leaves_the_others_to_finish():
    hook = OneOfThree(failure="boom")
    with fake_server(hook) as server:
        with ShrinkageClient(server.url, in_flight=3) as client, pytest.raises(ServerError, match="boom"):
            client.estimate(RETURNS, REQUESTS_OF_32)
        assert len(server.received) == 3
        hook.assert_others_are_answered()  # although the client is closed


def test_an_interrupted_caller_leaves_what_is_under_way():
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    hook = OneOfThree()
    with fake_server(hook) as server:
        with ShrinkageClient(server.url, in_flight=3) as client, pytest.raises(KeyboardInterrupt):
            client.estimate(RETURNS, REQUESTS_OF_32, progress=interrupt)
        hook.assert_others_are_answered()


def test_a_closed_client_closes_its_channel_after_the_last_answer(monkeypatch: pytest.MonkeyPatch):
    closed = threading.Event()
    hook = OneOfThree(failure="boom")
    with fake_server(hook) as server:
        client = ShrinkageClient(server.url, in_flight=3)
        backend: Any = client._backend
        channel = backend._endpoints[0].client
        close = channel.close
        monkeypatch.setattr(channel, "close", lambda: (close(), closed.set()))
        with pytest.raises(ServerError, match="boom"):
            client.estimate(RETURNS, REQUESTS_OF_32)
        client.close()
        assert not closed.wait(0.2)
        hook.assert_others_are_answered()
        assert closed.wait(10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answer: answer.pop("REGIME"), r"REGIME of shape \(1, 4\), got nothing"),
        (lambda answer: answer.update(VOLATILITY=np.zeros((1, 3), np.float32)), r"VOLATILITY of shape \(1, 4\), got"),
        (lambda answer: answer.update(STATUS=np.zeros(2, np.int32)), r"STATUS of shape \(1,\), got shape \(2,\)"),
    ],
)
def test_an_answer_of_another_shape_is_refused(change: Any, words: str):
    with (
        fake_server(change=change) as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(ServerError, match=words),
    ):
        client.estimate(RETURNS)


def test_a_status_from_the_future_is_still_a_failure():
    with fake_server(change=lambda answer: answer["STATUS"].fill(99)) as server, ShrinkageClient(server.url) as client:
        (error,) = client.estimate(RETURNS).failures
    assert str(error) == "universe 'all': status 99, which this version of the client does not know"


def test_nothing_is_sent_for_a_request_that_cannot_be_read():
    with fake_server() as server, ShrinkageClient(server.url) as client:
        with pytest.raises(InvalidRequest, match="floating point"):
            client.estimate(np.zeros((20, 3), int))
        assert server.received == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"url": "http://localhost:8000"},
        {"url": "localhost"},
        {"in_flight": 0},
        {"deadline_s": 0},
        {"deadline_s": np.inf},
        {"retry_s": -1},
        {"url": []},
        {"url": ["127.0.0.1:1", "localhost"]},
    ],
    ids=str,
)
def test_senseless_settings(arguments: dict[str, Any]):
    with pytest.raises(InvalidRequest, match=next(iter(arguments))):
        ShrinkageClient(**arguments)


def test_universe_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UniverseError("tech", status.Status.UNKNOWN_ASSET, "XXX")))  # noqa: S301
    assert isinstance(error, UniverseError)
    assert isinstance(error, SigmahatError)
    assert (error.universe, error.status, error.asset) == ("tech", status.Status.UNKNOWN_ASSET, "XXX")
    assert str(error) == "universe 'tech', asset 'XXX': the asset is not a column of the panel"
