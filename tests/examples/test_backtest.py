# SPDX-License-Identifier: Apache-2.0
"""The backtest sees only what was known, and holds what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")

BACKTEST = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "backtest.py"))["backtest"]


def test_backtest_holds_last_months_weights() -> None:
    rng = np.random.default_rng(8)
    values = 0.01 * (rng.standard_normal((120, 1)) + rng.standard_normal((120, 6)))
    returns = pd.DataFrame(values, pd.bdate_range("2024-01-01", periods=120), list("ABCDEF"))
    found = BACKTEST(returns, window=60)
    end = returns.loc["2024-03"].index[-1]  # the first month end with 60 rows behind it
    covariance = np.cov(returns.loc[:end].to_numpy()[-60:].T)
    weights = np.linalg.solve(covariance, np.ones(6))
    expected = returns.loc["2024-04"] @ (weights / weights.sum())
    np.testing.assert_allclose(found.loc["2024-04", "sample"], expected, rtol=1e-9)
    assert found.index.equals(returns.index[returns.index > end])
    later = returns.copy()
    later.loc["2024-05":] *= 3.0
    pd.testing.assert_frame_equal(BACKTEST(later, window=60).loc["2024-04"], found.loc["2024-04"])
