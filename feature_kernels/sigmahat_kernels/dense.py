# SPDX-License-Identifier: Apache-2.0
"""Spectra and pair statistics from gathered matrices: LAPACK on NumPy arrays, cuSOLVER through CuPy on its own."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.pairs import PairStatistics, pair_statistics
from sigmahat_kernels.panel import Products
from sigmahat_kernels.scratch import Scratch, take
from sigmahat_kernels.spectrum import correlation_spectrum, dual_spectrum


def measure(products: Products, factor: Array, index: Array, scratch: Scratch) -> tuple[Array, PairStatistics]:
    """Eigenvalues, shape (n, N), ascending, and pair statistics of `n` universes of `N` assets.

    Parameters
    ----------
    products : Products
        Of the m columns of a window.
    factor : array of shape (m, T)
        Z' with Z'Z the correlation; its T x T Gram matrix is solved where T - 1 < N.
    index : int64 array of shape (n, N)
        Columns of each universe.
    scratch : Scratch
        Of this thread.
    """
    xp = array_namespace(index)
    n_columns, n_obs = factor.shape
    n, n_assets = index.shape
    row, column, expand = _pairs_of(xp, n_assets)
    shape = (n, len(row))
    cells, columns = (scratch.array(name, shape, xp.int64) for name in ("cells", "columns"))
    take(index * n_columns, row, cells, axis=1)
    cells += take(index, column, columns, axis=1)
    pairs = [take(product, cells, scratch.array(f"pairs_{k}", shape)) for k, product in enumerate(products)]
    correlation = scratch.array("matrices", (n, n_assets, n_assets))
    take(pairs[0], expand, correlation.reshape(n, -1), axis=1)
    diagonal = xp.arange(n_assets)
    correlation[:, diagonal, diagonal] = 1.0
    eigenvalues = dual_spectrum(factor[index]) if n_obs - 1 < n_assets else correlation_spectrum(correlation)
    return eigenvalues, pair_statistics(correlation, pairs, scratch)


@lru_cache(maxsize=4)
def _pairs_of(xp: ModuleType, n_assets: int) -> tuple[Array, Array, Array]:
    """Row and column of each pair, shape (P,), and the pair of each cell of the matrix, shape (N * N,)."""
    row, column = xp.tril_indices(n_assets, -1)
    expand = xp.zeros((n_assets, n_assets), xp.int64)
    expand[row, column] = expand[column, row] = xp.arange(len(row))
    return row, column, expand.ravel()
