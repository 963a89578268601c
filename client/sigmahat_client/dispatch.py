# SPDX-License-Identifier: Apache-2.0
"""The requests of one job: a few at a time, tried again, split where they are too large, their results in order.

Nothing here waits or sends: `results` is a generator that says when it has to be asked again, so that the blocking
client and the asyncio client share it.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple

from sigmahat_client.errors import DeadlineExceeded, RequestTooLarge, ServerUnavailable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_SILENCE_S = 5.0


class Wait(NamedTuple):
    """Nothing to do until an answer arrives, or for so many seconds."""

    seconds: float


class Arrival(NamedTuple):
    """What came of one request, or what went wrong with it."""

    chunk: slice
    result: Any


class _Asked(NamedTuple):
    """A chunk under way."""

    request: _Again
    at: float
    copies: int  # sent and not answered


class _Again(NamedTuple):
    """A chunk that is to be sent, again after a failure; ordered by when it may be, then by its place."""

    at: float
    start: int
    chunk: slice
    since: float  # of its first failure
    pause: float


def results(
    chunks: Iterable[slice],
    send: Callable[[slice], object],
    arrived: Callable[[slice, Any], object],
    *,
    in_flight: int,
    deadline: float,
    retry_s: float,
    ask_others: bool = False,
) -> Generator[Any, Arrival | None, None]:
    """Yield each chunk's result, in the order of `chunks`; between these, `Wait`s.

    Parameters
    ----------
    chunks : iterable of slices
        Adjacent, in order; one is taken only when it can be sent.
    send : callable
        Called with a chunk. Its `Arrival` is to be sent into this generator at a `Wait`; None if that one's time is up.
    arrived : callable
        Called with a chunk and its result as soon as that is there, in whatever order.
    in_flight : int
        How many requests may wait for their answers at a time; twice as many may be begun but not yielded.
    deadline : float
        In seconds of `time.monotonic`.
    retry_s : float
        Seconds for which a request is tried again, with growing pauses, while the server is unavailable.
    ask_others : bool
        Whether there are servers to ask once more when an answer does not come. Whoever answers first is heard.

    Raises
    ------
    DeadlineExceeded
        If the deadline passes; its message says what failed last, if anything did.
    Exception
        What arrived for a request, if it cannot be tried again.
    """
    unsent = iter(chunks)
    waiting: dict[int, _Asked] = {}  # by start
    again: list[_Again] = []
    done: dict[int, tuple[int, Any]] = {}  # by start, with the stop
    next_start, exhausted, failure, slowest = 0, False, None, 0.0
    while True:
        now = time.monotonic()
        while len(waiting) < in_flight and now < deadline:
            if again and again[0].at <= now:
                request = heapq.heappop(again)
            elif exhausted or len(waiting) + len(again) >= in_flight or len(done) >= in_flight:
                break
            elif (chunk := next(unsent, None)) is None:
                exhausted = True
                break
            else:
                request = _Again(now, chunk.start, chunk, 0.0, _FIRST_PAUSE_S)
            waiting[request.start] = _Asked(request, now, copies=1)
            send(request.chunk)
        if next_start in done:
            stop, result = done.pop(next_start)
            next_start = stop
            yield result
            continue
        if exhausted and not waiting and not again:
            return
        events = [deadline]
        if len(waiting) < in_flight:
            events += [request.at for request in again[:1]]
        if ask_others:  # one that takes far longer than all others was probably sent to a server that is gone
            silence = max(_SILENCE_S, 4 * slowest)
            for start, asked in waiting.items():
                if asked.copies == 1 and asked.at + silence <= now:
                    waiting[start] = asked._replace(copies=2)
                    send(asked.request.chunk)
            events += [asked.at + silence for asked in waiting.values() if asked.copies == 1]
        arrival = yield Wait(max(min(events) - now, 0.0))
        now = time.monotonic()
        if arrival is None:
            if now >= deadline:
                raise DeadlineExceeded(f"last failure: {failure}" if failure else "") from failure
            continue
        chunk, result = arrival
        if chunk.start not in waiting:
            continue  # the answer of another server came first
        asked = waiting[chunk.start]
        request, since = asked.request, asked.request.since or now
        if not isinstance(result, Exception):
            del waiting[chunk.start]
            if asked.copies == 1:
                slowest = max(slowest, now - asked.at)
            done[chunk.start] = (chunk.stop, result)
            arrived(chunk, result)
            continue
        failure = result
        if asked.copies > 1:
            waiting[chunk.start] = asked._replace(at=now, copies=asked.copies - 1)
            continue
        del waiting[chunk.start]
        if isinstance(result, RequestTooLarge) and chunk.stop - chunk.start > 1:
            middle = (chunk.start + chunk.stop) // 2
            for half in (slice(chunk.start, middle), slice(middle, chunk.stop)):
                heapq.heappush(again, _Again(now, half.start, half, 0.0, _FIRST_PAUSE_S))
        elif isinstance(result, ServerUnavailable) and now < since + retry_s:
            at = now + request.pause * random.uniform(0.5, 1.0)  # not all clients at the same moment
            pause = min(2 * request.pause, _LONGEST_PAUSE_S)
            heapq.heappush(again, _Again(at, chunk.start, chunk, since, pause))
        else:
            raise result
