# SPDX-License-Identifier: Apache-2.0
"""Tensors to Triton and back over gRPC. The only module that imports tritonclient."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from sigmahat_client.endpoints import Tls, addresses, channel_options, target, tls_arguments
from sigmahat_client.errors import error_from_grpc

Tensors = Mapping[str, np.ndarray]


class Connection:
    """A channel to one server or several; it connects with the first request.

    Requests are never cancelled: Triton 2.51 can crash when a request inside an ensemble is. One that nobody waits for
    any more, because a deadline passed or another request failed, is left to finish, and its answer is dropped.
    """

    def __init__(self, url: str | Sequence[str], tls: Tls | None = None, *, retries: bool = True) -> None:
        found = addresses(url)
        self._name = ", ".join(found)
        self._client = triton.InferenceServerClient(
            target(found), channel_args=channel_options(found, tls, retries=retries), **tls_arguments(tls)
        )
        self._lock = threading.Lock()
        self._unanswered = 0
        self._closing = False

    def close(self) -> None:
        """Close the channel, once the last answer is in: closing it earlier would cancel what is under way."""
        with self._lock:
            self._closing = True
            idle = self._unanswered == 0
        if idle:
            self._client.close()

    def _answered(self) -> None:
        with self._lock:
            self._unanswered -= 1
            last = self._closing and self._unanswered == 0
        if last:  # in a thread of its own: this one is gRPC's, which the channel waits for
            threading.Thread(target=self._client.close, daemon=True).start()

    def sender(
        self,
        model: str,
        shared: Tensors,
        *,
        outputs: Sequence[str],
        parameters: Mapping[str, bool],
        deadline: float,
    ) -> Callable[[Tensors, Callable[[Any], object]], None]:
        """Make the function that sends one request of a job: `send(tensors, receive)`.

        `receive` is called once, from a thread of gRPC's, with the answer's tensors by name or with an exception.

        Parameters
        ----------
        shared : mapping of names to arrays
            Tensors that go with every request; they are encoded once.
        deadline : float
            In seconds of `time.monotonic`. The server drops a request that is still in its queue then.
        """
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        shared_inputs = _inputs(shared)

        def send(tensors: Tensors, receive: Callable[[Any], object]) -> None:
            def callback(result: Any, error: Any) -> None:
                try:
                    if error is not None:
                        raise error_from_grpc(error.status() or "UNKNOWN", error.message() or "", self._name)
                    receive({name: result.as_numpy(name) for name in outputs})
                except Exception as failure:  # here it would be lost, and the caller wait until the deadline
                    receive(failure)
                finally:
                    self._answered()

            with self._lock:
                self._unanswered += 1
            self._client.async_infer(
                model,
                shared_inputs + _inputs(tensors),
                callback,
                outputs=wanted,
                parameters=dict(parameters),
                timeout=max(1, int(1e6 * (deadline - time.monotonic()))),
            )

        return send


def _inputs(tensors: Tensors) -> list[Any]:
    return [
        triton.InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype)).set_data_from_numpy(tensor)
        for name, tensor in tensors.items()
    ]
