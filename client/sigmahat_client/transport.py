# SPDX-License-Identifier: Apache-2.0
"""Tensors to Triton and back over gRPC, several requests at a time. The only module that imports tritonclient."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from sigmahat_client.errors import DeadlineExceeded, error_from_grpc

Tensors = Mapping[str, np.ndarray]
Key = TypeVar("Key")

_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}


class Connection:
    """A channel to one server; it connects with the first request.

    Requests are never cancelled: Triton 2.51 can crash when a request inside an ensemble is. One that nobody waits for
    any more, because a deadline passed or another request failed, is left to finish, and its answer is dropped.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        channel_args = [
            # gRPC's own limit is 4 MB; tritonclient lifts it only where it gets no channel arguments.
            ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
            ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
            # gRPC would send even loopback through the proxy in `http_proxy`.
            ("grpc.enable_http_proxy", int(url.rpartition(":")[0] not in _LOOPBACK)),
        ]
        self._client = triton.InferenceServerClient(url, channel_args=channel_args)
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

    def answers(
        self,
        model: str,
        shared: Tensors,
        requests: Iterable[tuple[Key, Tensors]],
        *,
        outputs: Sequence[str],
        parameters: Mapping[str, bool],
        in_flight: int,
        deadline: float,
    ) -> Generator[tuple[Key, Tensors], None, None]:
        """Yield the answer to each request, in order of arrival; a request is built only when it can be sent.

        Parameters
        ----------
        shared : mapping of names to arrays
            Tensors that go with every request; they are encoded once.
        requests : iterable of (key, tensors)
            The key comes back with the answer.
        in_flight : int
            How many requests may wait for their answers at a time.
        deadline : float
            In seconds of `time.monotonic`, for all requests together.

        Raises
        ------
        InvalidRequest, ServerUnavailable, DeadlineExceeded, ServerError
            As soon as one request fails, or the deadline passes; nobody waits for the others then.
        """
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        shared_inputs = _inputs(shared)
        arrived: SimpleQueue[tuple[Key, Any, Any]] = SimpleQueue()

        def receive(key: Key, result: Any, error: Any) -> None:  # called by gRPC's threads
            arrived.put((key, result, error))
            self._answered()

        unsent, waiting = iter(requests), 0
        while True:
            for key, tensors in islice(unsent, in_flight - waiting):
                with self._lock:
                    self._unanswered += 1
                waiting += 1
                self._client.async_infer(
                    model,
                    shared_inputs + _inputs(tensors),
                    partial(receive, key),
                    outputs=wanted,
                    parameters=dict(parameters),
                )
            if not waiting:
                return
            try:
                key, result, error = arrived.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                raise DeadlineExceeded(f"{self._url}: {waiting} requests are unanswered") from None
            waiting -= 1
            if error is not None:
                raise error_from_grpc(error.status() or "UNKNOWN", error.message() or "", self._url)
            yield key, {name: result.as_numpy(name) for name in outputs}


def _inputs(tensors: Tensors) -> list[Any]:
    return [
        triton.InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype)).set_data_from_numpy(tensor)
        for name, tensor in tensors.items()
    ]
