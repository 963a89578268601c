# SPDX-License-Identifier: Apache-2.0
"""What of the GPU benchmark can be checked without a GPU: how it is called, how it refuses, and its bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import gpu_kernels, gpu_measurement

ROOT = Path(__file__).parents[3]


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    program = f"import sys; sys.modules['cupy'] = None; sys.argv = ['gpu_kernels.py', '--out', {str(out)!r}]; "
    program += "import runpy; runpy.run_module('benchmarks.speed.gpu_kernels', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs CuPy on a machine with a CUDA device" in done.stderr
    assert not out.exists()


def test_help() -> None:
    command = [sys.executable, "-m", "benchmarks.speed.gpu_kernels", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--sizes" in done.stdout


@pytest.mark.parametrize(
    ("size", "single", "double"), [(50, 23e6, 17e6), (100, 4.3e6, 2.9e6), (250, 390e3, 226e3), (500, 56e3, 31e3)]
)
def test_bound(size: int, single: float, double: float) -> None:
    """Universes per second of an H200: 132 multiprocessors at 1.98 GHz, double at half the rate of single."""
    h200 = gpu_measurement.GpuLimits(132, 1.98e9, 2)
    assert 1 / gpu_kernels.bound_seconds(size, np.float32, h200) == pytest.approx(single, rel=0.03)
    assert 1 / gpu_kernels.bound_seconds(size, np.float64, h200) == pytest.approx(double, rel=0.03)


def test_universes_are_sorted_and_distinct() -> None:
    universes = gpu_measurement.draw_universes(5, 30, 40, 0)
    assert universes.shape == (5, 30)
    assert (np.diff(universes, axis=1) > 0).all()
    assert gpu_measurement.draw_panel(20, 30).shape == (20, 30)
