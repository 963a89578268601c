# SPDX-License-Identifier: Apache-2.0
"""`AsyncShrinkageClient`: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from sigmahat_client.call import Post, Steps, resume
from sigmahat_client.client import Arguments, BaseClient
from sigmahat_client.dispatch import Arrival, Wait
from sigmahat_client.estimates import Estimates


class AsyncShrinkageClient(BaseClient):
    """`ShrinkageClient` for asyncio: the same settings and arguments; one event loop at a time."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def estimate(self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]) -> Estimates:
        """See `ShrinkageClient.estimate`."""
        arrivals: asyncio.Queue[Arrival[Estimates]] = asyncio.Queue()
        call = self._call(_from_threads(arrivals), returns, universes, keep=True, **arguments)
        with call.giving_what_there_is():
            async for _ in _awaiting(call.steps(), arrivals):
                pass
        estimates = call.estimates()
        estimates.warn()
        return estimates

    async def stream(
        self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]
    ) -> AsyncIterator[Estimates]:
        """See `ShrinkageClient.stream`."""
        arrivals: asyncio.Queue[Arrival[Estimates]] = asyncio.Queue()
        call = self._call(_from_threads(arrivals), returns, universes, keep=False, **arguments)
        async for part in _awaiting(call.steps(), arrivals):
            yield part

    async def rolling(
        self,
        returns: Any,
        universes: Any = None,
        *,
        window: int = 252,
        every: str | int = "ME",
        **arguments: Unpack[Arguments],
    ) -> AsyncIterator[tuple[Any, Estimates]]:
        """See `ShrinkageClient.rolling`."""
        from sigmahat_client.rolling import ByDate, plan

        planned = plan(returns, universes, window, every, dict(arguments))
        by_date = ByDate(planned)
        async for part in self.stream(returns, planned.universes, windows=planned.windows, **planned.arguments):
            for found in by_date.add(part):
                yield found


async def _awaiting(steps: Steps, arrivals: asyncio.Queue[Arrival[Estimates]]) -> AsyncIterator[Estimates]:
    step = next(steps, None)
    while step is not None:
        arrival = None
        if isinstance(step, Wait):
            with suppress(TimeoutError):
                arrival = await asyncio.wait_for(arrivals.get(), step.seconds)
        else:
            yield step
        step = resume(steps, arrival)


def _from_threads(arrivals: asyncio.Queue[Arrival[Estimates]]) -> Post:
    loop = asyncio.get_running_loop()

    def post(arrival: Arrival[Estimates]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrivals.put_nowait, arrival)

    return post
