# SPDX-License-Identifier: Apache-2.0
"""Matrices by the compiled form against the array form; against loops and textbooks both stand in test_covariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.test_covariance import assert_close_covariance, simulate_parameters, simulate_returns

from sigmahat_kernels import assemble as module
from sigmahat_kernels.assemble import Chunk, assemble
from sigmahat_kernels.lanes.fast_factors import _multiply_three, row_start
from sigmahat_kernels.lanes.products import multiply_rows
from sigmahat_kernels.parameters import LEVELS, Parameters, intensity_of
from sigmahat_kernels.request import PADDING, read_request
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window

DOUBLE = 1e-12  # sums of up to 500 float64 numbers in another order
OFF = np.zeros((5, 1), np.float32)  # five universes without the leading factors


def array_form(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patched:
        patched.setattr(module, "can_compile", lambda: False)
        return assemble(*arguments, **options)


def draw_universes(rng, n_columns, sizes):
    rows = np.full((len(sizes), max(sizes)), PADDING, np.int32)
    for row, size in zip(rows, sizes, strict=True):
        row[:size] = rng.choice(n_columns, size, replace=False)
    return rows


SIZES = [2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64]  # whole registers, one more and one less


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.03])
def test_equals_the_array_form(monkeypatch, missing, classic):
    rng = np.random.default_rng(4)
    returns = simulate_returns(90, 70, missing=missing)
    universes = draw_universes(rng, 70, 3 * SIZES)
    parameters = simulate_parameters(len(universes))
    status = np.zeros(len(universes), np.int32)
    status[5] = 1
    arguments = (read_request(returns, universes), parameters, status)
    compiled = assemble(*arguments, classic=classic)
    expected = array_form(monkeypatch, *arguments, classic=classic)
    np.testing.assert_array_equal(np.isnan(compiled), np.isnan(expected))
    assert np.isnan(compiled[5]).all()
    for i, size in enumerate((universes != PADDING).sum(axis=1)):
        if i != 5:
            block = np.s_[i, :size, :size]
            assert_close_covariance(compiled[block], expected[block], rtol=2e-7)  # a float32's last bit
    np.testing.assert_array_equal(compiled, compiled.transpose(0, 2, 1))


def chunk(n, n_assets, *, n_columns=40, n_obs=80, missing=0.0, seed=0, **heads):
    rng = np.random.default_rng(seed)
    returns = simulate_returns(n_obs, n_columns, missing=missing, seed=seed)
    moments = share_window(returns.astype(float)).moments
    index = draw_universes(rng, n_columns, n * [n_assets]).astype(np.int64)
    parameters = simulate_parameters(n, seed=seed)._replace(**heads)
    intensity = np.broadcast_to(intensity_of(parameters)[:, None], index.shape)
    return Chunk(np.arange(n), moments, index, parameters, intensity, Scratch(np))


def filled(chunk, dtype=np.float64):
    n, n_assets = chunk.places.shape
    out = np.full((n, n_assets, n_assets), np.nan, dtype)
    chunk.fill(out, np.arange(n))
    return out


@pytest.mark.parametrize("heads", [{}, {"factor_memory": OFF}, {"factor_memory": OFF + 1}], ids=["some", "off", "all"])
@pytest.mark.parametrize("n_assets", [2, 3, 5, 8, 21, 40, 99, 100, 101])
def test_a_chunk_in_float64_equals_the_array_form_to_its_own_precision(monkeypatch, n_assets, heads):
    five = chunk(5, n_assets, n_columns=120 if n_assets > 40 else 40, **heads)
    compiled = filled(five)
    assert_products(five, np.random.default_rng(3).standard_normal((5, 2, n_assets)), compiled)
    np.testing.assert_array_equal(filled(five, np.float32), compiled.astype(np.float32))
    monkeypatch.setattr(module, "can_compile", lambda: False)
    assert_close_covariance(compiled, filled(five), rtol=DOUBLE)


@pytest.mark.parametrize("missing", [0.0, 0.02])
def test_long_windows_equal_the_array_form(monkeypatch, missing):
    """Of 1,000 rows, of which old ones count less."""
    five = chunk(5, 23, n_obs=1_000, missing=missing)
    compiled = filled(five)
    monkeypatch.setattr(module, "can_compile", lambda: False)
    assert_close_covariance(compiled, filled(five), rtol=DOUBLE)


@pytest.mark.parametrize("n_assets", [2, 7, 8, 21, 40])
@pytest.mark.parametrize("n_portfolios", [0, 1, 5])
def test_products_are_those_of_the_matrices(n_assets, n_portfolios):
    five = chunk(5, n_assets)
    weights = np.random.default_rng(2).standard_normal((5, n_portfolios, n_assets))
    weights[:, 2:3] = -weights[:, 1:2]  # a hedge that leaves nothing
    assert_products(five, weights, filled(five))


def assert_products(chunk, weights, matrices):
    marginal, covariance, diagonal = chunk.multiply(weights)
    np.testing.assert_array_equal(diagonal, np.einsum("nii->ni", matrices))
    np.testing.assert_array_equal(covariance, covariance.transpose(0, 2, 1))
    for q, matrix in enumerate(matrices):
        for p, w in enumerate(weights[q]):
            size = np.abs(matrix) @ np.abs(w)  # what rounding is relative to
            assert (np.abs(marginal[q, p] - matrix @ w) <= DOUBLE * size).all()
            assert (np.abs(covariance[q, p] - weights[q] @ matrix @ w) <= DOUBLE * (np.abs(weights[q]) @ size)).all()


@pytest.mark.parametrize("n_assets", [9, 16])
def test_bits_of_products_depend_on_no_other_universe_or_portfolio(n_assets):
    five = chunk(5, n_assets)
    weights = np.random.default_rng(2).standard_normal((5, 4, n_assets))
    together = five.multiply(weights)
    for memory in five.scratch._memory.values():  # nothing that was left there is read
        memory[:] = np.nan
    own = Parameters(*(head[[3]] for head in five.parameters))
    alone = Chunk(np.arange(1), five.moments, five.places[[3]], own, five.intensity[[3]], five.scratch)
    marginal, covariance, diagonal = alone.multiply(weights[[3], 1:3])
    np.testing.assert_array_equal(marginal[0], together[0][3, 1:3])
    np.testing.assert_array_equal(covariance[0], together[1][3, 1:3, 1:3])
    np.testing.assert_array_equal(diagonal[0], together[2][3])


def test_rows_that_are_not_named_are_left_alone():
    two = chunk(2, 9)
    out = np.full((5, 12, 12), 7.0, np.float32)
    two.fill(out, np.array([3, 1]))
    np.testing.assert_array_equal(out[[3, 1], :9, :9], filled(two, np.float32))
    assert (out[[0, 2, 4]] == 7.0).all()
    assert (out[:, 9:] == 7.0).all()
    assert (out[:, :, 9:] == 7.0).all()


@pytest.mark.parametrize("case", ["all shrunk", "nothing shrunk", "no weights", "hedged", "twins", "pairs", "apart"])
def test_borders(monkeypatch, case):
    """Intensity 1 and 0, weights of zero, a factor that does not move; assets that are one, or two are, or none."""
    three = chunk(3, 10, level=np.zeros((3, len(LEVELS)), np.float32))
    moments, index, parameters, intensity = three[1:5]
    if case in ("all shrunk", "nothing shrunk"):
        intensity = np.full(index.shape, float(case == "all shrunk"))
    if case == "no weights":
        parameters = parameters._replace(target_intensity=np.zeros((3, 3), np.float32))
        intensity = np.zeros(index.shape)
    if case == "hedged":  # R 1 = 0
        opposite = np.kron(np.eye(20), [[1.0, -1.0], [-1.0, 1.0]])
        moments, index = moments._replace(slow=opposite, fast=opposite), np.array([np.arange(10)] * 3)
    if case == "twins":
        moments = moments._replace(slow=np.ones((40, 40)), fast=np.ones((40, 40)))
    if case in ("pairs", "apart"):  # row sums are alike: of three leading factors one can be told
        same = np.kron(np.eye(20), np.ones((2, 2))) if case == "pairs" else np.eye(40)
        moments, index = moments._replace(slow=same, fast=same), np.array([np.arange(10)] * 3)
    three = three._replace(moments=moments, places=index, parameters=parameters, intensity=intensity)
    compiled = filled(three)
    assert np.isfinite(compiled).all()
    assert_products(three, np.random.default_rng(1).standard_normal((3, 2, 10)), compiled)
    monkeypatch.setattr(module, "can_compile", lambda: False)
    assert_close_covariance(compiled, filled(three), rtol=DOUBLE)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bits_do_not_depend_on_neighbours_order_or_threads(seed):
    rng = np.random.default_rng(seed)
    returns = simulate_returns(40, 30, seed=seed % 1000, missing=rng.choice([0.0, 0.02]))
    universes = draw_universes(rng, 30, rng.integers(2, 20, 12).tolist())
    parameters, status = simulate_parameters(12, seed=seed % 1000), np.zeros(12, np.int32)
    together = assemble(read_request(returns, universes), parameters, status, threads=2)
    order = rng.permutation(12)
    shuffled = Parameters(*(head[order] for head in parameters))
    np.testing.assert_array_equal(
        assemble(read_request(returns, universes[order]), shuffled, status, threads=1), together[order]
    )
    one = rng.integers(12)
    own = Parameters(*(head[[one]] for head in parameters))
    alone = assemble(read_request(returns, universes[[one]]), own, status[:1])
    np.testing.assert_array_equal(alone[0], together[one])


def test_three_products_at_once_have_the_bits_of_one_after_the_other():
    triangle, vectors = np.zeros(640), np.random.default_rng(0).standard_normal((3, 2, 16))
    start, length = row_start(8), 16
    for r in range(4):  # rows 8 to 11
        triangle[start + r * length :][: 8 + r] = np.random.default_rng(r).standard_normal(8 + r)
    apart = vectors.copy()
    _multiply_three(triangle, start, length, 8, vectors)
    multiply_rows(triangle, start, length, 8, apart)
    np.testing.assert_array_equal(vectors, apart)
