# SPDX-License-Identifier: Apache-2.0
"""Which solver is chosen, what it says when it cannot be had, and LAPACK's answers, which the others are held to."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from without_gpu.pretended_cupy import H200, CUDARuntimeError, pretended_cupy

from sigmahat_kernels import solvers
from sigmahat_kernels.cuda import cusolver, device
from sigmahat_kernels.cuda.cusolver import CusolverError
from sigmahat_kernels.solvers import DEVICE_SOLVERS, Solver, SolverError, choose_solver

RTX = {"MaxSharedMemoryPerBlockOptin": 101_376, "SingleToDoublePrecisionPerfRatio": 64}


class DeviceArray:
    """Stands in for `cupy.ndarray`."""


class Machine:
    """What a pretended GPU machine has."""

    def __init__(self) -> None:
        self.attributes = H200
        self.compiles = True
        self.has_cusolver = True
        self.passing: Exception | None = None  # raised once, by the next kernel that is compiled


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    pretended = Machine()

    def compiled(program, number):
        passing, pretended.passing = pretended.passing, None
        if passing is not None:
            raise passing
        if not pretended.compiles:
            raise RuntimeError("nvrtc: unsupported architecture")

    def check_available():
        if not pretended.has_cusolver:
            raise CusolverError("libcusolver.so.12 has no cusolverDnXsyevBatched")

    module = pretended_cupy()
    module.ndarray = DeviceArray
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(device, "current_device", lambda: 0)
    monkeypatch.setattr(device, "compiled", compiled)
    monkeypatch.setattr(device, "_attribute", lambda name: pretended.attributes[name])
    monkeypatch.setattr(cusolver, "check_available", check_available)
    solvers._steps_on_device.cache_clear()
    yield pretended
    solvers._steps_on_device.cache_clear()


def steps_of(solver: Solver) -> list[str]:
    return [step.name for step in solver._steps]


def test_the_best_comes_first_and_the_others_stand_behind_it(machine: Machine) -> None:
    solver = choose_solver(DeviceArray())
    assert solver.name == "kernels"
    assert steps_of(solver) == ["kernels-float64", "cusolver", "cupy", "lapack"]


@pytest.mark.parametrize(("size", "first"), [(228, "kernels-float64"), (229, "cusolver"), (256, "cusolver")])
def test_what_does_not_fit_in_double_is_solved_once(machine: Machine, size: int, first: str) -> None:
    """Not in float32 and then again: with few more rows than assets, all of it would be."""
    step = next(step for step in choose_solver(DeviceArray())._steps if step.takes(size))
    assert (step.name, step.exact) == (first, True)


@pytest.mark.parametrize("error", [MemoryError("2 GB"), CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")])
def test_what_may_pass_is_tried_again(machine: Machine, error: Exception) -> None:
    machine.passing = error
    with pytest.warns(UserWarning, match=f"'kernels' cannot run here, the next one is used: {type(error).__name__}"):
        assert choose_solver(DeviceArray()).name == "cusolver"
    assert choose_solver(DeviceArray()).name == "kernels"


def test_what_lasts_is_not(machine: Machine) -> None:
    machine.compiles = False
    with pytest.warns(UserWarning, match="unsupported architecture"):
        choose_solver(DeviceArray())
    machine.compiles = True
    with pytest.warns(UserWarning, match="unsupported architecture"):
        assert choose_solver(DeviceArray()).name == "cusolver"


def test_slow_double_precision_makes_float32_the_first(machine: Machine) -> None:
    machine.attributes = RTX
    assert steps_of(choose_solver(DeviceArray()))[:2] == ["kernels-float32", "kernels-float64"]


@pytest.mark.parametrize("name", DEVICE_SOLVERS)
def test_a_request_is_honoured(machine: Machine, name: str) -> None:
    solver = choose_solver(DeviceArray(), name)
    assert solver.name == name
    assert steps_of(solver)[0].startswith(name)


def test_kernels_that_do_not_compile_are_stepped_over_visibly(machine: Machine) -> None:
    machine.compiles = False
    with pytest.warns(UserWarning, match="'kernels' cannot run here, the next .* unsupported architecture"):
        solver = choose_solver(DeviceArray())
    assert solver.name == "cusolver"
    assert steps_of(solver) == ["cusolver", "cupy", "lapack"]
    machine.has_cusolver = False
    solvers._steps_on_device.cache_clear()
    with pytest.warns(UserWarning, match="cannot run here") as warned:
        assert choose_solver(DeviceArray()).name == "cupy"
    assert "no cusolverDnXsyevBatched" in str(warned[-1].message)


def test_a_request_that_cannot_be_met_is_an_error_with_the_reason(machine: Machine) -> None:
    machine.compiles = machine.has_cusolver = False
    with pytest.raises(SolverError, match="solver 'kernels' cannot run here: RuntimeError: nvrtc: unsupported arch"):
        choose_solver(DeviceArray(), "kernels")
    with pytest.raises(SolverError, match=r"solver 'cusolver' cannot run here: .* no cusolverDnXsyevBatched"):
        choose_solver(DeviceArray(), "cusolver")


def test_unknown_and_impossible_requests() -> None:
    with pytest.raises(SolverError, match="one of kernels, cusolver, cupy, lanes, lapack, got 'magma'"):
        choose_solver(np.zeros((3, 3)), "magma")
    for name in ("kernels", "cusolver", "cupy"):
        with pytest.raises(SolverError, match=f"'{name}' needs the panel on a GPU, and it is in host memory"):
            choose_solver(np.zeros((3, 3)), name)


def test_lanes_are_for_host_memory(machine: Machine) -> None:
    with pytest.raises(SolverError, match="'lanes' needs the panel in host memory, and it is on a GPU"):
        choose_solver(DeviceArray(), "lanes")


def test_lapack_is_there_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "can_compile", lambda: False)
    assert choose_solver(np.zeros((3, 3))).name == "lapack"
    with pytest.raises(SolverError, match="'lanes' cannot run here: numba is not installed"):
        choose_solver(np.zeros((3, 3)), "lanes")


@pytest.mark.parametrize("name", ["lanes", "lapack"])
@pytest.mark.parametrize("n_obs", [60, 12])  # more and fewer rows than assets
def test_on_the_host(name: str, n_obs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    returns = rng.standard_normal((n_obs, 30)) + rng.standard_normal((n_obs, 1))
    index = np.array([rng.choice(30, 14, replace=False) for _ in range(5)])
    centred = returns - returns.mean(axis=0)
    factor = (centred / np.linalg.norm(centred, axis=0)).T
    expected = np.array([np.linalg.svd(factor[rows], compute_uv=False)[::-1] ** 2 for rows in index])
    expected = np.pad(expected, ((0, 0), (14 - expected.shape[1], 0)))
    products = (factor @ factor.T, np.eye(30), np.eye(30))
    whole = choose_solver(returns, name)
    np.testing.assert_allclose(whole.eigenvalues(products[0], factor, index), expected, rtol=0, atol=1e-13)
    assert whole.name == name
    assert whole.used == {name}

    statistics = whole.pair_statistics(products, index)
    monkeypatch.setattr(solvers, "_MAX_STACK", 2)  # three stacks of at most two
    np.testing.assert_allclose(whole.eigenvalues(products[0], factor, index), expected, rtol=0, atol=1e-13)
    for one, parts in zip(statistics, whole.pair_statistics(products, index), strict=True):
        np.testing.assert_allclose(parts, one, rtol=1e-13)
