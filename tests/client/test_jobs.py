# SPDX-License-Identifier: Apache-2.0
"""A job finishes although servers fail, its results come in order and few at a time, and both clients give the same."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from client.fake_server import FakeServer, fake_server

from sigmahat_client import (
    AsyncShrinkageClient,
    DeadlineExceeded,
    Estimates,
    RequestTooLarge,
    ServerError,
    ServerUnavailable,
    ShrinkageClient,
)
from sigmahat_client.dispatch import Arrival, Dispatch, Wait
from sigmahat_client.errors import UNANSWERED

RETURNS = 0.01 * np.random.default_rng(0).standard_normal((25, 500)).astype(np.float32)
TEN_REQUESTS = np.stack([np.roll(np.arange(500), -u) for u in range(320)])  # of 32; the first asset of universe u is u


def first_assets(estimates: Estimates) -> list[float]:
    return estimates.intensity.tolist()  # what the fake server answers


def fail(*failures: tuple[str, str]) -> Callable[[FakeServer, int, Any], None]:
    """The n-th request fails with the n-th (code, message); later ones are answered."""

    def hook(server: FakeServer, number: int, context: Any) -> None:
        if number < len(failures):
            code, message = failures[number]
            context.abort(grpc.StatusCode[code], message)

    return hook


@pytest.mark.parametrize(
    "failure",
    [
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped accepting new inference requests"),
        ("UNAVAILABLE", "Exceeds maximum queue size"),
        ("NOT_FOUND", "Request for unknown model: 'shrinkage' has no available versions"),
        ("INTERNAL", "in ensemble 'shrinkage', Stub process 'features_0_0' is not healthy."),
    ],
)
def test_what_passes_is_tried_again(failure: tuple[str, str]):
    with fake_server(fail(*[failure] * 6)) as server, ShrinkageClient(server.url) as client:
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        assert len(server.received) == 16


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("NOT_FOUND", "unknown model: 'shrinkage' is not found", ServerError),
        ("INTERNAL", "internal error in model 'features'", ServerError),
    ],
)
def test_what_does_not_pass_is_not_tried_again(code: str, message: str, kind: type[Exception]):
    with (
        fake_server(fail((code, message))) as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(kind, match=message),
    ):
        client.estimate(RETURNS)
    assert len(server.received) == 1


def test_patience_ends():
    with fake_server(fail(*[("UNAVAILABLE", "no")] * 99)) as server, ShrinkageClient(server.url, retry_s=1.0) as client:
        begin = time.monotonic()
        with pytest.raises(ServerUnavailable, match="no"):
            client.estimate(RETURNS)
        assert time.monotonic() - begin > 1.0


def test_the_deadline_ends_retries_and_says_what_failed():
    with (
        fake_server(fail(*[("UNAVAILABLE", "full")] * 99)) as server,
        ShrinkageClient(server.url, deadline_s=2.0) as client,
        pytest.raises(DeadlineExceeded, match=r"^0 of 1 universes .* 2 s; last failure: 127.*: full$"),
    ):
        client.estimate(RETURNS)


def test_a_large_request_is_tried_again_by_grpc_itself():
    """gRPC's own buffer for retries holds 256 KB; this panel has 2 MB. The client itself has no patience here."""
    panel = np.tile(RETURNS, (40, 1))
    with fake_server(fail(("UNAVAILABLE", "no"))) as server, ShrinkageClient(server.url, retry_s=1e-300) as client:
        client.estimate(panel)
        assert len(server.received) == 2


def test_a_client_without_patience_asks_once():
    with (
        fake_server(fail(("UNAVAILABLE", "no"))) as server,
        ShrinkageClient(server.url, retry_s=0) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.estimate(RETURNS)
    assert len(server.received) == 1


def too_large(most: int) -> Callable[[FakeServer, int, Any], None]:
    def hook(server: FakeServer, number: int, context: Any) -> None:
        if len(server.received[number].tensors["UNIVERSES"]) > most:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")

    return hook


def test_a_request_that_is_too_large_is_split():
    with fake_server(too_large(5)) as server, ShrinkageClient(server.url) as client:
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        answered = [len(request.tensors["UNIVERSES"]) for request in server.received]
        assert sum(n for n in answered if n <= 5) == 320
        assert server.most_at_once <= 4


def test_one_universe_cannot_be_split():
    with (
        fake_server(too_large(0)) as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(RequestTooLarge, match="larger than max"),
    ):
        client.estimate(RETURNS, TEN_REQUESTS[:5])


def test_an_error_gives_what_there_is():
    """One request at a time; the third fails for good."""

    def third(server: FakeServer, number: int, context: Any) -> None:
        if number == 2:
            context.abort(grpc.StatusCode.INTERNAL, "boom")

    with (
        fake_server(third) as server,
        ShrinkageClient(server.url, in_flight=1) as client,
        pytest.raises(ServerError, match="boom") as raised,
    ):
        client.estimate(RETURNS, TEN_REQUESTS[:100], covariance=True)
    estimates = raised.value.estimates
    assert estimates is not None
    assert estimates.universes == tuple(range(100))
    assert first_assets(estimates)[:64] == list(range(64))
    assert np.isnan(estimates.intensity[64:]).all()
    assert (estimates.status[64:] == UNANSWERED).all()
    assert [failure.universe for failure in estimates.failures] == list(range(64, 100))
    assert str(estimates.failures[0]) == "universe 64: no answer came"
    assert estimates.covariance_of(3).shape == (500, 500)


def test_what_came_behind_the_failure_is_kept():
    others = threading.Semaphore(0)

    def first_fails_last(server: FakeServer, number: int, context: Any) -> None:
        if server.received[number].tensors["UNIVERSES"][0, 0] != 32:
            others.release()
            return
        for _ in range(3):
            others.acquire(timeout=10)
        time.sleep(0.3)
        context.abort(grpc.StatusCode.INTERNAL, "boom")

    with (
        fake_server(first_fails_last) as server,
        ShrinkageClient(server.url) as client,
        pytest.raises(ServerError, match="boom") as raised,
    ):
        client.estimate(RETURNS, TEN_REQUESTS[:128])
    assert raised.value.estimates is not None
    assert [failure.universe for failure in raised.value.estimates.failures] == list(range(32, 64))
    assert first_assets(raised.value.estimates)[64:] == list(range(64, 128))


def test_a_stream_is_in_order_and_asks_for_few_at_a_time():
    late = threading.Event()

    def first_is_last(server: FakeServer, number: int, context: Any) -> None:
        if server.received[number].tensors["UNIVERSES"][0, 0] == 0:
            late.wait(10)

    with fake_server(first_is_last) as server, ShrinkageClient(server.url, in_flight=2) as client:
        stream = client.stream(RETURNS, TEN_REQUESTS)
        threading.Timer(2.0, late.set).start()  # time for all others, if nothing held them back
        begin, found = 0, []
        for part in stream:
            assert part.universes == tuple(range(begin, begin + 32))
            begin += 32
            found += first_assets(part)
            time.sleep(0.02)
            # yielded, waiting (2) and done but not yet yielded (2)
            assert len(server.received) <= begin // 32 + 4
        assert found == list(range(320))


def test_a_stream_may_be_left():
    with fake_server() as server, ShrinkageClient(server.url, in_flight=2) as client:
        for part in client.stream(RETURNS, TEN_REQUESTS):
            assert len(part) == 32
            break
        assert len(server.received) <= 4
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS[:3])) == [0, 1, 2]


def test_asyncio_gives_the_same():
    universes = TEN_REQUESTS[:100]

    async def ask(url: str) -> tuple[list[Estimates], list[Estimates]]:
        async with AsyncShrinkageClient(url) as client:
            several = await asyncio.gather(*(client.estimate(RETURNS, universes[u:], covariance=True) for u in (0, 5)))
            return several, [part async for part in client.stream(RETURNS, universes)]

    with fake_server(fail(("UNAVAILABLE", "no"))) as server, ShrinkageClient(server.url) as client:
        (whole, rest), parts = asyncio.run(ask(server.url))
        expected = client.estimate(RETURNS, universes, covariance=True)
    np.testing.assert_array_equal(whole.intensity, expected.intensity)
    np.testing.assert_array_equal(whole.covariance, expected.covariance)
    assert first_assets(rest) == list(range(5, 100))
    assert first_assets(Estimates.joined(parts)) == list(range(100))


def test_asyncio_keeps_the_deadline_and_gives_what_there_is():
    def slow(server: FakeServer, number: int, context: Any) -> None:
        time.sleep(0.2)

    async def ask(url: str) -> None:
        async with AsyncShrinkageClient(url, in_flight=1) as client:
            await client.estimate(RETURNS, TEN_REQUESTS, deadline_s=0.7)

    with fake_server(slow) as server, pytest.raises(DeadlineExceeded, match="of 320") as raised:
        asyncio.run(ask(server.url))
    assert raised.value.estimates is not None
    assert 32 <= np.isfinite(raised.value.estimates.intensity).sum() < 320


def test_several_servers_share_the_work_and_one_may_go():
    with fake_server() as first, fake_server() as second:
        with fake_server() as third:
            urls = [first.url, second.url, third.url]
            client = ShrinkageClient(urls)
            client.estimate(RETURNS, TEN_REQUESTS)
            assert all(server.received for server in (first, second, third))
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        assert len(third.received) < 10
        client.close()


def test_a_server_that_goes_silent_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    """It takes requests and never answers; each of those that it has goes to the other one after a while."""
    monkeypatch.setattr("sigmahat_client.dispatch._SILENCE_S", 0.5)
    let_go = threading.Event()

    def silent(server: FakeServer, number: int, context: Any) -> None:
        let_go.wait(30)

    with fake_server() as good, fake_server(silent) as bad:
        client = ShrinkageClient([bad.url, good.url])
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        assert len(good.received) == 10
        assert len(bad.received) <= 3
        client.close()
        let_go.set()


def test_a_slow_server_gets_less():
    def slow(server: FakeServer, number: int, context: Any) -> None:
        time.sleep(0.5)

    with fake_server() as fast, fake_server(slow) as tardy, ShrinkageClient([tardy.url, fast.url]) as client:
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        assert len(tardy.received) <= 4


def test_a_server_that_refuses_comes_last():
    """It would always be free."""
    with (
        fake_server(fail(*[("NOT_FOUND", "model has no available versions")] * 999)) as bad,
        fake_server(lambda *_: time.sleep(0.05)) as good,
        ShrinkageClient([bad.url, good.url]) as client,
    ):
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS)) == list(range(320))
        assert len(bad.received) <= 4


@contextmanager
def restarted(url: str, after_s: float) -> Iterator[None]:
    """A server at an address where one was before."""
    done = threading.Event()

    def come_back() -> None:
        time.sleep(after_s)
        with fake_server(port=int(url.rpartition(":")[2])):
            done.wait(20)

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_server_may_come_back():
    with fake_server() as server:
        client = ShrinkageClient(server.url)
        client.estimate(RETURNS)
    with restarted(server.url, after_s=1.5), client:
        assert first_assets(client.estimate(RETURNS, TEN_REQUESTS[:3])) == [0, 1, 2]


def test_a_server_may_come_back_that_went_under_its_first_request(monkeypatch: pytest.MonkeyPatch):
    """gRPC itself asks again then, and tells the client only that the port is closed."""
    monkeypatch.setattr("sigmahat_client.transport._CONTACT_S", 0.4)
    asked = threading.Event()
    found: list[float] = []
    with fake_server(lambda *_: (asked.set(), time.sleep(1.0))) as server:
        client = ShrinkageClient(server.url)
        thread = threading.Thread(target=lambda: found.extend(first_assets(client.estimate(RETURNS, TEN_REQUESTS[:3]))))
        thread.start()
        assert asked.wait(10)
        time.sleep(0.5)
    with restarted(server.url, after_s=1.5), client:
        thread.join()
    assert found == [0, 1, 2]


def run(
    chunks: list[slice], answer: Callable[[slice, int], Any], in_flight: int = 2, order: int = 0
) -> Iterator[tuple[list[slice], Any]]:
    """Drive the generator by hand: of the requests under way, the `order`-th is answered next."""
    under_way: list[slice] = []
    tries: dict[tuple[int, int], int] = {}
    steps: Generator[Any, Any, None] = Dispatch(
        chunks, under_way.append, lambda chunk, result: None, in_flight=in_flight, deadline=1e9, retry_s=1e9
    ).steps()
    step = next(steps)
    while True:
        arrival: Any = None
        if isinstance(step, Wait):
            assert len(under_way) <= in_flight
            if under_way:
                chunk = under_way.pop(order % len(under_way))
                key = chunk.start, chunk.stop
                tries[key] = tries.get(key, 0) + 1
                arrival = Arrival(chunk, answer(chunk, tries[key]))
            else:
                time.sleep(min(step.seconds, 1.0))
        else:
            yield list(under_way), step
        try:
            step = steps.send(arrival)
        except StopIteration:
            return


@pytest.mark.parametrize("order", [0, 1, -1, 2])
@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_any_order_of_answers_splits_and_failures_gives_all_in_order(order: int, in_flight: int, monkeypatch):
    monkeypatch.setattr("sigmahat_client.dispatch._FIRST_PAUSE_S", 0.001)

    def answer(chunk: slice, n_tries: int) -> Any:
        if chunk.stop - chunk.start > 3:
            return RequestTooLarge("")
        return ServerUnavailable("") if (chunk.start + n_tries) % 3 == 0 else chunk

    chunks = [slice(start, start + 8) for start in range(0, 64, 8)]
    found = [result for _, result in run(chunks, answer, in_flight, order)]
    assert [u for chunk in found for u in range(chunk.start, chunk.stop)] == list(range(64))


def steps_of(in_flight: int, deadline: float) -> tuple[list[slice], Generator[Any, Any, None]]:
    sent: list[slice] = []
    chunks = [slice(start, start + 8) for start in range(0, 80, 8)]
    return sent, Dispatch(
        chunks, sent.append, lambda chunk, result: None, in_flight=in_flight, deadline=deadline, retry_s=9.0
    ).steps()


def test_halves_that_cannot_be_sent_yet_do_not_keep_the_caller_busy():
    sent, steps = steps_of(in_flight=2, deadline=time.monotonic() + 1000)
    assert next(steps).seconds > 900
    assert steps.send(Arrival(slice(0, 8), RequestTooLarge(""))).seconds > 900
    assert sent == [slice(0, 8), slice(8, 16), slice(0, 4)]  # and 4 to 8 has to wait


def test_nothing_is_sent_after_the_deadline():
    """However fast answers come: a caller who takes his time between results is held to it too."""
    sent, steps = steps_of(in_flight=1, deadline=time.monotonic() + 0.1)
    next(steps)
    time.sleep(0.15)
    assert steps.send(Arrival(slice(0, 8), "first")) == "first"
    assert steps.send(None) == Wait(0.0)
    with pytest.raises(DeadlineExceeded):
        steps.send(None)
    assert sent == [slice(0, 8)]
