# SPDX-License-Identifier: Apache-2.0
"""The script of a first hour runs from the wheel in an empty folder; only the packages come from where they are."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.server
def test_first_hour(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    folder = tmp_path / "hour"
    installed = folder / "env" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    installed.mkdir(parents=True)
    # Packages of this environment, but not what its own .pth files add: the checkout.
    found = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_paths()["purelib"]]
    (installed / "packages.pth").write_text("\n".join(found))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_IGNORE_INSTALLED": "1"}  # it removes nothing
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment["PATH"]))
    command = ["bash", str(ROOT / "docs" / "first_hour.sh"), str(wheel)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "== done"
    assert (installed / "sigmahat_kernels" / "model_repository" / "manifest.json").is_file()
    assert '"event": "stopped"' in (folder / "serve.log").read_text()
    assert str(installed / "sigmahat_kernels" / "model_repository") in (folder / "serve.log").read_text()
    local, served = pd.read_csv(folder / "estimates.csv"), pd.read_parquet(folder / "served.parquet")
    assert served["status"].tolist() == [0]
    assert local["intensity"][0] == pytest.approx(served["intensity"].iloc[0], abs=0.01)
    with np.load(folder / "covariances.npz") as matrices:
        assert np.linalg.eigvalsh(matrices["covariance/all"]).min() > 0
    assert (folder / "report.html").stat().st_size < 5_000_000
    if (drawn := folder / "drawn.html").exists():  # where there is a browser
        assert drawn.read_text().count("<svg") > (folder / "report.html").read_text().count("<svg") + 5
    lines = [line.split() for line in done.stdout.splitlines()]
    volatility = {line[0]: float(line[1]) for line in lines if line[:1] in (["sigmahat"], ["sample"])}
    assert volatility["sigmahat"] < volatility["sample"]
