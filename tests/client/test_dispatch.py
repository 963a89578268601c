# SPDX-License-Identifier: Apache-2.0
"""Each step of `Dispatch` by a clock that the test sets: who is sent what, and when."""

from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from sigmahat_client.dispatch import Arrival, Dispatch, Wait
from sigmahat_client.errors import DeadlineExceeded, NoServer, RequestTooLarge, ServerError, ServerUnavailable

DEADLINE = 1000.0
FIRST, SECOND = slice(0, 8), slice(8, 16)


class Clock:
    """Stands still until a test sets it."""

    now = 100.0


class Job:
    """A dispatch of a few chunks of eight, and what it did."""

    def __init__(self, clock: Clock, n_chunks: int = 2, **settings: Any) -> None:
        self.clock = clock
        self.sent: list[slice] = []
        self.accepted: list[tuple[slice, Any]] = []
        chunks = [slice(start, start + 8) for start in range(0, 8 * n_chunks, 8)]
        settings = {"in_flight": 2, "deadline": DEADLINE, "retry_s": 30.0, **settings}
        dispatch: Dispatch[str] = Dispatch(
            chunks, self.sent.append, lambda *pair: self.accepted.append(pair), **settings
        )
        self.steps: Generator[Any, Any, None] = dispatch.steps()
        self.step = next(self.steps)

    def sends(self) -> list[slice]:
        """What was sent since this was last asked."""
        sent, self.sent[:] = list(self.sent), []
        return sent

    def arrives(self, chunk: slice, outcome: Any) -> Any:
        self.step = self.steps.send(Arrival(chunk, outcome))
        return self.step

    def at(self, seconds: float) -> Any:
        """The time of a `Wait` is up."""
        self.clock.now = seconds
        self.step = self.steps.send(None)
        return self.step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sigmahat_client.dispatch.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("sigmahat_client.dispatch.random", SimpleNamespace(uniform=lambda low, high: high))
    return clock


def test_pauses_double_up_to_the_longest_and_patience_counts_from_the_first_failure(clock: Clock):
    job = Job(clock, n_chunks=1)
    pauses: list[float] = []
    while sum(pauses) < 30:
        assert job.sends() == [FIRST]
        wait = job.arrives(FIRST, ServerUnavailable("full"))
        assert job.sends() == []
        pauses.append(round(wait.seconds, 6))
        job.at(clock.now + wait.seconds)
    with pytest.raises(ServerUnavailable, match="full"):
        job.arrives(FIRST, ServerUnavailable("full"))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5, 5]


def test_a_chunk_that_waits_lets_no_other_begin_in_its_place(clock: Clock):
    job = Job(clock, n_chunks=3)
    assert job.sends() == [FIRST, SECOND]
    assert job.arrives(FIRST, ServerUnavailable("full")).seconds == pytest.approx(0.2)
    assert job.sends() == []
    job.at(100.2)
    assert job.sends() == [FIRST]


@pytest.mark.parametrize("failure", [ServerError("boom"), NoServer("nobody"), ValueError("bad")])
def test_what_does_not_pass_is_raised_as_it_came(clock: Clock, failure: Exception):
    with pytest.raises(type(failure)) as raised:
        Job(clock).arrives(FIRST, failure)
    assert raised.value is failure


def test_halves_have_their_own_patience(clock: Clock):
    """A chunk that failed before it was split has used up none of theirs."""
    job = Job(clock, n_chunks=1, retry_s=1.0)
    job.arrives(FIRST, ServerUnavailable("full"))
    job.at(100.9)
    job.arrives(FIRST, RequestTooLarge(""))
    assert job.sends() == [FIRST, FIRST, slice(0, 4), slice(4, 8)]
    clock.now = 101.5
    assert isinstance(job.arrives(slice(0, 4), ServerUnavailable("full")), Wait)


def test_a_copy_goes_out_after_a_silence(clock: Clock):
    job = Job(clock, n_chunks=1, ask_others=True)
    assert job.sends() == [FIRST]
    assert job.step == Wait(5.0)
    job.at(104.9)
    assert job.sends() == []
    assert job.at(105.0) == Wait(DEADLINE - 105.0)
    assert job.sends() == [FIRST]
    job.at(500.0)
    assert job.sends() == []  # a third is never sent


def test_without_others_there_are_no_copies(clock: Clock):
    job = Job(clock, n_chunks=1)
    assert job.step == Wait(DEADLINE - 100.0)
    job.at(500.0)
    assert job.sends() == [FIRST]


def test_silence_is_four_times_the_slowest_answer(clock: Clock):
    job = Job(clock, ask_others=True)
    job.sends()
    clock.now = 103.0
    assert job.arrives(FIRST, "first") == "first"
    assert job.at(103.0) == Wait(9.0)  # the second was sent at 100
    job.at(111.9)
    assert job.sends() == []
    job.at(112.0)
    assert job.sends() == [SECOND]


def test_an_answer_after_a_copy_says_nothing_of_the_slowest(clock: Clock):
    """Its server was silent, not slow."""
    job = Job(clock, in_flight=1, ask_others=True)
    job.at(105.0)
    assert job.sends() == [FIRST, FIRST]
    clock.now = 109.0
    assert job.arrives(FIRST, "first") == "first"
    assert job.at(109.0) == Wait(5.0)
    assert job.sends() == [SECOND]


def test_one_of_two_copies_may_fail_and_silence_starts_anew(clock: Clock):
    job = Job(clock, n_chunks=1, ask_others=True)
    job.at(105.0)
    job.sends()
    clock.now = 106.0
    assert job.arrives(FIRST, ServerError("boom")) == Wait(5.0)  # the other may still answer
    assert job.sends() == []
    job.at(111.0)
    assert job.sends() == [FIRST]
    job.arrives(FIRST, ServerError("boom"))
    with pytest.raises(ServerError, match="boom"):
        job.arrives(FIRST, ServerError("boom"))


def test_a_second_answer_is_dropped(clock: Clock):
    job = Job(clock, ask_others=True)
    job.at(105.0)
    assert job.sends() == [FIRST, SECOND, FIRST, SECOND]
    assert job.arrives(FIRST, "first") == "first"
    assert isinstance(job.at(105.0), Wait)
    for late in ("first, late", ServerError("late")):
        assert isinstance(job.arrives(FIRST, late), Wait)
    assert job.accepted == [(FIRST, "first")]


def test_results_are_accepted_as_they_come_and_yielded_in_order(clock: Clock):
    job = Job(clock)
    assert isinstance(job.arrives(SECOND, "second"), Wait)
    assert job.accepted == [(SECOND, "second")]
    assert job.arrives(FIRST, "first") == "first"
    assert job.at(100.0) == "second"
    with pytest.raises(StopIteration):
        job.at(100.0)


def test_the_deadline_names_the_last_failure_as_its_cause(clock: Clock):
    failure = ServerUnavailable("full")
    job = Job(clock, n_chunks=1)
    job.arrives(FIRST, failure)
    with pytest.raises(DeadlineExceeded, match=r"^last failure: full$") as raised:
        job.at(DEADLINE)
    assert raised.value.__cause__ is failure


def test_what_arrives_after_the_deadline_still_counts(clock: Clock):
    job = Job(clock, n_chunks=1)
    clock.now = DEADLINE + 1
    assert job.arrives(FIRST, "first") == "first"
    with pytest.raises(StopIteration):
        job.at(DEADLINE + 1)
