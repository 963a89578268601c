# SPDX-License-Identifier: Apache-2.0
"""What a caller hands in -> plain tensors, checked, with labels as column numbers and cut into requests."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.request import MARKET_COLUMNS, MAX_ASSETS, MAX_PANEL_CELLS, MAX_UNIVERSES, PADDING
from sigmahat_kernels.status import InvalidRequest

CHUNK_CELLS = 8_000_000
"""Covariance cells that one request asks for: 32 MB, whether the matrices are sent or only computed with."""

Names = tuple[Hashable, ...]


class Job(NamedTuple):
    """One call of the caller's, which becomes one request or many."""

    panel: np.ndarray  # (n_rows, n_columns) float32
    universes: np.ndarray  # (n_universes, widest) int32; the i-th asset, if unknown, is column n_columns + i
    windows: np.ndarray | None  # (n_universes, 2) int32
    market: np.ndarray | None  # (n_rows, n_indicators) float32
    dates: np.ndarray | None  # (n_rows,) int32
    blocks: np.ndarray | None  # (n_universes, widest) int32, positions in `block_names`
    names: Names  # of the universes
    assets: tuple[Names, ...]  # of each universe, as the caller calls them
    block_names: Names
    labelled: bool  # assets have labels; otherwise they are column numbers


def encode(
    returns: Any,
    universes: Any = None,
    *,
    assets: Iterable[Hashable] | None = None,
    windows: Any = None,
    market: Any = None,
    dates: Any = None,
    blocks: Any = None,
) -> Job:
    """Read the arguments of `ShrinkageClient.estimate`.

    Raises
    ------
    InvalidRequest
        If they cannot be read. An asset that is not in the panel is no such case: its universe alone is refused, by the
        server, which gives back the number of the column that does not exist.
    """
    panel = _panel(returns)
    n_rows, n_columns = panel.shape
    labels = _labels(returns, assets, n_columns)
    names, rows, is_columns = _universes(universes, labels)
    columns = {label: column for column, label in enumerate(range(n_columns) if is_columns else labels)}
    try:
        codes = [[columns.get(entry, n_columns + i) for i, entry in enumerate(row)] for row in rows]
    except TypeError as error:
        raise InvalidRequest(f"universes must hold asset labels or column numbers: {error}") from None
    used = tuple(
        tuple(labels[column] if column < n_columns else entry for column, entry in zip(code, row, strict=True))
        for code, row in zip(codes, rows, strict=True)
    )
    encoded = _pad(codes)
    ids, block_names = (None, ()) if blocks is None else _blocks(blocks, used, encoded, n_columns)
    if dates is None and _is_frame(returns) and hasattr(returns.index, "tz"):  # a DatetimeIndex: no other has it
        # An intraday index says nothing of the season that its days do not, and days must not repeat: it is not sent.
        dates = returns.index if returns.index.normalize().is_unique else None
    return Job(
        panel=panel,
        universes=encoded,
        windows=None if windows is None else _windows(windows, names, n_rows),
        market=None if market is None else _market(market, returns, n_rows),
        dates=None if dates is None else _days(dates, n_rows),
        blocks=ids,
        names=names,
        assets=used,
        block_names=block_names,
        labelled=assets is not None or _is_frame(returns),
    )


def chunks(job: Job, cells: int = CHUNK_CELLS) -> Iterator[slice]:
    """Cut the universes, in order, into requests of at most `MAX_UNIVERSES` rows and about `cells` covariance cells.

    A request may always ask for as many cells as its panel has, so that a wide panel is not sent for a small answer.
    """
    cells = max(cells, job.panel.size)
    most = max(1, MAX_UNIVERSES // (1 + len(job.block_names)))
    start = widest = 0
    for u, assets in enumerate(job.assets):
        wider = max(widest, len(assets))
        if u > start and (u - start == most or (u - start + 1) * wider**2 > cells):
            yield slice(start, u)
            start, wider = u, len(assets)
        widest = wider
    yield slice(start, len(job.assets))


def shared_tensors(job: Job) -> dict[str, np.ndarray]:
    """Tensors that every request of the job carries."""
    return _sent(PANEL=job.panel, MARKET=job.market, DATES=job.dates)


def chunk_tensors(job: Job, chunk: slice) -> dict[str, np.ndarray]:
    """Tensors of one request's universes, padded only as far as these need it."""
    width = max(1, *map(len, job.assets[chunk]))
    return _sent(
        UNIVERSES=job.universes[chunk, :width],
        WINDOWS=None if job.windows is None else job.windows[chunk],
        BLOCKS=None if job.blocks is None else job.blocks[chunk, :width],
    )


def _sent(**tensors: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _panel(returns: Any) -> np.ndarray:
    panel = _frame_values(returns) if _is_frame(returns) else _array("returns", returns)
    _require(panel.ndim == 2, f"returns must have shape (rows, assets), got {panel.shape}")
    _require(panel.size > 0, f"returns are empty: shape {panel.shape}")
    _require(panel.dtype.kind == "f", f"returns must be floating point (0.01 is 1 %), got {panel.dtype}")
    _require(
        panel.size <= MAX_PANEL_CELLS,
        f"returns have {panel.size:,} cells, more than the limit of {MAX_PANEL_CELLS:,}: send fewer rows or assets",
    )
    return _float32(panel)


def _frame_values(frame: Any) -> np.ndarray:
    kinds = {label: dtype.kind for label, dtype in zip(frame.columns, frame.dtypes, strict=True)}
    bad = [label for label, kind in kinds.items() if kind not in "fiu"]
    _require(not bad, f"returns must be numbers, but columns {bad[:10]} are not ({len(bad)} in all)")
    if "f" not in kinds.values():
        return np.asarray(frame)
    values: np.ndarray = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _labels(returns: Any, assets: Iterable[Hashable] | None, n_columns: int) -> Sequence[Hashable]:
    if assets is None and not _is_frame(returns):
        return range(n_columns)
    labels = returns.columns.tolist() if assets is None else list(assets)
    _require(len(labels) == n_columns, f"assets must name the {n_columns} columns of returns, got {len(labels)} names")
    twice = [label for label, n in _counts(labels).items() if n > 1]
    _require(not twice, f"assets must have one column each, but {twice[:10]} have several")
    return labels


def _counts(labels: Iterable[Hashable]) -> dict[Hashable, int]:
    counts: dict[Hashable, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return counts


def _universes(universes: Any, labels: Sequence[Hashable]) -> tuple[Names, list[list[Any]], bool]:
    """Names, assets as they were given, and whether these are column numbers even where columns have labels."""
    is_columns = isinstance(universes, np.ndarray) and universes.ndim == 2 and universes.dtype.kind in "iu"
    if universes is None:
        universes = {"all": labels}
    _require(
        isinstance(universes, Iterable) and not isinstance(universes, str | bytes),
        f"universes must be a mapping of names to lists of assets, or a list of such lists, got {universes!r}",
    )
    given = list(universes.values() if isinstance(universes, Mapping) else universes)
    names: Names = tuple(universes if isinstance(universes, Mapping) else range(len(given)))
    _require(len(given) > 0, "universes are empty: there is nothing to estimate")
    rows = []
    for name, universe in zip(names, given, strict=True):
        _require(
            isinstance(universe, Iterable) and not isinstance(universe, str | bytes | Mapping),
            f"universe {name!r} must be a list of assets, got {universe!r}",
        )
        row = universe.tolist() if isinstance(universe, np.ndarray) else list(universe)
        while is_columns and row and row[-1] == PADDING:
            row.pop()
        _require(
            len(row) <= MAX_ASSETS, f"universe {name!r} has {len(row)} assets, more than the limit of {MAX_ASSETS}"
        )
        rows.append(row)
    return names, rows, is_columns


def _windows(windows: Any, names: Names, n_rows: int) -> np.ndarray:
    if isinstance(windows, Mapping):
        unknown = sorted(map(repr, windows.keys() - set(names)))
        _require(not unknown, f"windows names universes that do not exist: {', '.join(unknown[:10])}")
        windows = [windows.get(name, (0, n_rows)) for name in names]
    return _integers("windows", windows, (len(names), 2))


def _market(market: Any, returns: Any, n_rows: int) -> np.ndarray:
    if _is_frame(market):
        unknown = [label for label in market.columns if label not in MARKET_COLUMNS]
        _require(not unknown, f"market's columns must be among {MARKET_COLUMNS}, got {unknown}")
        _require(
            not _is_frame(returns) or market.index.equals(returns.index), "market and returns must have the same index"
        )
        market = market.reindex(columns=list(MARKET_COLUMNS)).to_numpy(dtype=np.float64, na_value=np.nan)
    values = _array("market", market)
    _require(
        values.ndim == 2 and len(values) == n_rows and 1 <= values.shape[1] <= len(MARKET_COLUMNS),
        f"market must have shape ({n_rows}, 1 to {len(MARKET_COLUMNS)}), got {values.shape}",
    )
    _require(values.dtype.kind == "f", f"market must be floating point, got {values.dtype}")
    return _float32(values)


def _days(dates: Any, n_rows: int) -> np.ndarray:
    if getattr(dates, "tz", None) is not None:
        dates = dates.tz_localize(None)  # the day where the exchange is
    days = _array("dates", dates)
    if days.dtype.kind == "O":  # timestamps with a time zone too stand for the day where the exchange is
        days = np.array([d.date() if isinstance(d, datetime.datetime) and d == d else d for d in days.flat], object)
    if days.dtype.kind in "MU" or all(isinstance(day, datetime.date) for day in days.flat):
        try:
            days = days.astype("datetime64[us]").astype("datetime64[D]")
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"dates must be days such as 2019-01-31: {error}") from None
        _require(not np.isnat(days).any(), "dates must be known for every row, got NaT")
    _require(days.dtype.kind in "Miu", f"dates must be dates, or whole days since 1970-01-01, got {days.dtype}")
    _require(days.shape == (n_rows,), f"dates must have shape ({n_rows},), got {days.shape}")
    for i in np.flatnonzero(days[1:] <= days[:-1])[:1]:
        raise InvalidRequest(f"dates must be strictly increasing days, got {days[i + 1]} after {days[i]}")
    return _integers("dates", days.astype(np.int64) if days.dtype.kind == "M" else days, (n_rows,))


def _blocks(blocks: Any, assets: Sequence[Names], universes: np.ndarray, n_columns: int) -> tuple[np.ndarray, Names]:
    used = universes != PADDING
    if isinstance(blocks, Mapping) or hasattr(blocks, "to_dict"):
        block_of = dict(blocks) if isinstance(blocks, Mapping) else blocks.to_dict()
        flat = [asset for universe in assets for asset in universe]
        known = universes[used] < n_columns
        missing = dict.fromkeys(
            asset for asset, is_known in zip(flat, known, strict=True) if is_known and _no_block(block_of.get(asset))
        )
        _require(not missing, f"blocks must give every asset a block; {list(missing)[:10]} have none")
        # The universe of an unknown asset is refused whatever its block, so that may be any.
        ids = {block: i for i, block in enumerate(dict.fromkeys(block_of[a] for a in flat if a in block_of))}
        _require(len(ids) > 0, "blocks must give every asset a block, but they name no asset of any universe")
        names: Names = tuple(ids)
        values = [ids[block_of[asset]] if asset in block_of else 0 for asset in flat]
    else:
        given = _integers("blocks", blocks, universes.shape)[used]
        _require(bool((given >= 0).all()), "blocks must give every asset a block id of 0 or more")
        unique, values = np.unique(given, return_inverse=True)
        names = tuple(unique.tolist())
    encoded = np.full(universes.shape, PADDING, np.int32)
    encoded[used] = values
    return encoded, names


def _no_block(block: Any) -> bool:
    return block is None or block != block  # None, or NaN as pandas has it for a missing one


def _pad(rows: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.full((len(rows), max(1, *map(len, rows))), PADDING, np.int32)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = row
    return padded


def _integers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(name, value)
    _require(
        array.dtype.kind in "iu" and array.shape == shape,
        f"{name} must be integers of shape {shape}, got {array.dtype} of shape {array.shape}",
    )
    limits = np.iinfo(np.int32)
    _require(
        bool(((array >= limits.min) & (array <= limits.max)).all()), f"{name} must be integers that fit in 32 bits"
    )
    return array.astype(np.int32)


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and the server names the asset
        return values.astype(np.float32, copy=False)


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidRequest(f"{name} must be an array: {error}") from None


def _is_frame(value: Any) -> bool:
    """Never imports pandas: if it was not imported, `value` cannot be one of its frames."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidRequest(message)
