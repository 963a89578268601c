# SPDX-License-Identifier: Apache-2.0
"""Tensors to Triton and back over gRPC. The only module that imports tritonclient."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sigmahat_client.backend import Deliver, Outcome, Read, Send, Tensors, outcome_of
from sigmahat_client.endpoints import Tls, addresses, channel_options, is_loopback, tls_arguments
from sigmahat_client.errors import NoServer, ServerUnavailable, error_from_grpc, no_server
from sigmahat_client.shared_memory import Pool, Region, key_headers

SHARED_FROM = 1 << 20
"""Bytes of COVARIANCE from which shared memory is used: below, the difference cannot be measured."""

_CONTACT_S = 2.0
_REGISTER_S = 2.0
_AVOIDED_S = 2.0
_LOST = "Unable to find shared memory region"


@dataclass
class _Endpoint:
    address: str
    client: Any
    unanswered: int = 0
    asked: float = 0.0  # when, last
    refused: float = -math.inf  # when, last
    found: bool | None = None  # a server, at least once; None: not known yet


class Connection:
    """Channels to one server or several; they connect with the first request.

    Requests are never cancelled: Triton 2.51 can crash when a request inside an ensemble is. One that nobody waits for
    any more, because a deadline passed or another request failed, is left to finish, and its answer is dropped.

    Parameters
    ----------
    retries : bool
        Whether gRPC sends again what an unavailable server refused.
    shared_memory : bool
        Whether one server on this machine may be asked to write matrices into shared memory. Where that turns out not
        to work, they come through gRPC.
    """

    def __init__(
        self, url: str | Sequence[str], tls: Tls | None = None, *, retries: bool = True, shared_memory: bool = True
    ) -> None:
        self._endpoints = [
            _Endpoint(
                address,
                triton.InferenceServerClient(
                    address, channel_args=channel_options(address, tls, retries=retries), **tls_arguments(tls)
                ),
            )
            for address in addresses(url)
        ]
        self.n_endpoints = len(self._endpoints)
        near = self.n_endpoints == 1 and is_loopback(self._endpoints[0].address)
        self.pool = Pool(self._register, self._unregister, usable=shared_memory and near)
        self.caller = secrets.token_hex(8)  # a server that is fair to callers must tell them apart
        self._lock = threading.Lock()
        self._closing = False

    def close(self) -> None:
        """Close the channels, once the last answer is in: closing them earlier would cancel what is under way."""
        with self._lock:
            self._closing = True
            idle = self._is_idle()
        if idle:
            self._close()

    def _is_idle(self) -> bool:
        return not any(endpoint.unanswered for endpoint in self._endpoints)

    def _close(self) -> None:
        self.pool.close()
        for endpoint in self._endpoints:
            endpoint.client.close()

    def choose(self) -> _Endpoint:
        """Choose whom to ask, and note that he is asked.

        The one with the fewest unanswered requests, in turn among equals: one that has gone silent is left alone, and
        one that is slow gets less. One that has just refused would always be free, so it comes last for a while.
        """
        with self._lock:
            now = time.monotonic()
            chosen = min(self._endpoints, key=lambda e: (e.refused + _AVOIDED_S > now, e.unanswered, e.asked))
            chosen.unanswered += 1
            chosen.asked = now
            return chosen

    def answered(self, endpoint: _Endpoint, outcome: Outcome, seconds: float) -> Outcome:
        """Note what came of a request after so many seconds.

        A closed port means that a server is restarting, if there ever was one. At the first contact with all endpoints
        nobody is waited for. gRPC's own retries take less than a second to say so: after longer, a server was there.
        """
        with self._lock:
            endpoint.unanswered -= 1
            if isinstance(outcome, ServerUnavailable):
                endpoint.refused = time.monotonic()
            endpoint.found = bool(endpoint.found) or not isinstance(outcome, NoServer) or seconds > _CONTACT_S
            nobody = all(e.found is False for e in self._endpoints)
            last = self._closing and self._is_idle()
        if last:  # in a thread of its own: this one is gRPC's, which the channel waits for
            threading.Thread(target=self._close, daemon=True).start()
        if isinstance(outcome, NoServer):
            if not nobody:
                return ServerUnavailable(str(outcome))
            return outcome if self.n_endpoints == 1 else no_server(e.address for e in self._endpoints)
        return outcome

    def is_live(self, timeout_s: float) -> bool:
        """See `Backend.is_live`."""
        return any(_is_live(endpoint.client, timeout_s / self.n_endpoints) for endpoint in self._endpoints)

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
        """See `Backend.sender`; `shared` is encoded once."""
        return _Requests(self, model, shared, outputs, parameters, headers, deadline).send

    def _register(self, name: str, nbytes: int) -> None:
        endpoint = self._endpoints[0]
        endpoint.client.register_system_shared_memory(
            name, f"/{name}", nbytes, headers=key_headers(endpoint.address), client_timeout=_REGISTER_S
        )

    def _unregister(self, name: str) -> None:
        endpoint = self._endpoints[0]
        endpoint.client.unregister_system_shared_memory(
            name, headers=key_headers(endpoint.address), client_timeout=_REGISTER_S
        )


class _Requests:
    """The requests of one job."""

    def __init__(
        self,
        connection: Connection,
        model: str,
        shared: Tensors,
        outputs: Sequence[str],
        parameters: Mapping[str, bool],
        headers: Mapping[str, str],
        deadline: float,
    ) -> None:
        self._connection = connection
        self._pool = connection.pool
        self._model = model
        self._shared = _inputs(shared)
        self._outputs = {name: triton.InferRequestedOutput(name) for name in outputs}
        self._parameters = {**parameters, "caller": connection.caller}
        self._headers = dict(headers)
        self._deadline = deadline

    def send(self, tensors: Tensors, read: Read, deliver: Deliver) -> None:
        n, width = tensors["UNIVERSES"].shape
        nbytes = 4 * n * width**2
        region = self._pool.take(nbytes) if "COVARIANCE" in self._outputs and nbytes >= SHARED_FROM else None
        outputs = self._outputs
        if region is not None:
            covariance = triton.InferRequestedOutput("COVARIANCE")
            covariance.set_shared_memory(region.name, nbytes)
            outputs = {**outputs, "COVARIANCE": covariance}
        endpoint = self._connection.choose()
        begin = time.monotonic()

        def callback(result: Any, error: Any) -> None:
            outcome = outcome_of(lambda: read(self._answer(result, error, region, endpoint.address)))
            if region is not None:
                self._pool.give(region)
            deliver(self._connection.answered(endpoint, outcome, time.monotonic() - begin))

        endpoint.client.async_infer(
            self._model,
            self._shared + _inputs(tensors),
            callback,
            outputs=list(outputs.values()),
            parameters=self._parameters,
            headers=self._headers,
            timeout=max(1, int(1e6 * (self._deadline - time.monotonic()))),
        )

    def _answer(self, result: Any, error: Any, region: Region | None, address: str) -> Tensors:
        if error is not None:
            message = error.message() or ""
            if region is not None and _LOST in message:
                self._pool.forget(region)
                raise ServerUnavailable(f"{address}: the server was restarted")
            raise error_from_grpc(error.status() or "UNKNOWN", message, address)
        answer = {name: result.as_numpy(name) for name in self._outputs if region is None or name != "COVARIANCE"}
        if region is not None:
            answer["COVARIANCE"] = region.array(tuple(result.get_output("COVARIANCE").shape))
        return answer


def _is_live(client: Any, timeout_s: float) -> bool:
    try:
        return bool(client.is_server_live(client_timeout=timeout_s))
    except InferenceServerException:
        return False


def _inputs(tensors: Tensors) -> list[Any]:
    return [
        triton.InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype)).set_data_from_numpy(tensor)
        for name, tensor in tensors.items()
    ]
