# SPDX-License-Identifier: Apache-2.0
"""Files of results and weights: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deploy.report import studies

from sigmahat_deploy.command_files import TABLES
from sigmahat_deploy.report.errors import ReportError
from sigmahat_deploy.report.result_files import check_fit, read_covariances, read_table, read_weights

ASSETS = ["AAPL", "MSFT", "1"]


@pytest.mark.parametrize("ending", list(TABLES))
def test_a_table_is_read_as_estimate_writes_it(tmp_path: Path, ending: str):
    table = studies.study(studies.panel(), ("one", "007"), failed=("bad",)).table
    table.loc["one", "warnings"] = "NEAR_COPY: A1, A2"
    TABLES[ending](table, tmp_path / f"t{ending}")
    found = read_table(tmp_path / f"t{ending}")
    assert found.index.tolist() == ["one", "007", "bad"]
    numbers = table.select_dtypes("number").columns
    np.testing.assert_allclose(found[numbers].to_numpy(float), table[numbers].to_numpy(float), rtol=1e-12)
    assert found[["warnings", "message"]].to_numpy().tolist() == table[["warnings", "message"]].to_numpy().tolist()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.txt", "", r"should end with \.csv, \.parquet, \.feather, \.json"),
        ("t.csv", "a,b\n1,2\n", "is no readable table of estimates"),
        ("t.csv", "universe,n_assets\nall,3\n", "lacks columns of estimates: intensity"),
        ("t.json", "[", "is no readable table of estimates"),
        ("t.parquet", "no parquet", "is no readable table of estimates"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: str, words: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReportError, match=words) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (None, "is no file of sigmahat estimate --covariances"),
        ({"x": np.zeros(2)}, "holds no covariances"),
        ({"covariance/u": np.eye(2)}, "assets/u is not a file"),
        (
            {"covariance/u": np.eye(2), "assets/u": np.array(["A"])},
            r"universe 'u' has 1 assets and a matrix of .*\(2, 2\)",
        ),
        ({"covariance/u": np.eye(2, dtype=int), "assets/u": np.array(["A", "B"])}, "a matrix of int64"),
        ({"covariance/u": np.full((1, 1), np.nan), "assets/u": np.array(["A"])}, "'u' is not finite"),
        ({"covariance/u": -np.eye(1), "assets/u": np.array(["A"])}, "'u' is not finite with variances above zero"),
    ],
)
def test_a_file_that_holds_no_covariances_is_refused(tmp_path: Path, arrays: dict | None, words: str):
    path = tmp_path / "c.npz"
    if arrays is None:
        path.write_bytes(b"no zip")
    else:
        np.savez(path, **arrays)
    with pytest.raises(ReportError, match=words):
        read_covariances(path)


def fitting():
    returns = studies.panel()
    study = studies.study(returns, failed=("bad",))
    return {
        "returns": returns,
        "table": study.table,
        "assets": study.assets,
        "covariances": study.covariances,
        "windows": {},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: given["covariances"].clear(), "'all' is among the estimates and not among the covariances"),
        (lambda given: given["covariances"].update(bad=np.eye(8)), "'bad' is among the covariances and not"),
        (
            lambda given: given["covariances"].update(all=np.eye(7)),
            "has 8 assets in the estimates, 7 in the covariances",
        ),
        (
            lambda given: given["assets"]["all"].__setitem__(2, "ZZZ"),
            r"the returns have no asset 'ZZZ' \(1 are missing\)",
        ),
        (lambda given: given["windows"].update(all=(0, 121)), r"its window \[0, 121\) is not in 120 rows"),
        (
            lambda given: given["covariances"].update(all=1e4 * given["covariances"]["all"]),
            "is 100 times that of the returns",
        ),
        (
            lambda given: given.update(returns=given["returns"].assign(A3=0.01)),
            "asset 'A3': was not estimated of these returns: the asset's returns do not vary in the window",
        ),
        (
            lambda given: given["windows"].update(all=(0, 1)),
            "asset 'A0': was not estimated of these returns: the asset has",
        ),
    ],
)
def test_results_of_other_returns_are_refused(change, words: str):
    given = fitting()
    check_fit(**given)
    change(given)
    with pytest.raises(ReportError, match=words):
        check_fit(**given)


def test_weights_are_read_from_both_kinds_of_file(tmp_path: Path):
    (tmp_path / "w.csv").write_text("\ufeffasset, weight\nAAPL, 0.6\n1, -0.1\nMSFT, 0\n", encoding="utf-8")
    (tmp_path / "w.json").write_text(json.dumps({"AAPL": 0.6, "1": -0.1, "MSFT": 0}))
    for name in ("w.csv", "w.json"):
        pd.testing.assert_series_equal(read_weights(tmp_path / name, ASSETS), pd.Series({"AAPL": 0.6, "1": -0.1}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.csv", "asset,weight\nAAPL,0.5\nXYZ,0.5\n", "the returns have no asset XYZ"),
        ("w.json", json.dumps({f"X{i}": 1 for i in range(8)}), "X0, X1, X2, X3, X4 and 3 more"),
        ("w.csv", "asset,weight\nAAPL,nan\n", "the weight of 'AAPL' should be a finite number"),
        ("w.json", '{"AAPL": Infinity}', "the weight of 'AAPL' should be a finite number"),
        ("w.csv", "asset,weight\nAAPL,0\nMSFT,0\n", "all weights are zero"),
        ("w.csv", "asset,weight\n", "all weights are zero"),
        ("w.csv", "asset,weight\nAAPL,0.5\nAAPL,0.5\n", "names asset 'AAPL' more than once"),
        ("w.json", '{"AAPL": 0.5, "AAPL": 0.5}', "names asset 'AAPL' more than once"),
        ("w.csv", "asset,weight\nAAPL,half\n", "the weight of 'AAPL' should be a number such as 0.05, got 'half'"),
        ("w.json", '{"AAPL": true}', "the weight of 'AAPL' should be a number"),
        ("w.csv", "asset,weight,price\nAAPL,1,2\n", "two columns, asset and weight, and there are 3"),
        ("w.csv", "", "holds no weights"),
        ("w.json", "[0.5]", "holds no weights"),
        ("w.json", "{", "holds no weights"),
        ("w.txt", "", r"should end with \.csv or \.json"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path: Path, name: str, content: str, words: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(ReportError, match=words) as caught:
        read_weights(tmp_path / name, ASSETS)
    assert "\n" not in str(caught.value)
