# SPDX-License-Identifier: Apache-2.0
"""Sums over the pairs of assets of each universe: all that the features need of its correlation matrices."""

from __future__ import annotations

from typing import NamedTuple

from sigmahat_kernels.backend import Array, array_namespace

HISTOGRAM_BINS = 32
"""Equal bins over [-1, 1]; the lower half holds the negative correlations."""


class PairStatistics(NamedTuple):
    """Of `n` universes of `N` assets, blocks R (slow), R_fast and R_first (first half) of `panel.Products`."""

    row_sum: Array  # (n, N) sum over all j of r_ij
    nearest: Array  # (n,) sum over i of the largest r_ij, j != i
    square: Array  # (n,) sum over i != j of r_ij^2
    cube: Array  # (n,) sum over i != j of r_ij^3
    histogram: Array  # (n, HISTOGRAM_BINS) number of r_ij, i != j, in each bin
    form: Array  # (n,) s'R s, s = row_sum
    fast_form: Array  # (n,) s'R_fast s
    drift: Array  # (n,) sum over i, j of (r_fast_ij - r_ij)^2
    first_square: Array  # (n,) sum over i != j of r_first_ij^2
    first_product: Array  # (n,) sum over i != j of r_first_ij r_ij


def pair_statistics(correlation: Array, fast: Array, first: Array, scratch: Array, bins: Array) -> PairStatistics:
    """All sums, in few passes over the stacks.

    Parameters
    ----------
    correlation, fast, first : arrays of shape (n, N, N)
        The diagonal of `correlation` is overwritten.
    scratch, bins : arrays of shape (n, N, N), float64 and int64
        Overwritten: a new array of this size would cost more than the pass that fills it.
    """
    xp = array_namespace(correlation)
    n_assets = correlation.shape[1]
    ones = xp.ones(n_assets)
    row_sum = correlation @ ones
    square = _dot(correlation, correlation) - n_assets
    first_diagonal = xp.diagonal(first, axis1=1, axis2=2)
    first_square = _dot(first, first) - (first_diagonal**2).sum(axis=1)
    first_product = _dot(first, correlation) - first_diagonal.sum(axis=1)
    xp.subtract(fast, correlation, out=scratch)
    drift = _dot(scratch, scratch)
    xp.multiply(correlation, correlation, out=scratch)
    cube = _dot(scratch, correlation) - n_assets

    form = ((correlation @ row_sum[:, :, None])[:, :, 0] * row_sum).sum(axis=1)
    fast_form = ((fast @ row_sum[:, :, None])[:, :, 0] * row_sum).sum(axis=1)

    diagonal = xp.arange(n_assets)
    correlation[:, diagonal, diagonal] = -1.0  # below every other correlation
    nearest = correlation.max(axis=2).sum(axis=1)
    return PairStatistics(
        row_sum=row_sum,
        nearest=nearest,
        square=square,
        cube=cube,
        histogram=_histogram(correlation, scratch, bins),
        form=form,
        fast_form=fast_form,
        drift=drift,
        first_square=first_square,
        first_product=first_product,
    )


def _dot(a: Array, b: Array) -> Array:
    """Sum of the products of the entries of each pair of matrices, (n, N, N) -> (n,)."""
    return array_namespace(a).einsum("nij,nij->n", a, b)


def _histogram(correlation: Array, scratch: Array, bins: Array) -> Array:
    """Counts over i != j; the diagonal is -1, so it lies in the lowest bin and is taken out there."""
    xp = array_namespace(correlation)
    n, n_assets, _ = correlation.shape
    # A hair less than half the bins, so that a correlation of 1 stays below the upper end of its universe's own bins.
    xp.multiply(correlation, HISTOGRAM_BINS / 2 * (1.0 - 1e-12), out=scratch)
    scratch += (HISTOGRAM_BINS * (0.5 + xp.arange(n)))[:, None, None]
    bins[...] = scratch
    counts = xp.bincount(bins.ravel(), minlength=HISTOGRAM_BINS * n).reshape(n, HISTOGRAM_BINS)
    counts[:, 0] -= n_assets
    return counts
