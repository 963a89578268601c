# SPDX-License-Identifier: Apache-2.0
"""One job under way: what both clients do with it, as a generator that neither blocks nor awaits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sigmahat_client.backend import Backend, Send
from sigmahat_client.decoding import decode, output_names, unanswered
from sigmahat_client.dispatch import Arrival, Dispatch, Wait
from sigmahat_client.errors import DeadlineExceeded, SigmahatError
from sigmahat_client.estimates import Estimates
from sigmahat_client.intake import Job, chunk_tensors, chunks, shared_tensors
from sigmahat_client.telemetry import traced

Steps = Generator[Wait | Estimates, Arrival[Estimates] | None, None]
Post = Callable[[Arrival[Estimates]], object]


class Limits(NamedTuple):
    """How much at a time, and how long."""

    in_flight: int
    retry_s: float
    deadline_s: float  # from the call on
    deadline: float  # the same, in seconds of `time.monotonic`


class Call:
    """One job, sent to a backend.

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
        job: Job,
        limits: Limits,
        post: Post,
        *,
        covariance: bool,
        classic: bool,
        keep: bool,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self._backend = backend
        self._job = job
        self._limits = limits
        self._post = post
        self._covariance = covariance
        self._parameters = {"classic": True} if classic else {}
        self._keep = keep
        self._progress = progress
        self._found: dict[int, Estimates] = {}  # by the place of the first universe
        self._n_requests = self._n_answered = 0

    def steps(self) -> Steps:
        """Yield what `Dispatch.steps` does. Once a call; not kept here, so that a caller who leaves ends it."""
        job, limits = self._job, self._limits
        model = "covariance" if self._covariance else "shrinkage"
        with traced(model, universes=len(job.names), widest=job.universes.shape[1]) as trace:
            send = self._backend.sender(
                model,
                shared_tensors(job),
                outputs=output_names(job, covariance=self._covariance),
                parameters=self._parameters,
                headers=trace.headers,
                deadline=limits.deadline,
            )
            dispatch = Dispatch(
                chunks(job),
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
            chunk_tensors(self._job, chunk),
            lambda answer: decode(self._job, chunk, answer),
            lambda outcome: self._post(Arrival(chunk, outcome)),
        )

    def _accept(self, chunk: slice, estimates: Estimates) -> None:
        self._n_answered += len(estimates)
        if self._keep:
            self._found[chunk.start] = estimates
        if self._progress is not None:
            self._progress(self._n_answered, len(self._job.names))

    @contextmanager
    def giving_what_there_is(self) -> Iterator[None]:
        """Hand over what was answered with an error of the block."""
        try:
            yield
        except SigmahatError as error:
            error.estimates = self.estimates()
            raise

    def estimates(self) -> Estimates:
        """Join what was found, with `unanswered` in the gaps."""
        parts, begin, end = [], 0, len(self._job.names)
        for start in [*sorted(self._found), end]:
            if begin < start:
                parts.append(unanswered(self._job, slice(begin, start), covariance=self._covariance))
            if start < end:
                parts.append(self._found[start])
                begin = start + len(self._found[start])
        return Estimates.joined(parts)


def resume(steps: Steps, arrival: Arrival[Estimates] | None) -> Wait | Estimates | None:
    """Go on; None at the end."""
    try:
        return steps.send(arrival)
    except StopIteration:
        return None
