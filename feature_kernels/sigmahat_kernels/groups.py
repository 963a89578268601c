# SPDX-License-Identifier: Apache-2.0
"""Universes of a request collected by window, then by size, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import AnyArray, Array, array_namespace, joined
from sigmahat_kernels.cuda import device
from sigmahat_kernels.request import PADDING, Request
from sigmahat_kernels.returns import Judged, judge_columns, mean_row_days, universe_status
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status

CHUNK_CELLS = 128 * 1024
"""Cells of one stack of correlation matrices (1 MB in float64): the passes over it stay in the cache."""

PART_CELLS = 64 * 1024
"""Cells of a series, or of the membership, of one part of a group (0.5 MB in float64)."""

DEVICE_SCALE = 512
"""On a GPU stacks and parts are this much larger: a launch must keep the whole device busy."""

BATCH_CELLS = 256 * 1024
"""Cells of the windows that are prepared side by side (2 MB in float64)."""

REGISTERS = 16
"""Universes that fill two vector registers of the widest processors: chunks of `chunks_by_work` hold multiples."""

_MAX_CHUNK = 8 * REGISTERS
_FEW_CHUNKS = 4
_FEW_CELLS, _MANY_CELLS = _FEW_CHUNKS * CHUNK_CELLS, 16 * CHUNK_CELLS

_MIN_PART, _MIN_PARTS = REGISTERS, 8


class WindowGroup(NamedTuple):
    """Universes that share one window, so that its panel work is done once."""

    start: int
    stop: int
    universes: np.ndarray  # (n,) positions in the request
    columns: np.ndarray  # (m,) sorted columns of the panel that these universes use
    place: np.ndarray  # (columns of the panel + 1,) where one stands among `columns`; PADDING for PADDING and others


def group_by_window(request: Request, universes: np.ndarray) -> Iterator[WindowGroup]:
    """Collect the given universes (positions in the request) by window, in order of first appearance."""
    windows = request.windows[universes].astype(np.int64)
    keys = windows[:, 0] * (len(request.panel) + 1) + windows[:, 1]
    _, first, group_of = np.unique(keys, return_index=True, return_inverse=True)
    ordered = np.argsort(group_of, kind="stable")
    members_of = np.split(ordered, np.cumsum(np.bincount(group_of))[:-1]) if len(keys) else []
    for k in np.argsort(first):
        start, stop = windows[first[k]].tolist()
        yield _group(request, start, stop, universes[members_of[k]])


def _group(request: Request, start: int, stop: int, universes: np.ndarray) -> WindowGroup:
    rows = request.universes[universes]
    used = np.bincount(rows.reshape(-1) - PADDING, minlength=request.panel.shape[1] + 1)[1:]  # the first is PADDING
    columns = np.flatnonzero(used)
    place = np.full(len(used) + 1, PADDING, np.int64 if array_namespace(request.panel) is np else np.int32)
    place[columns] = np.arange(len(columns))
    return WindowGroup(start, stop, universes, columns, place)


def group_returns(request: Request, group: WindowGroup) -> Array:
    """Returns of a group's columns over its window without stale prices, shape (T, m)."""
    return without_stale(_gathered(request, group))[0]


def _gathered(request: Request, group: WindowGroup) -> Array:
    xp = array_namespace(request.panel)
    return request.panel[group.start : group.stop][:, xp.asarray(group.columns)]


def returns_together(request: Request, groups: Sequence[WindowGroup]) -> Array:
    """Returns of several groups' columns, side by side, (T, m); stale prices included.

    Windows end with the last row, T is the longest one's length; what a shorter one does not have is missing.
    """
    xp = array_namespace(request.panel)
    if len(groups) == 1:
        return _gathered(request, groups[0])
    if xp is np:
        return np.concatenate([_gathered(request, group) for group in groups], axis=1)
    n_rows = rows_of(groups)
    stops = np.array([group.stop for group in groups])
    of_columns = np.repeat([stops - n_rows.max(), stops - n_rows], [len(group.columns) for group in groups], axis=1)
    top, first, column = xp.asarray(np.vstack([of_columns, np.concatenate([group.columns for group in groups])]))
    rows = top + xp.arange(n_rows.max())[:, None]
    returns = request.panel[xp.maximum(rows, 0), column]
    return returns if (n_rows == n_rows[0]).all() else xp.where(rows < first, xp.nan, returns)


def rows_of(groups: Sequence[WindowGroup]) -> np.ndarray:
    """Rows of the window of each of some groups."""
    return np.array([group.stop - group.start for group in groups])


def rows_of_windows(request: Request, universes: np.ndarray) -> np.ndarray:
    """Rows of the window of each of some universes, positions in the request."""
    start, stop = request.windows[universes].T
    return stop - start


def batches_of(request: Request, groups: Sequence[WindowGroup]) -> Iterator[list[WindowGroup]]:
    """Groups in batches of windows of one length, small enough for the cache; a large group is a batch of its own.

    What is done to single columns is done to all columns of a batch at once, in the time of a few columns more. On a
    GPU lengths of a batch differ, by up to a half of the longest.
    """
    if array_namespace(request.panel) is not np:
        yield from _batches_on_device(request, groups)
        return
    limit = _scaled(request, BATCH_CELLS)
    by_length = sorted(groups, key=lambda group: group.stop - group.start)  # stable
    for n_obs, alike in groupby(by_length, key=lambda group: group.stop - group.start):
        batch: list[WindowGroup] = []
        n_columns = 0
        for group in alike:
            n_columns += len(group.columns)
            if batch and n_obs * n_columns > limit:
                yield batch
                batch, n_columns = [], len(group.columns)
            batch.append(group)
        yield batch


def _batches_on_device(request: Request, groups: Sequence[WindowGroup]) -> Iterator[list[WindowGroup]]:
    """The same on a GPU: groups of a batch have as many columns, so that their arrays stack; one may be half copies.

    So may up to half of the rows above a shorter window be none of its own.
    """
    limit = _scaled(request, BATCH_CELLS)
    lengths = rows_of(groups)
    # How often the longest window must be halved to be as short: windows of one class are of similar length.
    classes = np.log2(lengths.max(initial=1) / lengths).astype(np.int64)
    n_columns = np.array([len(group.columns) for group in groups])
    batch: list[WindowGroup] = []
    class_of_batch = widest = n_rows = 0
    for k in np.lexsort((-n_columns, classes)).tolist():
        most_rows = max(n_rows, int(lengths[k]))
        fits = (len(batch) + 1) * widest * max(most_rows, widest) <= limit
        if batch and not (fits and classes[k] == class_of_batch and 2 * n_columns[k] >= widest):
            yield batch
            batch = []
        if not batch:
            class_of_batch, widest, most_rows = classes[k], int(n_columns[k]), int(lengths[k])
        n_rows = most_rows
        batch.append(_widened(groups[k], widest))
    if batch:
        yield batch


def _widened(group: WindowGroup, n_columns: int) -> WindowGroup:
    """The group with its first column repeated behind the others, of which no universe knows."""
    more = np.full(n_columns - len(group.columns), group.columns[0])
    return group._replace(columns=np.concatenate([group.columns, more]))


def within_memory(
    work: Callable[[Sequence[WindowGroup]], None], request: Request, groups: Sequence[WindowGroup]
) -> None:
    """Call `work` on groups; where the memory does not suffice, on half of them at a time, down to one universe.

    Raises
    ------
    MemoryError
        If it does not suffice for one.
    """
    try:
        work(groups)
        return
    except MemoryError:
        halves = _halves(request, groups)
        if not halves:
            raise
    # Only here: as long as it is handled, the error holds on to all arrays of the functions that it has left.
    if array_namespace(request.panel) is not np:
        device.free_memory()
    for half in halves:
        within_memory(work, request, half)


def _halves(request: Request, groups: Sequence[WindowGroup]) -> list[Sequence[WindowGroup]]:
    if len(groups) > 1:
        return [groups[: len(groups) // 2], groups[len(groups) // 2 :]]
    (group,) = groups
    if len(group.universes) == 1:
        return []
    return [[_group(request, group.start, group.stop, half)] for half in np.array_split(group.universes, 2)]


Part = tuple[WindowGroup, slice]
"""Universes of a window, and where its columns stand among those of a batch."""


class UsableGroups(NamedTuple):
    """The groups of a batch without the universes that hold an unusable column, their columns side by side."""

    groups: list[WindowGroup]
    cuts: list[slice]  # where the columns of each stand
    returns: Array  # (T, m) of all columns, stale prices missing; see `returns_together`
    stale: Array  # (m,) bool, whether a column had stale prices


def refuse_columns(
    request: Request, groups: Sequence[WindowGroup], status: np.ndarray, status_asset: np.ndarray
) -> UsableGroups:
    """Give universes that hold an unusable column its status, in place; return what remains of a batch."""
    xp = array_namespace(request.panel)
    returns, stale = without_stale(returns_together(request, groups))
    cuts = side_by_side(groups)
    judged = judge_columns(returns, _row_days(request, groups))
    if not judged.status.any() and not judged.large.any():
        return UsableGroups(list(groups), cuts, returns, stale)
    remaining, kept = [], []
    for group, cut in zip(groups, cuts, strict=True):
        own = Judged(judged.status[cut], judged.large[cut])
        left = _refuse(request, group, own, status, status_asset)
        if len(left.universes):
            if xp is not np:
                left = _widened(left, len(group.columns))
            remaining.append(left)
            kept.append(cut.start + group.place[left.columns])
    there = xp.asarray(np.concatenate(kept) if kept else np.empty(0, np.int64))
    return UsableGroups(remaining, side_by_side(remaining), returns[:, there], stale[there])


def _refuse(
    request: Request, group: WindowGroup, judged: Judged, status: np.ndarray, status_asset: np.ndarray
) -> WindowGroup:
    if not judged.status.any() and not judged.large.any():
        return group
    rows = request.universes[group.universes]
    bad = universe_status(judged, group.place[rows], rows != PADDING)
    first = np.argmax(bad != 0, axis=1)
    picked = np.arange(len(rows)), first
    refused = bad[picked] != Status.GOOD
    status[group.universes[refused]] = bad[picked][refused]
    status_asset[group.universes[refused]] = rows[picked][refused]
    return _group(request, group.start, group.stop, group.universes[~refused])


def side_by_side(groups: Sequence[WindowGroup]) -> list[slice]:
    """Where the columns of each of some groups stand, side by side."""
    edges = np.cumsum([0, *(len(group.columns) for group in groups)]).tolist()
    return [slice(*pair) for pair in pairwise(edges)]


def _row_days(request: Request, groups: Sequence[WindowGroup]) -> AnyArray:
    """Average days from row to row of each column's window."""
    if request.dates is None:
        return mean_row_days(None)
    days = [mean_row_days(request.dates[group.start : group.stop]) for group in groups]
    return array_namespace(request.panel).asarray(np.repeat(days, [len(group.columns) for group in groups]))


def parts_of(request: Request, group: WindowGroup) -> Iterator[WindowGroup]:
    """The group cut into parts of universes of similar size: small enough for the cache, and for threads to share.

    The cut does not depend on the number of threads, so neither does a bit of the result.
    """
    rows = request.universes[group.universes]
    # The large ones first: no thread is left with a long one at the end.
    order = np.argsort((rows == PADDING).sum(axis=1), kind="stable")
    size = _scaled(request, PART_CELLS) // max(group.stop - group.start, len(group.columns))
    if array_namespace(request.panel) is np:
        size = min(size, -(-len(order) // _MIN_PARTS))
    size = max(_MIN_PART, round(size / _MIN_PART) * _MIN_PART)
    for i in range(0, len(order), size):
        yield group._replace(universes=group.universes[order[i : i + size]])


def packs_of(request: Request, parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts of several windows together, as many as fit into the cache; those of one window apart."""
    if len({(part.start, part.stop) for part, _ in parts}) == 1:
        yield from ([part] for part in parts)
        return
    pack: list[Part] = []
    n_universes = 0
    for part in parts:
        group, _ = part
        n_universes += len(group.universes)
        if pack and n_universes * (group.stop - group.start) > _scaled(request, PART_CELLS):
            yield pack
            pack, n_universes = [], len(group.universes)
        pack.append(part)
    yield pack


def chunks_by_size(
    request: Request, group: WindowGroup, incomplete: np.ndarray | None = None, *, stacked: bool = True
) -> Iterator[np.ndarray]:
    """Positions within the group, in chunks of universes of one size, so that their matrices stack.

    Where they are computed one by one, not `stacked`, chunks are larger: only what Python does for each counts.
    With `incomplete` (m,), whether a column misses returns, universes that hold one come in chunks of their own, small
    enough for their series of both moments.
    """
    rows = request.universes[group.universes]
    held = rows != PADDING
    sizes = held.sum(axis=1)
    with_gaps = np.zeros(len(rows), bool)
    if incomplete is not None:
        with_gaps = (held & incomplete[group.place[rows]]).any(axis=1)
    n_obs = group.stop - group.start
    limit = _scaled(request, CHUNK_CELLS)
    for size in np.unique(sizes)[::-1].tolist():  # the large ones first: no thread is left with a long one at the end
        for apart in (False, True):
            members = np.flatnonzero((sizes == size) & (with_gaps == apart))
            cells = size * max(size, 2 * n_obs) if apart else size**2
            per_chunk = max(1, (limit if apart or stacked else _FEW_CHUNKS * limit) // cells)
            yield from (members[i : i + per_chunk] for i in range(0, len(members), per_chunk))


def chunks_by_work(request: Request, group: WindowGroup) -> Iterator[np.ndarray]:
    """Positions within the group, the large universes first, in chunks that fill vector registers and cache.

    No chunk holds both universes of more assets than T - 1 and others.
    """
    sizes = (request.universes[group.universes] != PADDING).sum(axis=1)
    order = np.argsort(-sizes, kind="stable")
    n_dual = int((sizes >= group.stop - group.start).sum())
    for members in (order[:n_dual], order[n_dual:]):
        start = 0
        while start < len(members):
            cells = int(sizes[members[start]]) ** 2
            in_cache = _FEW_CELLS // cells // REGISTERS * REGISTERS
            stop = start + max(1, min(_MAX_CHUNK, in_cache), min(REGISTERS, _MANY_CELLS // cells))
            yield members[start:stop]
            start = stop


def gather_index(request: Request, group: WindowGroup, chunk: np.ndarray) -> np.ndarray:
    """Where the assets of a chunk of universes stand in the group's columns, (n, N); PADDING behind a smaller one's."""
    rows = request.universes[group.universes[chunk]]
    rows = rows[:, : int((rows != PADDING).sum(axis=1).max())]
    return group.place.take(rows, mode="wrap")  # PADDING is the last place


def gather_parts(request: Request, parts: Sequence[Part]) -> np.ndarray:
    """The same of all universes of some parts, in the columns of their batch."""
    indices = []
    for part, cut in parts:
        place = np.where(part.place == PADDING, PADDING, part.place + (cut.start or 0)).astype(part.place.dtype)
        everyone = np.arange(len(part.universes))
        indices.append(gather_index(request, part._replace(place=place), everyone))
    if len(indices) == 1:
        return indices[0]
    gathered = np.full((sum(map(len, indices)), max(index.shape[1] for index in indices)), PADDING, indices[0].dtype)
    start = 0
    for index in indices:
        gathered[start : start + len(index), : index.shape[1]] = index
        start += len(index)
    return gathered


def membership_of(request: Request, group: WindowGroup) -> Array:
    """(m, n) matrix, 1.0 where a universe holds a column; where the panel is."""
    xp = array_namespace(request.panel)
    rows = request.universes[group.universes]
    n_columns = len(group.columns)
    held = xp.asarray(group.place.take(rows, mode="wrap"))  # padding goes to one row more, the last
    membership = xp.zeros((n_columns + 1, len(rows)))
    membership[held, xp.arange(len(rows))[:, None]] = 1.0
    return membership[:-1]


class Memberships:
    """Which universes hold which columns: to sum over the assets of each.

    Parameters
    ----------
    parts : sequence of (slice, array of shape (m', n'))
        Of each window in turn: its columns, and 1.0 where a universe holds one.
    """

    def __init__(self, parts: Sequence[tuple[slice, Array]]) -> None:
        self._parts = parts

    def sum(self, values: Array) -> Array:
        """Sums over the assets of n universes, (..., m) -> (..., n)."""
        return joined([values[..., cut] @ membership for cut, membership in self._parts])


class StackedMemberships(Memberships):
    """The same of windows of as many columns each, in one stack of matrix products.

    Parameters
    ----------
    index : integer array of shape (n, N)
        On the host: positions of each universe's assets among the columns of all windows, PADDING behind.
    stack : array of shape (windows, m, ...)
        Of these windows.
    """

    def __init__(self, index: np.ndarray, stack: Array) -> None:
        xp = array_namespace(stack)
        self._n_windows, self._n_columns = stack.shape[:2]
        n_positions = self._n_windows * self._n_columns
        window = index[:, 0] // self._n_columns
        count = np.bincount(window, minlength=self._n_windows)
        slot = np.empty(len(index), np.int64)
        slot[np.argsort(window, kind="stable")] = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        width = int(count.max())
        held = xp.asarray(index)  # padding goes to one row more, the last
        slots, self._places = xp.asarray(np.stack([slot, window * width + slot]))
        membership = xp.zeros((n_positions + 1, width))
        membership[held, slots[:, None]] = 1.0
        self._membership = membership[:-1].reshape(self._n_windows, self._n_columns, width)

    def sum(self, values: Array) -> Array:
        """See `Memberships.sum`."""
        rows = values.reshape(-1, self._n_windows, self._n_columns).transpose(1, 0, 2)
        sums = (rows @ self._membership).transpose(1, 0, 2)
        return sums.reshape(len(sums), -1)[:, self._places].reshape(*values.shape[:-1], -1)


def _scaled(request: Request, cells: int) -> int:
    return cells if array_namespace(request.panel) is np else DEVICE_SCALE * cells
