# SPDX-License-Identifier: Apache-2.0
"""An asynchronous caller that sends when its schedule says so, whatever became of earlier requests.

A latency counts from the moment that the schedule wanted the request sent: were it counted from the moment that it was
sent, a server that stalls its callers would look fast (coordinated omission). A refusal is a result like any other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from sigmahat_deploy.loadtest.arrivals import poisson
from sigmahat_deploy.loadtest.levels import WINDOWS, Latency, Level, spread
from sigmahat_deploy.loadtest.mix import Tensors
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import between, snapshot, step_times
from sigmahat_kernels.status import Status

DEADLINE_S = 30.0
"""A request that has no answer by then has failed."""

_LATE_S = 0.01
"""A request that is sent so long after its time was delayed by this program."""

_WARM_UP = 0.25
"""Share of the schedule that is sent but not counted: the queue fills meanwhile."""

_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Answer(NamedTuple):
    """What became of one request."""

    refusal: str  # "" if answered, else gRPC's code
    message: str
    status: Counter[Status]  # of its universes


class Sent(NamedTuple):
    """One request of a schedule, times in seconds after its start."""

    due_s: float
    sent_s: float
    done_s: float
    model: str
    answer: Answer

    @property
    def latency_s(self) -> float:
        """From the moment that the schedule wanted it sent."""
        return self.done_s - self.due_s


class Question(NamedTuple):
    """A request, ready to send."""

    model: str
    content: bytes
    n_universes: int


Ask = Callable[[Question], Awaitable[Answer]]


def questions(requests: Sequence[Tensors], models: Sequence[str]) -> list[Question]:
    """All requests for each of the models in turn, already encoded, so that sending one costs next to nothing."""
    return [
        Question(model, _encode(model, request), len(request["UNIVERSES"])) for request in requests for model in models
    ]


async def send_on_time(
    due: Sequence[float],
    asked: Sequence[Question],
    ask: Ask,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> list[Sent]:
    """Send a question at each of the times `due`, going round `asked`; return when the last is answered."""
    start = clock()

    async def one(due_s: float, question: Question) -> Sent:
        sent_s = clock() - start
        answer = await ask(question)
        return Sent(due_s, sent_s, clock() - start, question.model, answer)

    async with asyncio.TaskGroup() as group:
        tasks = []
        for due_s, question in zip(due, cycle(asked)):
            await sleep(max(0.0, start + due_s - clock()))
            tasks.append(group.create_task(one(due_s, question)))
    return [task.result() for task in tasks]


def measure(servers: Servers, asked: Sequence[Question], rate: float, seconds: float, seed: int) -> Level:
    """Send `rate` requests a second for so many counted seconds, after a warm-up at the same rate."""
    total = seconds / (1 - _WARM_UP)
    before = snapshot(servers)

    async def run() -> list[Sent]:
        async with Channels(servers) as channels:
            return await send_on_time(poisson(rate, total, [seed]).tolist(), asked, channels.ask)

    sent = asyncio.run(run())
    change = between(before, snapshot(servers))
    level = level_of(sent, rate, _WARM_UP * total, total)
    return replace(level, steps=step_times(change))


def ask_in_turn(servers: Servers, asked: Sequence[Question]) -> list[Answer]:
    """Every question once, one after the other: warms the servers, and says what perf_analyzer cannot see."""

    async def run() -> list[Answer]:
        async with Channels(servers) as channels:
            return [await channels.ask(question) for question in asked]

    return asyncio.run(run())


def level_of(sent: Sequence[Sent], rate: float, begin_s: float, end_s: float) -> Level:
    """Figures of the requests that were due from `begin_s` to `end_s`; throughput is what was answered meanwhile."""
    counted = [request for request in sent if begin_s <= request.due_s < end_s]
    answered = [request for request in sent if begin_s <= request.done_s < end_s and not request.answer.refusal]
    seconds = end_s - begin_s
    latencies = []
    for model in sorted({request.model for request in counted}):
        times = [r.latency_s for r in counted if r.model == model and not r.answer.refusal]
        if times:
            p50, p95, p99 = 1e3 * np.percentile(times, (50, 95, 99))
            done = sum(request.model == model for request in answered)
            latencies.append(Latency(model, done / seconds, float(p50), float(p95), float(p99)))
    windows, _ = np.histogram([request.done_s for request in answered], bins=WINDOWS, range=(begin_s, end_s))
    codes = Counter(request.answer.refusal for request in counted if request.answer.refusal)
    return Level(
        "open loop",
        "poisson",
        rate,
        seconds,
        tuple(latencies),
        universes_per_s=sum(request.answer.status.total() for request in answered) / seconds,
        refused=codes["UNAVAILABLE"] + codes["RESOURCE_EXHAUSTED"],
        failed=codes.total() - codes["UNAVAILABLE"] - codes["RESOURCE_EXHAUSTED"],
        delayed=float(np.mean([r.sent_s - r.due_s > _LATE_S for r in counted])) if counted else 0.0,
        spread=spread(windows.tolist()),
        problem="" if latencies else "nothing was answered",
    )


class Channels:
    """To all servers, asked in turn."""

    def __init__(self, servers: Servers) -> None:
        self._channels = [servers.channel(url) for url in servers.urls]
        read = service_pb2.ModelInferResponse.FromString
        self._turn = cycle([channel.unary_unary(_METHOD, response_deserializer=read) for channel in self._channels])

    async def __aenter__(self) -> Channels:
        return self

    async def __aexit__(self, *error: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def ask(self, question: Question) -> Answer:
        try:
            response = await next(self._turn)(question.content, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name, error.details() or "", Counter())
        return Answer("", "", _status(response))


def _encode(model: str, request: Tensors) -> bytes:
    kinds = {"f": "FP32", "i": "INT32"}
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, tensor in request.items():
        message.inputs.add(name=name, datatype=kinds[tensor.dtype.kind], shape=tensor.shape)
        message.raw_input_contents.append(tensor.tobytes())
    content: bytes = message.SerializeToString()
    return content


def _status(response: Any) -> Counter[Status]:
    position = [output.name for output in response.outputs].index("STATUS")
    return Counter(map(Status, np.frombuffer(response.raw_output_contents[position], np.int32).tolist()))
