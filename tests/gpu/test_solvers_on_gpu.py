# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels and the libraries against LAPACK, on a real GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.cuda import device, kernels
from sigmahat_kernels.pairs import PairStatistics
from sigmahat_kernels.solvers import DEVICE_SOLVERS, OwnKernels, choose_solver

pytestmark = pytest.mark.gpu

SIZES = [2, 5, 20, 32, 33, 64, 65, 100, 128, 129, 200, 228, 229, 256, 257, 320, 321, 500]


def factor_of(n_assets: int, n_obs: int, seed: int = 0) -> np.ndarray:
    """Z', (n_assets, n_obs): a market and fat tails, of zero mean and unit length."""
    rng = np.random.default_rng(seed)
    returns = rng.standard_t(5, (n_obs, 1)) * rng.normal(1.0, 0.3, n_assets) + rng.standard_t(4, (n_obs, n_assets))
    returns -= returns.mean(axis=0)
    return np.ascontiguousarray((returns / np.linalg.norm(returns, axis=0)).T)


def universes_of(n_columns: int, n_assets: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.array([np.sort(rng.choice(n_columns, n_assets, replace=False)) for _ in range(n)])


def assert_close_spectra(actual: np.ndarray, expected: np.ndarray, *, single: bool) -> None:
    """float64: rounding of the largest eigenvalue; float32: 1e-6, and 5e-7 of the eigenvalue."""
    tolerance = 1e-6 + 5e-7 * expected if single else 1e-13 * expected[:, -1:]
    assert (np.abs(actual - expected) <= tolerance).all()
    assert (actual >= 0).all()
    assert (np.diff(actual) >= 0).all()


@pytest.mark.parametrize("name", DEVICE_SOLVERS)
@pytest.mark.parametrize("n_assets", SIZES)
def test_eigenvalues(cupy: ModuleType, name: str, n_assets: int) -> None:
    factor = factor_of(n_assets + 20, 2 * n_assets + 60)
    product = factor @ factor.T
    index = universes_of(len(product), n_assets, 6)
    expected = choose_solver(product, "lapack").eigenvalues(product, factor, index)
    solver = choose_solver(cupy.asarray(product), name)
    arguments = cupy.asarray(product), cupy.asarray(factor), cupy.asarray(index)
    actual = to_numpy(solver.eigenvalues(*arguments))
    assert_close_spectra(actual, expected, single="kernels-float32" in solver.used)
    np.testing.assert_array_equal(to_numpy(solver.eigenvalues(*arguments)), actual)


@pytest.mark.parametrize("name", DEVICE_SOLVERS)
@pytest.mark.parametrize(("n_assets", "n_obs"), [(60, 21), (40, 40), (500, 60), (500, 252), (1_000, 400)])
def test_fewer_observations_than_assets(cupy: ModuleType, name: str, n_assets: int, n_obs: int) -> None:
    factor = factor_of(n_assets + 20, n_obs)
    product = factor @ factor.T
    index = universes_of(len(product), n_assets, 3)
    expected = choose_solver(product, "lapack").eigenvalues(product, factor, index)
    solver = choose_solver(cupy.asarray(product), name)
    actual = to_numpy(solver.eigenvalues(cupy.asarray(product), cupy.asarray(factor), cupy.asarray(index)))
    assert_close_spectra(actual, expected, single="kernels-float32" in solver.used)
    assert (actual[:, : n_assets - n_obs + 1] == 0).all()


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("n_assets", [2, 20, 33, 64, 128, 147, 200])
def test_own_kernels_in_both_precisions(cupy: ModuleType, precision: type[np.floating], n_assets: int) -> None:
    own = OwnKernels(device.launch, precision, device.shared_memory_limit())
    if not own.takes(n_assets):
        pytest.skip(f"{n_assets} assets in {precision.__name__} do not fit into this device's shared memory")
    factor = factor_of(n_assets + 20, 2 * n_assets + 60)
    product = factor @ factor.T
    index = universes_of(len(product), n_assets, 40)
    expected = choose_solver(product, "lapack").eigenvalues(product, factor, index)
    actual = to_numpy(own.eigvalsh(cupy.asarray(product), cupy.asarray(index)))
    assert_close_spectra(actual, expected, single=precision is np.float32)


@pytest.mark.parametrize("name", ["kernels", "cupy"])
@pytest.mark.parametrize("n_assets", [2, 31, 100, 1_000])
def test_pair_statistics(cupy: ModuleType, name: str, n_assets: int) -> None:
    products = [z @ z.T for z in (factor_of(n_assets + 3, 100, seed) for seed in (1, 2, 3))]
    index = universes_of(n_assets + 3, n_assets, 5)
    expected = choose_solver(products[0], "lapack").pair_statistics(products, index)
    on_device = [cupy.asarray(product) for product in products]
    solver = choose_solver(on_device[0], name)
    actual, again = (solver.pair_statistics(on_device, cupy.asarray(index)) for _ in range(2))
    for field in expected._fields:
        scale = np.abs(getattr(expected, field)).max()
        value = to_numpy(getattr(actual, field))
        np.testing.assert_allclose(value / scale, getattr(expected, field) / scale, rtol=0, atol=1e-12, err_msg=field)
        np.testing.assert_array_equal(to_numpy(getattr(again, field)), value, err_msg=field)


@pytest.mark.parametrize("n_assets", [2, 31, 100, 400])
def test_features_of_matrices(cupy: ModuleType, n_assets: int) -> None:
    factor = factor_of(n_assets + 3, 100)
    product, index = factor @ factor.T, universes_of(n_assets + 3, n_assets, 5)
    there, lapack = cupy.asarray(product), choose_solver(product, "lapack")
    eigenvalues = lapack.eigenvalues(product, factor, index)
    pairs = lapack.pair_statistics((product, 0.9 * product, 0.5 * product), index)
    measured = (np.full(5, n_assets), np.full(5, 100), np.full(5, 99.0), np.full(5, 1.2 * n_assets**2))
    expected = lapack.matrix_features(eigenvalues, pairs, *measured)
    on_device = PairStatistics(*map(cupy.asarray, pairs))
    solver = choose_solver(there, "kernels")
    found = solver.matrix_features(cupy.asarray(eigenvalues), on_device, *map(cupy.asarray, measured))
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(to_numpy(values), expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_the_best_solver_is_the_own_kernels(cupy: ModuleType) -> None:
    assert choose_solver(cupy.zeros((2, 2))).name == "kernels"


def test_compiled_kernels_do_not_spill(cupy: ModuleType) -> None:
    for program in kernels.PROGRAMS:
        assert device.compiled(program, device.current_device()).local_size_bytes == 0, program


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(cupy: ModuleType, tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer from the CUDA toolkit")
    program = Path(__file__).with_name("run_every_kernel.py")
    options = ["--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
    command = [sanitizer, *options, sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every kernel ran" in done.stdout
