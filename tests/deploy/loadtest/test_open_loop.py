# SPDX-License-Identifier: Apache-2.0
"""The open loop keeps to its schedule, and counts from it; time here is the test's own."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter

import numpy as np
import pytest

from sigmahat_deploy.loadtest.open_loop import Answer, Question, Sent, level_of, send_on_time
from sigmahat_kernels.status import Status

QUESTION = Question("shrinkage", b"", 3)
GOOD = Answer("", "", Counter({Status.GOOD: 3}))


class Clock:
    """Time that passes only while everybody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        wakes = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.now + seconds, len(self.sleepers), wakes))
        await wakes

    async def tick(self) -> None:
        while True:
            for _ in range(5):  # whoever can go on, does
                await asyncio.sleep(0)
            if self.sleepers:
                time, _, wakes = heapq.heappop(self.sleepers)
                self.now = max(self.now, time)
                wakes.set_result(None)


def drive(due, ask, questions=(QUESTION,)):
    clock = Clock()

    async def run():
        ticking = asyncio.create_task(clock.tick())
        try:
            return await send_on_time(due, questions, lambda question: ask(clock, question), clock, clock.sleep)
        finally:
            ticking.cancel()

    return asyncio.run(run())


def test_a_stalled_server_delays_no_request_and_hides_no_wait() -> None:
    async def ask(clock, question):
        await clock.sleep(max(0.0, 105.0 - clock.now) + 0.1)  # answers nobody before second 5
        return GOOD

    sent = drive([0.0, 1.0, 2.0, 3.0, 6.0], ask)
    assert [request.sent_s for request in sent] == pytest.approx([0.0, 1.0, 2.0, 3.0, 6.0])
    assert [request.latency_s for request in sent] == pytest.approx([5.1, 4.1, 3.1, 2.1, 0.1])


def test_what_the_caller_delays_counts_as_latency() -> None:
    async def ask(clock, question):
        if clock.now < 100.5:
            clock.now += 3.0  # this program is busy: nothing can be sent meanwhile
        return GOOD

    sent = drive([0.0, 1.0, 2.0], ask)
    assert [request.sent_s for request in sent] == pytest.approx([0.0, 3.0, 3.0])
    assert [request.latency_s for request in sent] == pytest.approx([3.0, 2.0, 1.0])
    assert level_of(sent, 1.0, 0.0, 3.5).delayed == pytest.approx(2 / 3)


def test_questions_go_round() -> None:
    async def ask(clock, question):
        return GOOD

    questions = [Question(name, b"", 1) for name in ("shrinkage", "covariance")]
    assert [request.model for request in drive([0.0, 0.1, 0.2], ask, questions)] == [
        "shrinkage",
        "covariance",
        "shrinkage",
    ]


def test_figures_of_a_level() -> None:
    latencies = np.linspace(0.01, 0.20, 20)
    sent = [Sent(due, due, due + latency, "shrinkage", GOOD) for due, latency in enumerate(latencies)]
    sent += [
        Sent(7.5, 7.5, 7.51, "shrinkage", Answer("UNAVAILABLE", "Exceeds maximum queue size", Counter())),
        Sent(8.5, 8.5, 38.5, "shrinkage", Answer("DEADLINE_EXCEEDED", "", Counter())),
    ]
    level = level_of(sent, 1.1, 5.0, 15.0)
    (latency,) = level.latencies
    # A refusal is quick: among the latencies it would flatter the server.
    assert latency.p50_ms == pytest.approx(1e3 * np.median(latencies[5:15]))
    assert latency.p99_ms == pytest.approx(1e3 * np.percentile(latencies[5:15], 99))
    assert (latency.requests_per_s, level.universes_per_s) == (1.0, 3.0)
    assert (level.refused, level.failed, level.delayed) == (1, 1, 0.0)
    assert not level.meets(1e9)


def test_nothing_answered() -> None:
    sent = [Sent(k, k, k + 0.1, "shrinkage", Answer("UNAVAILABLE", "", Counter())) for k in range(9)]
    level = level_of(sent, 1.0, 0.0, 9.0)
    assert (level.refused, level.latencies, level.problem) == (9, (), "nothing was answered")
