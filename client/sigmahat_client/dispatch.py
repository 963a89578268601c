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


class Wait(NamedTuple):
    """Nothing to do until an answer arrives, or for so many seconds."""

    seconds: float


class Arrival(NamedTuple):
    """What came of one request, or what went wrong with it."""

    chunk: slice
    result: Any


class _Again(NamedTuple):
    """A chunk that was sent in vain; ordered by when it may be sent again, then by its place."""

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

    Raises
    ------
    DeadlineExceeded
        If the deadline passes; its message says what failed last, if anything did.
    Exception
        What arrived for a request, if it cannot be tried again.
    """
    unsent = iter(chunks)
    waiting: dict[int, _Again] = {}  # by start
    again: list[_Again] = []
    done: dict[int, tuple[int, Any]] = {}  # by start, with the stop
    next_start, exhausted, failure = 0, False, None
    while True:
        now = time.monotonic()
        while len(waiting) < in_flight:
            if again and again[0].at <= now:
                request = heapq.heappop(again)
            elif exhausted or len(waiting) + len(again) >= in_flight or len(done) >= in_flight:
                break
            elif (chunk := next(unsent, None)) is None:
                exhausted = True
                break
            else:
                request = _Again(now, chunk.start, chunk, 0.0, _FIRST_PAUSE_S)
            waiting[request.start] = request
            send(request.chunk)
        if next_start in done:
            stop, result = done.pop(next_start)
            next_start = stop
            yield result
            continue
        if exhausted and not waiting and not again:
            return
        arrival = yield Wait(max(min([deadline, *(request.at for request in again[:1])]) - now, 0.0))
        now = time.monotonic()
        if arrival is None:
            if now >= deadline:
                raise DeadlineExceeded(f"last failure: {failure}" if failure else "") from failure
            continue
        chunk, result = arrival
        request = waiting.pop(chunk.start)
        if not isinstance(result, Exception):
            done[chunk.start] = (chunk.stop, result)
            arrived(chunk, result)
            continue
        failure = result
        if isinstance(result, RequestTooLarge) and chunk.stop - chunk.start > 1:
            middle = (chunk.start + chunk.stop) // 2
            for half in (slice(chunk.start, middle), slice(middle, chunk.stop)):
                heapq.heappush(again, _Again(now, half.start, half, 0.0, _FIRST_PAUSE_S))
        elif isinstance(result, ServerUnavailable) and now < (request.since or now) + retry_s:
            at = now + request.pause * random.uniform(0.5, 1.0)  # not all clients at the same moment
            pause = min(2 * request.pause, _LONGEST_PAUSE_S)
            heapq.heappush(again, _Again(at, chunk.start, chunk, request.since or now, pause))
        else:
            raise result
