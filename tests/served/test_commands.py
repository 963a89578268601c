# SPDX-License-Identifier: Apache-2.0
"""From a returns file to results, through the real server, as a shell would do it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request
from sigmahat_kernels.status import Status

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
EXTRACT = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"


def test_estimate_command(served: str, tmp_path: Path) -> None:
    universes = {
        "large": ["AAPL", "MSFT", "AMZN", "JPM", "XOM"],
        "2018 only": {"assets": ["AAPL", "JPM", "XOM"], "start": "2018-01-01", "stop": "2019-01-01"},
        "typo": ["AAPL", "MSTF"],
    }
    (tmp_path / "universes.json").write_text(json.dumps(universes))
    command = [sys.executable, "-c", "from sigmahat_deploy.cli import main; main()", "estimate", str(EXTRACT)]
    command += ["--universes", str(tmp_path / "universes.json"), "--out", str(tmp_path / "result.parquet")]
    command += ["--covariances", str(tmp_path / "covariances.npz"), "--url", served]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "typo" in done.stderr
    assert "MSTF" in done.stderr
    result = pd.read_parquet(tmp_path / "result.parquet")
    assert result["status"].tolist() == [Status.GOOD, Status.GOOD, Status.UNKNOWN_ASSET]

    with np.load(EXTRACT, allow_pickle=False) as panel:
        dates, tickers, returns = panel["dates"], panel["tickers"].tolist(), panel["ret"]
    rows = np.searchsorted(dates, np.array(["2018-01-01", "2019-01-01"], "datetime64[D]"))
    request = read_request(
        returns,
        np.array([[tickers.index(t) for t in ("AAPL", "JPM", "XOM")]], np.int32),
        windows=rows[None].astype(np.int32),
        dates=dates.astype(np.int64).astype(np.int32),
    )
    expected = Pipeline(ROOT / "model_repository").estimate(request)
    assert expected.covariance is not None
    with np.load(tmp_path / "covariances.npz") as covariances:
        np.testing.assert_allclose(covariances["covariance/2018 only"], expected.covariance[0], rtol=0.02)
    assert result["intensity"].iloc[1] == pytest.approx(expected.combined.intensity[0], abs=0.01)


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo.parquet"
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--universes", "72", "--out", str(out)]
    command += ["--report", str(tmp_path / "demo.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "universes a second" in done.stdout
    # Some of its stocks have a day of news; a Python warning with its line of code would look like a fault.
    assert "universes hold something odd, and are estimated all the same" in " ".join(done.stdout.split())
    assert "one return makes up most of the variance" in " ".join(done.stdout.split())
    assert "EstimateWarning" not in done.stderr
    assert "72 universes" in (tmp_path / "demo.html").read_text()
    frame = pd.read_parquet(out)
    assert len(frame) == 72
    assert (frame["status"] == Status.GOOD).all()
    assert frame["n_assets"].between(20, 200).all()
    assert frame["intensity"].between(0, 1).all()
    assert (frame["condition, sigmahat"] < frame["condition, sample covariance"]).mean() > 0.9
    realised = frame.filter(like="variance, ")
    assert (realised > 0).all().all()
    # Shrinkage beats the sample covariance on any panel of stocks; by how much is the benchmark's business.
    assert realised["variance, sigmahat"].mean() < realised["variance, sample covariance"].mean()


def test_demo_refuses_a_panel_that_is_too_short(tmp_path: Path) -> None:
    dates = pd.bdate_range("2020-01-01", periods=100)
    pd.DataFrame(np.random.default_rng(0).normal(0, 0.01, (100, 30)), dates).rename(columns=str).to_csv(
        tmp_path / "short.csv"
    )
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--returns", str(tmp_path / "short.csv")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "100 days and 30 assets" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_says_what_is_wrong_with_a_panel_of_prices(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).normal(0, 0.01, (300, 25))
    prices = pd.DataFrame(100 * np.exp(steps.cumsum(axis=0)), pd.bdate_range("2020-01-01", periods=300))
    prices.rename(columns="A{}".format).to_parquet(tmp_path / "prices.parquet")
    command = [sys.executable, str(ROOT / "benchmarks" / "demo.py"), "--universes", "3"]
    command += ["--returns", str(tmp_path / "prices.parquet"), "--out", str(tmp_path / "out.parquet")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "prices" in done.stdout
    assert "no universe could be estimated" in done.stderr
    assert not (tmp_path / "out.parquet").exists()
