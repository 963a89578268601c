# SPDX-License-Identifier: Apache-2.0
"""One small real request, the only proof that a server works from end to end."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from sigmahat_deploy.server import LocalServer, ServerError

_DIRECT = [("grpc.enable_http_proxy", 0)]
"""gRPC would send even loopback through the proxy in ``http_proxy``."""

_OUTPUTS = ("STATUS", "INTENSITY")
_OF_LAST_STEP = {"covariance": ("COVARIANCE",), "risk": ("DIAGONAL",)}
"""Model -> what makes its last step work: Triton leaves out a step of which nothing is asked."""


BUSY = re.compile(r"maximum queue size|timeout expired", re.IGNORECASE)
"""What a probe gets from a server that has more work than it can do, and is well otherwise."""


class ProbeTimeout(ServerError):
    """There was no answer in time, which says nothing about its being right."""


def probe_shrinkage(server: LocalServer | str, timeout_s: float = 10.0, model: str = "shrinkage") -> None:
    """Ask `model` for two small universes and check the answer.

    Parameters
    ----------
    server : LocalServer or str
        A server of this machine, or host:port of any server's gRPC without TLS. A server with TLS is asked over HTTP,
        which it has on loopback: this process has no certificate that it would take.
    timeout_s : float
        Seconds that the answer may take.
    model : str
        `shrinkage`, or `covariance` or `risk`, which have one step more.

    Raises
    ------
    ProbeTimeout
        If there is no answer in time.
    ServerError
        If there is none at all, a STATUS is not 0, or an INTENSITY is not a number in [0, 1].
    """
    panel = (0.01 * np.random.default_rng(0).standard_normal((64, 5))).astype(np.float32)
    universes = np.array([[0, 1, 2, 3], [1, 2, 4, -1]], dtype=np.int32)  # the second is smaller, so padded
    if isinstance(server, LocalServer) and server.tls is not None:
        over_http = tritonclient.http.InferenceServerClient(
            server.http_url, connection_timeout=timeout_s, network_timeout=timeout_s
        )
        status, intensity = _infer(tritonclient.http, over_http, model, panel, universes)
    else:
        grpc_url = server.grpc_url if isinstance(server, LocalServer) else server
        over_grpc = tritonclient.grpc.InferenceServerClient(grpc_url, channel_args=_DIRECT)
        status, intensity = _infer(tritonclient.grpc, over_grpc, model, panel, universes, client_timeout=timeout_s)

    n_universes = len(universes)
    if status.shape != (n_universes,) or status.any():
        raise ServerError(f"{model} should answer the probe with STATUS {[0] * n_universes}, got {status.tolist()}")
    # A comparison with NaN is false, so this refuses what is not finite too.
    if intensity.shape != (n_universes,) or not ((intensity >= 0) & (intensity <= 1)).all():
        raise ServerError(
            f"{model} should answer the probe with {n_universes} INTENSITY in [0, 1], got {intensity.tolist()}"
        )


def _infer(
    protocol: ModuleType, client: Any, model: str, panel: np.ndarray, universes: np.ndarray, **options: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ask through one of tritonclient's two protocols, which differ in nothing else, and close `client`."""
    inputs = [
        protocol.InferInput("PANEL", list(panel.shape), "FP32"),
        protocol.InferInput("UNIVERSES", list(universes.shape), "INT32"),
    ]
    for tensor, values in zip(inputs, (panel, universes), strict=True):
        tensor.set_data_from_numpy(values)
    outputs = [protocol.InferRequestedOutput(name) for name in (*_OUTPUTS, *_OF_LAST_STEP.get(model, ()))]
    try:
        with client:
            answer = client.infer(model, inputs, outputs=outputs, **options)
    except InferenceServerException as error:
        kind = ProbeTimeout if error.status() == "StatusCode.DEADLINE_EXCEEDED" else ServerError
        raise kind(f"{model} did not answer the probe: {error.message()}") from error
    except TimeoutError as error:
        raise ProbeTimeout(f"{model} did not answer the probe: {error}") from error
    except (OSError, HTTPParseError, ValueError) as error:  # what tritonclient's HTTP half lets through
        raise ServerError(f"{model} did not answer the probe: {error}") from error
    status, intensity = answer.as_numpy("STATUS"), answer.as_numpy("INTENSITY")
    if status is None or intensity is None:
        raise ServerError(f"{model} answered the probe without STATUS or without INTENSITY, which it must both give")
    return status, intensity
