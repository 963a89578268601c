# SPDX-License-Identifier: Apache-2.0
"""What all universes of a window share: its columns standardised once and multiplied out once.

Features, estimates and training data all begin here, so that they speak of the same correlations.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, joined
from sigmahat_kernels.gaps import Incomplete, complete_correlations, incomplete
from sigmahat_kernels.groups import WindowGroup
from sigmahat_kernels.panel import FAST_HALFLIFE, WINSOR_LIMIT, Window, correlation_factor, prepare_window
from sigmahat_kernels.scratch import Scratch, take_blocks

KEPT_BYTES = 256 * 2**20
"""Moments of windows that wait for their matrices take no more than this: 64 windows of 500 columns."""


class Products(NamedTuple):
    """Sums over rows of products of standardised returns, for all pairs of a window's columns; float64."""

    slow: Array  # (m, m) correlation by `Window.weights`
    fast: Array  # (m, m) exponentially weighted correlation
    first_half: Array  # (m, m) what the first half of the rows adds to `slow`


class Moments(NamedTuple):
    """All that an estimate reads of the returns of n universes of N assets."""

    slow: Array  # (n, N, N) correlation by `Window.weights`
    fast: Array  # (n, N, N) exponentially weighted correlation
    volatilities: Array  # (7, n, N), in the order of `panel.VOLATILITIES`
    kurtosis: Array  # (n, N)


class WindowMoments(NamedTuple):
    """What the moments of a window's universes are gathered from; m columns."""

    slow: Array  # (m, m) correlation by `Window.weights`, missing = 0
    fast: Array  # (m, m) exponentially weighted correlation, missing = 0
    volatilities: Array  # (7, m), in the order of `panel.VOLATILITIES`
    kurtosis: Array  # (m,)
    incomplete: Incomplete | None  # None where no return is missing

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [*self[:4], *(self.incomplete or ())]
        return sum(array.nbytes for array in arrays)

    def gather(self, index: np.ndarray, scratch: Scratch) -> Moments:
        """Those of n universes, `index` (n, N) their columns; in `scratch`. All miss returns or none does."""
        there = array_namespace(self.slow).asarray(index)
        slow, fast = self.completed(index, scratch) or (
            take_blocks(getattr(self, name), there, scratch, name) for name in ("slow", "fast")
        )
        return Moments(slow, fast, self.volatilities[:, there], self.kurtosis[there])

    def completed(self, index: np.ndarray, scratch: Scratch) -> tuple[Array, Array] | None:
        """Slow and fast correlations (n, N, N) of universes that miss returns, see `gather`; None if they miss none."""
        if self.incomplete is None or not self.incomplete.columns[index[0]].any():
            return None
        return complete_correlations(self.incomplete, array_namespace(self.slow).asarray(index), scratch)


class SharedWindow(NamedTuple):
    """A window of T rows and m columns."""

    window: Window
    factor: Array  # (T, m) Z, with Z'Z = products.slow
    products: Products

    @property
    def moments(self) -> WindowMoments:
        """What an estimate reads of it."""
        products, window = self.products, self.window
        return WindowMoments(products.slow, products.fast, window.volatilities, window.kurtosis, incomplete(window))


def share_window(returns: Array, *, winsor_limit: float | None = WINSOR_LIMIT) -> SharedWindow:
    """Standardise the returns of a window and multiply them out, so that every universe only gathers its block.

    Parameters
    ----------
    returns, winsor_limit
        See `panel.prepare_window`.
    """
    return share_windows(returns, [slice(0, returns.shape[1])], winsor_limit=winsor_limit).each()[0]


def share_windows(
    returns: Array,
    cuts: Sequence[slice],
    n_rows: np.ndarray | None = None,
    *,
    winsor_limit: float | None = WINSOR_LIMIT,
) -> SharedWindows:
    """The same of several windows at once: what is done to single columns is done to all of them.

    Parameters
    ----------
    returns : array of shape (T, m)
        Columns of all windows side by side, see `groups.returns_together`.
    cuts : sequence of slices
        Where those of each window stand.
    n_rows : integer array of shape (windows,), optional
        Rows of each, T unless it is said; on the host. Only on a GPU they differ.
    winsor_limit
        See `panel.prepare_window`.
    """
    xp = array_namespace(returns)
    n_rows = np.full(len(cuts), len(returns)) if n_rows is None else n_rows
    lengths = None
    if (n_rows != len(returns)).any():
        lengths = xp.asarray(np.repeat(n_rows, [cut.stop - cut.start for cut in cuts]))
    window = prepare_window(returns, winsor_limit=winsor_limit, lengths=lengths)
    slow, fast = correlation_factor(window), correlation_factor(window, halflife=FAST_HALFLIFE)
    if xp is np or len(cuts) == 1:
        products = [_multiply_out(slow[-n:, cut], fast[-n:, cut]) for cut, n in zip(cuts, n_rows, strict=True)]
        return SharedWindows(window, slow, products, cuts, n_rows)
    # On a GPU all windows have as many columns.
    by_window, fast = (of_all.reshape(len(of_all), len(cuts), -1).transpose(1, 0, 2) for of_all in (slow, fast))
    if lengths is None:
        stack = _multiply_out(by_window, fast)
    else:
        stack = _multiply_out_lengths(by_window, fast, xp.asarray(n_rows))
    products = [Products(*(of_all[k] for of_all in stack)) for k in range(len(cuts))]
    return SharedWindows(window, slow, products, cuts, n_rows, stack)


def _multiply_out(slow: Array, fast: Array) -> Products:
    half = slow.shape[-2] // 2
    first_half = _gram(slow[..., :half, :])
    return Products(first_half + _gram(slow[..., half:, :]), _gram(fast), first_half)


def _multiply_out_lengths(slow: Array, fast: Array, n_rows: Array) -> Products:
    """The same of windows (windows, T, m) of which each has its last `n_rows` rows, with zeros above."""
    rows = array_namespace(slow).arange(slow.shape[1])
    in_first_half = rows < (slow.shape[1] - n_rows + n_rows // 2)[:, None]
    return Products(_gram(slow), _gram(fast), _gram(slow * in_first_half[:, :, None]))


def _gram(factor: Array) -> Array:
    return factor.swapaxes(-2, -1) @ factor


class SharedWindows(NamedTuple):
    """Several windows of up to T rows, their m columns side by side."""

    window: Window
    factor: Array  # (T, m)
    products: Sequence[Products]  # of each
    cuts: Sequence[slice]  # where the columns of each stand
    n_rows: np.ndarray  # (windows,) of each; they end with the last row
    stack: Products | None = None  # (windows, m, m) each, of which `products` are views: on a GPU, of several windows

    def each(self) -> list[SharedWindow]:
        """Every window by itself, as views."""
        return [
            SharedWindow(self.window.columns(cut, n), self.factor[-n:, cut], products)
            for cut, n, products in zip(self.cuts, self.n_rows.tolist(), self.products, strict=True)
        ]

    def around_means(self, values: Array) -> Array:
        """Of each column (m,), less the mean over the columns of its window."""
        if self.stack is None:
            return joined([values[cut] - values[cut].mean() for cut in self.cuts])
        of_windows = values.reshape(len(self.cuts), -1)
        return (of_windows - of_windows.mean(axis=1, keepdims=True)).reshape(-1)

    def blocks(self) -> Products:
        """All products in one, for a universe to gather from: those of each window on its diagonal, nothing else.

        On a GPU, where all windows have as many columns, `stack`: no memory for what is nothing.
        """
        if len(self.cuts) == 1:
            return self.products[0]
        if self.stack is not None:
            return self.stack
        xp = array_namespace(self.factor)
        m = self.factor.shape[1]
        blocks = Products(*(xp.empty((m, m)) for _ in Products._fields))
        for cut, products in zip(self.cuts, self.products, strict=True):
            for block, product in zip(blocks, products, strict=True):
                block[cut, cut] = product
        return blocks


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
        self._kept: dict[tuple[int, int], tuple[WindowGroup, WindowMoments]] = {}
        self._lock = Lock()

    def keep(self, group: WindowGroup, moments: WindowMoments) -> None:
        """Keep the moments of a group's columns, if there is room."""
        size = moments.nbytes
        with self._lock:
            if size <= self._left:
                self._left -= size
                self._kept[group.start, group.stop] = group, moments

    def take(self, group: WindowGroup) -> tuple[WindowGroup, WindowMoments] | None:
        """The moments of a group's window, kept no longer, and the group as it stands among their columns.

        Every universe of the group must have been in the group that was kept.
        """
        found = self._kept.pop((group.start, group.stop), None)
        if found is None:
            return None
        kept, moments = found
        return group._replace(columns=kept.columns, place=kept.place), moments
