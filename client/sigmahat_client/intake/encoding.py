# SPDX-License-Identifier: Apache-2.0
"""What a caller hands in -> a `Job`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from datetime import date
from typing import Any, Literal

import numpy as np

from sigmahat_client.intake.arrays import float32, floats, integers, require
from sigmahat_client.intake.containers import is_a, read_table
from sigmahat_client.intake.job import Job
from sigmahat_client.intake.returns import without_refused_assets
from sigmahat_client.intake.rows import Rows, given_rows, index_rows, row_at
from sigmahat_client.intake.universes import Names, read_blocks, read_labels, read_universes
from sigmahat_kernels.request import MARKET_COLUMNS, MAX_PANEL_CELLS, PADDING


def encode(
    returns: Any,
    universes: Any = None,
    *,
    assets: Iterable[Hashable] | None = None,
    windows: Any = None,
    market: Any = None,
    dates: Any = None,
    blocks: Any = None,
    on_bad_asset: Literal["raise", "drop"] = "raise",
) -> Job:
    """Read the arguments of `ShrinkageClient.estimate`.

    Raises
    ------
    InvalidRequest
        If they cannot be read. An asset that is not in the panel is no such case: its universe alone is refused, by the
        server, which gives back the number of the column that does not exist.

    Warns
    -----
    AssetsDropped
        If `on_bad_asset` is "drop" and something was.
    """
    require(on_bad_asset in ("raise", "drop"), f'on_bad_asset must be "raise" or "drop", got {on_bad_asset!r}')
    table = read_table(returns)
    panel = _panel(table.values)
    n_rows, n_columns = panel.shape
    labels = read_labels(table.labels, assets, n_columns)
    names, encoded, unknown = read_universes(universes, labels)
    ids, block_names = (None, ()) if blocks is None else read_blocks(blocks, encoded, labels)
    if dates is not None:
        rows = given_rows(dates, n_rows)
    else:
        rows = Rows(None, None) if table.index is None else index_rows(table.index, n_rows)
    job = Job(
        panel=panel,
        universes=encoded,
        windows=None if windows is None else _windows(windows, names, rows, n_rows),
        market=None if market is None else _market(market, returns, n_rows),
        rows=rows,
        blocks=ids,
        names=names,
        sizes=(encoded != PADDING).sum(axis=1),
        labels=labels,
        unknown=unknown,
        block_names=block_names,
        labelled=assets is not None or table.labels is not None,
        dropped=((),) * len(names),
    )
    return without_refused_assets(job) if on_bad_asset == "drop" else job


def _panel(values: np.ndarray) -> np.ndarray:
    require(values.ndim == 2, f"returns must have shape (rows, assets), got {values.shape}")
    require(values.size > 0, f"returns are empty: shape {values.shape}")
    require(values.dtype.kind == "f", f"returns must be floating point (0.01 is 1 %), got {values.dtype}")
    require(
        values.size <= MAX_PANEL_CELLS,
        f"returns have {values.size:,} cells, more than the limit of {MAX_PANEL_CELLS:,}: send fewer rows or assets",
    )
    return float32(values)


def _windows(windows: Any, names: Names, rows: Rows, n_rows: int) -> np.ndarray:
    if isinstance(windows, Mapping):
        unknown = sorted(map(repr, windows.keys() - set(names)))
        require(not unknown, f"windows names universes that do not exist: {', '.join(unknown[:10])}")
        windows = [windows.get(name, (0, n_rows)) for name in names]
    if isinstance(windows, list | tuple) and any(_names_a_date(window) for window in windows):
        windows = [[row_at(bound, rows.times) for bound in window] for window in windows]
    return integers("windows", windows, (len(names), 2))


def _names_a_date(window: Any) -> bool:
    return isinstance(window, list | tuple) and any(isinstance(b, str | date | np.datetime64) for b in window)


def _market(market: Any, returns: Any, n_rows: int) -> np.ndarray:
    if is_a(market, "pandas", "DataFrame"):
        unknown = [label for label in market.columns if label not in MARKET_COLUMNS]
        require(not unknown, f"market's columns must be among {MARKET_COLUMNS}, got {unknown}")
        require(
            not is_a(returns, "pandas", "DataFrame") or market.index.equals(returns.index),
            "market and returns must have the same index",
        )
        market = market.reindex(columns=list(MARKET_COLUMNS)).to_numpy(dtype=np.float64, na_value=np.nan)
    values = floats("market", market)
    require(
        values.ndim == 2 and len(values) == n_rows and 1 <= values.shape[1] <= len(MARKET_COLUMNS),
        f"market must have shape ({n_rows}, 1 to {len(MARKET_COLUMNS)}), got {values.shape}",
    )
    return float32(values)
