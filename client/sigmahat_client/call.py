# SPDX-License-Identifier: Apache-2.0
"""One job under way: what both clients do with it, as a generator that neither blocks nor awaits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple

from sigmahat_client.backend import Backend, Send
from sigmahat_client.dispatch import Arrival, Dispatch, Wait
from sigmahat_client.errors import DeadlineExceeded, SigmahatError
from sigmahat_client.questions import Question, Result
from sigmahat_client.telemetry import traced

Steps = Generator[Wait | Result, Arrival[Result] | None, None]
Post = Callable[[Arrival[Result]], object]


class Limits(NamedTuple):
    """How much at a time, and how long."""

    in_flight: int
    retry_s: float
    deadline_s: float  # from the call on
    deadline: float  # the same, in seconds of `time.monotonic`


class Call(Generic[Result]):
    """One job, sent to a backend with a question.

    Parameters
    ----------
    post : callable
        Puts an `Arrival` where the thread that runs `steps` finds it; called from other threads.
    keep : bool
        Whether results are kept for `estimates`, beside being yielded.
    """

    def __init__(
        self,
        backend: Backend,
        question: Question[Result],
        limits: Limits,
        post: Post[Result],
        *,
        keep: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._backend = backend
        self._question = question
        self._limits = limits
        self._post = post
        self._keep = keep
        self._progress = progress
        self._found: dict[int, Result] = {}  # by the place of the first universe
        self._n_requests = self._n_answered = 0

    def steps(self) -> Steps[Result]:
        """Yield what `Dispatch.steps` does. Once a call; not kept here, so that a caller who leaves ends it."""
        question, limits = self._question, self._limits
        job = question.job
        with traced(question.model, universes=len(job.names), widest=job.universes.shape[1]) as trace:
            send = self._backend.sender(
                question.model,
                question.shared_tensors(),
                outputs=question.outputs,
                parameters=question.parameters,
                headers=trace.headers,
                deadline=limits.deadline,
            )
            dispatch = Dispatch(
                question.chunks(),
                lambda chunk: self._request(send, chunk),
                self._accept,
                in_flight=limits.in_flight,
                deadline=limits.deadline,
                retry_s=limits.retry_s,
                ask_others=self._backend.n_endpoints > 1,
            )
            try:
                yield from dispatch.steps()
            except DeadlineExceeded as error:
                message = (
                    f"{self._n_answered} of {len(job.names)} universes were answered within {limits.deadline_s:g} s"
                )
                raise DeadlineExceeded("; ".join(filter(None, [message, str(error)]))) from error.__cause__
            finally:
                trace.note(requests=self._n_requests, answered=self._n_answered)

    def _request(self, send: Send, chunk: slice) -> None:
        self._n_requests += 1
        send(
            self._question.chunk_tensors(chunk),
            lambda answer: self._question.decode(chunk, answer),
            lambda outcome: self._post(Arrival(chunk, outcome)),
        )

    def _accept(self, chunk: slice, result: Result) -> None:
        self._n_answered += len(result)
        if self._keep:
            self._found[chunk.start] = result
        if self._progress is not None:
            self._progress(self._n_answered, len(self._question.job.names))

    @contextmanager
    def giving_what_there_is(self) -> Iterator[None]:
        """Hand over what was answered with an error of the block."""
        try:
            yield
        except SigmahatError as error:
            error.estimates = self.result()
            raise

    def result(self) -> Result:
        """Join what was found, with what stands for no answer in the gaps."""
        parts, begin, end = [], 0, len(self._question.job.names)
        for start in [*sorted(self._found), end]:
            if begin < start:
                parts.append(self._question.unanswered(slice(begin, start)))
            if start < end:
                parts.append(self._found[start])
                begin = start + len(self._found[start])
        return self._question.joined(parts)


def resume(steps: Steps[Result], arrival: Arrival[Result] | None) -> Wait | Result | None:
    """Go on; None at the end."""
    try:
        return steps.send(arrival)
    except StopIteration:
        return None
