# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels of the CPU: LAPACK's answers, and the same bits whoever else is computed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sigmahat_kernels import pairs
from sigmahat_kernels.features import compute_features
from sigmahat_kernels.groups import Memberships, chunks_by_work, group_by_window
from sigmahat_kernels.lanes.spectra import SPARE, eigenvalues_of_triangles, triangle_size
from sigmahat_kernels.lanes.tridiagonal import tridiagonalise_across, tridiagonalise_lanes
from sigmahat_kernels.lanes.universes import eigenvalues_of_stack
from sigmahat_kernels.lanes.vectors import HAS_FMA, WIDTH
from sigmahat_kernels.panel import correlation_factor, prepare_window
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.solvers import choose_solver
from sigmahat_kernels.spectrum import is_dual

OF_LARGEST = 1e-14
"""Error of an eigenvalue over the largest one; LAPACK's own is of this size."""


def correlation(n: int, n_obs: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([n, n_obs, seed])
    z = rng.standard_normal((n_obs, n)) + rng.standard_normal((n_obs, 1))
    z -= z.mean(axis=0)
    z /= np.linalg.norm(z, axis=0)
    return z.T @ z


def duplicated(n: int) -> np.ndarray:
    columns = np.arange(n) // 2
    return correlation(n)[columns[:, None], columns]


def blocks(*sizes: int) -> np.ndarray:
    whole = np.zeros((sum(sizes), sum(sizes)))
    for size, start in zip(sizes, np.cumsum((0, *sizes)), strict=False):
        whole[start : start + size, start : start + size] = correlation(size)
    return whole


SPECIAL = {
    "ones": np.ones((30, 30)),
    "identity": np.eye(30),
    "most negative": 1.1 * np.eye(11) - 0.1,
    "zero": np.zeros((7, 7)),
    "one row": np.eye(12) + np.outer(np.eye(12)[11], np.ones(12)) + np.outer(np.ones(12), np.eye(12)[11]),
    "diagonal": np.diag(np.linspace(-3.0, 5.0, 19)),
    "tridiagonal": 2.0 * np.eye(23) - np.eye(23, k=1) - np.eye(23, k=-1),
    "exact blocks": blocks(9, 1, 8, 17),
    "hilbert": 1.0 / (1.0 + np.add.outer(np.arange(12), np.arange(12))),
    "wilkinson": np.diag(np.abs(np.arange(-10.0, 11.0))) + np.eye(21, k=1) + np.eye(21, k=-1),
    "graded": np.outer(*[10.0 ** -np.arange(14.0)] * 2) * correlation(14),
    "2": correlation(2),
    "2, apart": np.diag([1.0, 2.0]),
    "3": correlation(3),
    "duplicated": duplicated(24),
    "fewer rows than columns": correlation(40, n_obs=15),
    "small": 1e-8 * correlation(33),
    "large": 1e8 * correlation(34),
    "hardly there": np.eye(9) + 1e-160,
    "many": correlation(101),
}


def triangles_of(matrices: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """As `eigenvalues_of_triangles` takes them, whatever may lie behind the smaller ones."""
    sizes = np.array([len(matrix) for matrix in matrices])
    triangles = np.full((len(matrices), triangle_size(sizes.max()) + SPARE), np.nan)
    for row, matrix in zip(triangles, matrices, strict=True):
        row[: triangle_size(len(matrix))] = matrix[np.tril_indices(len(matrix))]
    return triangles, sizes


def solve(matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Each one's eigenvalues, of all together."""
    order = sorted(range(len(matrices)), key=lambda k: -len(matrices[k]))
    # Memory that nothing was written to may hold anything.
    scratch = Scratch(SimpleNamespace(empty=lambda size, dtype: np.full(size, np.nan, dtype)))
    found = eigenvalues_of_triangles(*triangles_of([matrices[k] for k in order]), scratch)
    values: list[np.ndarray] = [np.empty(0)] * len(matrices)
    for k, row in zip(order, found, strict=True):
        row, zeros = row[len(row) - len(matrices[k]) :], row[: len(row) - len(matrices[k])]
        assert not zeros.any()
        values[k] = row
    return values


def test_special_matrices_match_lapack_and_keep_their_bits_in_any_company() -> None:
    matrices = list(SPECIAL.values())
    together, repeated = solve(matrices), solve(matrices[::-1] * 2)
    for k, (name, matrix) in enumerate(SPECIAL.items()):
        expected = np.maximum(np.linalg.eigvalsh(matrix), 0.0)
        (alone,) = solve([matrix])
        scale = max(np.abs(np.linalg.eigvalsh(matrix)).max(), 1e-300)
        np.testing.assert_allclose(alone / scale, expected / scale, rtol=0, atol=OF_LARGEST, err_msg=name)
        for others in (together[k], repeated[::-1][k], *solve([matrix] * 3), *solve([matrix] * 9)):
            np.testing.assert_array_equal(others, alone, err_msg=name)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 9, 20, 33])
def test_one_matrix_across_the_lanes_has_the_bits_of_one_in_a_lane(n: int) -> None:
    matrices = [correlation(max(2, n - lane), seed=lane) for lane in range(WIDTH)]
    lanes = np.zeros((triangle_size(n), WIDTH))
    for lane, matrix in enumerate(matrices):
        lanes[: triangle_size(len(matrix)), lane] = matrix[np.tril_indices(len(matrix))]
    diagonals, squares = np.empty((2, n, WIDTH))
    tridiagonalise_lanes(lanes, n, np.empty((4, n, WIDTH)), diagonals, squares)
    for lane, matrix in enumerate(matrices):
        size = len(matrix)
        length = -(-size // 8) * 8
        square = np.zeros((length, length))
        square[:size, :size] = matrix
        diagonal, below = np.empty((2, size))
        tridiagonalise_across(square, size, np.empty((4, length)), diagonal, below)
        np.testing.assert_array_equal(diagonals[:size, lane], diagonal)
        np.testing.assert_array_equal(squares[:size, lane], below)
        tridiagonal = np.diag(diagonal) + np.diag(np.sqrt(below[:-1]), 1) + np.diag(np.sqrt(below[:-1]), -1)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(tridiagonal), np.linalg.eigvalsh(matrix), rtol=0, atol=OF_LARGEST * size
        )


def test_a_matrix_of_which_no_eigenvalue_is_found_is_an_error() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="eigenvalues did not converge"):
        solve([correlation(5), np.full((4, 4), np.nan)])


def test_nothing_is_flushed_to_zero_afterwards() -> None:
    def smallest(_: int) -> float:
        eigenvalues_of_stack(np.stack([correlation(20)] * 9), Scratch(np))
        return float(np.array([2e-320]).sum() / 2.0)

    with ThreadPoolExecutor(2) as pool:
        assert [smallest(0), *pool.map(smallest, range(4))] == [1e-320] * 5


def draw_request(n_rows: int) -> Request:
    rng = np.random.default_rng(n_rows)
    returns = 0.01 * (rng.standard_normal((n_rows, 90)) + rng.standard_normal((n_rows, 1)))
    returns[rng.random(returns.shape) < 0.01] = np.nan
    sizes = [*range(2, 30), *[40] * 11, 71, 72, 90, 5, 60, 60]
    universes = np.full((len(sizes), 90), PADDING, np.int32)
    for row, size in zip(universes, rng.permutation(sizes), strict=True):
        row[:size] = rng.choice(90, size, replace=False)
    return read_request(returns.astype(np.float32), universes)


@pytest.mark.parametrize("n_rows", [252, 50])  # the latter: some have fewer rows than assets
def test_universes_keep_their_bits_whoever_comes_with_them(n_rows: int) -> None:
    request = draw_request(n_rows)
    together = compute_features(request, threads=1)
    assert together.solvers == ("lanes",)
    assert not together.status.any()
    np.testing.assert_array_equal(compute_features(request, threads=2).features, together.features)
    expected = compute_features(request, solver="lapack").features
    np.testing.assert_allclose(together.features, expected, rtol=1e-5, atol=1e-6)
    for k in range(0, len(request.universes), 4):
        one = request._replace(universes=request.universes[k : k + 1], windows=request.windows[k : k + 1])
        np.testing.assert_array_equal(compute_features(one, threads=1).features[0], together.features[k])


def test_chunks_hold_every_universe_once_and_none_of_both_forms() -> None:
    request = draw_request(50)
    (group,) = group_by_window(request, np.arange(len(request.universes)))
    sizes = (request.universes != PADDING).sum(axis=1)
    chunks = list(chunks_by_work(request, group))
    np.testing.assert_array_equal(np.sort(np.concatenate(chunks)), np.arange(len(sizes)))
    assert (np.diff(sizes[np.concatenate(chunks)]) <= 0).all()
    assert all(len({is_dual(50, size) for size in sizes[chunk].tolist()}) == 1 for chunk in chunks)


@pytest.mark.parametrize("sizes", [[9] * 5, [2], [40, 31, 16, 15, 8, 3, 2], [90]])
def test_pair_statistics(sizes: list[int]) -> None:
    rng = np.random.default_rng(len(sizes))
    products = [correlation(90, seed=seed) for seed in range(3)]
    index = np.full((len(sizes), max(sizes)), PADDING)
    for row, size in zip(index, sizes, strict=True):
        row[:size] = rng.choice(90, size, replace=False)
    eigenvalues, found = choose_solver(products[0]).measure(products, np.zeros((90, 252)), index, Scratch(np))
    for k, size in enumerate(sizes):
        scratch = Scratch(np)
        block, entries = pairs.gather_pairs(products, index[k : k + 1, :size], scratch)
        np.testing.assert_allclose(
            eigenvalues[k, max(sizes) - size :], np.linalg.eigvalsh(block[0]), rtol=0, atol=OF_LARGEST * size
        )
        expected = pairs.pair_statistics(block, entries, scratch)._asdict()
        actual = {name: value[k] for name, value in found._asdict().items()}
        assert not actual["row_sum"][size:].any()
        actual["row_sum"] = actual["row_sum"][:size]
        np.testing.assert_array_equal(actual.pop("histogram"), expected.pop("histogram")[0])
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name][0], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(("n_obs", "gaps"), [(252, False), (60, True), (21, False), (30, True), (20, False)])
def test_moments_of_series(n_obs: int, gaps: bool) -> None:
    rng = np.random.default_rng(n_obs)
    returns = 0.01 * (rng.standard_normal((n_obs, 50)) + rng.standard_normal((n_obs, 1)))
    returns[:, 7] = -returns[:, 6]  # the market of the two does not move
    if gaps:
        returns[rng.random(returns.shape) < 0.05] = np.nan
    window = prepare_window(returns)
    factor = correlation_factor(window)
    members = [np.array([6, 7]), *(rng.choice(50, size, replace=False) for size in (2, 3, 8, 20, 33, 50))]
    membership, index = np.zeros((50, len(members))), np.full((len(members), 50), PADDING)
    for k, columns in enumerate(members):
        membership[columns, k] = 1.0
        index[k, : len(columns)] = columns
    lanes, lapack = choose_solver(returns, "lanes"), choose_solver(returns, "lapack")
    series = lanes.asset_series(window, factor)
    found = lanes.series_moments(series, Memberships([(slice(None), membership)]), index)
    expected = lapack.series_moments(
        lapack.asset_series(window, factor), Memberships([(slice(None), membership)]), index
    )
    of_market = np.sqrt(expected.variance)
    scales = {
        **dict.fromkeys(("mean_return", "recent", "fall"), of_market),
        **dict.fromkeys(("variance", "recent_squares", "blocks"), of_market**2),
        **dict.fromkeys(("dispersion", "recent_dispersion"), expected.dispersion),
        "kurtosis": expected.kurtosis,
        "norm_square": expected.norm_square,
    }
    moves = slice(0 if gaps else 1, None)  # what does not move is rounding
    for name, value in found._asdict().items():
        wanted = getattr(expected, name)
        assert value.shape == wanted.shape
        error, scale = np.abs(value - wanted), scales.get(name, np.ones(len(members)))
        assert (error <= 1e-11 * scale)[..., moves].all(), name
    alone = lanes.series_moments(series, Memberships([(slice(None), membership[:, 4:5])]), index[4:5])
    for one, all_ in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one[..., 0], all_[..., 4])


PROGRAM = """
import numpy as np
from kernels.test_lanes import correlation, solve
from sigmahat_kernels.lanes.vectors import HAS_FMA, WIDTH
matrices = [correlation(n) for n in (33, 20, 20, 20, 20, 20, 20, 19, 18, 3, 2)]
together = solve(matrices)
for matrix, values in zip(matrices, together):
    (alone,) = solve([matrix])
    assert (alone == values).all()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), rtol=0, atol=1e-14 * len(matrix))
print(WIDTH, HAS_FMA, np.concatenate(together).tobytes().hex())
"""


@pytest.mark.skipif(sys.platform == "darwin" or os.uname().machine != "x86_64", reason="names x86-64 processors")
@pytest.mark.parametrize(("processor", "features", "width"), [("haswell", "+avx,+avx2,+fma", 4), ("generic", "", 2)])
def test_narrower_registers(processor: str, features: str, width: int) -> None:
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    found_width, has_fma, bits = run.stdout.split()
    assert int(found_width) == width
    if (has_fma == "True") == HAS_FMA:  # then no bit depends on the processor
        values = solve([correlation(n) for n in (33, 20, 20, 20, 20, 20, 20, 19, 18, 3, 2)])
        assert np.concatenate(values).tobytes().hex() == bits
