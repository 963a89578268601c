# SPDX-License-Identifier: Apache-2.0
"""Large requests on the real server: small ones pass them, answers stay, what costs too much is refused."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc")

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def inputs(n_universes: int, n_assets: int, n_rows: int = 252, n_columns: int = 300) -> list[Any]:
    rng = np.random.default_rng(n_universes)
    panel = rng.normal(0.0, 0.01, (n_rows, n_columns)).astype(np.float32)
    lists = [rng.choice(n_columns, n_assets, replace=False) for _ in range(n_universes)]
    found = []
    for name, kind, values in (("PANEL", "FP32", panel), ("UNIVERSES", "INT32", np.array(lists, np.int32))):
        tensor = triton.InferInput(name, list(values.shape), kind)
        found.append(tensor.set_data_from_numpy(values))
    return found


@pytest.mark.server
def test_a_small_request_passes_a_large_one_and_neither_answer_changes(served: str) -> None:
    large, small = inputs(400, 250), inputs(1, 20)
    answered: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    with triton.InferenceServerClient(served) as client:
        alone = {"large": client.infer("covariance", large), "small": client.infer("covariance", small)}
        for name, asked in (("large", large), ("small", small)):
            client.async_infer(
                "covariance", asked, lambda result, error, name=name: answered.put((name, result or error))
            )
        arrived = [answered.get(timeout=120) for _ in range(2)]
    assert [name for name, _ in arrived] == ["small", "large"]
    for name, answer in arrived:
        for output in ("INTENSITY", "COVARIANCE", "STATUS"):
            np.testing.assert_array_equal(answer.as_numpy(output), alone[name].as_numpy(output))


@pytest.mark.server
def test_what_costs_too_much_is_refused_before_it_is_computed(served: str) -> None:
    with (
        triton.InferenceServerClient(served) as client,
        pytest.raises(triton.InferenceServerException, match=r"RESOURCE_EXHAUSTED: .* more than the limit of 120,000"),
    ):
        client.infer("shrinkage", inputs(4096, 900, 1000, 1000))
