# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as written, and what it lists is what the code has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sigmahat_kernels.features import N_FEATURES
from sigmahat_kernels.status import Status

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(block: str, url: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    assert "127.0.0.1:8001" in block
    exec(compile(block.replace("127.0.0.1:8001", url), "README.md", "exec"), names)
    return names


@pytest.mark.server
def test_the_ten_lines_run(served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tickers = ["AAPL", "MSFT", "NVDA", "ORCL", "JPM", "BAC", "C", "WFC", "GS"]
    dates = pd.bdate_range("2018-01-01", periods=260)
    pd.DataFrame(rng.normal(0, 0.01, (260, 9)), dates, tickers).to_parquet(tmp_path / "returns.parquet")
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[0], served)
    covariance = names["estimates"].covariance_of("tech")
    assert list(covariance.columns) == list(covariance.index) == tickers[:4]
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    assert list(names["estimates"].to_frame().index) == ["tech", "banks"]


@pytest.mark.server
def test_the_plain_call_runs(served: str) -> None:
    answer = run(BLOCKS[1], served)["answer"]
    assert answer.as_numpy("STATUS").tolist() == [Status.GOOD, Status.GOOD]
    covariance = answer.as_numpy("COVARIANCE")
    assert covariance.shape == (2, 4, 4)
    assert np.isfinite(covariance[0]).all()
    assert np.isfinite(covariance[1, :3, :3]).all()
    assert np.isnan(covariance[1, 3]).all()


def test_number_of_features() -> None:
    assert f"FEATURES [rows,{N_FEATURES}]" in README


def test_tree_names_what_is_there() -> None:
    root = Path(__file__).parents[2]
    tree = README.split("## Tree")[1].split("```")[1]
    folders = [line.split()[0] for line in tree.strip().splitlines() if not line.startswith(" ")]
    assert folders
    assert all((root / folder).is_dir() for folder in folders)
    modules = re.findall(r"\b(\w+\.py)\b", tree.replace("model.py", ""))
    assert modules
    assert all((root / "feature_kernels" / "sigmahat_kernels" / module).is_file() for module in modules)


def test_tables_are_the_results_files() -> None:
    spec = importlib.util.spec_from_file_location(
        "tables", Path(__file__).parents[2] / "benchmarks" / "accuracy" / "tables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for table in (tables.accuracy(), tables.risk(), tables.speed()):
        assert table in README
    page = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text()
    assert tables.grid() in page
    assert tables.designs() in page
