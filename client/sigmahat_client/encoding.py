# SPDX-License-Identifier: Apache-2.0
"""What a caller hands in -> plain tensors, checked, with labels as column numbers and cut into requests."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.cost import RunningCost
from sigmahat_kernels.request import MARKET_COLUMNS, MAX_ASSETS, MAX_PANEL_CELLS, MAX_UNIVERSES, PADDING
from sigmahat_kernels.status import InvalidRequest

CHUNK_CELLS = 8_000_000
"""Covariance cells that one request asks for: 32 MB, whether the matrices are sent or only computed with."""

CHUNK_COST = 10_000.0
"""Milliseconds of one core that one request may cost, see `sigmahat_kernels.cost`: far from the server's limit."""

Names = tuple[Hashable, ...]


class Job(NamedTuple):
    """One call of the caller's, which becomes one request or many. Labels stay once, with the columns: a job of 100,000
    universes holds little more than its array of column numbers."""

    panel: np.ndarray  # (n_rows, n_columns) float32
    universes: np.ndarray  # (n_universes, widest) int32; the i-th asset, if unknown, is column n_columns + i
    windows: np.ndarray | None  # (n_universes, 2) int32
    market: np.ndarray | None  # (n_rows, n_indicators) float32
    dates: np.ndarray | None  # (n_rows,) int32
    blocks: np.ndarray | None  # (n_universes, widest) int32, positions in `block_names`
    names: Names  # of the universes
    sizes: np.ndarray  # (n_universes,) assets of each
    labels: Sequence[Hashable]  # of the columns, as the caller calls them
    unknown: dict[tuple[int, int], Hashable]  # (universe, position) -> what the caller put there
    block_names: Names
    labelled: bool  # assets have labels; otherwise they are column numbers

    @property
    def assets(self) -> tuple[Names, ...]:
        """Assets of every universe, as the caller calls them."""
        return tuple(map(self.assets_of, range(len(self.names))))

    def assets_of(self, u: int) -> Names:
        """Assets of one universe."""
        n_columns = len(self.labels)
        columns = self.universes[u, : self.sizes[u]].tolist()
        return tuple(self.labels[c] if c < n_columns else self.unknown[u, i] for i, c in enumerate(columns))


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
    """Read the arguments of `ShrinkageClient.estimate`. What is no pandas frame but Arrow is read with pyarrow.

    Raises
    ------
    InvalidRequest
        If they cannot be read. An asset that is not in the panel is no such case: its universe alone is refused, by the
        server, which gives back the number of the column that does not exist.
    """
    if hasattr(returns, "__arrow_c_stream__") and not _is_frame(returns):
        returns, labels_found, dates_found = _arrow_values(returns)
        assets = labels_found if assets is None else assets
        dates = dates_found if dates is None else dates
    panel = _panel(returns)
    n_rows, n_columns = panel.shape
    labels = _labels(returns, assets, n_columns)
    names, encoded, unknown = _universes(universes, labels)
    ids, block_names = (None, ()) if blocks is None else _blocks(blocks, encoded, labels)
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
        sizes=(encoded != PADDING).sum(axis=1),
        labels=labels,
        unknown=unknown,
        block_names=block_names,
        labelled=assets is not None or _is_frame(returns),
    )


def chunks(job: Job, cells: int = CHUNK_CELLS) -> Iterator[slice]:
    """Cut the universes, in order, into requests of at most `MAX_UNIVERSES` rows, `CHUNK_COST`, and about `cells`
    covariance cells.

    A request may always ask for as many cells as its panel has, so that a wide panel is not sent for a small answer.
    """
    cells = max(cells, job.panel.size)
    most = max(1, MAX_UNIVERSES // (1 + len(job.block_names)))
    n_rows, n_columns = job.panel.shape
    windows = np.array([[0, n_rows]]).repeat(len(job.sizes), axis=0) if job.windows is None else job.windows
    bounds = list(map(tuple, np.clip(windows, 0, n_rows).tolist()))
    running = RunningCost(n_columns, len(job.block_names))
    start = widest = 0
    for u, size in enumerate(job.sizes.tolist()):
        wider = max(widest, size)
        cost = running.add(size, bounds[u])
        if u > start and (u - start == most or (u - start + 1) * wider**2 > cells or cost > CHUNK_COST):
            yield slice(start, u)
            start, wider = u, size
            running = RunningCost(n_columns, len(job.block_names))
            running.add(size, bounds[u])
        widest = wider
    yield slice(start, len(job.sizes))


def shared_tensors(job: Job) -> dict[str, np.ndarray]:
    """Tensors that every request of the job carries."""
    return _sent(PANEL=job.panel, MARKET=job.market, DATES=job.dates)


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


def _arrow_values(returns: Any) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    """Returns, labels and dates of an Arrow table, or of what exports itself as one, such as polars' frames."""
    import pyarrow as pa

    table = pa.table(returns)
    numbers: list[str] = []
    days: list[str] = []
    for field in table.schema:
        is_date = pa.types.is_date(field.type) or pa.types.is_timestamp(field.type)
        is_number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        _require(is_date or is_number, f"returns must be numbers and one column of dates, got {field}")
        (days if is_date else numbers).append(field.name)
    _require(len(days) <= 1, f"returns must have one column of dates, got {days}")
    _require(len(numbers) > 0, "returns are empty: they have no column of numbers")
    values = np.column_stack([table[name].to_numpy() for name in numbers])
    return values, numbers, table[days[0]].to_numpy().astype("datetime64[D]") if days else None


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


def _universes(universes: Any, labels: Sequence[Hashable]) -> tuple[Names, np.ndarray, dict[tuple[int, int], Hashable]]:
    """`Job.names`, `Job.universes`, `Job.unknown`."""
    if isinstance(universes, np.ndarray) and universes.ndim == 2 and universes.dtype.kind in "iu":
        return _columns(universes, len(labels))
    if universes is None:
        universes = {"all": labels}
    _require(
        isinstance(universes, Iterable) and not isinstance(universes, str | bytes),
        f"universes must be a mapping of names to lists of assets, or a list of such lists, got {universes!r}",
    )
    given = list(universes.values() if isinstance(universes, Mapping) else universes)
    names: Names = tuple(universes if isinstance(universes, Mapping) else range(len(given)))
    _require(len(given) > 0, "universes are empty: there is nothing to estimate")
    column_of = {label: column for column, label in enumerate(labels)}
    rows, unknown = [], {}
    for u, (name, universe) in enumerate(zip(names, given, strict=True)):
        _require(
            isinstance(universe, Iterable) and not isinstance(universe, str | bytes | Mapping),
            f"universe {name!r} must be a list of assets, got {universe!r}",
        )
        entries = universe.tolist() if isinstance(universe, np.ndarray) else list(universe)
        _check_size(name, len(entries))
        try:
            row = [column_of.get(entry, PADDING) for entry in entries]
        except TypeError as error:
            raise InvalidRequest(f"universes must hold asset labels or column numbers: {error}") from None
        for i, column in enumerate(row):
            if column == PADDING:
                unknown[u, i] = entries[i]
                row[i] = len(labels) + i
        rows.append(np.array(row, np.int32))
    encoded = np.full((len(rows), max(1, *map(len, rows))), PADDING, np.int32)
    for filled, codes in zip(encoded, rows, strict=True):
        filled[: len(codes)] = codes
    return names, encoded, unknown


def _columns(universes: np.ndarray, n_columns: int) -> tuple[Names, np.ndarray, dict[tuple[int, int], Hashable]]:
    """`_universes` of an array, which holds column numbers even where columns have labels; padded at the end."""
    _require(len(universes) > 0, "universes are empty: there is nothing to estimate")
    universes = universes if universes.shape[1] else np.full((len(universes), 1), PADDING)
    if universes.dtype not in (np.int32, np.int64):  # too small for the columns of unknown assets, or for -1
        universes = universes.astype(np.int64)
    used = universes != PADDING
    sizes = np.where(used.any(axis=1), used.shape[1] - np.argmax(used[:, ::-1], axis=1), 0)
    widest = int(np.argmax(sizes))
    _check_size(widest, int(sizes[widest]))
    universes = universes[:, : max(1, sizes[widest])]
    position = np.arange(universes.shape[1])
    inside = position < sizes[:, None]
    wrong = inside & ((universes < 0) | (universes >= n_columns))
    encoded = np.where(inside, universes, PADDING)
    rows, positions = np.nonzero(wrong)
    encoded[rows, positions] = n_columns + positions
    places = zip(rows.tolist(), positions.tolist(), strict=True)
    unknown: dict[tuple[int, int], Hashable] = {place: int(universes[place]) for place in places}
    return tuple(range(len(universes))), encoded.astype(np.int32, copy=False), unknown


def _check_size(name: Hashable, size: int) -> None:
    _require(size <= MAX_ASSETS, f"universe {name!r} has {size} assets, more than the limit of {MAX_ASSETS}")


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


def _blocks(blocks: Any, universes: np.ndarray, labels: Sequence[Hashable]) -> tuple[np.ndarray, Names]:
    used = universes != PADDING
    if isinstance(blocks, Mapping) or hasattr(blocks, "to_dict"):
        block_of = dict(blocks) if isinstance(blocks, Mapping) else blocks.to_dict()
        columns, first = np.unique(universes[used], return_index=True)
        columns = columns[np.argsort(first)]
        known = columns[columns < len(labels)].tolist()
        missing = [labels[column] for column in known if _no_block(block_of.get(labels[column]))]
        _require(not missing, f"blocks must give every asset a block; {missing[:10]} have none")
        ids = {block: i for i, block in enumerate(dict.fromkeys(block_of[labels[column]] for column in known))}
        _require(len(ids) > 0, "blocks must give every asset a block, but they name no asset of any universe")
        names: Names = tuple(ids)
        # The universe of an unknown asset is refused whatever its block, so that may be any.
        id_of_column = np.zeros(max(universes.max() + 1, len(labels)), np.int32)
        id_of_column[known] = [ids[block_of[labels[column]]] for column in known]
        values = id_of_column[universes[used]]
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
