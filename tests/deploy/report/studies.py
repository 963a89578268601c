# SPDX-License-Identifier: Apache-2.0
"""Panels, estimates and studies that the tests of the report share; nothing is asked of a model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sigmahat_deploy.report.study import Study, Universe, study_of
from sigmahat_kernels.parameters import PUBLISHED


def panel(n_rows: int = 120, n_assets: int = 8, seed: int = 0) -> pd.DataFrame:
    """Daily returns with a market and two groups."""
    rng = np.random.default_rng(seed)
    market, groups = rng.standard_normal((n_rows, 1)), rng.standard_normal((n_rows, 2))
    own = rng.standard_normal((n_rows, n_assets))
    scale = rng.uniform(0.006, 0.02, n_assets)
    values = scale * (0.5 * market + 0.6 * groups[:, np.arange(n_assets) % 2] + 0.6 * own)
    return pd.DataFrame(values, pd.bdate_range("2020-01-01", periods=n_rows), [f"A{i}" for i in range(n_assets)])


def answers(names: list[str], n_assets: list[int], seed: int = 0) -> pd.DataFrame:
    """A table of estimates with numbers that could be."""
    rng = np.random.default_rng(seed)
    n = len(names)
    columns: dict[str, object] = {"n_assets": n_assets}
    for head in PUBLISHED.values():
        for column in head.columns:
            columns[column] = rng.uniform(0.1, 0.6, n)
    for prefix in ("weight_", "regime_"):
        shares = [column for column in columns if column.startswith(prefix)]
        columns |= dict(zip(shares, rng.dirichlet(np.ones(len(shares)), n).T, strict=True))
    columns |= {"warnings": [""] * n, "n_dropped": [0] * n, "status": [0] * n, "message": [""] * n}
    return pd.DataFrame(columns, pd.Index(names, name="universe"))


def shrunk(returns: pd.DataFrame) -> np.ndarray:
    """Half of the sample covariance, half of its diagonal."""
    sample = returns.cov().to_numpy()
    return 0.5 * sample + 0.5 * np.diag(sample.diagonal())


def study(returns: pd.DataFrame, names: tuple[str, ...] = ("all",), failed: tuple[str, ...] = ()) -> Study:
    """Universes of all assets; the `failed` ones come last, without an estimate."""
    every = [*names, *failed]
    table = answers(every, [returns.shape[1]] * len(every))
    for name in failed:
        numbers = table.select_dtypes("number").columns.drop(["n_assets", "n_dropped", "status"])
        table.loc[name, numbers] = np.nan
        table.loc[name, "status"] = 2
        table.loc[name, "message"] = f"universe {name!r}, asset 'NOPE': the asset is not a column of the panel"
    matrix = shrunk(returns)
    assets = {name: returns.columns.tolist() for name in names}
    return study_of(returns, table, assets, dict.fromkeys(names, matrix), {})


def universe(returns: pd.DataFrame) -> Universe:
    """The one of all assets."""
    return study(returns).universe("all")
