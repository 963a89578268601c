# SPDX-License-Identifier: Apache-2.0
"""Write the golden requests, and the answers that a real server gives to them, beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sigmahat_kernels.files import write_whole

FOLDER = Path(__file__).parent


def main() -> None:
    """Ask a server that runs for this alone."""
    from sigmahat_deploy.probe import probe_shrinkage
    from sigmahat_deploy.server import local_server

    repository = FOLDER.parents[1] / "model_repository"
    with local_server(repository, grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage) as server:
        for name, request in requests().items():
            write(f"{name}.request.json", MessageToDict(request))
            kind, answer = ask(server.grpc_url, request)
            write(f"{name}.{kind}.json", answer)


def write(name: str, content: Any) -> None:
    """Write one file whole."""
    text = json.dumps(content, indent=1) + "\n"
    write_whole(FOLDER / name, lambda file: file.write(text.encode()))


def ask(url: str, request: Any) -> tuple[str, dict[str, Any]]:
    """Return ("response", the answer) or ("error", its code and text)."""
    with grpc.insecure_channel(url, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        except grpc.RpcError as error:
            return "error", {"code": error.code().name, "message": error.details()}
    return "response", MessageToDict(answer)


def requests() -> dict[str, Any]:
    """One of each kind: the least, everything, some universes refused, and the whole refused."""
    rng = np.random.default_rng(20)
    market = rng.standard_normal((60, 1))
    panel = (0.01 * (market + rng.standard_normal((60, 8)))).astype(np.float32)
    panel[:5, 6] = np.nan
    panel[:, 7] = 0.0
    universes = np.array([[0, 1, 2, 3], [4, 5, 6, -1]], np.int32)
    everything = {
        "PANEL": panel,
        "UNIVERSES": universes,
        "WINDOWS": np.array([[0, 60], [10, 60]], np.int32),
        "MARKET": np.column_stack([np.linspace(15, 25, 60), np.ones(60)]).astype(np.float32),
        "DATES": np.arange(18262, 18322, dtype=np.int32),
        "BLOCKS": np.array([[0, 0, 3, 3], [0, 3, 3, -1]], np.int32),
    }
    books = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [2, -1, 0, 0, 0, 0, 0, 0.5], [np.nan, *[0] * 7]], np.float32)
    some_bad = np.array([[0, 1, 2], [0, 1, 99], [3, 3, -1], [0, 7, -1], [5, -1, -1]], np.int32)
    return {
        "shrinkage": infer("shrinkage", {"PANEL": panel, "UNIVERSES": universes}),
        "covariance": infer("covariance", everything),
        "classic": infer("covariance", {"PANEL": panel, "UNIVERSES": universes}, classic=True),
        "risk": infer("risk", {**everything, "PORTFOLIOS": books}, minimum_variance=True),
        "some_bad": infer("covariance", {"PANEL": panel, "UNIVERSES": some_bad}),
        "refused": infer("covariance", {"PANEL": panel, "UNIVERSES": universes, "DATES": np.arange(5, dtype=np.int32)}),
    }


def infer(model: str, tensors: dict[str, np.ndarray], **parameters: bool) -> Any:
    """Build a request."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, tensor in tensors.items():
        datatype = {"float32": "FP32", "int32": "INT32"}[tensor.dtype.name]
        request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    return request


if __name__ == "__main__":
    main()
