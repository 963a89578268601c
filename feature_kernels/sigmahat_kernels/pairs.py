# SPDX-License-Identifier: Apache-2.0
"""Sums over the pairs of assets of each universe: all that the features need of its correlation matrices."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from sigmahat_kernels.backend import Array, array_namespace, kept_for_each_device
from sigmahat_kernels.scratch import Scratch, take

HISTOGRAM_BINS = 32
"""Equal bins over [-1, 1]; the lower half holds the negative correlations."""


class PairStatistics(NamedTuple):
    """Of `n` universes of `N` assets, blocks R (slow), R_fast and R_first (first half) of `shared_window.Products`."""

    row_sum: Array  # (n, N) sum over all j of r_ij
    form: Array  # (n,) s'R s, s = row_sum
    nearest: Array  # (n,) sum over i of the largest r_ij, j != i
    square: Array  # (n,) sum over i < j of r_ij^2
    cube: Array  # (n,) sum over i < j of r_ij^3
    histogram: Array  # (n, HISTOGRAM_BINS) number of pairs i < j with r_ij in each bin
    drift: Array  # (n,) sum over i < j of (r_fast_ij - r_ij)^2
    first_square: Array  # (n,) sum over i < j of r_first_ij^2
    first_product: Array  # (n,) sum over i < j of r_first_ij r_ij


def gather_pairs(products: Sequence[Array], index: Array, scratch: Scratch) -> tuple[Array, list[Array]]:
    """Correlation matrices of `n` universes, shape (n, N, N), and the entries of each product, shape (n, P).

    Parameters
    ----------
    products : arrays of shape (m, m), or (windows, m, m)
        Symmetric; the first has the correlations.
    index : int64 array of shape (n, N)
        Columns of each universe; of several windows, positions among the columns of all.
    scratch : Scratch
        Of this thread; holds the results.
    """
    xp = array_namespace(index)
    n, n_assets = index.shape
    row, column, expand = _pairs_of(xp, n_assets)
    shape = (n, len(row))
    cells, columns = (scratch.array(name, shape, xp.int64) for name in ("cells", "columns"))
    take(index * products[0].shape[-1], row, cells, axis=1)
    of_window = index if products[0].ndim == 2 else index % products[0].shape[-1]
    cells += take(of_window, column, columns, axis=1)
    pairs = [take(product, cells, scratch.array(f"pairs_{k}", shape)) for k, product in enumerate(products)]
    correlation = scratch.array("matrices", (n, n_assets, n_assets))
    take(pairs[0], expand, correlation.reshape(n, -1), axis=1)
    diagonal = xp.arange(n_assets)
    correlation[:, diagonal, diagonal] = 1.0
    return correlation, pairs


@kept_for_each_device(4)
def _pairs_of(xp: ModuleType, n_assets: int) -> tuple[Array, Array, Array]:
    """Row and column of each pair, shape (P,), and the pair of each cell of the matrix, shape (N * N,)."""
    row, column = xp.tril_indices(n_assets, -1)
    expand = xp.zeros((n_assets, n_assets), xp.int64)
    expand[row, column] = expand[column, row] = xp.arange(len(row))
    return row, column, expand.ravel()


def pair_statistics(correlation: Array, pairs: Sequence[Array], scratch: Scratch) -> PairStatistics:
    """All sums, in few passes.

    Parameters
    ----------
    correlation : array of shape (n, N, N)
        R; its diagonal is overwritten.
    pairs : three arrays of shape (n, P)
        Entries of R, R_fast and R_first of the P = N (N - 1) / 2 pairs i < j, in any order.
    scratch : Scratch
        Of this thread.
    """
    xp = array_namespace(correlation)
    n_assets = correlation.shape[1]
    slow, fast, first = pairs
    row_sum = correlation @ xp.ones(n_assets)
    work = scratch.array("work", slow.shape)
    xp.subtract(fast, slow, out=work)
    drift = _dot(work, work)
    xp.multiply(slow, slow, out=work)
    cube = _dot(work, slow)
    form = ((correlation @ row_sum[:, :, None])[:, :, 0] * row_sum).sum(axis=1)
    diagonal = xp.arange(n_assets)
    correlation[:, diagonal, diagonal] = -1.0  # below every other correlation
    return PairStatistics(
        row_sum=row_sum,
        form=form,
        nearest=correlation.max(axis=1).sum(axis=1),
        square=_dot(slow, slow),
        cube=cube,
        histogram=_histogram(slow, scratch),
        drift=drift,
        first_square=_dot(first, first),
        first_product=_dot(first, slow),
    )


def _dot(a: Array, b: Array) -> Array:
    return array_namespace(a).einsum("np,np->n", a, b)


def _histogram(slow: Array, scratch: Scratch) -> Array:
    xp = array_namespace(slow)
    n = len(slow)
    work = scratch.array("work", slow.shape)
    # A hair less than half the bins, so that a correlation of 1 stays below the upper end of its universe's own bins.
    xp.multiply(slow, HISTOGRAM_BINS / 2 * (1.0 - 1e-12), out=work)
    work += HISTOGRAM_BINS / 2
    bins = scratch.array("bins", slow.shape, xp.int64)
    bins[...] = work
    bins += HISTOGRAM_BINS * xp.arange(n)[:, None]
    return xp.bincount(bins.ravel(), minlength=HISTOGRAM_BINS * n).reshape(n, HISTOGRAM_BINS)
