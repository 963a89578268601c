# SPDX-License-Identifier: Apache-2.0
"""Stale prices: long runs of returns of exactly zero are missing values, not returns."""

from __future__ import annotations

import math

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace

LEAST_RUN = 10
"""Fewer zeros in a row are always returns."""

CHANCE = 1e-6
"""A longer run is stale where zeros as frequent as in the rest of the window would make one in fewer windows."""


def without_stale(returns: Array) -> tuple[Array, Array]:
    """Put NaN in the place of stale prices.

    A run of k zeros, k of at least 10, is stale if n p^k < 1e-6 with n the asset's returns in the window and
    p = (zeros outside the run + 1) / (returns outside + 2), the share of zeros that the asset has otherwise (Laplace's
    rule). A missing cell neither ends a run nor adds to it. So in a window of 252 an asset with 18 % zeros may have 11
    in a row, one with 40 % may have 21, and a fund that is priced once a month keeps its zeros. A series of nothing
    but zeros is left as it is: it is constant, not stale.

    Parameters
    ----------
    returns : array of shape (T, m)
        Simple returns, NaN = missing.

    Returns
    -------
    returns : array of shape (T, m)
        The same array where nothing is stale.
    stale : bool array of shape (m,)
        Whether a column had a stale run.
    """
    xp = array_namespace(returns)
    found = xp.zeros(returns.shape[1], bool)
    suspects = _suspects(returns)
    if not len(suspects):
        return returns, found
    stale = stale_cells(returns[:, suspects])
    found[suspects] = stale.any(axis=0)
    if not bool(found.any()):
        return returns, found
    cleaned = returns.copy()
    cleaned[:, suspects] = xp.where(stale, np.nan, returns[:, suspects])
    return cleaned, found


def stale_cells(returns: Array) -> Array:
    """Which cells belong to a stale run, see `without_stale`; shape (T, m) -> (T, m) bool."""
    xp = array_namespace(returns)
    n_rows, n_columns = returns.shape
    zero, observed = returns == 0, ~xp.isnan(returns)
    # Zeros with as many moves before them, in the same column, are one run.
    moves = xp.cumsum(observed & ~zero, axis=0)
    run = moves * n_columns + xp.arange(n_columns)
    length = xp.bincount(run[zero], minlength=(n_rows + 1) * n_columns)[run]
    outside = observed.sum(axis=0) - length
    share = (zero.sum(axis=0) - length + 1.0) / (outside + 2.0)
    unlikely = xp.log(xp.maximum(observed.sum(axis=0), 1)) + length * xp.log(share) < math.log(CHANCE)
    return zero & (length >= LEAST_RUN) & (outside > 0) & unlikely


def _suspects(returns: Array) -> Array:
    """Columns with as many zeros as a run needs, and as many rows one after the other without any other return."""
    xp = array_namespace(returns)
    if xp is np:
        # Of so many rows one is looked at: it costs next to nothing, and few columns of a usual panel are left.
        doubtful = (~(xp.abs(returns[LEAST_RUN - 1 :: LEAST_RUN]) > 0)).any(axis=0)
    else:  # rows above shorter windows are missing there, and a GPU has looked at all as soon
        doubtful = (returns == 0).sum(axis=0) >= LEAST_RUN
    columns = xp.flatnonzero(doubtful)
    if not len(columns):
        return columns
    candidates = returns[:, columns]
    zero = candidates == 0
    together, length = ~(xp.abs(candidates) > 0), 1  # zero or missing
    while length < LEAST_RUN:  # stretches of twice the length overlap in their middle
        step = min(length, LEAST_RUN - length)
        together = together[step:] & together[:-step]
        length += step
    return columns[together.any(axis=0) & (zero.sum(axis=0) >= LEAST_RUN)]
