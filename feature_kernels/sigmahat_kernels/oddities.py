# SPDX-License-Identifier: Apache-2.0
"""What is odd in universes that are answered all the same: flags of their assets and of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.groups import WindowGroup
from sigmahat_kernels.panel import Window
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.shared_window import SharedWindows
from sigmahat_kernels.status import (
    DOMINANT_RETURN,
    FEW_RETURNS,
    MIN_OBSERVATIONS,
    NEAR_COPY,
    USUAL_ASSETS,
    USUAL_ROWS,
    USUAL_SPACING_DAYS,
    USUAL_VOLATILITY,
    WarningFlag,
)

_MOVED = 2.0
"""Standard deviations: on the day of a crash most assets move more than this."""

_STANDS_STILL = 0.01
"""Share of its volatility: an asset that moves less over the rows that it shares with another is not compared."""


class Warnings(NamedTuple):
    """`status.WarningFlag` bits of n universes of up to N assets."""

    of_universe: np.ndarray  # (n,) int32, its own flags and those of its assets
    of_asset: np.ndarray  # (n, N) int32, 0 in padding


def published_warnings(warnings: Warnings, universes: np.ndarray) -> dict[str, np.ndarray]:
    """Warnings of `universes` (n, N) under the names of the protocol.

    Flags of assets are rare, so only those that are set are sent: a row (universe, asset as in UNIVERSES, flags) each.
    """
    u, i = np.nonzero(warnings.of_asset)
    flagged = np.stack([u, universes[u, i], warnings.of_asset[u, i]], axis=1)
    return {"WARNINGS": warnings.of_universe, "ASSET_WARNINGS": flagged.astype(np.int32)}


def flag_assets(request: Request, group: WindowGroup, stale: Array, window: Window, slow: Array) -> np.ndarray | None:
    """Flag the assets of a group's n universes: (n, N) int32; None where nothing is odd.

    An asset is flagged for DOMINANT_RETURN unless most others of the universe moved in that row too, for NEAR_COPY if
    the universe holds the other one as well: a universe's flags do not depend on its neighbours.

    Parameters
    ----------
    stale : bool array of shape (m,)
        Which of the group's m columns had stale prices.
    window : Window
        Of these columns.
    slow : array of shape (m, m)
        Their equal-weighted correlation.
    """
    near = _near_copies(window, slow)
    of_column = to_numpy(_flag_columns(window, near.any(axis=0), stale))
    if not of_column.any():
        return None
    rows = request.universes[group.universes]
    place, held = group.place[rows], rows != PADDING
    of_asset = np.where(held, of_column[place], 0).astype(np.int32)
    _forgive_market_days(of_asset, place, held, window)
    _forgive_absent_copies(of_asset, place, near)
    return of_asset


def look_for_oddities(shared: SharedWindows, stale: Array, groups: Sequence[WindowGroup]) -> list[bool]:
    """Which windows `flag_assets` must look at: on a GPU only those in which it would find something.

    There it waits for every window; this waits once. Returns are missing in some windows: these are always looked at.
    """
    xp = array_namespace(shared.factor)
    if xp is np or len(groups) == 1:
        return [True] * len(groups)
    near = xp.abs(shared.blocks().slow) > NEAR_COPY
    near.reshape(len(groups), -1)[:, :: near.shape[2] + 1] = False
    repeated = np.array([group.columns[1:] <= group.columns[0] for group in groups])  # by `groups.batches_of`
    if repeated.any():
        near[:, 1:] &= xp.asarray(~repeated)[:, :, None]
    window = shared.window
    odd = _flag_columns(window, near.any(axis=1).reshape(-1), stale) + (window.n_observed < len(window.returns))
    return to_numpy(odd.reshape(len(groups), -1).any(axis=1)).tolist()


def flag_universes(request: Request) -> np.ndarray:
    """Flag what each universe is as a whole, and its window; (n,) int32. Windows must lie within the panel."""
    start, stop = request.windows.T
    flags = _outside((request.universes != PADDING).sum(axis=1), USUAL_ASSETS) * int(WarningFlag.UNUSUAL_SIZE)
    flags += _outside(stop - start, USUAL_ROWS) * int(WarningFlag.UNUSUAL_LENGTH)
    if request.dates is not None:
        # Distances that are too long, counted up to each row: the median is one if most are.
        long = np.concatenate([[0], np.cumsum(np.diff(request.dates) > USUAL_SPACING_DAYS)])
        flags += (2 * (long[stop - 1] - long[start]) > stop - 1 - start) * int(WarningFlag.UNUSUAL_SPACING)
    return flags.astype(np.int32)


def _near_copies(window: Window, slow: Array) -> Array:
    """Which columns copy which, (m, m) bool: by the rows that both have where returns are missing."""
    xp = array_namespace(slow)
    near = xp.abs(slow) > NEAR_COPY
    gaps = xp.flatnonzero(window.n_observed < len(window.returns))
    if len(gaps):
        o = window.observed
        # Scaled by their volatilities, so that no digits are lost; not cut: each was cut by a history of its own.
        x = (window.returns - window.returns.sum(axis=0) / window.n_observed) * o / window.volatilities[0]
        x_gap, o_gap = x[:, gaps].T, o[:, gaps].T
        n = o_gap @ o
        rows = xp.maximum(n, 1.0)
        mean, mean_gap = o_gap @ x / rows, x_gap @ o / rows
        variance, variance_gap = o_gap @ x**2 / rows - mean**2, x_gap**2 @ o / rows - mean_gap**2
        comparable = (n >= MIN_OBSERVATIONS) & (xp.minimum(variance, variance_gap) > _STANDS_STILL**2)
        covariance = x_gap @ x / rows - mean * mean_gap
        copies = comparable & (covariance**2 > NEAR_COPY**2 * variance * variance_gap)
        near[gaps] |= copies
        near[:, gaps] |= copies.T
    near.reshape(-1)[:: len(near) + 1] = False
    return near


def _flag_columns(window: Window, has_copy: Array, stale: Array) -> Array:
    """What can be wrong with each column, and whether it has a copy; (m,), where the window is."""
    n = window.n_observed
    return (
        (n < FEW_RETURNS * len(window.returns)) * int(WarningFlag.FEW_RETURNS)
        + stale * int(WarningFlag.STALE_PRICES)
        # The kurtosis is a sum of fourth powers already: sum x^4 / (sum x^2)^2 = kurtosis n / (n - 1)^2.
        + (window.kurtosis * n > DOMINANT_RETURN * (n - 1.0) ** 2) * int(WarningFlag.DOMINANT_RETURN)
        + has_copy * int(WarningFlag.NEAR_COPY)
        + _outside(window.volatilities[0], USUAL_VOLATILITY) * int(WarningFlag.UNUSUAL_VOLATILITY)
    )


def _outside(values: Array, limits: tuple[float, float]) -> Array:
    return (values < limits[0]) | (values > limits[1])


def _forgive_market_days(of_asset: np.ndarray, place: np.ndarray, held: np.ndarray, window: Window) -> None:
    """Take DOMINANT_RETURN from assets whose return lies in a row in which most others of the universe moved too."""
    xp = array_namespace(window.standardised)
    flagged = (of_asset & WarningFlag.DOMINANT_RETURN) != 0
    columns = np.unique(place[flagged])
    if not len(columns):
        return
    there = xp.asarray(columns)
    returns, observed = window.returns[:, there], window.observed[:, there]
    largest = (xp.abs(returns - returns.sum(axis=0) / window.n_observed[there]) * observed).argmax(axis=0)
    moved = to_numpy(xp.abs(window.standardised[largest]) > _MOVED)  # (columns, m)
    present = to_numpy(window.observed[largest]) > 0
    for u, i in zip(*np.nonzero(flagged), strict=True):
        row = np.searchsorted(columns, place[u, i])
        others = np.delete(place[u, held[u]], i)
        if 2 * moved[row, others].sum() > present[row, others].sum():
            of_asset[u, i] &= ~WarningFlag.DOMINANT_RETURN


def _forgive_absent_copies(of_asset: np.ndarray, place: np.ndarray, near: Array) -> None:
    """Take NEAR_COPY from assets whose copy is not in the universe."""
    flagged = (of_asset & WarningFlag.NEAR_COPY) != 0
    columns = np.unique(place[flagged])
    if not len(columns):
        return
    there = array_namespace(near).asarray(columns)
    copies = to_numpy(near[there][:, there])
    for u in np.flatnonzero(flagged.any(axis=1)):
        at = np.flatnonzero(flagged[u])
        own = np.searchsorted(columns, place[u, at])
        alone = ~copies[np.ix_(own, own)].any(axis=1)
        of_asset[u, at[alone]] &= ~WarningFlag.NEAR_COPY
