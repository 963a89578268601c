# SPDX-License-Identifier: Apache-2.0
"""Returns of another unit, from their features through the members to the matrices: the same answers, its square."""

from __future__ import annotations

import numpy as np
import pytest

from sigmahat_client import ShrinkageClient


def simulate_returns(n_obs: int, n_assets: int, *, missing: float) -> np.ndarray:
    rng = np.random.default_rng(4)
    common = rng.standard_t(5, (n_obs, 1)) * rng.uniform(0.3, 1.5, n_assets)
    returns = 0.02 * np.geomspace(0.5, 3.0, n_assets) * (common + rng.standard_t(5, (n_obs, n_assets)))
    returns = np.clip(returns, -0.3, 0.3)
    returns[rng.random(returns.shape) < missing] = np.nan
    return returns


@pytest.mark.parametrize("missing", [0.0, 0.05])
@pytest.mark.parametrize("n_obs", [200, 400])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 3.0])
@pytest.mark.filterwarnings("ignore:.*volatility outside")
def test_scaled_returns_have_the_same_parameters_and_the_square_of_the_matrix(scale, n_obs, missing):
    """A universe at a thousandth of its returns, or at three times: as large as still passes for returns."""
    returns = simulate_returns(n_obs, 12, missing=missing)
    with ShrinkageClient.local() as client:
        before, after = (client.estimate(returns * c, covariance=True) for c in (1.0, scale))
    # A scale rounds float32 returns; a feature that crosses the edge of an INT8 step moves an answer a little.
    np.testing.assert_allclose(after.memory, before.memory, atol=1e-3)
    (matrix,), (scaled,) = before.covariance, after.covariance
    sd = np.sqrt(np.diag(matrix))
    difference = (scaled / scale**2 - matrix) / np.outer(sd, sd)
    assert np.abs(difference).max() < 1e-4
