# SPDX-License-Identifier: Apache-2.0
"""Base of the ``model.py`` of a step with much to compute on a CPU: small requests pass large ones between slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

from sigmahat_kernels import heartbeat
from sigmahat_kernels.backend import Array
from sigmahat_kernels.metrics import COST, QUEUED, QUEUED_COST
from sigmahat_kernels.parallel import Pause, available_threads
from sigmahat_kernels.triton import PythonModel, read_parameters
from sigmahat_kernels.turns import Overdue, Turn, Turns

MAX_QUEUED = 64
"""Requests of one step that wait or are computed: what comes then is refused."""

MAX_QUEUED_BYTES = 2 * 2**30
"""Bytes of their tensors, unless one alone is larger."""

PATIENCE_S = 60.0
"""A request that names no time is refused if it has not begun by then."""

AT_ONCE = 15.0
"""Milliseconds: what costs less, and finds nobody here, is computed in Triton's thread. That takes no new requests
meanwhile; but to hand a request to another thread, and its answer to Triton, costs more than a small one itself."""

_GAP = 0.25
"""After Triton's thread has computed an answer, a request that comes within this share of the time which that took has
waited for it, and so may others: Triton does not say how many wait, and a caller needs longer to ask again."""

_PART = 16
"""Universes that occupy one thread, at least: see `groups.parts_of`."""


class Work(NamedTuple):
    """A request that was read, and is to be computed."""

    cost: float  # milliseconds of one core, see `cost`
    n_universes: int
    answer: Callable[[Pause], dict[str, Array]]  # what it is given is to be called between slices


class SlicedModel(PythonModel):
    """Base of a ``TritonPythonModel`` that says what a request costs before it is computed.

    Requests are read in Triton's thread, which so refuses bad ones at once, and computed in threads of their own that
    take turns. Triton lets a model answer after `execute` has returned, by a response sender, but may take back the
    inputs: they are copied. A small request that finds nobody is answered at once, without any of that.
    """

    def plan(self, tensors: dict[str, Array], parameters: dict[str, Any], outputs: Sequence[str]) -> Work:
        """Read one request, which asks for some of the outputs.

        When it is answered `tensors` may hold copies: arrays that were taken from it before are no longer to be read.

        Raises
        ------
        InvalidRequest, CostTooHigh
            Sent to the caller as INVALID_ARGUMENT, with their message.
        """
        raise NotImplementedError

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once for each instance."""
        self._turns = Turns(available_threads())
        self._threads = ThreadPoolExecutor(MAX_QUEUED)
        self._bytes, self._bytes_lock = 0, Lock()
        self._busy_until = 0.0  # Triton's thread with an answer, and the gap after it
        super().initialize(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton; None stands for an answer that is still to come."""
        return [self._begin(request) for request in requests]

    def finalize(self) -> None:
        """Called by Triton before the instance ends."""
        self._threads.shutdown()
        super().finalize()

    def _begin(self, request: Any) -> Any:
        try:
            tensors = self._read(request)
            nbytes = sum(tensor.nbytes for tensor in tensors.values())
            waiting = len(self._turns)
            if waiting >= MAX_QUEUED or (waiting and self._bytes + nbytes > MAX_QUEUED_BYTES):
                seconds = max(1.0, 1e-3 * self._turns.cost / available_threads())
                message = f"Exceeds maximum queue size: {waiting} requests are here, try again in about {seconds:.0f} s"
                return self._refuse("queue", message, pb_utils.TritonError.UNAVAILABLE)
            parameters, names = read_parameters(request), request.requested_output_names()
            work = self.plan(tensors, parameters, names)
            caller = parameters.get("caller", "")
        except Exception as error:  # each becomes an answer
            return self._failed(error)
        allowed_s = 1e-6 * request.timeout()
        turn = self._turns.stand(
            work.cost,
            width=-(-work.n_universes // _PART),
            deadline=time.monotonic() + (allowed_s or PATIENCE_S),
            caller=caller,
        )
        begin = time.monotonic()
        if not waiting and work.cost < AT_ONCE and begin > self._busy_until:
            response = self._computed(work, turn, allowed_s, names)
            end = time.monotonic()
            self._busy_until = end + _GAP * (end - begin)
            return response
        tensors.update({name: np.array(tensor) for name, tensor in tensors.items()})
        self._hold(nbytes)
        self._note_queue()
        self._threads.submit(self._finish, work, turn, allowed_s, names, request.get_response_sender(), nbytes)
        return None

    def _finish(self, work: Work, turn: Turn, allowed_s: float, names: Sequence[str], sender: Any, nbytes: int) -> None:
        response = self._computed(work, turn, allowed_s, names)
        self._hold(-nbytes)
        self._note_queue()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _computed(self, work: Work, turn: Turn, allowed_s: float, names: Sequence[str]) -> Any:
        begin = time.monotonic()
        try:
            with heartbeat.working(), self._turns.left_after(turn):
                turn.pause()
                if not allowed_s:
                    turn.deadline = float("inf")  # what has begun is finished
                response = self._write(names, work.answer(turn.pause))
            self._count(begin)
            self.meters.add(COST, work.cost, step=self.step)
            return response
        except Overdue:
            message = f"Request timeout expired: not answered within {allowed_s or PATIENCE_S:.3g} s"
            return self._refuse("deadline", message, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # each becomes an answer
            return self._failed(error)

    def _hold(self, nbytes: int) -> None:
        with self._bytes_lock:
            self._bytes += nbytes

    def _note_queue(self) -> None:
        self.meters.set(QUEUED, len(self._turns), step=self.step)
        self.meters.set(QUEUED_COST, self._turns.cost, step=self.step)
