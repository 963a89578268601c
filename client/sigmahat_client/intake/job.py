# SPDX-License-Identifier: Apache-2.0
"""One call of a caller's as plain arrays, and its cut into requests."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sigmahat_client.errors import RefusedAsset
from sigmahat_client.intake.rows import Rows
from sigmahat_client.intake.universes import Names, Unknown
from sigmahat_kernels.cost import RunningCost
from sigmahat_kernels.request import MAX_RISK_CELLS, MAX_UNIVERSES

CHUNK_CELLS = 8_000_000
"""Covariance cells that one request asks for: 32 MB, whether the matrices are sent or only computed with."""

CHUNK_COST = 10_000.0
"""Milliseconds of one core that one request may cost, see `sigmahat_kernels.cost`: far from the server's limit."""


class Job(NamedTuple):
    """One call of the caller's, which becomes one request or many. Labels stay once, with the columns: a job of 100,000
    universes holds little more than its array of column numbers."""

    panel: np.ndarray  # (n_rows, n_columns) float32
    universes: np.ndarray  # (n_universes, widest) int32; the i-th asset, if unknown, is column n_columns + i
    windows: np.ndarray | None  # (n_universes, 2) int32
    market: np.ndarray | None  # (n_rows, n_indicators) float32
    rows: Rows  # and their dates
    blocks: np.ndarray | None  # (n_universes, widest) int32, positions in `block_names`
    names: Names  # of the universes
    sizes: np.ndarray  # (n_universes,) assets of each
    labels: Sequence[Hashable]  # of the columns, as the caller calls them
    unknown: Unknown
    block_names: Names
    labelled: bool  # assets have labels; otherwise they are column numbers
    dropped: tuple[tuple[RefusedAsset, ...], ...]  # of each universe, what was left out of it

    @property
    def assets(self) -> tuple[Names, ...]:
        """Assets of every universe, as the caller calls them."""
        return tuple(map(self.assets_of, range(len(self.names))))

    def assets_of(self, u: int) -> Names:
        """Assets of one universe."""
        n_columns = len(self.labels)
        columns = self.universes[u, : self.sizes[u]].tolist()
        if max(columns, default=0) < n_columns:  # as in nearly all: without a step of Python for each
            return tuple(map(self.labels.__getitem__, columns))
        return tuple(self.labels[c] if c < n_columns else self.unknown[u, i] for i, c in enumerate(columns))

    def asset_of(self, u: int, i: int) -> Hashable:
        """The i-th of them."""
        column = int(self.universes[u, i])
        return self.labels[column] if column < len(self.labels) else self.unknown[u, i]


def chunks(job: Job, cells: int = CHUNK_CELLS, *, n_portfolios: int = 0) -> Iterator[slice]:
    """Cut the universes, in order, into requests of at most `MAX_UNIVERSES` rows, `CHUNK_COST`, and about `cells`
    covariance cells, or as many of portfolios with assets and with each other.

    A request may always ask for as many cells as its panel has, so that a wide panel is not sent for a small answer.
    """
    cells = max(cells, job.panel.size)
    if n_portfolios:
        cells = min(cells, MAX_RISK_CELLS)
    most = max(1, MAX_UNIVERSES // (1 + len(job.block_names)))
    n_columns = job.panel.shape[1]
    bounds = list(map(tuple, window_bounds(job).tolist()))
    running = RunningCost(n_columns, len(job.block_names))
    start = widest = 0
    for u, size in enumerate(job.sizes.tolist()):
        wider = max(widest, size)
        largest = max(wider, n_portfolios) ** 2
        cost = running.add(size, bounds[u])
        if u > start and (u - start == most or (u - start + 1) * largest > cells or cost > CHUNK_COST):
            yield slice(start, u)
            start, wider = u, size
            running = RunningCost(n_columns, len(job.block_names))
            running.add(size, bounds[u])
        widest = wider
    yield slice(start, len(job.sizes))


def window_bounds(job: Job) -> np.ndarray:
    """Rows [start, stop) of every universe, (n_universes, 2), as far as the panel has them."""
    n_rows = len(job.panel)
    if job.windows is None:
        return np.tile([0, n_rows], (len(job.sizes), 1))
    return np.clip(job.windows, 0, n_rows)


def shared_tensors(job: Job) -> dict[str, np.ndarray]:
    """Tensors that every request of the job carries."""
    return _sent(PANEL=job.panel, MARKET=job.market, DATES=job.rows.days)


def chunk_tensors(job: Job, chunk: slice) -> dict[str, np.ndarray]:
    """Tensors of one request's universes, padded only as far as these need it."""
    width = max(1, job.sizes[chunk].max())
    return _sent(
        UNIVERSES=job.universes[chunk, :width],
        WINDOWS=None if job.windows is None else job.windows[chunk],
        BLOCKS=None if job.blocks is None else job.blocks[chunk, :width],
    )


def _sent(**tensors: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
