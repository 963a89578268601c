# SPDX-License-Identifier: Apache-2.0
"""Spectra and pair statistics from gathered matrices: LAPACK on NumPy arrays, cuSOLVER through CuPy on its own."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.pairs import PairStatistics, pair_statistics
from sigmahat_kernels.panel import Products
from sigmahat_kernels.spectrum import correlation_spectrum, dual_spectrum


class Workspace(NamedTuple):
    """Arrays that are filled anew for every stack: fresh memory would cost more than the passes over it."""

    matrices: Array  # (cells,) float64
    pairs: Array  # (4, cells / 2) float64
    cells: Array  # (2, cells / 2) int64

    @classmethod
    def of(cls, xp: ModuleType, cells: int) -> Workspace:
        """For stacks of up to `cells` cells."""
        return cls(xp.empty(cells), xp.empty((4, cells // 2)), xp.empty((2, cells // 2), xp.int64))


def measure(products: Products, factor: Array, index: Array, workspace: Workspace) -> tuple[Array, PairStatistics]:
    """Eigenvalues, shape (n, N), ascending, and pair statistics of `n` universes of `N` assets.

    Parameters
    ----------
    products : Products
        Of the m columns of a window.
    factor : array of shape (m, T)
        Z' with Z'Z the correlation; its T x T Gram matrix is solved where T - 1 < N.
    index : int64 array of shape (n, N)
        Columns of each universe.
    """
    xp = array_namespace(index)
    n_columns, n_obs = factor.shape
    n, n_assets = index.shape
    row, column, expand = _pairs_of(xp, n_assets)
    n_pairs = len(row)
    cells, bins = (a[: n * n_pairs].reshape(n, n_pairs) for a in workspace.cells)
    *pairs, scratch = (a[: n * n_pairs].reshape(n, n_pairs) for a in workspace.pairs)
    correlation = workspace.matrices[: n * n_assets**2].reshape(n, n_assets, n_assets)

    _take(index * n_columns, row, cells, axis=1)
    _take(index, column, bins, axis=1)
    cells += bins
    for product, entries in zip(products, pairs, strict=True):
        _take(product, cells, entries)
    _take(pairs[0], expand, correlation.reshape(n, -1), axis=1)
    diagonal = xp.arange(n_assets)
    correlation[:, diagonal, diagonal] = 1.0
    eigenvalues = dual_spectrum(factor[index]) if n_obs - 1 < n_assets else correlation_spectrum(correlation)
    return eigenvalues, pair_statistics(correlation, pairs, scratch, bins)


@lru_cache(maxsize=4)
def _pairs_of(xp: ModuleType, n_assets: int) -> tuple[Array, Array, Array]:
    """Row and column of each pair, shape (P,), and the pair of each cell of the matrix, shape (N * N,)."""
    row, column = xp.tril_indices(n_assets, -1)
    expand = xp.zeros((n_assets, n_assets), xp.int64)
    expand[row, column] = expand[column, row] = xp.arange(len(row))
    return row, column, expand.ravel()


def _take(source: Array, index: Array, out: Array, axis: int | None = None) -> None:
    # "clip" skips a check that would copy: every index is in range. CuPy knows neither the check nor the word.
    options = {"mode": "clip"} if array_namespace(source).__name__ == "numpy" else {}
    source.take(index, axis=axis, out=out, **options)
