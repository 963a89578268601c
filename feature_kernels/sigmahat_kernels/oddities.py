# SPDX-License-Identifier: Apache-2.0
"""What is odd in universes that are answered all the same: flags of their assets and of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.groups import WindowGroup
from sigmahat_kernels.panel import RECENT_ROWS, Window
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
    some = np.flatnonzero(warnings.of_universe)
    row, i = np.nonzero(warnings.of_asset[some])
    u = some[row]
    flagged = np.stack([u, universes[u, i], warnings.of_asset[u, i]], axis=1)
    return {"WARNINGS": warnings.of_universe, "ASSET_WARNINGS": flagged.astype(np.int32)}


class OddColumns(NamedTuple):
    """What is odd in the m columns of a window, on the host; positions among them ascend."""

    flags: np.ndarray  # (m,) `status.WarningFlag` bits, whoever the neighbours are
    copying: np.ndarray  # (k,) columns that copy others
    copies: np.ndarray  # (k, m) bool, which
    dominated: np.ndarray  # (d,) columns of which one return dominates
    moved: np.ndarray  # (d, m) bool, what else moved in its row
    present: np.ndarray  # (d, m) bool, what else has a return there


def flag_assets(request: Request, group: WindowGroup, odd: OddColumns) -> np.ndarray:
    """Flag the assets of a group's n universes: (n, N) int32.

    An asset is flagged for DOMINANT_RETURN unless most others of the universe moved in that row too, for NEAR_COPY if
    the universe holds the other one as well: a universe's flags do not depend on its neighbours.
    """
    rows = request.universes[group.universes]
    place, held = group.place[rows], rows != PADDING
    of_asset = np.where(held, odd.flags[place], 0).astype(np.int32)
    _forgive_market_days(of_asset, place, held, odd)
    _forgive_absent_copies(of_asset, place, odd)
    return of_asset


def odd_columns(shared: SharedWindows, stale: Array, groups: Sequence[WindowGroup]) -> list[OddColumns | None]:
    """What is odd in each of some windows; None where nothing is.

    Where the windows stack, all are looked at together, and the host waits for them once or a few times in all.

    Parameters
    ----------
    stale : bool array of shape (m,)
        Which columns of all windows had stale prices.
    groups : sequence of WindowGroup
        Of these windows.
    """
    if shared.stack is not None:
        return _odd_columns(shared.window, shared.stack.slow, stale, groups)
    return [
        odd
        for group, cut, one in zip(groups, shared.cuts, shared.each(), strict=True)
        for odd in _odd_columns(one.window, one.products.slow[None], stale[cut], [group])
    ]


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


def _odd_columns(window: Window, slow: Array, stale: Array, groups: Sequence[WindowGroup]) -> list[OddColumns | None]:
    """See `odd_columns`; `slow` (windows, m, m) are their equal-weighted correlations."""
    xp = array_namespace(slow)
    n_windows, m = slow.shape[:2]
    # `groups.batches_of` repeats a window's first column until all have as many: no copies, and nobody's assets.
    repeated = np.array([np.append(False, group.columns[1:] <= group.columns[0]) for group in groups])
    near = xp.abs(slow) > NEAR_COPY
    _forget(near, repeated)
    flags = _flag_columns(window, near.any(axis=1).reshape(-1), stale)
    flags, with_gaps = to_numpy(xp.stack([flags, window.n_observed < window.n_rows]))
    if with_gaps.any():
        _compare_common_rows(near, window, with_gaps.reshape(n_windows, m) > 0)
        _forget(near, repeated)
        flags = to_numpy(_flag_columns(window, near.any(axis=1).reshape(-1), stale))
    if not flags.any():
        return [None] * n_windows

    copying = np.flatnonzero(flags & WarningFlag.NEAR_COPY)
    copies = to_numpy(near.reshape(-1, m)[xp.asarray(copying)]) if len(copying) else np.empty((0, m), bool)
    dominated = np.flatnonzero(flags & WarningFlag.DOMINANT_RETURN)
    moved, present = _market_days(window, dominated, m) if len(dominated) else np.empty((2, 0, m), bool)
    found: list[OddColumns | None] = []
    for first in range(0, n_windows * m, m):
        own = flags[first : first + m]
        copier, mover = ((which >= first) & (which < first + m) for which in (copying, dominated))
        of_window = OddColumns(
            *(own, copying[copier] - first, copies[copier]),
            *(dominated[mover] - first, moved[mover], present[mover]),
        )
        found.append(of_window if own.any() else None)
    return found


def _forget(near: Array, repeated: np.ndarray) -> None:
    """Take out of `near` (windows, m, m), in place, that a column copies itself, and all `repeated` (windows, m)."""
    near.reshape(len(near), -1)[:, :: near.shape[1] + 1] = False
    if repeated.any():
        distinct = array_namespace(near).asarray(~repeated)
        near &= distinct[:, :, None]
        near &= distinct[:, None, :]


def _compare_common_rows(near: Array, window: Window, with_gaps: np.ndarray) -> None:
    """Add to `near` (windows, m, m) what columns with gaps copy in the rows that they share with others; in place."""
    xp = array_namespace(near)
    n_windows, m = with_gaps.shape

    def columns_of(values: Array) -> Array:
        return values.reshape(len(values), n_windows, m).transpose(1, 2, 0)  # (windows, m, T)

    # Windows with fewer gaps than others fill up with columns without, so that all stack.
    order = np.argsort(~with_gaps, axis=1, kind="stable")[:, : int(with_gaps.sum(axis=1).max())]
    gaps = xp.arange(n_windows)[:, None], xp.asarray(order)
    # Scaled by their volatilities, so that no digits are lost; not cut: each was cut by a history of its own.
    scaled = (window.returns - window.returns.sum(axis=0) / window.n_observed) * window.observed
    x, o = columns_of(scaled / window.volatilities[0]), columns_of(window.observed)
    x_gap, o_gap = x[gaps], o[gaps]
    x, o = x.transpose(0, 2, 1), o.transpose(0, 2, 1)
    n = o_gap @ o
    rows = xp.maximum(n, 1.0)
    mean, mean_gap = o_gap @ x / rows, x_gap @ o / rows
    variance, variance_gap = o_gap @ x**2 / rows - mean**2, x_gap**2 @ o / rows - mean_gap**2
    comparable = (n >= MIN_OBSERVATIONS) & (xp.minimum(variance, variance_gap) > _STANDS_STILL**2)
    comparable &= xp.asarray(np.take_along_axis(with_gaps, order, axis=1))[:, :, None]
    covariance = x_gap @ x / rows - mean * mean_gap
    copies = comparable & (covariance**2 > NEAR_COPY**2 * variance * variance_gap)
    near[gaps] |= copies
    near.transpose(0, 2, 1)[gaps] |= copies


def _market_days(window: Window, dominated: np.ndarray, m: int) -> np.ndarray:
    """What moved, and what has a return, in the row of the largest return of some columns; (2, d, m) bool."""
    xp = array_namespace(window.standardised)
    there = xp.asarray(dominated)
    returns, observed = window.returns[:, there], window.observed[:, there]
    largest = (xp.abs(returns - returns.sum(axis=0) / window.n_observed[there]) * observed).argmax(axis=0)
    row, column = largest[:, None], xp.asarray(dominated[:, None] // m * m + np.arange(m))
    return to_numpy(xp.stack([xp.abs(window.standardised[row, column]) > _MOVED, window.observed[row, column] > 0]))


def _flag_columns(window: Window, has_copy: Array, stale: Array) -> Array:
    """What can be wrong with each column, and whether it has a copy; (m,), where the window is."""
    n = window.n_observed
    return (
        (n < FEW_RETURNS * window.n_rows) * int(WarningFlag.FEW_RETURNS)
        + stale * int(WarningFlag.STALE_PRICES)
        # The kurtosis is a sum of fourth powers already: sum x^4 / (sum x^2)^2 = kurtosis n / (sum x^2)^2.
        + (window.kurtosis * n > DOMINANT_RETURN * _sum_of_squares(window) ** 2) * int(WarningFlag.DOMINANT_RETURN)
        + has_copy * int(WarningFlag.NEAR_COPY)
        + _outside(window.volatilities[0], USUAL_VOLATILITY) * int(WarningFlag.UNUSUAL_VOLATILITY)
    )


def _sum_of_squares(window: Window) -> Array:
    """Of the standardised returns before their cut, (m,): n - 1, unless old rows count less in the volatility."""
    if len(window.returns) <= RECENT_ROWS:
        return window.n_observed - 1.0
    deviations = (window.returns - window.returns.sum(axis=0) / window.n_observed) * window.observed
    return (deviations**2).sum(axis=0) / window.volatilities[0] ** 2


def _outside(values: Array, limits: tuple[float, float]) -> Array:
    return (values < limits[0]) | (values > limits[1])


def _forgive_market_days(of_asset: np.ndarray, place: np.ndarray, held: np.ndarray, odd: OddColumns) -> None:
    """Take DOMINANT_RETURN from assets whose return lies in a row in which most others of the universe moved too."""
    flagged = (of_asset & WarningFlag.DOMINANT_RETURN) != 0
    for u, i in zip(*np.nonzero(flagged), strict=True):
        row = np.searchsorted(odd.dominated, place[u, i])
        others = np.delete(place[u, held[u]], i)
        if 2 * odd.moved[row, others].sum() > odd.present[row, others].sum():
            of_asset[u, i] &= ~WarningFlag.DOMINANT_RETURN


def _forgive_absent_copies(of_asset: np.ndarray, place: np.ndarray, odd: OddColumns) -> None:
    """Take NEAR_COPY from assets whose copy is not in the universe."""
    flagged = (of_asset & WarningFlag.NEAR_COPY) != 0
    for u in np.flatnonzero(flagged.any(axis=1)):
        at = np.flatnonzero(flagged[u])
        own = place[u, at]
        alone = ~odd.copies[np.ix_(np.searchsorted(odd.copying, own), own)].any(axis=1)
        of_asset[u, at[alone]] &= ~WarningFlag.NEAR_COPY
