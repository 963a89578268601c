# SPDX-License-Identifier: Apache-2.0
"""`AsyncShrinkageClient`: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack

from sigmahat_client.call import Post, Steps, resume
from sigmahat_client.client import Arguments, BaseClient, RiskArguments
from sigmahat_client.dispatch import Arrival, Wait
from sigmahat_client.estimates import Estimates
from sigmahat_client.questions import Question, Result, estimate_question, risk_question
from sigmahat_client.risks import Risks


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
        return await self._result(estimate_question, returns, universes, **arguments)

    def stream(self, returns: Any, universes: Any = None, **arguments: Unpack[Arguments]) -> AsyncIterator[Estimates]:
        """See `ShrinkageClient.stream`."""
        return self._parts(estimate_question, returns, universes, **arguments)

    async def risk(self, returns: Any, universes: Any, portfolios: Any, **arguments: Unpack[RiskArguments]) -> Risks:
        """See `ShrinkageClient.risk`."""
        return await self._result(risk_question, returns, universes, portfolios, **arguments)

    def stream_risk(
        self, returns: Any, universes: Any, portfolios: Any, **arguments: Unpack[RiskArguments]
    ) -> AsyncIterator[Risks]:
        """See `ShrinkageClient.stream_risk`."""
        return self._parts(risk_question, returns, universes, portfolios, **arguments)

    async def _result(self, make: Callable[..., Question[Result]], *given: Any, **arguments: Any) -> Result:
        arrivals: asyncio.Queue[Arrival[Result]] = asyncio.Queue()
        call = self._call(_from_threads(arrivals), make, *given, keep=True, **arguments)
        with call.giving_what_there_is():
            async for _ in _awaiting(call.steps(), arrivals):
                pass
        result = call.result()
        result.warn()
        return result

    async def _parts(
        self, make: Callable[..., Question[Result]], *given: Any, **arguments: Any
    ) -> AsyncIterator[Result]:
        arrivals: asyncio.Queue[Arrival[Result]] = asyncio.Queue()
        call = self._call(_from_threads(arrivals), make, *given, keep=False, **arguments)
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


async def _awaiting(steps: Steps[Result], arrivals: asyncio.Queue[Arrival[Result]]) -> AsyncIterator[Result]:
    step = next(steps, None)
    while step is not None:
        arrival = None
        if isinstance(step, Wait):
            with suppress(TimeoutError):
                arrival = await asyncio.wait_for(arrivals.get(), step.seconds)
        else:
            yield step
        step = resume(steps, arrival)


def _from_threads(arrivals: asyncio.Queue[Arrival[Result]]) -> Post[Result]:
    loop = asyncio.get_running_loop()

    def post(arrival: Arrival[Result]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(arrivals.put_nowait, arrival)

    return post
