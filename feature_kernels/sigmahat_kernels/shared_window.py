# SPDX-License-Identifier: Apache-2.0
"""What all universes of a window share: its columns standardised once and multiplied out once.

Features, estimates and training data all begin here, so that they speak of the same correlations.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

from sigmahat_kernels.backend import Array
from sigmahat_kernels.groups import WindowGroup
from sigmahat_kernels.panel import FAST_HALFLIFE, WINSOR_LIMIT, Window, correlation_factor, prepare_window
from sigmahat_kernels.scratch import Scratch, take_blocks

KEPT_BYTES = 256 * 2**20
"""Moments of windows that wait for their matrices take no more than this: 64 windows of 500 columns."""


class Products(NamedTuple):
    """Sums over rows of products of standardised returns, for all pairs of a window's columns; float64."""

    slow: Array  # (m, m) equal-weighted correlation
    fast: Array  # (m, m) exponentially weighted correlation
    first_half: Array  # (m, m) what the first half of the rows adds to `slow`


class Moments(NamedTuple):
    """All that an estimate reads of the returns; of a window's m columns, or gathered for n universes of N assets."""

    slow: Array  # (m, m) or (n, N, N), equal-weighted correlation
    fast: Array  # (m, m) or (n, N, N), exponentially weighted correlation
    volatilities: Array  # (3, m) or (3, n, N), in the order of `parameters.VOLATILITY_BASES`
    kurtosis: Array  # (m,) or (n, N)

    def gather(self, index: Array, scratch: Scratch) -> Moments:
        """Those of `n` universes from a window's: `index` (n, N) holds their columns, `scratch` the correlations."""
        slow, fast = (take_blocks(getattr(self, name), index, scratch, name) for name in ("slow", "fast"))
        return Moments(slow, fast, self.volatilities[:, index], self.kurtosis[index])


class SharedWindow(NamedTuple):
    """A window of T rows and m columns."""

    window: Window
    factor: Array  # (T, m) Z, with Z'Z = products.slow
    products: Products

    @property
    def moments(self) -> Moments:
        """What an estimate reads of it."""
        return Moments(self.products.slow, self.products.fast, self.window.volatilities, self.window.kurtosis)


def share_window(returns: Array, *, winsor_limit: float | None = WINSOR_LIMIT) -> SharedWindow:
    """Standardise the returns of a window and multiply them out, so that every universe only gathers its block.

    Parameters
    ----------
    returns, winsor_limit
        See `panel.prepare_window`.
    """
    window = prepare_window(returns, winsor_limit=winsor_limit)
    slow, fast = correlation_factor(window), correlation_factor(window, halflife=FAST_HALFLIFE)
    early, late = slow[: len(slow) // 2], slow[len(slow) // 2 :]
    first_half = early.T @ early
    return SharedWindow(window, slow, Products(first_half + late.T @ late, fast.T @ fast, first_half))


class KeptMoments:
    """Moments of a request's windows, on their way from the features to the matrices of the same process.

    Networks stand between the two, and answer all windows at once. What does not fit is not kept but computed
    again.

    Parameters
    ----------
    limit : int
        Bytes.
    """

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._left = limit
        self._kept: dict[tuple[int, int], tuple[WindowGroup, Moments]] = {}
        self._lock = Lock()

    def keep(self, group: WindowGroup, moments: Moments) -> None:
        """Keep the moments of a group's columns, if there is room."""
        size = sum(array.nbytes for array in moments)
        with self._lock:
            if size <= self._left:
                self._left -= size
                self._kept[group.start, group.stop] = group, moments

    def take(self, group: WindowGroup) -> tuple[WindowGroup, Moments] | None:
        """The moments of a group's window, kept no longer, and the group as it stands among their columns.

        Every universe of the group must have been in the group that was kept.
        """
        found = self._kept.pop((group.start, group.stop), None)
        if found is None:
            return None
        kept, moments = found
        return group._replace(columns=kept.columns, place=kept.place), moments
