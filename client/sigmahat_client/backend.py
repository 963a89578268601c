# SPDX-License-Identifier: Apache-2.0
"""What answers requests: a server (`transport`) or this process (`local`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

T = TypeVar("T")

Tensors = Mapping[str, npt.NDArray[Any]]
Read = Callable[[Tensors], Any]
"""Makes a result of an answer's tensors: `Estimates`, `Risks`."""
Outcome = Any
"""A result, or an exception."""
Deliver = Callable[[Outcome], object]
Send = Callable[[Tensors, Read, Deliver], None]


class Backend(Protocol):
    """Sends requests and never blocks."""

    n_endpoints: int
    """How many servers there are to ask."""

    def sender(
        self,
        model: str,
        shared: Tensors,
        *,
        outputs: Sequence[str],
        parameters: Mapping[str, bool],
        headers: Mapping[str, str],
        deadline: float,
    ) -> Send:
        """Make the function that sends one request of a job: `send(tensors, read, deliver)`.

        `deliver` is called once, from another thread, with what `read` makes of the answer's tensors, or with an
        exception. The tensors are gone once `read` has returned.

        Parameters
        ----------
        shared : mapping of names to arrays
            Tensors that go with every request.
        headers : mapping
            Sent along, for tracing.
        deadline : float
            In seconds of `time.monotonic`. A request that is still in a queue then is dropped.
        """

    def is_live(self, timeout_s: float) -> bool:
        """Whether anything that answers says so within so many seconds, however busy it is. Blocks that long."""

    def close(self) -> None:
        """Let go of everything, once requests that are under way are answered; does not wait for that."""


def outcome_of(work: Callable[[], T]) -> T | Exception:
    """Do work in a thread where an exception would be lost, and the caller wait until the deadline."""
    try:
        return work()
    except Exception as failure:
        return failure
