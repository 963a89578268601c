# SPDX-License-Identifier: Apache-2.0
"""The text of the CUDA kernels, emulated on the CPU: arithmetic, indexing and barriers. Not a test on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from without_gpu.emulator import COMPILER, FORWARD, REVERSE, SHUFFLED, Emulator, KernelFault

from sigmahat_kernels.asset_statistics import ASSET_STATISTICS
from sigmahat_kernels.correlation import CORRELATION
from sigmahat_kernels.covariance import estimate_covariance
from sigmahat_kernels.cuda import kernels
from sigmahat_kernels.cuda.kernels import Completed, Program, SizeClass
from sigmahat_kernels.gaps import complete_correlations, incomplete, missing_cells
from sigmahat_kernels.pairs import PairStatistics
from sigmahat_kernels.panel import RECENT_ROWS, VOLATILITIES
from sigmahat_kernels.parameters import Parameters
from sigmahat_kernels.request import PADDING
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import Moments, SharedWindows, share_windows
from sigmahat_kernels.solvers import REFINE_BELOW, OwnKernels, OwnSolver, Solver, choose_solver
from sigmahat_kernels.spectrum import SPECTRUM

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator needs g++")

SHARED_LIMIT = 227 * 1024
PRECISIONS = [np.float64, np.float32]


def factor_of(n_assets: int, n_obs: int, seed: int = 0) -> np.ndarray:
    """Z', (n_assets, n_obs): a market, sectors and fat tails, of zero mean and unit length."""
    rng = np.random.default_rng(seed)
    market = rng.standard_t(5, (n_obs, 1)) * rng.normal(1.0, 0.3, n_assets)
    sectors = rng.standard_normal((n_obs, 8))[:, rng.integers(8, size=n_assets)]
    returns = market + 0.6 * sectors + 1.5 * rng.standard_t(4, (n_obs, n_assets))
    returns -= returns.mean(axis=0)
    return np.ascontiguousarray((returns / np.linalg.norm(returns, axis=0)).T)


def universes_of(n_columns: int, n_assets: int, n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([np.sort(rng.choice(n_columns, n_assets, replace=False)) for _ in range(n)])


def own_kernels(emulator: Emulator, *precisions: type[np.floating], shared_limit: int = SHARED_LIMIT) -> Solver:
    return Solver("kernels", [OwnKernels(emulator, precision, shared_limit) for precision in precisions])


def assert_close_spectra(
    actual: np.ndarray, expected: np.ndarray, precision: type[np.floating], *, typical: bool = True
) -> None:
    """float64: a few units in the last place of the largest one; float32: 1e-6, and 5e-7 of the eigenvalue.

    Matrices that are not typical correlations: 5e-7 of the largest one, which is what theory promises.
    """
    largest = expected[..., -1:]
    single = 1e-6 + 5e-7 * (expected if typical else largest)
    tolerance = 4e-15 * largest if precision is np.float64 else single
    assert (np.abs(actual - expected) <= tolerance).all()
    assert (actual >= 0).all()
    assert (np.diff(actual) >= 0).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("n_assets", "n_obs"), [(5, 252), (20, 252), (32, 252), (33, 252), (64, 756), (65, 252), (128, 252), (130, 140)]
)
def test_eigenvalues_match_lapack(n_assets: int, n_obs: int, precision: type[np.floating]) -> None:
    factor = factor_of(n_assets + 7, n_obs)
    product = factor @ factor.T
    index = universes_of(len(product), n_assets, 2 if n_assets < 100 else 1)
    expected = np.linalg.eigvalsh(product[index[:, :, None], index[:, None, :]])
    forward, *others = (
        kernels.eigvalsh(Emulator(order), product, index, precision) for order in (FORWARD, REVERSE, SHUFFLED)
    )
    assert_close_spectra(forward, expected, precision)
    for other in others:
        np.testing.assert_array_equal(forward, other)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("n_assets", "n_obs"), [(60, 21), (40, 40), (34, 34), (70, 65)])
def test_fewer_observations_than_assets(n_assets: int, n_obs: int, precision: type[np.floating]) -> None:
    factor = factor_of(n_assets + 5, n_obs)
    product = factor @ factor.T
    index = universes_of(len(product), n_assets, 3)
    actual = own_kernels(Emulator(), precision, np.float64).eigenvalues(product, factor, index)
    expected = np.linalg.eigvalsh(product[index[:, :, None], index[:, None, :]])
    assert_close_spectra(actual, np.maximum(expected, 0.0), precision)
    assert (actual[:, : n_assets - n_obs + 1] == 0).all()
    assert (actual[:, n_assets - n_obs + 1] > 0).all()
    assert_close_spectra(actual, choose_solver(product, "lapack").eigenvalues(product, factor, index), precision)


def matrix_of(name: str) -> np.ndarray:
    rng = np.random.default_rng(4)
    twins = factor_of(40, 252)
    twins[7] = twins[3]
    twins[20:30] = twins[20]
    blocks = np.kron(np.eye(8), np.full((5, 5), 0.6)) + 0.4 * np.eye(40)
    noise = rng.standard_normal((40, 40))
    noise += noise.T
    return {
        "identity": np.eye(40),
        "ones": np.ones((40, 40)),
        "constant correlation": np.full((40, 40), 0.3) + 0.7 * np.eye(40),
        "twins": twins @ twins.T,
        "blocks": blocks,
        "nearly the identity": np.eye(40) + 1e-11 * noise,
        "squares below the range of float": np.eye(40) + 1e-22 * noise,
        "hedged": np.kron(np.eye(20), np.array([[1.0, -1.0], [-1.0, 1.0]])),
        "tridiagonal": np.eye(40) + 0.5 * np.eye(40, k=1) + 0.5 * np.eye(40, k=-1),
        "two assets": np.array([[1.0, 0.25], [0.25, 1.0]]),
        "two equal assets": np.ones((2, 2)),
        "exponential": 0.9 ** np.abs(np.subtract.outer(np.arange(40), np.arange(40))),
    }[name]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "name",
    [
        *("identity", "ones", "constant correlation", "twins", "blocks", "nearly the identity", "hedged"),
        *("squares below the range of float", "tridiagonal", "two assets", "two equal assets", "exponential"),
    ],
)
@pytest.mark.parametrize("size_class", [None, SizeClass(64, warps=2)], ids=["a warp", "a block"])
def test_special_matrices(name: str, precision: type[np.floating], size_class: SizeClass | None) -> None:
    matrix = matrix_of(name)
    actual = kernels.eigvalsh(Emulator(), matrix[None], None, precision, size_class=size_class)
    expected = np.maximum(np.linalg.eigvalsh(matrix[None]), 0.0)
    assert_close_spectra(actual, expected, precision, typical=False)


def test_what_is_no_number_stays_none() -> None:
    matrices = np.stack([np.eye(6), np.eye(6), np.eye(6)])
    matrices[1, 4, 2] = matrices[1, 2, 4] = np.nan
    for precision in PRECISIONS:
        values = kernels.eigvalsh(Emulator(), matrices, None, precision)
        assert np.isnan(values[1]).all()
        np.testing.assert_array_equal(values[[0, 2]], 1.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_spectra_keep_trace_and_norm_and_ignore_the_order_of_assets(precision: type[np.floating]) -> None:
    factor = factor_of(50, 252)
    product = factor @ factor.T
    index = universes_of(50, 37, 1)
    shuffled = np.random.default_rng(2).permuted(index, axis=1)
    values = kernels.eigvalsh(Emulator(), product, np.concatenate([index, shuffled]), precision)
    rtol = 1e-13 if precision is np.float64 else 1e-6
    np.testing.assert_allclose(values.sum(axis=1), 37, rtol=rtol)
    np.testing.assert_allclose((values**2).sum(axis=1), (product[np.ix_(index[0], index[0])] ** 2).sum(), rtol=rtol)
    np.testing.assert_allclose(values[0], values[1], rtol=0, atol=30 * rtol)


def run_sturm_on(emulator: Emulator, diagonal: np.ndarray, offdiagonal: np.ndarray, values: np.ndarray) -> None:
    (blocks,) = kernels.blocks_of(np.full(len(values), values.shape[1]), values)
    kernels.sturm(emulator, blocks, diagonal, offdiagonal, values)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_mixed_sizes_and_windows_in_one_launch(precision: type[np.floating]) -> None:
    """Each universe's numbers are those that it has alone, to the bit, in every order of threads."""
    windows = [factor_of(75, 100, seed) for seed in (1, 2, 3)]
    stacks = [np.stack([scale * z @ z.T for z in windows]) for scale in (1.0, 0.9, 0.5)]
    sizes = np.array([3, 33, 20, 66, 2, 40, 32, 70])  # of three size classes, none in order
    index = np.full((8, 70), PADDING)
    for u, size in enumerate(sizes):
        index[u, :size] = 75 * (u % 3) + universes_of(75, size, 1, seed=u)[0]
    forward, *others = (
        (
            kernels.eigvalsh(Emulator(order), stacks[0], index, precision, sizes),
            kernels.pair_statistics(Emulator(order), stacks, index, SHARED_LIMIT, sizes),
        )
        for order in (FORWARD, REVERSE, SHUFFLED)
    )
    for values, statistics in others:
        np.testing.assert_array_equal(forward[0], values)
        for one, other in zip(forward[1], statistics, strict=True):
            np.testing.assert_array_equal(one, other)
    for u, size in enumerate(sizes):
        own = index[u : u + 1, :size] % 75
        window = [stack[u % 3] for stack in stacks]
        alone = kernels.eigvalsh(Emulator(), window[0], own, precision)
        assert (forward[0][u, : 70 - size] == 0).all()
        np.testing.assert_array_equal(forward[0][u, 70 - size :], alone[0])
        for name, value in kernels.pair_statistics(Emulator(), window, own, SHARED_LIMIT)._asdict().items():
            found = getattr(forward[1], name)[u]
            if name == "row_sum":
                assert (found[size:] == 0).all()
                found = found[:size]
            np.testing.assert_array_equal(found, value[0], err_msg=name)


def test_one_launch_for_each_size_class() -> None:
    blocks = kernels.blocks_of(np.array([33, 352, 2, 64, 200, 32, 65]), np.zeros(1))
    assert [each.rows.tolist() for each in blocks] == [[1], [4], [6], [3, 0], [5, 2]]
    assert [each.largest for each in blocks] == [352, 200, 65, 64, 32]


def test_clusters_of_a_tridiagonal_matrix() -> None:
    """Wilkinson's W21+, whose large eigenvalues come in pairs that agree to 1e-15, and a matrix that falls apart."""
    diagonal = np.array([np.abs(np.arange(21) - 10.0), np.repeat([1.0, 2.0, 3.0], 7)])
    offdiagonal = np.array([np.ones(21), np.zeros(21)])
    offdiagonal[:, -1] = 0.0
    values = np.empty((2, 21))
    run_sturm_on(Emulator(), diagonal, offdiagonal, values)
    dense = [np.diag(d) + np.diag(e[:-1], 1) + np.diag(e[:-1], -1) for d, e in zip(diagonal, offdiagonal, strict=True)]
    expected = np.maximum(np.linalg.eigvalsh(np.array(dense)), 0.0)  # W21+ has one negative eigenvalue
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-14)


def test_pivots_of_zero() -> None:
    """Where x is an entry of the diagonal and its neighbours are 0, the next pivot would be 0 / 0."""

    def start_at_two(program: Program) -> str:
        assert program.text.count("double x = 0.5 * (left + right)") == 1
        return program.text.replace("double x = 0.5 * (left + right)", "double x = 2.0")

    def halve_at_two(program: Program) -> str:
        assert program.text.count("0.5f * (low + high)") == 1
        return program.text.replace("0.5f * (low + high)", "low < 2 && high > 2 ? 2.0f : 0.5f * (low + high)")

    in_float = np.array([[1.0, 2.0, 1.5, 3.0]])
    in_double = np.array([[2.0, 2.0 - 1e-7, 3.0]])  # both brackets hold 2
    for diagonal, edit in ((in_float, halve_at_two), (in_double, start_at_two)):
        values = np.empty_like(diagonal)
        run_sturm_on(Emulator(edit=edit), diagonal, np.zeros_like(diagonal), values)
        np.testing.assert_allclose(values, np.sort(diagonal), rtol=0, atol=4e-15)


@pytest.mark.parametrize("n_assets", [2, 31, 33, 70])
def test_pair_statistics_match_the_array_form(n_assets: int) -> None:
    products = [z @ z.T for z in (factor_of(n_assets + 3, 100, seed) for seed in (1, 2, 3))]
    products[0][:2, :2] = 1.0  # a pair in the last bin
    products[0][3, 4] = products[0][4, 3] = 0.25  # and one on the edge of two
    index = universes_of(n_assets + 3, n_assets, 2)
    index[0] = np.arange(n_assets)
    forward, *others = (
        kernels.pair_statistics(Emulator(order), products, index, SHARED_LIMIT)
        for order in (FORWARD, REVERSE, SHUFFLED)
    )
    expected = choose_solver(products[0], "lapack").pair_statistics(products, index)
    for name, actual in forward._asdict().items():
        scale = np.abs(getattr(expected, name)).max()
        np.testing.assert_allclose(actual / scale, getattr(expected, name) / scale, rtol=0, atol=1e-14, err_msg=name)
        for other in others:
            np.testing.assert_array_equal(actual, getattr(other, name), err_msg=name)


def test_pair_statistics_of_universes_that_do_not_fit_are_the_same() -> None:
    """To the bit, beside ones that fit."""
    products = [z @ z.T for z in (factor_of(43, 100, seed) for seed in (1, 2, 3))]
    index, sizes = universes_of(43, 40, 2), np.array([34, 40])
    limit = kernels.pair_shared_bytes(36, held=True)
    fitting = kernels.pair_statistics(Emulator(), products, index, SHARED_LIMIT, sizes)
    for order in (FORWARD, REVERSE, SHUFFLED):
        found = kernels.pair_statistics(Emulator(order), products, index, limit, sizes)
        for one, other in zip(fitting, found, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n_obs", [30, 9])
def test_features_of_matrices_match_the_array_form(n_obs: int) -> None:
    """Of mixed sizes, with null eigenvalues, equal pairs and what only rounding makes; to the bit in every order."""
    sizes = np.array([2, 45, 20, 33, 3, 12, 40, 10])
    factor = factor_of(70, n_obs)
    factor[:40] = factor[0]  # pairs that do not vary, eigenvalues that are zero
    factor[61] = -factor[60]  # a market that does not move
    product = factor @ factor.T
    products = (product, 0.9 * product, 0.5 * product)
    index = np.full((len(sizes), 45), PADDING)
    for row, size in zip(index, sizes, strict=True):
        row[:size] = np.arange(70 - size, 70) if size > 3 else np.arange(60, 60 + size)
    index[-1, :10] = np.arange(10)
    lapack = choose_solver(product, "lapack")
    eigenvalues, row_sum, others = np.zeros(index.shape), np.zeros(index.shape), []
    for u, size in enumerate(sizes):
        own = index[u : u + 1, :size]
        eigenvalues[u, 45 - size :] = lapack.eigenvalues(product, factor, own)
        statistics = lapack.pair_statistics(products, own)
        row_sum[u, :size] = statistics.row_sum
        others.append(statistics[1:])
    pairs = PairStatistics(row_sum, *(np.concatenate(of_all) for of_all in zip(*others, strict=True)))
    pairs.first_square[1] = pairs.first_product[1] = 0.0  # a first half that did not move
    pairs.first_product[5] *= 1.15  # a cosine above 1
    row_sum[0] = 0.0  # a market that does not move
    eigenvalues[3, -10:] = 3.0  # the largest ratio is the last of those that count
    eigenvalues[2, -8:-6] = 1e-12, 0.01  # above the rounding
    rng = np.random.default_rng(3)
    noise = rng.uniform(0.0, 40.0, len(sizes)) * sizes**2
    noise[6] = 0.0
    measured = (sizes, np.full(len(sizes), n_obs), rng.uniform(20.0, 29.0, len(sizes)), noise)
    expected = lapack.matrix_features(eigenvalues, pairs, *measured)
    forward, *reordered = (
        OwnKernels(Emulator(order), np.float64, SHARED_LIMIT).matrix_features(eigenvalues, pairs, *measured)
        for order in (FORWARD, REVERSE, SHUFFLED)
    )
    assert list(forward) == [*SPECTRUM, *CORRELATION]
    assert set(forward) == set(expected)
    for name, values in forward.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-12, atol=1e-13, err_msg=name)
        for other in reordered:
            np.testing.assert_array_equal(values, other[name], err_msg=name)


BARRIER = "__syncthreads();"
BARRIER_OF_A_WARP = "__syncwarp();"


def barrier_of(name: str) -> str:
    """What the threads of a kernel wait for each other by."""
    return BARRIER_OF_A_WARP if name == "tridiagonalise_small" else BARRIER


def without_barrier(name: str, number: int) -> Callable[[Program], str]:
    """Takes one barrier out of the text of the kernel `name`."""

    def edit(program: Program) -> str:
        if program.name != name:
            return program.text
        barrier = barrier_of(name)
        parts = program.text.split(barrier)
        return barrier.join([*parts[:number], parts[number] + parts[number + 1], *parts[number + 2 :]])

    return edit


def run_tridiagonalise(emulator: Emulator, size: int = 70) -> np.ndarray:
    factor = factor_of(size + 5, 252)
    return kernels.eigvalsh(emulator, factor @ factor.T, universes_of(size + 5, size, 1), np.float64)


def run_tridiagonalise_small(emulator: Emulator) -> np.ndarray:
    return run_tridiagonalise(emulator, size=40)


def run_sturm(emulator: Emulator) -> np.ndarray:
    # Eigenvalues left in descending order give the last step, which repairs their order, something to do.
    unedited = emulator.edit
    emulator.edit = lambda program: unedited(program).replace("found[k] =", "found[n - 1 - k] =")
    rng = np.random.default_rng(5)
    values = np.empty((1, 40))
    offdiagonal = rng.random((1, 40))
    run_sturm_on(emulator, 2.0 + rng.random((1, 40)), offdiagonal, values)
    return values


def run_pair_statistics(emulator: Emulator) -> np.ndarray:
    products = [z @ z.T for z in (factor_of(43, 100, seed) for seed in (1, 2, 3))]
    statistics = kernels.pair_statistics(emulator, products, universes_of(43, 40, 1), SHARED_LIMIT)
    return np.concatenate([np.ravel(value) for value in statistics])


_SLOW, _FAST = (1, 2, 3), (4, 5, 6)  # seeds of the windows
_FACTOR_MEMORY = 1  # its column
_HEAD_COLUMNS = (1, 1, 2, 4, 12, 12, 2)
"""Of memory, factor memory, the last two targets' weights, volatility, both tilts and the level."""


def assembly_arguments(sizes: np.ndarray) -> tuple[Any, ...]:
    """Of universes of three windows of 45 columns each, by turns; every third one lets the fast factors alone."""
    rng = np.random.default_rng(6)
    slow, fast = (np.stack([z @ z.T for z in (factor_of(45, 100, seed) for seed in seeds)]) for seeds in (_SLOW, _FAST))
    index = np.full((len(sizes), max(sizes)), PADDING)
    for u, size in enumerate(sizes):
        index[u, :size] = 45 * (u % 3) + universes_of(45, size, 1, seed=u)[0]
    logs = np.log(rng.uniform(0.5, 4.0, (len(VOLATILITIES) + 1, 135)))
    scales = np.array(list(ASSET_STATISTICS.values()))
    heads, intensity = rng.uniform(0.0, 0.3, (len(sizes), sum(_HEAD_COLUMNS))), rng.uniform(size=index.shape)
    heads[2::3, _FACTOR_MEMORY] = 0.0
    return (slow, fast), logs, scales, index, heads, intensity


def test_matrices_match_the_array_form() -> None:
    """Of mixed sizes and windows in one launch; to the bit in every order of threads, and symmetric to the bit."""
    sizes = np.array([3, 33, 20, 40, 2, 32])
    arguments = assembly_arguments(sizes)
    forward, *others = (kernels.assemble(Emulator(order), *arguments) for order in (FORWARD, REVERSE, SHUFFLED))
    for other in others:
        np.testing.assert_array_equal(forward, other)
    assert_estimates(forward, arguments)


def assert_estimates(matrices: np.ndarray, arguments: tuple[Any, ...]) -> None:
    """Those of the array form to the rounding of float32, symmetric to the bit, with nothing but padding beyond."""
    np.testing.assert_array_equal(matrices, matrices.transpose(0, 2, 1))
    correlations, logs, _, index, heads, intensity = arguments
    volatilities, kurtosis = np.exp(logs[:-1]), np.exp(logs[-1])
    for u, size in enumerate((index != PADDING).sum(axis=1)):
        own = index[u, :size]
        block = np.ix_(own % 45, own % 45)
        slow, fast = (of[u % 3][block][None].copy() for of in correlations)
        moments = Moments(slow, fast, volatilities[:, own][:, None], kurtosis[own][None])
        head = np.split(heads[u : u + 1], np.cumsum(_HEAD_COLUMNS)[:-1], axis=1)
        memory, factor_memory, weights, blend, tilt, volatility_tilt, level = head
        weights = np.concatenate([1.0 - weights.sum(axis=1, keepdims=True), weights], axis=1)
        none = np.zeros((1, 1))
        parameters = Parameters(
            *(np.ones((1, 3)), weights, none, memory, factor_memory, blend, tilt, volatility_tilt, level),
            *(none, none, none, none),
        )
        (expected,) = estimate_covariance(moments, parameters, intensity[u : u + 1, :size])
        np.testing.assert_allclose(matrices[u, :size, :size], expected, rtol=1e-6, atol=1e-7 * expected.max())
        assert np.isnan(matrices[u, size:]).all()
        assert np.isnan(matrices[u, :, size:]).all()


@pytest.mark.parametrize(
    "fast",
    [
        np.eye(45),
        np.ones((45, 45)),
        np.full((45, 45), 0.3) + 0.7 * np.eye(45),
        np.kron(np.eye(9), np.full((5, 5), 0.6)) + 0.4 * np.eye(45),
        np.kron(np.diag([1.0, 0.0, 0.0]), np.full((15, 15), 0.9)) + np.diag(np.repeat([0.1, 1.0, 1.0], 15)),
    ],
    ids=["identity", "ones", "constant", "equal blocks", "one block"],
)
def test_correlations_of_fewer_than_three_factors(fast: np.ndarray) -> None:
    """Where a column of the iteration depends on those before it, it is none: no division by what rounding left."""
    (slow, _), *others = assembly_arguments(np.array([3, 40, 2, 33]))
    others[3][:, _FACTOR_MEMORY] = 0.5
    arguments = ((slow, np.stack([fast] * 3)), *others)
    assert_estimates(kernels.assemble(Emulator(), *arguments), arguments)


def run_assemble(emulator: Emulator) -> np.ndarray:
    return kernels.assemble(emulator, *assembly_arguments(np.array([40])))


def windows_with_gaps(n_obs: int = 100) -> SharedWindows:
    """Three of 45 columns: a late listing, an early end, a hole, single cells; 20 columns miss nothing."""
    rng = np.random.default_rng(9)
    returns = 0.01 * (rng.standard_normal((n_obs, 135)) + rng.standard_normal((n_obs, 1)))
    missing = rng.random(returns.shape) < 0.03
    for first in (0, 45, 90):
        missing[:, first : first + 20] = False
        missing[: n_obs - 30, first + 20] = missing[75:, first + 21] = missing[30:60, first + 22] = True
    returns[missing] = np.nan
    return share_windows(returns, [slice(first, first + 45) for first in (0, 45, 90)])


def complete_on(emulator: Emulator, shared: SharedWindows, index: np.ndarray, with_gaps: np.ndarray) -> Completed:
    correlations = [np.stack([getattr(each, name) for each in shared.products]) for name in ("slow", "fast")]
    return kernels.complete(emulator, correlations, missing_cells(shared.window), index, with_gaps)


@pytest.mark.parametrize("n_obs", [100, 400])
def test_correlations_with_gaps_match_the_array_form(n_obs: int) -> None:
    """Of mixed sizes and windows in one launch; to the bit in every order of threads, and symmetric to the bit."""
    shared, sizes = windows_with_gaps(n_obs), np.array([3, 33, 20, 45, 2, 40, 12])
    assert (shared.window.weights < 1.0).any() == (n_obs > RECENT_ROWS)
    index = np.full((7, 45), PADDING)
    for u, size in enumerate(sizes):
        index[u, :size] = 45 * (u % 3) + universes_of(45, size, 1, seed=u)[0]
    index[0, :3], index[6, :12] = 22 + np.arange(3), 1 + np.arange(12)
    with_gaps = np.array([True] * 6 + [False])
    forward, *others = (
        complete_on(Emulator(order), shared, index, with_gaps) for order in (FORWARD, REVERSE, SHUFFLED)
    )
    for other in others:
        for one, another in zip(forward, other, strict=True):
            np.testing.assert_array_equal(one, another)
    assert forward.starts.tolist() == [0, 9, 1098, 1498, 3523, 3527, -1]
    assert len(forward.slow) == len(forward.fast) == 3527 + 40**2
    windows = incomplete(shared.window)
    for u, size in enumerate(sizes[:6]):
        expected = complete_correlations(windows, index[u : u + 1, :size], Scratch(np))
        for found, wanted in zip(forward[:2], expected, strict=True):
            matrix = found[forward.starts[u] :][: size**2].reshape(size, size)
            np.testing.assert_array_equal(matrix, matrix.T)
            np.testing.assert_allclose(matrix, wanted[0], rtol=0, atol=1e-14)


def test_assets_that_share_no_row() -> None:
    """Two of them, nothing else: what joins them is the universe's slope alone, and one has but a few weights left."""
    returns = 0.01 * np.random.default_rng(2).standard_normal((900, 2))
    returns[:450, 0] = returns[450:, 1] = np.nan
    shared = share_windows(returns, [slice(0, 2)])
    index = np.array([[1, 0]])
    found = complete_on(Emulator(), shared, index, np.array([True]))
    for actual, expected in zip(
        found, complete_correlations(incomplete(shared.window), index, Scratch(np)), strict=False
    ):
        np.testing.assert_allclose(actual.reshape(2, 2), expected[0], rtol=0, atol=1e-14)


def test_matrices_of_universes_with_correlations_of_their_own() -> None:
    """They take the place of the window's: the same ones there give the same bits."""
    sizes = np.array([3, 33, 20])
    correlations, *others = assembly_arguments(sizes)
    index = others[2]
    blocks = [np.ix_(own % 45, own % 45) for own in (row[row != PADDING] for row in index)]
    own = [np.concatenate([of[u][blocks[u]].ravel() for u in (1, 2)]) for of in correlations]
    completed = Completed(*own, np.array([-1, 0, 33 * 33]))
    mixed = [of.copy() for of in correlations]
    for of in mixed:
        of[1:] = np.nan
    expected = kernels.assemble(Emulator(), correlations, *others)
    np.testing.assert_array_equal(kernels.assemble(Emulator(), mixed, *others, completed), expected)


def test_each_universe_gathers_into_a_place_of_its_own() -> None:
    """The emulator's blocks work one after the other, a GPU's side by side: no cell is written for two of them."""
    (slow, fast), *others = assembly_arguments(np.array([3, 33, 20, 40]))
    index = others[2]
    blocks = [np.ix_(own % 45, own % 45) for own in (row[row != PADDING] for row in index)]
    apart = [fast[u % 3][block].ravel() for u, block in enumerate(blocks)]
    completed = Completed(slow[1][blocks[1]].ravel(), apart[1].copy(), np.array([-1, 0, -1, -1]))
    launched: list[Any] = []

    def launch(program: Program, blocks: int, threads: int, shared_bytes: int, arguments: Sequence[Any]) -> None:
        launched.extend(arguments)
        Emulator()(program, blocks, threads, shared_bytes, arguments)

    for own, expected in ((None, apart), (completed, [apart[0], apart[2], apart[3]])):
        launched.clear()
        kernels.assemble(launch, (slow, fast), *others, own)
        np.testing.assert_array_equal(launched[6], np.concatenate(expected))
    np.testing.assert_array_equal(completed.fast, apart[1])


def run_complete(emulator: Emulator) -> np.ndarray:
    index = 45 + universes_of(45, 40, 1)
    slow, fast, _ = complete_on(emulator, windows_with_gaps(), index, np.array([True]))
    return np.concatenate([slow, fast])


RUNS = {
    "complete": run_complete,
    "assemble": run_assemble,
    "tridiagonalise": run_tridiagonalise,
    "tridiagonalise_small": run_tridiagonalise_small,
    "sturm": run_sturm,
    "pair_statistics": run_pair_statistics,
}
BARRIERS = [(name, k) for name in RUNS for k in range(Program(name, ()).text.count(barrier_of(name)))]


def test_every_kernel_has_barriers() -> None:
    assert {name for name, _ in BARRIERS} == set(RUNS)


@pytest.mark.parametrize(("name", "number"), BARRIERS)
def test_a_missing_barrier_is_caught(name: str, number: int) -> None:
    run = RUNS[name]
    correct = run(Emulator())
    assert np.isfinite(correct).all()
    answers = [run(Emulator(order, without_barrier(name, number))) for order in (FORWARD, REVERSE, SHUFFLED)]
    assert not all(np.array_equal(answer, answers[0]) for answer in answers) or not np.isfinite(answers[0]).all()


def test_the_emulator_sees_threads_at_different_barriers() -> None:
    def diverge(program: Program) -> str:
        return program.text.replace(BARRIER, f"if (threadIdx.x != 3) {BARRIER}", 1)

    with pytest.raises(KernelFault, match="different barriers"):
        run_sturm(Emulator(edit=diverge))


def test_the_emulator_sees_writes_beyond_the_shared_memory() -> None:
    def launch_with_too_little(program, blocks, threads, shared_bytes, arguments):
        Emulator()(program, blocks, threads, shared_bytes - 8, arguments)

    for run in (run_tridiagonalise, run_tridiagonalise_small, run_pair_statistics):
        with pytest.raises(KernelFault, match="beyond its shared memory"):
            run(launch_with_too_little)


def test_small_eigenvalues_are_refined_in_double() -> None:
    factor = factor_of(40, 252)
    factor[1] = factor[0] + 1e-4 * factor[1]
    factor[1] /= np.linalg.norm(factor[1])
    product = factor @ factor.T
    index = np.array([np.arange(20), np.arange(20, 40)])
    expected = choose_solver(product, "lapack").eigenvalues(product, factor, index)
    assert expected[0, 0] < 1e-7
    assert expected[1, 0] > REFINE_BELOW

    emulator = Emulator()
    solver = own_kernels(emulator, np.float32, np.float64)
    actual = solver.eigenvalues(product, factor, index)
    np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=1e-13)
    assert_close_spectra(actual[1], expected[1], np.float32)
    assert np.abs(actual[1] - expected[1]).max() > 1e-9  # the one that needs no double was left alone
    assert solver.used == {"kernels-float32", "kernels-float64"}


def test_small_eigenvalues_of_mixed_sizes_are_refined_too() -> None:
    factor = factor_of(40, 252)
    factor[1] = factor[0] + 1e-4 * factor[1]
    factor[1] /= np.linalg.norm(factor[1])
    product = factor @ factor.T
    index = np.full((3, 20), PADDING)
    for row, universe in zip(index, (np.arange(2, 14), np.arange(20), np.arange(9)), strict=True):
        row[: len(universe)] = universe
    single, double = (OwnKernels(Emulator(), precision, SHARED_LIMIT) for precision in (np.float32, np.float64))
    solver = OwnSolver("kernels", single, [double])
    values, _ = solver.measure((product, product, product), factor, index, Scratch(np))
    for row, found in zip(index, values, strict=True):
        own = row[row != PADDING]
        expected = np.linalg.eigvalsh(product[np.ix_(own, own)])
        precision = np.float64 if expected[0] < REFINE_BELOW else np.float32
        assert_close_spectra(found[20 - len(own) :], expected, precision)
    assert solver.used == {"kernels-float32", "kernels-float64"}


def test_a_matrix_too_large_goes_to_the_next_step() -> None:
    factor = factor_of(60, 252)
    product = factor @ factor.T
    small, large = universes_of(60, 20, 2), universes_of(60, 50, 2)
    limit = kernels.tridiagonal_shared_bytes(20, 1, np.float64)
    solver = own_kernels(Emulator(), np.float64, np.float32, shared_limit=limit)
    lapack = choose_solver(product, "lapack")
    solver = Solver("kernels", [*solver._steps, *lapack._steps])
    for index, used in ((small, {"kernels-float64"}), (large, {"kernels-float64", "lapack"})):
        actual = solver.eigenvalues(product, factor, index)
        np.testing.assert_allclose(actual, lapack.eigenvalues(product, factor, index), rtol=0, atol=1e-13)
        assert solver.used == used
