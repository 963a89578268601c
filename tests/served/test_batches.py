# SPDX-License-Identifier: Apache-2.0
"""The examples for Dask, Spark and Ray, run as they stand against the real server, give what one call gives."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sigmahat_client import ShrinkageClient
from sigmahat_kernels.status import Status

pytestmark = pytest.mark.server

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PACKAGES = {"dask": "dask", "spark": "pyspark", "ray": "ray"}
FILES = ("returns.parquet", "universes.parquet", "estimates")


@pytest.fixture(params=list(PACKAGES))
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package} here, hundreds of MB: pip install 'dask[dataframe]' pyspark 'ray[data]'")
    if name == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java 17: no java on PATH")
    return name


def test_an_example_gives_what_one_call_gives(framework: str, served: str, panel: np.ndarray, tmp_path: Path) -> None:
    assets = [f"A{k}" for k in range(panel.shape[1])]
    returns = pd.DataFrame(panel, pd.bdate_range("2020-01-01", periods=len(panel), name="date"), assets)
    rng = np.random.default_rng(3)
    drawn = {f"u{k:02}": rng.choice(assets[:79], rng.integers(2, 12), replace=False).tolist() for k in range(40)}
    drawn["u17"][0] = "nobody"
    returns.to_parquet(tmp_path / "returns.parquet")
    pd.DataFrame({"universe": list(drawn), "assets": list(drawn.values())}).to_parquet(tmp_path / "universes.parquet")

    words = [sys.executable, EXAMPLES / f"with_{framework}.py", served, *map(tmp_path.joinpath, FILES)]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr

    found = pd.read_parquet(tmp_path / "estimates").set_index("universe").sort_index()
    with ShrinkageClient(served) as client:
        expected = client.estimate(returns, drawn)
    assert found.index.tolist() == list(drawn)
    assert found["status"].tolist() == expected.status.tolist()
    assert found.loc["u17", "status"] == Status.UNKNOWN_ASSET
    np.testing.assert_allclose(found["intensity"], expected.intensity, rtol=1e-4)
