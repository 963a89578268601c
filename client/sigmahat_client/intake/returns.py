# SPDX-License-Identifier: Apache-2.0
"""Assets that cannot be estimated: all of a universe, with the reason in numbers, and what remains without them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from sigmahat_client.errors import AssetsDropped, RefusedAsset, level_of_caller, listed
from sigmahat_client.intake.job import Job
from sigmahat_kernels.request import PADDING
from sigmahat_kernels.returns import Judged, explain_column, judge_columns, mean_row_days, universe_status
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import MIN_OBSERVATIONS, Status


def refused_assets(job: Job, u: int, status: int, asset: int) -> tuple[RefusedAsset, ...]:
    """All assets for which a universe is refused; nothing where the answer names none.

    Parameters
    ----------
    u : int
        Position of the universe.
    status, asset : int
        What was answered: the first comes first here, also where this version would not refuse it.
    """
    if asset == PADDING:
        return ()
    row = job.universes[u, : job.sizes[u]]
    codes = np.full(len(row), int(Status.DUPLICATE_ASSET), np.int32)
    codes[np.unique(row, return_index=True)[1]] = Status.GOOD
    codes[row >= len(job.labels)] = Status.UNKNOWN_ASSET
    known = np.flatnonzero(codes == Status.GOOD)
    columns = np.arange(len(known))[None]
    codes[known] = universe_status(_judged(job, *_window(job, u), row[known]), columns, np.ones_like(columns, bool))[0]
    first = int(np.flatnonzero(row == asset)[-1])  # one that is listed twice is in its place the first time
    codes[first] = status
    others = np.flatnonzero(codes != Status.GOOD).tolist()
    return tuple(_refused(job, u, i, int(codes[i])) for i in [first, *(i for i in others if i != first)])


def without_refused_assets(job: Job) -> Job:
    """Leave out of every universe the assets that are unknown or whose returns cannot be used, and say so.

    Warns
    -----
    AssetsDropped
        Once for the job, with the assets; `Job.dropped` holds them all.
    """
    universes, blocks = job.universes.copy(), None if job.blocks is None else job.blocks.copy()
    dropped: list[tuple[RefusedAsset, ...]] = [()] * len(job.names)
    unknown = dict(job.unknown)
    for u, codes in _statuses(job):
        bad = np.flatnonzero(codes != Status.GOOD).tolist()
        dropped[u] = tuple(_refused(job, u, i, int(codes[i])) for i in bad)
        kept = codes == Status.GOOD
        for table in (universes, blocks):
            if table is not None:
                left = table[u, : job.sizes[u]][kept]
                table[u] = PADDING
                table[u, : len(left)] = left
        unknown = {place: label for place, label in unknown.items() if place[0] != u}
    concerned = [u for u, assets in enumerate(dropped) if assets]
    if concerned:
        u = concerned[0]
        several = f"; {len(concerned)} of {len(job.names)} universes in all" if len(concerned) > 1 else ""
        message = f"universe {job.names[u]!r} is estimated without {len(dropped[u])} of {job.sizes[u]} assets"
        warnings.warn(AssetsDropped(f"{message}: {listed(dropped[u])}{several}"), stacklevel=level_of_caller())
    sizes = (universes != PADDING).sum(axis=1)
    return job._replace(universes=universes, blocks=blocks, sizes=sizes, unknown=unknown, dropped=tuple(dropped))


def _statuses(job: Job) -> Iterator[tuple[int, np.ndarray]]:
    """Universes with refused assets, and the status of each of their assets; those of one window are judged at once."""
    n_rows, n_columns = job.panel.shape
    windows = np.tile([0, n_rows], (len(job.names), 1)) if job.windows is None else job.windows
    distinct, group_of = np.unique(windows, axis=0, return_inverse=True)
    for group, (start, stop) in enumerate(distinct.tolist()):
        members = np.flatnonzero(group_of.ravel() == group)
        rows = job.universes[members]
        held = (rows != PADDING) & (rows < n_columns)
        columns = np.unique(rows[held])
        places = np.searchsorted(columns, np.where(held, rows, 0))
        codes = universe_status(_judged(job, start, stop, columns), places, held)
        codes[rows >= n_columns] = Status.UNKNOWN_ASSET
        for member in np.flatnonzero(codes.any(axis=1)).tolist():
            u = int(members[member])
            yield u, codes[member, : job.sizes[u]]


def _window(job: Job, u: int) -> tuple[int, int]:
    start, stop = (0, len(job.panel)) if job.windows is None else job.windows[u].tolist()
    return start, stop


def _judged(job: Job, start: int, stop: int, columns: np.ndarray) -> Judged:
    returns = job.panel[max(start, 0) : max(stop, 0)]
    if len(returns) < MIN_OBSERVATIONS or not len(columns):  # the window itself is refused, or nothing is left to judge
        return Judged(np.zeros(max(len(columns), 1), np.int32), np.zeros(max(len(columns), 1), bool))
    without, _ = without_stale(returns[:, columns])
    return judge_columns(without, _row_days(job, start, stop))


def _row_days(job: Job, start: int, stop: int) -> float:
    return mean_row_days(None if job.rows.days is None else job.rows.days[start:stop])


def _refused(job: Job, u: int, i: int, code: int) -> RefusedAsset:
    asset = job.asset_of(u, i)
    column = int(job.universes[u, i])
    if code in (Status.UNKNOWN_ASSET, Status.DUPLICATE_ASSET) or column >= len(job.labels):
        return RefusedAsset(asset, code, 0, "")
    start, stop = _window(job, u)
    values = without_stale(job.panel[start:stop, [column]])[0][:, 0]
    detail = explain_column(values, code, _row_days(job, start, stop), lambda row: job.rows.name(start + row))
    return RefusedAsset(asset, code, int(np.isfinite(values).sum()), detail)
