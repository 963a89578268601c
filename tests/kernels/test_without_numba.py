# SPDX-License-Identifier: Apache-2.0
"""Without numba LAPACK and NumPy compute everything, and answer as the compiled kernels do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sigmahat_kernels.features import compute_features
from sigmahat_kernels.request import PADDING, Request, read_request

PROGRAM = """
import sys
sys.modules["numba"] = None  # an import of it fails
from kernels.test_without_numba import compute_features, draw_request, np
table = compute_features(draw_request())
assert table.solvers == ("lapack",), table.solvers
assert not any(name.startswith("sigmahat_kernels.lanes.vectors") for name in sys.modules)
np.save(sys.argv[1], table.features)
"""


def draw_request() -> Request:
    rng = np.random.default_rng(5)
    returns = 0.01 * (rng.standard_normal((60, 80)) + rng.standard_normal((60, 1)))
    universes = np.full((9, 70), PADDING, np.int32)
    for row, size in zip(universes, (70, 2, 3, 20, 20, 33, 59, 60, 8), strict=True):
        row[:size] = rng.choice(80, size, replace=False)
    return read_request(returns.astype(np.float32), universes)


def test_features_without_numba(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "features.npy")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    table = compute_features(draw_request())
    assert not table.status.any()
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), table.features, rtol=1e-5, atol=1e-6)
