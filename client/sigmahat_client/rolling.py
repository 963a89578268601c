# SPDX-License-Identifier: Apache-2.0
"""Windows that move along a panel: one job of all universes at all dates, and its estimates date by date."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sigmahat_client.estimates import Estimates
from sigmahat_client.intake.arrays import require
from sigmahat_client.intake.containers import read_table
from sigmahat_client.intake.rows import Rows, given_rows, index_rows
from sigmahat_client.intake.universes import read_labels, read_universes
from sigmahat_kernels.request import PADDING
from sigmahat_kernels.status import InvalidRequest


class Plan(NamedTuple):
    """What to ask for: every universe at every date, the universes of a date together."""

    names: tuple[Hashable, ...]  # of the universes
    ends: tuple[Any, ...]  # Timestamp of the last row of each window, or its number where there are no dates
    universes: list[list[Hashable]]  # dates x universes
    windows: npt.NDArray[np.int64]  # (dates x universes, 2)
    arguments: dict[str, Any]


def plan(returns: Any, universes: Any, window: int, every: str | int, arguments: dict[str, Any]) -> Plan:
    """Lay out windows of `window` rows that end with each period of `every`; see `ShrinkageClient.rolling`.

    Raises
    ------
    InvalidRequest
        If there is no such window, or `every` names periods and the returns have no dates.
    """
    require("windows" not in arguments, "rolling makes the windows: leave windows out, and give window and every")
    table = read_table(returns)
    n_rows, n_columns = table.values.shape
    dates = arguments.get("dates")
    if dates is not None:
        rows = given_rows(dates, n_rows)
    else:
        rows = Rows(None, None) if table.index is None else index_rows(table.index, n_rows)
    ends = _ends(rows, n_rows, every)
    require(isinstance(window, int) and window > 0, f"window must be a number of rows, got {window!r}")
    ends = ends[ends >= window - 1]
    require(len(ends) > 0, f"returns have {n_rows} rows, of which no window of {window} rows can be made")
    labels = read_labels(table.labels, arguments.get("assets"), n_columns)
    names, encoded, unknown = read_universes(universes, labels)
    listed = [
        [labels[c] if c < n_columns else unknown[u, i] for i, c in enumerate(row) if c != PADDING]
        for u, row in enumerate(encoded.tolist())
    ]
    if arguments.get("assets") is not None:
        arguments = {**arguments, "assets": labels}
    if isinstance(arguments.get("blocks"), np.ndarray):
        arguments = {**arguments, "blocks": np.tile(arguments["blocks"], (len(ends), 1))}
    windows = np.column_stack([ends + 1 - window, ends + 1]).repeat(len(names), axis=0)
    return Plan(names, _named(rows, ends), listed * len(ends), windows, {"covariance": True, **arguments})


class ByDate:
    """Takes estimates of a plan as they come, in order, and gives those of each date once they are all there."""

    def __init__(self, planned: Plan) -> None:
        self._names = planned.names
        self._ends = iter(planned.ends)
        self._waiting: list[Estimates] = []

    def add(self, part: Estimates) -> Iterator[tuple[Any, Estimates]]:
        """Yield the dates that `part` completes."""
        self._waiting.append(part)
        n = len(self._names)
        if sum(map(len, self._waiting)) < n:
            return
        found = Estimates.joined(self._waiting)
        whole = len(found) // n * n
        self._waiting = [found[whole:]] if whole < len(found) else []
        for start in range(0, whole, n):
            yield next(self._ends), replace(found[start : start + n], universes=self._names)


def _ends(rows: Rows, n_rows: int, every: str | int) -> npt.NDArray[np.int64]:
    if isinstance(every, int):
        require(every > 0, f"every must be a number of rows or a pandas period such as ME, got {every}")
        return np.arange(n_rows - 1, -1, -every, dtype=np.int64)[::-1]
    if rows.times is None:
        raise InvalidRequest(f"every={every!r} needs dates, and the returns have none: give a number of rows")
    import pandas as pd

    try:
        last = pd.Series(np.arange(n_rows, dtype=float), pd.DatetimeIndex(rows.times)).resample(every).last()
    except ValueError as error:
        raise InvalidRequest(f"every must be a number of rows or a pandas period such as ME: {error}") from None
    return last.dropna().to_numpy().astype(np.int64)


def _named(rows: Rows, ends: Sequence[int] | npt.NDArray[np.int64]) -> tuple[Any, ...]:
    if rows.stamps is None:
        return tuple(int(end) for end in ends)
    import pandas as pd

    return tuple(pd.DatetimeIndex(rows.stamps[ends]))
