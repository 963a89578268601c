# SPDX-License-Identifier: Apache-2.0
"""The same code on CuPy arrays gives the same numbers as on NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from sigmahat_kernels.covariance import assemble
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.parameters import Parameters
from sigmahat_kernels.request import read_request

pytestmark = pytest.mark.gpu

cupy = pytest.importorskip("cupy", reason="needs sigmahat[gpu]")
if not cupy.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.fixture
def universes() -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = np.full((40, 60), -1, np.int32)
    for row in rows:
        size = rng.integers(2, 61)
        row[:size] = rng.choice(80, size, replace=False)
    return rows


@pytest.mark.parametrize("n_rows", [300, 40])  # more and fewer rows than assets
def test_features(panel: np.ndarray, universes: np.ndarray, n_rows: int) -> None:
    panel = np.nan_to_num(panel[-n_rows:])
    on_host = compute_features(read_request(panel, universes))
    on_device = compute_features(read_request(cupy.asarray(panel), universes), threads=1)
    np.testing.assert_array_equal(on_device.status, on_host.status)
    np.testing.assert_allclose(on_device.features, on_host.features, rtol=1e-5, atol=1e-5)


def test_covariance(panel: np.ndarray, universes: np.ndarray) -> None:
    n = len(universes)
    rows = {"target_intensity": [0.5, 0.3, 0.6], "target_weights": [0.4, 0.1, 0.5], "volatility": [0.3, 0.4, 0.3, 0.1]}
    answers = {name: np.tile(values, (n, 1)) for name, values in rows.items()}
    rest = {name: np.full((n, 1), 0.4) for name in Parameters._fields if name not in answers}
    parameters = Parameters(**answers, **rest)
    request = read_request(panel, universes)
    status = compute_features(request).status
    on_host = assemble(request, parameters, status)
    on_device = assemble(read_request(cupy.asarray(panel), universes), parameters, status, threads=1)
    np.testing.assert_allclose(on_device, on_host, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(on_host)))
