# SPDX-License-Identifier: Apache-2.0
"""Requests that no client of ours would send, straight to the gRPC port."""

from __future__ import annotations

import time
from collections import Counter

import grpc
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from benchmarks.figures import Figures
from benchmarks.reliability.load import probe, tensors
from benchmarks.reliability.service import Service, wait_for

HUGE = 7_046_029_254_386_353_131
"""A dimension near no power of two: no product with it of four bytes each is, modulo 2^64, as small as what is sent.
Triton would take that for right, see `shape_overflow`."""


def bad_requests(service: Service, n_requests: int) -> Figures:
    """Generated requests straight to the gRPC port; a good neighbour must get its answer, bit by bit, all along."""
    raw, deaths = Raw(service.url), len(service.events("died"))
    asked = message(tensors(3, 20, 1))

    def ask() -> dict[str, bytes]:
        answer = raw.send(asked)
        return dict(zip((t.name for t in answer.outputs), answer.raw_output_contents, strict=True)) if answer else {}

    first = ask()
    assert first
    sent, neighbours = Counter[str](), Counter[str]()

    def judge(answer: dict[str, bytes]) -> str:
        return "unanswered" if not answer else "right" if answer == first else "wrong"

    @settings(
        max_examples=n_requests,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed())
    def send(request: ModelInferRequest) -> None:
        raw.send(request)
        sent["requests"] += 1
        if sent["requests"] % 20 == 0:
            neighbours[judge(ask())] += 1

    send()
    raw.close()
    return {
        **sent,
        "codes": dict(raw.codes),
        "hung": raw.codes["DEADLINE_EXCEEDED"],
        "stack_traces": raw.codes["stack trace"],
        "neighbours": neighbours.total(),
        "wrong_neighbours": neighbours["wrong"],
        "unanswered_neighbours": neighbours["unanswered"],
        "server_deaths": len(service.events("died")) - deaths,
        "death_reasons": [event["reason"] for event in service.events("died")[deaths:]],
    }


def shape_overflow(service: Service) -> Figures:
    """A shape of as many bytes modulo 2^64 as are sent, here 0: Triton 2.51 lets it pass.

    A Python model's process dies of it. No model can prevent that; the service must be well again by itself.
    """
    deaths = len(service.events("died"))
    request = message(tensors(1, 20, 0))
    request.inputs[0].shape[:] = [2**62, 1]
    request.raw_input_contents[0] = b""
    raw = Raw(service.url)
    raw.send(request)
    raw.close()
    wait_for(lambda: len(service.events("died")) > deaths)
    begin = time.monotonic()
    wait_for(lambda: not probe(service.url, 1.0))
    return {"server_deaths": len(service.events("died")) - deaths, "recovery_s": round(time.monotonic() - begin, 2)}


class Raw:
    """The bare gRPC stub, through which anything can be sent."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.codes: Counter[str] = Counter()

    def send(self, request: ModelInferRequest, timeout_s: float = 30.0) -> service_pb2.ModelInferResponse | None:
        """Send and count the code; None where the server refused."""
        try:
            answer = self._stub.ModelInfer(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self.codes[error.code().name] += 1
            if "Traceback" in (error.details() or ""):
                self.codes["stack trace"] += 1
            return None
        self.codes["OK"] += 1
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def message(arrays: dict[str, np.ndarray], model: str = "shrinkage") -> ModelInferRequest:
    """A request in protobuf."""
    request = ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        kind = {"f4": "FP32", "i4": "INT32"}[array.dtype.str[1:]]
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


@st.composite
def malformed(draw: st.DrawFn) -> ModelInferRequest:
    """A small request with up to four things wrong: tensors, names, types, shapes, bytes, values, parameters."""
    n_rows, n_columns, n, size = (draw(st.integers(0, most)) for most in (60, 12, 4, 6))
    floats = st.sampled_from([0.01, -0.02, 0.0, np.nan, np.inf, -np.inf, 1e38, 1e-45, 99.0])
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    returns = (0.01 * rng.standard_normal((n_rows, n_columns))).astype(np.float32)
    for _ in range(draw(st.integers(0, 3)) if returns.size else 0):
        returns.flat[draw(st.integers(0, returns.size - 1))] = draw(floats)
    whole = st.one_of(st.integers(-2, 14), st.sampled_from([-(2**31), 2**31 - 1]))

    def numbers(*shape: int) -> np.ndarray:
        many = int(np.prod(shape))
        return np.array(draw(st.lists(whole, min_size=many, max_size=many)), np.int32).reshape(shape)

    arrays = {"PANEL": returns, "UNIVERSES": numbers(n, size)}
    optional = {
        "WINDOWS": lambda: numbers(n, 2),
        "DATES": lambda: np.arange(n_rows, dtype=np.int32),
        "BLOCKS": lambda: numbers(n, size),
        "MARKET": lambda: np.ones((n_rows, draw(st.integers(0, 5))), np.float32),
    }
    for name in draw(st.sets(st.sampled_from(sorted(optional)))):
        arrays[name] = optional[name]()
    request = message(arrays, draw(st.sampled_from(["shrinkage", "covariance", "shrinkage", "features-r1", "", "x\n"])))
    for _ in range(draw(st.integers(0, 4))):
        _spoil(draw, request)
    return request


def _spoil(draw: st.DrawFn, request: ModelInferRequest) -> None:
    kinds = ["version", "id", "output", "parameter", "extra"] + ["drop", "name", "type", "shape", "bytes", "typed"] * 2
    kind = draw(st.sampled_from(kinds))
    if kind == "version":
        request.model_version = draw(st.sampled_from(["1", "2", "99", "-1", "x", "18446744073709551616"]))
    elif kind == "id":
        request.id = draw(st.text(max_size=20))
    elif kind == "output":
        name = draw(st.sampled_from(["INTENSITY", "COVARIANCE", "PARAMETERS_INTERNAL", "", "nothing"]))
        output = request.outputs.add(name=name)
        if draw(st.booleans()):
            output.parameters["shared_memory_region"].string_param = "nowhere"
            output.parameters["shared_memory_byte_size"].int64_param = draw(st.integers(-1, 2**40))
    elif kind == "parameter":
        name = draw(st.sampled_from(["classic", "timeout", "priority", "sequence_id", "sequence_start", "x"]))
        parameter = request.parameters[name]
        match draw(st.integers(0, 3)):
            case 0:
                parameter.bool_param = draw(st.booleans())
            case 1:
                parameter.int64_param = draw(st.integers(-1, 2**40))
            case 2:
                parameter.string_param = draw(st.text(max_size=8))
            case 3:
                parameter.double_param = draw(st.floats())
    elif kind == "extra":
        request.raw_input_contents.append(draw(st.binary(max_size=16)))
    elif len(request.inputs):
        k = draw(st.integers(0, len(request.inputs) - 1))
        tensor = request.inputs[k]
        if kind == "drop":
            del request.inputs[k]
            if draw(st.booleans()) and k < len(request.raw_input_contents):
                del request.raw_input_contents[k]
        elif kind == "name":
            tensor.name = draw(st.sampled_from(["PANEL", "UNIVERSES", "WINDOWS", "", "\0", "x" * 999]))
        elif kind == "type":
            tensor.datatype = draw(st.sampled_from(["FP32", "INT32", "INT64", "FP64", "BYTES", "BOOL", "", "x"]))
        elif kind == "shape":
            dimension = st.one_of(st.integers(-2, 70), st.sampled_from([1_000_003, HUGE, -HUGE]))
            tensor.shape[:] = draw(st.lists(dimension, max_size=4))
        elif kind == "bytes" and k < len(request.raw_input_contents):
            old = request.raw_input_contents[k]
            request.raw_input_contents[k] = draw(st.sampled_from([old[:-1], old[:-4], old + b"\0" * 4, b"", old * 2]))
        elif kind == "typed":
            tensor.contents.fp32_contents.extend([0.01] * draw(st.integers(0, 30)))
