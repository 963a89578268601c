# SPDX-License-Identifier: Apache-2.0
"""One small real request, the only proof that a server works from end to end."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sigmahat_deploy.server import DIRECT, ServerError


def probe_shrinkage(grpc_url: str, timeout_s: float = 10.0) -> None:
    """Ask the model `shrinkage` for two small universes and check the answer.

    Parameters
    ----------
    grpc_url : str
        host:port of the server.
    timeout_s : float
        Seconds that the answer may take.

    Raises
    ------
    ServerError
        If there is no answer in time, a STATUS is not 0, or an INTENSITY is not a number in [0, 1].
    """
    panel = (0.01 * np.random.default_rng(0).standard_normal((64, 5))).astype(np.float32)
    universes = np.array([[0, 1, 2, 3], [1, 2, 4, -1]], dtype=np.int32)  # the second is smaller, so padded
    status, intensity = _infer(grpc_url, panel, universes, timeout_s)

    n_universes = len(universes)
    if status.shape != (n_universes,) or status.any():
        raise ServerError(f"shrinkage should answer the probe with STATUS {[0] * n_universes}, got {status.tolist()}")
    # A comparison with NaN is false, so this refuses what is not finite too.
    if intensity.shape != (n_universes,) or not ((intensity >= 0) & (intensity <= 1)).all():
        raise ServerError(
            f"shrinkage should answer the probe with {n_universes} INTENSITY in [0, 1], got {intensity.tolist()}"
        )


def _infer(grpc_url: str, panel: np.ndarray, universes: np.ndarray, timeout_s: float) -> tuple[np.ndarray, np.ndarray]:
    inputs = [triton.InferInput("PANEL", panel.shape, "FP32"), triton.InferInput("UNIVERSES", universes.shape, "INT32")]
    for tensor, values in zip(inputs, (panel, universes), strict=True):
        tensor.set_data_from_numpy(values)
    outputs = [triton.InferRequestedOutput(name) for name in ("STATUS", "INTENSITY")]
    try:
        with triton.InferenceServerClient(grpc_url, channel_args=DIRECT) as client:
            answer = client.infer("shrinkage", inputs, outputs=outputs, client_timeout=timeout_s)
    except InferenceServerException as error:
        raise ServerError(f"shrinkage did not answer the probe: {error.message()}") from error
    status, intensity = answer.as_numpy("STATUS"), answer.as_numpy("INTENSITY")
    if status is None or intensity is None:
        raise ServerError("shrinkage answered the probe without STATUS or without INTENSITY, which it must both give")
    return status, intensity
