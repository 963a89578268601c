# SPDX-License-Identifier: Apache-2.0
"""`AsyncShrinkageClient`: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from sigmahat_client.client import Arguments, BaseClient, Steps, giving_what_there_is, joined, resume
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

    def close(self) -> None:
        """Close the connection, once requests that are under way are answered; does not wait for that."""
        self._close()

    async def estimate(self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]) -> Estimates:
        """See `ShrinkageClient.estimate`."""
        arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        call = self._call(_from_threads(arrived), returns, universes, keep=True, **arguments)
        with giving_what_there_is(call):
            async for _ in _awaiting(call.steps, arrived):
                pass
        return joined(call)

    async def stream(
        self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]
    ) -> AsyncIterator[Estimates]:
        """See `ShrinkageClient.stream`."""
        arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        call = self._call(_from_threads(arrived), returns, universes, keep=False, **arguments)
        async for part in _awaiting(call.steps, arrived):
            yield part


async def _awaiting(steps: Steps, arrived: asyncio.Queue[Arrival]) -> AsyncIterator[Estimates]:
    step = next(steps, None)
    while step is not None:
        event = None
        if isinstance(step, Wait):
            with suppress(TimeoutError):
                event = await asyncio.wait_for(arrived.get(), step.seconds)
        else:
            yield step
        step = resume(steps, event)


def _from_threads(arrived: asyncio.Queue[Arrival]) -> Callable[[Arrival], None]:
    loop = asyncio.get_running_loop()

    def put(arrival: Arrival) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrived.put_nowait, arrival)

    return put
