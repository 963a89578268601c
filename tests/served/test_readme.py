# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as written, and what it lists is what the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import tables
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
    names = run(BLOCKS[1], served)
    exec(compile(BLOCKS[0], "README.md", "exec"), names_of_local := {"returns": names["returns"]})
    assert names_of_local["daily"].shape == (9, 9)
    covariance = names["estimates"].covariance_of("tech")
    assert list(covariance.columns) == list(covariance.index) == tickers[:4]
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    assert list(names["estimates"].to_frame().index) == ["tech", "banks"]


@pytest.mark.server
def test_the_plain_call_runs(served: str) -> None:
    answer = run(BLOCKS[2], served)["answer"]
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
    folder, named = root, 0
    for line in tree.strip().splitlines():
        names = re.findall(r"[\w/]+(?:/|\.py)(?=\s|$)", re.split(r"\s{4,}\S*[a-z]", line.strip())[0])
        if not line.startswith(" "):
            folder = root / names[0]
            assert folder.is_dir(), folder
            continue
        assert names, line
        for name in names:
            assert (folder / name).exists(), folder / name
        named += len(names)
    assert named > 30


def test_tables_are_the_results_files() -> None:
    for table in (tables.headline(), tables.speed()):
        assert table in README
    page = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text()
    for name in ("accuracy", "risk", "grid", "tournament", "designs", "missing", "stale"):
        assert getattr(tables, name)() in page, name
