# SPDX-License-Identifier: Apache-2.0
"""Base of the ``model.py`` of steps with much to compute: on a CPU small requests pass large ones between slices."""

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
from sigmahat_kernels.parallel import Pause, available_threads, go_on
from sigmahat_kernels.triton import PythonModel, read_parameters
from sigmahat_kernels.turns import Overdue, Turn, Turns

MAX_QUEUED = 64
"""Requests of one step that wait or are computed: what comes then is refused."""

MAX_QUEUED_BYTES = 2 * 2**30
"""Bytes of their tensors, unless one alone is larger."""

PATIENCE_S = 60.0
"""A request that names no time is refused if it has not begun by then."""

DEADLINE = "DEADLINE"
"""Tensor of one number, in seconds of `time.monotonic`: when the time that a caller allows is over. The first sliced
step of an ensemble makes it, and a later one reads it. Infinite without a `timeout`: what has begun is finished."""

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
    inputs: they are copied. On a GPU, where one request fills the device, requests are answered one after the other.
    """

    def plan(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> Work:
        """Read one request.

        Raises
        ------
        InvalidRequest, CostTooHigh
            Sent to the caller as INVALID_ARGUMENT, with their message.
        """
        raise NotImplementedError

    def answer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """See `PythonModel.answer`."""
        tensors.pop(DEADLINE, None)
        return {**self.plan(tensors, parameters).answer(go_on), DEADLINE: np.array([np.inf])}

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once for each instance."""
        self._turns = Turns(available_threads())
        self._threads = ThreadPoolExecutor(MAX_QUEUED)
        self._bytes, self._bytes_lock = 0, Lock()
        super().initialize(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton; None stands for an answer that is still to come."""
        if self.on_gpu:
            return super().execute(requests)
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
            parameters = read_parameters(request)
            begun_before = tensors.pop(DEADLINE, None)
            work = self.plan({name: np.array(tensor) for name, tensor in tensors.items()}, parameters)
            caller = parameters.get("caller", "")
        except Exception as error:  # each becomes an answer
            return self._failed(error)
        allowed_s = 1e-6 * request.timeout()
        deadline = time.monotonic() + (allowed_s or PATIENCE_S) if begun_before is None else float(begun_before[0])
        turn = self._turns.stand(work.cost, width=-(-work.n_universes // _PART), deadline=deadline, caller=caller)
        self._hold(nbytes)
        self._note_queue()
        names, sender = request.requested_output_names(), request.get_response_sender()
        self._threads.submit(self._finish, work, turn, allowed_s, names, sender, nbytes)
        return None

    def _finish(self, work: Work, turn: Turn, allowed_s: float, names: Sequence[str], sender: Any, nbytes: int) -> None:
        begin = time.monotonic()
        try:
            with heartbeat.working(), self._turns.left_after(turn):
                turn.pause()
                if not allowed_s:
                    turn.deadline = float("inf")  # what has begun is finished
                outputs = {**work.answer(turn.pause), DEADLINE: np.array([turn.deadline])}
                response = self._write(names, outputs)
            self._count(begin)
            self.meters.add(COST, work.cost, step=self.step)
        except Overdue:
            message = f"Request timeout expired: not answered within {allowed_s or PATIENCE_S:.3g} s"
            response = self._refuse("deadline", message, pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # each becomes an answer
            response = self._failed(error)
        self._hold(-nbytes)
        self._note_queue()
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _hold(self, nbytes: int) -> None:
        with self._bytes_lock:
            self._bytes += nbytes

    def _note_queue(self) -> None:
        self.meters.set(QUEUED, len(self._turns), step=self.step)
        self.meters.set(QUEUED_COST, self._turns.cost, step=self.step)
