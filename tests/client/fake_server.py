# SPDX-License-Identifier: Apache-2.0
"""A gRPC server that speaks Triton's protocol and answers numbers a test can foretell: no Triton and no members."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from sigmahat_kernels.request import PADDING, block_ids, check_universes, read_request
from sigmahat_kernels.status import InvalidRequest

HEADS = {  # name -> what its first column adds to the universe's first asset, and its shape behind the universe axis
    "INTENSITY": (0, ()),
    "TARGET_WEIGHTS": (1000, (3,)),
    "TARGET_INTENSITY": (2000, (3,)),
    "TARGET_CONFIDENCE": (3000, (3,)),
    "MEMORY": (4000, (1,)),
    "FACTOR_MEMORY": (4500, (1,)),
    "VOLATILITY": (5000, (4,)),
    "INTENSITY_TILT": (10_000, (12,)),
    "VOLATILITY_TILT": (11_000, (12,)),
    "LEVEL": (12_000, (2,)),
    "CONDITION": (6000, ()),
    "EXPECTED_ERROR": (7000, ()),
    "REGIME": (8000, (4,)),
    "UNCERTAINTY": (9000, (2,)),
}


class Received(NamedTuple):
    """One request as it arrived."""

    model: str
    tensors: dict[str, np.ndarray]
    parameters: dict[str, Any]
    outputs: list[str]


Hook = Callable[["FakeServer", int, Any], object]
Change = Callable[[dict[str, np.ndarray]], object]


class FakeServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers requests; `hook(server, number, context)` may wait or abort first, `change(answer)` may spoil it."""

    def __init__(self, hook: Hook | None, change: Change | None) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._hook = hook
        self._change = change

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802, the protocol's name
        received = Received(
            request.model_name,
            {
                tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(list(tensor.shape))
                for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            },
            {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()},
            [output.name for output in request.outputs],
        )
        with self._lock:
            number = len(self.received)
            self.received.append(received)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self._hook is not None:
                self._hook(self, number, context)
            answer = foretold(received.tensors, covariance="COVARIANCE" in received.outputs)
            if self._change is not None:
                self._change(answer)
        except InvalidRequest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in ensemble 'shrinkage', {error}")
        finally:
            with self._lock:
                self._at_once -= 1
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name in received.outputs:
            if name in answer:
                dtype = np_to_triton_dtype(answer[name].dtype)
                response.outputs.add(name=name, datatype=dtype, shape=answer[name].shape)
                response.raw_output_contents.append(answer[name].tobytes())
        return response


@contextmanager
def fake_server(
    hook: Hook | None = None,
    change: Change | None = None,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[FakeServer]:
    """Serve on this machine, by default on a free port and without TLS."""
    servicer = FakeServer(hook, change)
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    servicer.url = f"127.0.0.1:{port}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(grace=None).wait()


def foretold(tensors: dict[str, np.ndarray], *, covariance: bool) -> dict[str, np.ndarray]:
    """Answer with the first asset's column number, so that a row tells whose it is; statuses are the real ones.

    Column k of a head adds k, COVARIANCE[i, j] is 1000 column_i + column_j, and a block's intensity is its smallest
    column + 0.5.
    """
    request = read_request(**{name.lower(): tensor for name, tensor in tensors.items()})
    universes = request.universes
    status, asset = check_universes(request)
    bad = status != 0
    first = np.where(bad, np.nan, universes[:, 0])
    answer = {"STATUS": status, "STATUS_ASSET": asset, "WARNINGS": np.zeros_like(status)}
    answer["ASSET_WARNINGS"] = np.empty((0, 3), np.int32)
    for name, (offset, shape) in HEADS.items():
        head = first[:, None] + offset + np.arange(shape[0] if shape else 1)
        answer[name] = head.reshape(-1, *shape).astype(np.float32)
    if request.blocks is not None:
        ids = block_ids(universes, request.blocks)
        intensity = np.tile(first[:, None], len(ids))
        for u, universe in enumerate(universes):
            for b, block in enumerate(ids):
                columns = universe[request.blocks[u] == block]
                intensity[u, b] = columns.min() + 0.5 if len(columns) else first[u]
        answer["BLOCK_INTENSITY"] = np.where(bad[:, None], np.nan, intensity).astype(np.float32)
    if not covariance:
        return answer
    columns = np.where((universes == PADDING) | bad[:, None], np.nan, universes)
    answer["COVARIANCE"] = (1000 * columns[:, :, None] + columns[:, None, :]).astype(np.float32)
    return answer
