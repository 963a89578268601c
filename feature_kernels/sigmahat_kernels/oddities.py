# SPDX-License-Identifier: Apache-2.0
"""What is odd in universes that are answered all the same: flags of their assets and of themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.groups import UsableGroup
from sigmahat_kernels.panel import Window
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.status import (
    DOMINANT_RETURN,
    FEW_RETURNS,
    NEAR_COPY,
    USUAL_ASSETS,
    USUAL_ROWS,
    USUAL_SPACING_DAYS,
    USUAL_VOLATILITY,
    WarningFlag,
)

_MOVED = 2.0
"""Standard deviations: on the day of a crash most assets move more than this."""


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


def flag_universes(request: Request, usable: UsableGroup, window: Window, slow: Array) -> Warnings:
    """Flag the universes of a group.

    An asset is flagged for DOMINANT_RETURN unless most others of the universe moved in that row too, for NEAR_COPY if
    the universe holds the other one as well: a universe's flags do not depend on its neighbours.

    Parameters
    ----------
    window : Window
        Of the group's m columns.
    slow : array of shape (m, m)
        Their equal-weighted correlation.
    """
    group = usable.group
    rows = request.universes[group.universes]
    held = rows != PADDING
    of_asset = np.zeros(rows.shape, np.int32)
    of_column = to_numpy(_flag_columns(window, slow, usable.stale))
    if of_column.any():
        of_asset = np.where(held, of_column[group.place[rows]], 0).astype(np.int32)
        _forgive_market_days(of_asset, group.place[rows], held, window)
        _forgive_absent_copies(of_asset, group.place[rows], held, slow)
    sizes = held.sum(axis=1)
    of_universe = np.bitwise_or.reduce(of_asset, axis=1)
    of_universe |= np.where(_outside(sizes, USUAL_ASSETS), WarningFlag.UNUSUAL_SIZE, 0).astype(np.int32)
    if _outside(group.stop - group.start, USUAL_ROWS):
        of_universe |= WarningFlag.UNUSUAL_LENGTH
    if request.dates is not None and _spacing(request.dates[group.start : group.stop]) > USUAL_SPACING_DAYS:
        of_universe |= WarningFlag.UNUSUAL_SPACING
    return Warnings(of_universe, of_asset)


def _flag_columns(window: Window, slow: Array, stale: Array) -> Array:
    """What can be wrong with each column; (m,) int32, where the window is."""
    xp = array_namespace(slow)
    n = window.n_observed
    near = xp.abs(slow) > NEAR_COPY
    near.reshape(-1)[:: len(near) + 1] = False
    flags = xp.zeros(len(near), xp.int32)
    for flag, found in (
        (WarningFlag.FEW_RETURNS, n < FEW_RETURNS * len(window.returns)),
        (WarningFlag.STALE_PRICES, stale),
        # The kurtosis is a sum of fourth powers already: sum x^4 / (sum x^2)^2 = kurtosis n / (n - 1)^2.
        (WarningFlag.DOMINANT_RETURN, window.kurtosis * n > DOMINANT_RETURN * (n - 1.0) ** 2),
        (WarningFlag.NEAR_COPY, near.any(axis=0)),
        (WarningFlag.UNUSUAL_VOLATILITY, _outside(window.volatilities[0], USUAL_VOLATILITY)),
    ):
        flags += found * int(flag)
    return flags


def _spacing(dates: np.ndarray) -> float:
    return float(np.median(np.diff(dates)))


def _outside(value: Any, limits: tuple[float, float]) -> Any:
    """Of a number or of an array's entries."""
    return (value < limits[0]) | (value > limits[1])


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


def _forgive_absent_copies(of_asset: np.ndarray, place: np.ndarray, held: np.ndarray, slow: Array) -> None:
    """Take NEAR_COPY from assets whose copy is not in the universe."""
    flagged = (of_asset & WarningFlag.NEAR_COPY) != 0
    columns = np.unique(place[flagged])
    if not len(columns):
        return
    there = array_namespace(slow).asarray(columns)
    near = np.abs(to_numpy(slow[there][:, there])) > NEAR_COPY
    for u in np.flatnonzero(flagged.any(axis=1)):
        at = np.flatnonzero(flagged[u])
        own = np.searchsorted(columns, place[u, at])
        alone = near[np.ix_(own, own)].sum(axis=1) < 2  # each is near itself
        of_asset[u, at[alone]] &= ~WarningFlag.NEAR_COPY
