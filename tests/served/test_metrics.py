# SPDX-License-Identifier: Apache-2.0
"""What the steps of the real server count."""

from __future__ import annotations

import re
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc")

pytestmark = pytest.mark.server


def counts(server: Any) -> dict[str, float]:
    """Series of the steps -> value, once what was counted has been sent."""
    time.sleep(1.5)
    where = urlsplit(server.metrics_url)
    connection = HTTPConnection(where.netloc, timeout=10)
    connection.request("GET", where.path)
    text = connection.getresponse().read().decode()
    connection.close()
    return {series: float(value) for series, value in re.findall(r"^(sigmahat_\S+) (\S+)$", text, re.M)}


def tensors(panel: np.ndarray, universes: np.ndarray) -> list[Any]:
    found = []
    for name, kind, values in (("PANEL", "FP32", panel), ("UNIVERSES", "INT32", universes)):
        tensor = triton.InferInput(name, list(values.shape), kind)
        found.append(tensor.set_data_from_numpy(values))
    return found


def test_universes_are_counted_by_status_and_by_warning(running_server: Any, panel: np.ndarray) -> None:
    asked = tensors(panel[:25], np.array([[0, 1, 2, 3, 4], [5, 6, 7, -1, -1], [8, 8, 9, 10, 11]], np.int32))
    before = counts(running_server)
    with triton.InferenceServerClient(running_server.grpc_url) as client:
        answer = client.infer("shrinkage", asked)
    assert answer.as_numpy("STATUS").tolist() == [0, 0, 3]
    after = counts(running_server)
    grown = {
        name: after[name] - before.get(name, 0.0)
        for name in after
        if name.startswith(("sigmahat_universes_total", "sigmahat_warnings_total")) and after[name] != before.get(name)
    }
    warnings = answer.as_numpy("WARNINGS")
    assert grown == {
        'sigmahat_universes_total{status="GOOD"}': 2,
        'sigmahat_universes_total{status="DUPLICATE_ASSET"}': 1,
        'sigmahat_warnings_total{warning="UNUSUAL_LENGTH"}': 2,
        'sigmahat_warnings_total{warning="UNUSUAL_SIZE"}': 1,
    }
    assert warnings.tolist() == [64, 96, 0]
