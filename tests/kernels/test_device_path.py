# SPDX-License-Identifier: Apache-2.0
"""The features of a panel on a GPU, emulated: no meeting of host and device arrays, few waits, the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from without_gpu.emulator import COMPILER, Emulator
from without_gpu.pretended_cupy import Device, array_calls, clear_counts, host_copies, pretended_cupy, waits

from sigmahat_kernels import assemble as assemble_module
from sigmahat_kernels import assemble_on_device, risk, solvers
from sigmahat_kernels import features as features_module
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.backend import to_numpy
from sigmahat_kernels.covariance import estimate_covariance as undisturbed
from sigmahat_kernels.cuda import cusolver, device, kernels
from sigmahat_kernels.features import FEATURE_NAMES, compute_features
from sigmahat_kernels.minimum_variance import long_only
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import PADDING, Request, read_request
from sigmahat_kernels.risk import measure_portfolios
from sigmahat_kernels.shared_window import KeptMoments, share_windows
from sigmahat_kernels.status import WarningFlag

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulator needs g++")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CuPy on a machine with an H200, pretended."""
    launched = Emulator()

    def compiled(program: Any, number: int) -> Any:
        def launch(grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared_mem: int) -> None:
            launched(program, grid[0], block[0], shared_mem, arguments)

        return launch

    module = pretended_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(device, "compiled", compiled)
    monkeypatch.setattr(cusolver, "check_available", lambda: None)
    solvers._steps_on_device.cache_clear()
    yield module
    Device(0).use()
    solvers._steps_on_device.cache_clear()


def draw_request(n_rows: int, n_universes: int) -> Request:
    rng = np.random.default_rng(8)
    returns = 0.01 * (rng.standard_normal((n_rows, 40)) + rng.standard_normal((n_rows, 1)))
    returns[rng.random(returns.shape) < 0.01] = np.nan
    universes = np.full((n_universes, 34), PADDING, np.int32)
    for row in universes:
        size = rng.choice([2, 9, 34])
        row[:size] = rng.choice(40, size, replace=False)
    universes[0, :34] = np.arange(34)
    market = np.exp(rng.standard_normal((n_rows, 4))).astype(np.float32)
    return read_request(returns.astype(np.float32), universes, market=market, dates=np.arange(n_rows) + 18_000)


@pytest.mark.parametrize("n_rows", [120, 25])  # more and fewer rows than assets
def test_features(cupy: Any, n_rows: int) -> None:
    request = draw_request(n_rows, 6)
    expected = compute_features(request, solver="lapack")
    on_device = request._replace(panel=cupy.asarray(request.panel))
    waits.clear()
    actual = compute_features(on_device, threads=1)
    few = sum(waits.values())
    assert (expected.solvers, actual.solvers) == (("lapack",), ("kernels-float64",))
    np.testing.assert_array_equal(actual.status, expected.status)
    for column, name in enumerate(FEATURE_NAMES):
        np.testing.assert_allclose(
            actual.features[:, column], expected.features[:, column], rtol=1e-5, atol=1e-5, err_msg=name
        )

    more = draw_request(n_rows, 12)
    waits.clear()
    compute_features(more._replace(panel=cupy.asarray(more.panel)), threads=1)
    assert sum(waits.values()) == few <= 9  # a window's, not a universe's


def test_universes_that_are_refused_without_a_look_at_returns(cupy: Any) -> None:
    """An asset twice, one that does not exist, padding before an asset, nobody: as on the host."""
    request = draw_request(120, 6)
    universes = np.full((6, 34), PADDING, np.int32)
    rows = ([3, 9, 3], [5, 40], [1, PADDING, 2], [], [7, 8], [20, 21, 22, 21, 20])
    for row, assets in zip(universes, rows, strict=True):
        row[: len(assets)] = assets
    request = request._replace(universes=universes)
    expected = compute_features(request, solver="lapack")
    assert (expected.status != 0).tolist() == [True, True, True, True, False, True]
    found = compute_features(request._replace(panel=cupy.asarray(request.panel)))
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_array_equal(found.status_asset, expected.status_asset)


def test_features_of_several_windows(cupy: Any) -> None:
    """All in the same launches: of unequal numbers of columns, with refused universes, copies, gaps and odd returns."""
    rng = np.random.default_rng(5)
    returns = 0.01 * (rng.standard_normal((200, 40)) + rng.standard_normal((200, 1)))
    returns[:, 31] = returns[:, 30]  # a copy
    returns[:, 33] = 3 * returns[:, 32]  # one with gaps
    returns[100:110, 33] = np.nan
    returns[150:, 5] = np.nan  # gaps, but for the first window
    returns[70, 7] = 0.5  # a return that dominates
    returns[:, 12] = 0.0  # a column that does not move
    universes = np.full((12, 34), PADDING, np.int32)
    sizes = [34, 2, 20, 7, 9, 33, 20, 12, 5, 3, 34, 17]
    for u, (row, size) in enumerate(zip(universes, sizes, strict=True)):
        row[:size] = rng.choice(34 if u % 3 else 40, size, replace=False)
    windows = np.array([[0, 120], [40, 160], [80, 200], [80, 110]] * 3, np.int32)  # the last has fewer rows than assets
    request = read_request(returns.astype(np.float32), universes, windows)
    expected = compute_features(request, solver="lapack")
    assert 0 < (expected.status != 0).sum() < 9
    copies = universes[(expected.warnings.of_asset & WarningFlag.NEAR_COPY) > 0]
    assert {32, 33} <= set(copies.tolist())
    for solver in (None, "cupy"):
        actual = compute_features(request._replace(panel=cupy.asarray(request.panel)), solver=solver)
        np.testing.assert_array_equal(actual.status, expected.status)
        np.testing.assert_array_equal(actual.status_asset, expected.status_asset)
        for found, wanted in zip(actual.warnings, expected.warnings, strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(actual.features, expected.features, rtol=1e-5, atol=1e-5)

    parameters = split_parameters(rng.uniform(size=(len(universes), N_PARAMETERS)))
    for classic in (False, True):
        on_host, on_device = (
            to_numpy(assemble(request._replace(panel=panel), parameters, expected.status, classic=classic))
            for panel in (request.panel, cupy.asarray(request.panel))
        )
        np.testing.assert_array_equal(np.isnan(on_device), np.isnan(on_host))
        np.testing.assert_allclose(on_device, on_host, rtol=1e-5, atol=1e-6 * np.nanmax(on_host))


@pytest.mark.parametrize("missing", [0.0, 0.02])
@pytest.mark.parametrize("longest", [120, 400])  # rows that all count alike, and old ones that count less
def test_windows_of_several_lengths_share_launches(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, longest: int, missing: float
) -> None:
    """Each universe's numbers are those of its own window: nothing above it counts, in whatever way."""
    rng = np.random.default_rng(6)
    returns = 0.01 * (rng.standard_normal((longest + 20, 40)) + rng.standard_normal((longest + 20, 1)))
    returns[rng.random(returns.shape) < missing] = np.nan
    returns[longest - 60 : longest - 40, 3] = np.where(missing, 0.0, returns[longest - 60 : longest - 40, 3])  # stale
    returns[: longest // 2, 8] = np.nan if missing else 0.01  # before some windows
    returns[longest // 2 : longest // 2 + 3, 8] = 0.05, -0.04, 0.02
    n_rows = np.array([longest, longest - 1, longest // 2, 61, 62, 20, 33, longest - 21])
    stops = longest + np.array([0, 20, 7, 13, 0, 20, 1, 3])
    windows = np.stack([stops - n_rows, stops], axis=1).astype(np.int32)
    universes = np.full((24, 34), PADDING, np.int32)
    for u, row in enumerate(universes):
        size = [34, 2, 20, 9, 33][u % 5]
        row[:size] = rng.choice(40, size, replace=False)
    request = read_request(returns.astype(np.float32), universes, np.tile(windows, (3, 1)))
    expected = compute_features(request, solver="lapack")
    assert (expected.status == 0).sum() >= 12
    batches: list[int] = []

    def shared(returns: Any, cuts: Any, *arguments: Any, **options: Any) -> Any:
        batches.append(len(cuts))
        return share_windows(returns, cuts, *arguments, **options)

    monkeypatch.setattr(features_module, "share_windows", shared)
    on_device = request._replace(panel=cupy.asarray(request.panel))
    for solver in (None, "cupy"):
        batches.clear()
        actual = compute_features(on_device, solver=solver)
        assert len(batches) <= 6
        np.testing.assert_array_equal(actual.status, expected.status)
        for found, wanted in zip(actual.warnings, expected.warnings, strict=True):
            np.testing.assert_array_equal(found, wanted)
        for column, name in enumerate(FEATURE_NAMES):
            np.testing.assert_allclose(
                actual.features[:, column], expected.features[:, column], rtol=1e-5, atol=1e-5, err_msg=name
            )
    parameters = split_parameters(rng.uniform(size=(len(universes), N_PARAMETERS)))
    kept = KeptMoments()
    compute_features(on_device, kept=kept)
    for classic in (False, True):
        on_host, there = (
            to_numpy(assemble(request._replace(panel=panel), parameters, expected.status, classic=classic))
            for panel in (request.panel, on_device.panel)
        )
        np.testing.assert_array_equal(np.isnan(there), np.isnan(on_host))
        np.testing.assert_allclose(there, on_host, rtol=1e-5, atol=1e-6 * np.nanmax(on_host))
    monkeypatch.setattr(Device, "attributes", {**Device.attributes, "MaxSharedMemoryPerBlockOptin": 2_000})
    in_array_form = assemble(on_device, parameters, expected.status, kept=kept)
    np.testing.assert_allclose(
        to_numpy(in_array_form),
        assemble(request, parameters, expected.status),
        rtol=1e-5,
        atol=1e-6 * np.nanmax(on_host),
    )


@pytest.mark.parametrize(("limit", "left"), [(4_500, True), (6_500, False)])
def test_matrices_of_windows_too_long_for_a_block(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, limit: int, left: bool
) -> None:
    """Universes with missing returns are left to the array form then, others are not."""
    request = draw_request(120, 6)
    panel = request.panel.copy()
    panel[:, :9] = np.nan_to_num(panel[:, :9])
    universes = request.universes.copy()
    universes[3:] = PADDING
    universes[3:, :7] = [np.arange(7), np.arange(2, 9), np.arange(1, 8)]
    request = request._replace(panel=panel, universes=universes)
    parameters = split_parameters(np.random.default_rng(4).uniform(size=(6, N_PARAMETERS)))
    status = np.zeros(6, np.int32)
    expected = assemble(request, parameters, status)
    monkeypatch.setattr(Device, "attributes", {**Device.attributes, "MaxSharedMemoryPerBlockOptin": limit})
    in_array_form = []
    monkeypatch.setattr(assemble_module, "estimate_covariance", lambda *of: in_array_form.append(1) or undisturbed(*of))
    actual = to_numpy(assemble(request._replace(panel=cupy.asarray(panel)), parameters, status))
    assert bool(in_array_form) == left
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.nanmax(expected))


def test_matrices_from_kept_moments(cupy: Any) -> None:
    """They stay where the panel is, from the features on."""
    request = draw_request(120, 6)
    rng = np.random.default_rng(4)
    parameters = split_parameters(rng.uniform(size=(6, N_PARAMETERS)))
    status = np.zeros(6, np.int32)
    expected = assemble(request, parameters, status)
    on_device = request._replace(panel=cupy.asarray(request.panel))
    kept = KeptMoments()
    compute_features(on_device, threads=1, kept=kept)
    actual = assemble(on_device, parameters, status, threads=1, kept=kept)
    assert type(actual) is cupy.ndarray  # who asks for them takes them from there
    np.testing.assert_array_equal(np.isnan(to_numpy(actual)), np.isnan(expected))
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-5, atol=1e-6 * np.nanmax(expected))


def test_risk(cupy: Any) -> None:
    """The portfolios go there, and all parameters at once; numbers come back; matrices do neither."""
    request = draw_request(120, 6)
    request.universes[1] = [*range(3, 36), PADDING]  # of the size class of the largest, and smaller
    rng = np.random.default_rng(4)
    parameters = split_parameters(rng.uniform(size=(6, N_PARAMETERS)))
    status = np.zeros(6, np.int32)
    portfolios = read_portfolios(request, portfolios=rng.standard_normal((3, 40)))
    expected = measure_portfolios(request, parameters, status, portfolios, minimum_variance=True)
    on_device = request._replace(panel=cupy.asarray(request.panel))
    waits.clear()
    actual = measure_portfolios(on_device, parameters, status, portfolios, minimum_variance=True, threads=1)
    for name, value in expected._asdict().items():
        found = getattr(actual, name)
        assert type(found) is np.ndarray, name
        assert_same_risk(name, found, value)
    steps = 6  # of the long-only solver, at most, for each of three size classes
    assert sum(waits.values()) <= 8 + 3 * (2 + steps)


def assert_same_risk(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """To the rounding of float64, or of float32 where that is published."""
    largest = np.nanmax(np.abs(expected)) if expected.size else 0.0
    error = 1e-6 if expected.dtype == np.float32 else 1e-11
    np.testing.assert_allclose(found, expected, rtol=error, atol=error * largest, err_msg=name)


@pytest.mark.parametrize("least", [False, True])
def test_risk_of_all_sizes_in_one_launch(cupy: Any, monkeypatch: pytest.MonkeyPatch, least: bool) -> None:
    """Beside a refused universe, and with a portfolio that is no number on some: neighbours and padding untouched.

    In two parts, so that a block's intensity is that of all of them.
    """
    for name in ("_TOGETHER_BYTES", "_SEARCHED_BYTES"):
        monkeypatch.setattr(risk, name, 4 * 8 * 34**2)
    request = draw_request(120, 6)
    rng = np.random.default_rng(4)
    parameters = split_parameters(rng.uniform(size=(6, N_PARAMETERS)))
    status = np.array([0, 0, 1, 0, 0, 0], np.int32)
    books = rng.standard_normal((3, 40))
    books[1, [5, -1]] = np.nan  # PADDING is the last column's number too
    portfolios = read_portfolios(request, portfolios=books)
    blocks = np.where(request.universes == PADDING, PADDING, 7)
    blocks[3:][blocks[3:] == 7] = 4  # of the last universes alone
    request = request._replace(blocks=blocks)
    settings = {"minimum_variance": least, "block_intensity": rng.uniform(size=(6, 2))}
    expected = measure_portfolios(request, parameters, status, portfolios, **settings)
    on_device = request._replace(panel=cupy.asarray(request.panel))
    clear_counts()
    actual = measure_portfolios(on_device, parameters, status, portfolios, threads=1, **settings)
    if not least:
        # Three arrays of each part, and where its returns are missing.
        assert host_copies["from the device"] <= 2 * (3 + 1)
    assert 0 < np.isnan(expected.variance[3:]).sum() < expected.variance[3:].size
    for name, value in expected._asdict().items():
        found = getattr(actual, name)
        assert type(found) is np.ndarray, name
        assert_same_risk(name, found, value)


def test_risk_where_every_universe_is_refused(cupy: Any) -> None:
    """Nothing is asked of the device."""
    request = draw_request(120, 3)
    parameters, status = split_parameters(np.full((3, N_PARAMETERS), 0.1)), np.full(3, 5, np.int32)
    portfolios = read_portfolios(request, portfolios=np.ones((2, 40)))
    on_device = request._replace(panel=cupy.asarray(request.panel))
    clear_counts()
    found = measure_portfolios(on_device, parameters, status, portfolios, minimum_variance=True)
    assert not array_calls
    assert not waits
    for value in (found.variance, found.marginal, found.diagonal, found.minimum_variance_weights):
        assert np.isnan(value).all()


def test_portfolios_of_least_variance_are_solved_by_size(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One large universe does not make the equations of small ones as large."""
    request = draw_request(120, 6)
    sizes = (request.universes != PADDING).sum(axis=1)
    solved: list[tuple[int, ...]] = []

    def counted(matrices: Any, *arguments: Any) -> Any:
        solved.append(matrices.shape)
        return long_only(matrices, *arguments)

    monkeypatch.setattr(risk, "long_only", counted)
    parameters, status = split_parameters(np.full((6, N_PARAMETERS), 0.1)), np.zeros(6, np.int32)
    portfolios = read_portfolios(request, portfolios=np.ones((1, 40)))
    on_device = request._replace(panel=cupy.asarray(request.panel))
    measure_portfolios(on_device, parameters, status, portfolios, minimum_variance=True)
    assert sorted(solved) == sorted((int((sizes == size).sum()), int(size), int(size)) for size in np.unique(sizes))


def test_portfolios_of_least_variance_need_no_matrix_twice(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = draw_request(120, 6)
    request = request._replace(panel=cupy.asarray(request.panel))
    rng = np.random.default_rng(4)
    parameters, status = split_parameters(rng.uniform(size=(6, N_PARAMETERS))), np.zeros(6, np.int32)
    portfolios = read_portfolios(request, portfolios=rng.standard_normal((3, 40)))
    built = []

    def counted(*arguments: Any, **options: Any) -> Any:
        matrices = kernels.assemble(*arguments, **options)
        built.append(len(matrices))
        return matrices

    monkeypatch.setattr(assemble_on_device, "kernels", SimpleNamespace(**{**vars(kernels), "assemble": counted}))
    measure_portfolios(request, parameters, status, portfolios, minimum_variance=True, threads=1)
    assert built == [6]


def test_matrices_wait_on_the_device_for_whoever_asked(cupy: Any) -> None:
    """No copy of them, whatever there is to compute: refused universes and padding are filled there too."""
    request = draw_request(120, 12)
    request = request._replace(panel=np.nan_to_num(request.panel))
    rng = np.random.default_rng(4)
    parameters = split_parameters(rng.uniform(size=(12, N_PARAMETERS)))
    status = np.array([0, 3] * 6, np.int32)
    expected = assemble(request, parameters, status)
    on_device = request._replace(panel=cupy.asarray(request.panel))
    clear_counts()
    actual = assemble(on_device, parameters, status)
    assert type(actual) is cupy.ndarray
    assert host_copies["from the device"] == 1  # where returns are missing: nowhere
    np.testing.assert_array_equal(np.isnan(to_numpy(actual)), np.isnan(expected))
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-5, atol=1e-6 * np.nanmax(expected))


def test_every_device_of_a_node(cupy: Any) -> None:
    """The same to the bit; what one device keeps for later requests is of no use on another."""
    request = draw_request(120, 3)
    answers = []
    for number in (0, 1):
        Device(number).use()
        on_device = request._replace(panel=cupy.asarray(request.panel))
        table = compute_features(on_device, threads=4)
        parameters = split_parameters(np.full((3, N_PARAMETERS), 0.1))
        answers.append((table.features, to_numpy(assemble(on_device, parameters, table.status, threads=4))))
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


def test_half_at_a_time_where_memory_does_not_suffice(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = draw_request(120, 6)
    parameters = split_parameters(np.full((6, N_PARAMETERS), 0.1))
    on_device = request._replace(panel=cupy.asarray(request.panel))

    def answer() -> tuple[np.ndarray, np.ndarray]:
        table = compute_features(on_device)
        return table.features, to_numpy(assemble(on_device, parameters, table.status))

    expected = answer()
    most = 34  # columns: what the largest universe has
    for module, name in ((features_module, "share_windows"), (assemble_module, "share_window")):
        undisturbed = getattr(module, name)

        def shared(returns: Any, *arguments: Any, undisturbed: Any = undisturbed, **options: Any) -> Any:
            if returns.shape[1] > most:
                raise MemoryError("out of memory")
            return undisturbed(returns, *arguments, **options)

        monkeypatch.setattr(module, name, shared)
    for found, wanted in zip(answer(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert cupy.get_default_memory_pool().freed >= 2
    most = 33
    with pytest.raises(MemoryError):
        answer()


@pytest.mark.parametrize("name", ["kernels", "cupy", "lapack"])
def test_solvers(cupy: Any, name: str) -> None:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((40, 60)) + rng.standard_normal(60)
    z -= z.mean(axis=1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    index = np.array([rng.choice(40, 17, replace=False) for _ in range(3)])
    products = (z @ z.T, 0.9 * z @ z.T, 0.5 * z @ z.T)
    host, pretended = solvers.choose_solver(z, "lapack"), solvers.choose_solver(cupy.asarray(z), name)
    on_device = [cupy.asarray(product) for product in products]
    for rows in (60, 12):  # of the factor: the direct and the dual form
        expected = host.eigenvalues(products[0], z[:, :rows], index)
        actual = pretended.eigenvalues(on_device[0], cupy.asarray(z[:, :rows]), cupy.asarray(index))
        np.testing.assert_allclose(to_numpy(actual), expected, rtol=0, atol=1e-12)
    assert {step.split("-")[0] for step in pretended.used} == {name}
    pairs = host.pair_statistics(products, index)
    for field, found in pretended.pair_statistics(on_device, cupy.asarray(index))._asdict().items():
        np.testing.assert_allclose(to_numpy(found), getattr(pairs, field), rtol=1e-12, err_msg=field)


def test_the_pretended_device_refuses_host_arrays(cupy: Any) -> None:
    there, here = cupy.zeros(3), np.zeros(3)
    for mix in (
        lambda: there + here,
        lambda: here * there,
        lambda: cupy.maximum(here, 0.0),
        lambda: there[np.arange(2)],
        lambda: cupy.concatenate([there, here]),
        lambda: there.__setitem__(0, here[:1]),
    ):
        with pytest.raises(TypeError, match="Unsupported type"):
            mix()
