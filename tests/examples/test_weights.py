# SPDX-License-Identifier: Apache-2.0
"""The examples' weights are what the estimate says is best, whichever library found them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import ShrinkageClient

pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

Weights = Callable[[pd.DataFrame], pd.Series]


@pytest.fixture(scope="module")
def returns() -> pd.DataFrame:
    rng = np.random.default_rng(6)
    market = rng.standard_normal((252, 1)) * rng.uniform(0.5, 1.5, 8)
    values = 0.01 * (market + rng.standard_normal((252, 8)) * rng.uniform(0.5, 2.0, 8))
    return pd.DataFrame(values, pd.bdate_range("2023-01-02", periods=252), [f"A{i}" for i in range(8)])


@pytest.fixture(scope="module")
def covariance(returns: pd.DataFrame) -> np.ndarray:
    with ShrinkageClient.local() as client:
        return np.asarray(client.estimate(returns, covariance=True).covariance_of("all"), np.float64)


def example(library: str, function: str) -> Weights:
    pytest.importorskip(library, reason=f"{library} is not installed")
    found: Weights = runpy.run_path(str(EXAMPLES / f"weights_{library}.py"))[function]
    return found


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize("library", ["skfolio", "pypfopt", "riskfolio"])
def test_minimum_variance_meets_its_conditions(library: str, returns: pd.DataFrame, covariance: np.ndarray) -> None:
    """Karush, Kuhn, Tucker: marginal variances of what is held are equal, those of the rest not lower."""
    weights = example(library, "minimum_variance")(returns)
    assert weights.index.tolist() == returns.columns.tolist()
    w = weights.to_numpy()
    assert w.sum() == pytest.approx(1.0, abs=1e-6)
    assert w.min() > -1e-6
    marginal = covariance @ w / (w @ covariance @ w)
    np.testing.assert_allclose(marginal[w > 1e-3], 1.0, atol=5e-3)
    assert marginal.min() > 1 - 5e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["skfolio", "riskfolio"])
def test_risk_parity_contributes_alike(library: str, returns: pd.DataFrame, covariance: np.ndarray) -> None:
    w = example(library, "risk_parity")(returns).to_numpy()
    assert w.sum() == pytest.approx(1.0, abs=1e-6)
    contributions = w * (covariance @ w) / (w @ covariance @ w)
    np.testing.assert_allclose(contributions, 1 / 8, atol=1e-3)
