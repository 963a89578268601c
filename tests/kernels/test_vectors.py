# SPDX-License-Identifier: Apache-2.0
"""Vectors of lanes against NumPy: those operations whose instructions are written out by hand."""

from __future__ import annotations

import numpy as np
from numba import njit

from sigmahat_kernels.lanes.vectors import exp, load, load_columns, store, sum_lanes, sums_of_four

LANES = 8


@njit
def exponentials(x: np.ndarray, out: np.ndarray) -> None:
    for j in range(0, len(x), LANES):
        store(out, j, exp(load(x, j, LANES)))


def test_exponential_is_that_of_numpy_to_its_last_digits() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-700, 700, 4_000), rng.uniform(-2, 2, 4_000), [0.0, 1.0, -1.0, 1e-300], np.zeros(4)]
    )
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(x), rtol=4 * np.finfo(float).eps)
    assert out[-1] == 1.0


def test_exponential_of_what_is_too_large_is_that_of_the_limit() -> None:
    x = np.array([700.0, 701.0, 1e9, np.inf, -700.0, -701.0, -1e9, -np.inf])
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(np.repeat([700.0, -700.0], 4)), rtol=4 * np.finfo(float).eps)


@njit
def transposed(matrix: np.ndarray, at: int, out: np.ndarray) -> None:
    columns = load_columns(matrix, at, matrix.shape[1], LANES)
    for k in range(LANES):
        store(out, LANES * k, columns[k])


def test_columns_of_rows() -> None:
    matrix, out = np.arange(240.0).reshape(12, 20), np.empty((8, 8))
    transposed(matrix, 2 * 20 + 5, out)
    np.testing.assert_array_equal(out, matrix[2:10, 5:13].T)


@njit
def sums(rows: np.ndarray, out: np.ndarray) -> None:
    a, b, c, d = load(rows, 0, LANES), load(rows, 8, LANES), load(rows, 16, LANES), load(rows, 24, LANES)
    store(out, 0, sums_of_four(a, b, c, d))
    out[4], out[5], out[6], out[7] = sum_lanes(a), sum_lanes(b), sum_lanes(c), sum_lanes(d)


def test_four_sums_have_the_bits_of_one_after_the_other() -> None:
    rows, out = np.random.default_rng(1).standard_normal((4, 8)), np.empty(8)
    sums(rows, out)
    np.testing.assert_array_equal(out[:4], out[4:])
    np.testing.assert_allclose(out[:4], rows.sum(axis=1), rtol=1e-14)
