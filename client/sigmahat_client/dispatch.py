# SPDX-License-Identifier: Apache-2.0
"""The requests of one job: a few at a time, tried again, split where they are too large, their results in order.

Nothing here waits or sends: `Dispatch.steps` is a generator that says when it has to be asked again, so that the
blocking client and the asyncio client share it.

The words of this package, each for one thing:

=========  ===========================================================================================================
job        one call of the caller's, of any number of universes
chunk      adjacent universes of a job that are asked for together, as a slice
request    a chunk sent to a server; the same chunk may be sent again, or to a second server at the same time (a copy)
answer     the tensors that come back
result     what an answer says, in the caller's words: `Estimates`; to `read` an answer is to make it
failure    the exception that there is instead
outcome    a result or a failure
deliver    the callback by which a backend hands over an outcome, from a thread of its own
arrival    an outcome with its chunk, on its way to the thread that runs the job
post       the callback that puts an arrival into that thread's queue, its `arrivals`
accept     the callback that hears of a chunk's first result; copies that come later are dropped
=========  ===========================================================================================================
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Generator, Iterable
from typing import Generic, NamedTuple, TypeVar

from sigmahat_client.errors import DeadlineExceeded, NoServer, RequestTooLarge, ServerUnavailable

Result = TypeVar("Result")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SILENCE_S = 5.0


class Wait(NamedTuple):
    """Nothing to do until something arrives, or for so many seconds."""

    seconds: float


class Arrival(NamedTuple, Generic[Result]):
    """What came of one request."""

    chunk: slice
    outcome: Result | Exception


class _Due(NamedTuple):
    """A chunk that is to be sent, maybe again; ordered by when it may be, then by its place."""

    at: float
    start: int
    chunk: slice
    since: float  # of its first failure
    pause: float  # before it is sent again, if it fails


class _UnderWay(NamedTuple):
    """A chunk that was sent."""

    due: _Due
    at: float
    copies: int  # without an outcome


def _due(chunk: slice, now: float) -> _Due:
    return _Due(now, chunk.start, chunk, 0.0, _FIRST_PAUSE_S)


def _passes(failure: Exception) -> bool:
    return isinstance(failure, ServerUnavailable) and not isinstance(failure, NoServer)


class Dispatch(Generic[Result]):
    """Who is to be sent what, and when.

    Parameters
    ----------
    chunks : iterable of slices
        Adjacent, in order; one is taken only when it can be sent.
    send : callable
        Called with a chunk, whose `Arrival` is to be sent into `steps` at a `Wait`.
    accept : callable
        Called with a chunk and its result as soon as that is there, in whatever order.
    in_flight : int
        How many chunks may be under way at a time; twice as many may be begun but not yielded.
    deadline : float
        In seconds of `time.monotonic`.
    retry_s : float
        Seconds for which a chunk is sent again, with growing pauses, while the server is unavailable.
    ask_others : bool
        Whether there are servers to send a copy to when nothing arrives. Whoever answers first is heard.
    """

    def __init__(
        self,
        chunks: Iterable[slice],
        send: Callable[[slice], object],
        accept: Callable[[slice, Result], object],
        *,
        in_flight: int,
        deadline: float,
        retry_s: float,
        ask_others: bool = False,
    ) -> None:
        self._unsent = iter(chunks)
        self._send = send
        self._accept = accept
        self._in_flight = in_flight
        self._deadline = deadline
        self._retry_s = retry_s
        self._ask_others = ask_others
        self._exhausted = False  # no chunk is left unsent
        self._under_way: dict[int, _UnderWay] = {}  # by start
        self._again: list[_Due] = []  # a heap
        self._done: dict[int, tuple[int, Result]] = {}  # by start, with the stop
        self._next_start = 0  # of the chunk to be yielded next
        self._failure: Exception | None = None  # the last
        self._slowest_s = 0.0  # of all answers

    def steps(self) -> Generator[Wait | Result, Arrival[Result] | None, None]:
        """Yield each chunk's result, in the order of `chunks`; between these, `Wait`s.

        At a `Wait`, the next `Arrival` is to be sent into this generator, or None if that one's time is up.

        Raises
        ------
        DeadlineExceeded
            If the deadline passes; its message says what failed last, if anything did.
        Exception
            What arrived for a request, if it cannot be sent again.
        """
        while True:
            now = time.monotonic()
            self._send_due(now)
            if self._next_start in self._done:
                self._next_start, result = self._done.pop(self._next_start)
                yield result
                continue
            if self._exhausted and not self._under_way and not self._again:
                return
            if self._ask_others:
                self._send_copies(now)
            arrival = yield Wait(max(self._next_event() - now, 0.0))
            now = time.monotonic()
            if arrival is not None:
                self._receive(arrival, now)
            elif now >= self._deadline:
                raise DeadlineExceeded(f"last failure: {self._failure}" if self._failure else "") from self._failure

    def _send_due(self, now: float) -> None:
        """Send as many chunks as may be under way: first those whose pause is over, then new ones."""
        while len(self._under_way) < self._in_flight and now < self._deadline:
            due = self._take_due(now)
            if due is None:
                return
            self._under_way[due.start] = _UnderWay(due, now, copies=1)
            self._send(due.chunk)

    def _take_due(self, now: float) -> _Due | None:
        if self._again and self._again[0].at <= now:
            return heapq.heappop(self._again)
        begun = len(self._under_way) + len(self._again)
        if self._exhausted or begun >= self._in_flight or len(self._done) >= self._in_flight:
            return None
        chunk = next(self._unsent, None)
        self._exhausted = chunk is None
        return None if chunk is None else _due(chunk, now)

    def _send_copies(self, now: float) -> None:
        """Send to another server what takes far longer than all others: its own was probably gone."""
        for start, sent in self._under_way.items():
            if sent.copies == 1 and sent.at + self._silence_s() <= now:
                self._under_way[start] = sent._replace(copies=2)
                self._send(sent.due.chunk)

    def _silence_s(self) -> float:
        return max(_SILENCE_S, 4 * self._slowest_s)

    def _next_event(self) -> float:
        """When there is something to do although nothing arrives."""
        events = [self._deadline]
        if len(self._under_way) < self._in_flight:
            events += [due.at for due in self._again[:1]]
        if self._ask_others:
            events += [sent.at + self._silence_s() for sent in self._under_way.values() if sent.copies == 1]
        return min(events)

    def _receive(self, arrival: Arrival[Result], now: float) -> None:
        chunk, outcome = arrival
        sent = self._under_way.get(chunk.start)
        if sent is None:
            return  # the other copy came first
        if not isinstance(outcome, Exception):
            del self._under_way[chunk.start]
            if sent.copies == 1:
                self._slowest_s = max(self._slowest_s, now - sent.at)
            self._done[chunk.start] = chunk.stop, outcome
            self._accept(chunk, outcome)
            return
        self._failure = outcome
        if sent.copies > 1:
            self._under_way[chunk.start] = sent._replace(at=now, copies=sent.copies - 1)
            return
        del self._under_way[chunk.start]
        if isinstance(outcome, RequestTooLarge) and chunk.stop - chunk.start > 1:
            self._split(chunk, now)
        elif _passes(outcome) and now < (sent.due.since or now) + self._retry_s:
            self._retry(sent.due, now)
        else:
            raise outcome

    def _split(self, chunk: slice, now: float) -> None:
        middle = (chunk.start + chunk.stop) // 2
        for half in (slice(chunk.start, middle), slice(middle, chunk.stop)):
            heapq.heappush(self._again, _due(half, now))

    def _retry(self, due: _Due, now: float) -> None:
        at = now + due.pause * random.uniform(0.5, 1.0)  # not all clients at the same moment
        pause = min(2 * due.pause, _LONGEST_PAUSE_S)
        heapq.heappush(self._again, due._replace(at=at, since=due.since or now, pause=pause))
