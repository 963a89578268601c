# SPDX-License-Identifier: Apache-2.0
"""The wheel holds every module of the four packages, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("client", "feature_kernels", "trainer", "deploy")


def test_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT / source))
        for source in SOURCES
        for path in (ROOT / source).glob("sigmahat_*/**/*")
        if path.suffix in {".py", ".cu", ".jinja"} or path.name == "py.typed"
    }
    assert wanted
    assert packed == wanted
