# SPDX-License-Identifier: Apache-2.0
"""Containers of returns (arrays, pandas, polars, Arrow, xarray) -> values, labels of columns, index of rows.

No library is imported to test a type: if it was not imported, the value cannot be one of its objects.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sigmahat_client.intake.arrays import floats, objects_as_floats, require, shown
from sigmahat_client.intake.rows import index_rows
from sigmahat_kernels.status import InvalidRequest

QUOTE_FIELDS = {
    *("open", "high", "low", "close", "adj close", "adjclose", "adj_close", "volume", "vwap", "dividends"),
    *("stock splits", "capital gains"),
}
"""Fields of quotes, in lower case, as quote libraries name them beside the tickers."""

_FIELDS_FOUND = "columns hold the fields {} of every asset: keep one, as returns"
_FEW_FIELDS = 2
_SHOWN = 10


class Table(NamedTuple):
    """Returns, and what their container says of columns and rows."""

    values: np.ndarray  # as it came: (n_rows, n_columns) of numbers if all is well
    labels: Sequence[Hashable] | None
    index: Any  # for `rows.index_rows`, or None


def read_table(returns: Any) -> Table:
    """Take a container apart.

    Raises
    ------
    InvalidRequest
        If a cell is no number, or the kind of container is none of these; says what was wanted.
    """
    if isinstance(returns, Table):
        return returns
    if is_a(returns, "polars", "LazyFrame"):
        returns = returns.collect()
    if is_a(returns, "pandas", "DataFrame"):
        return _from_pandas(returns)
    if is_a(returns, "xarray", "DataArray"):
        return _from_xarray(returns)
    if hasattr(returns, "__arrow_c_stream__") and not is_a(returns, "pandas", "Series"):
        return _from_arrow(returns)
    kind = f"{type(returns).__module__.split('.')[0]}.{type(returns).__name__}"
    require(
        not isinstance(returns, Mapping) and not any(hasattr(returns, name) for name in ("columns", "data_vars")),
        f"returns must be an array, a DataFrame of pandas or polars, an Arrow table or a DataArray, got {kind}",
    )
    require(
        not is_a(returns, "pandas", "Series"),
        "returns must have one row a date and one column an asset, got a Series (unstack it, if it holds several)",
    )
    return Table(floats("returns", returns), None, None)


def is_a(value: Any, library: str, name: str) -> bool:
    """Whether the value is an instance of a class of a library that may not be there."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, getattr(module, name))


def asset_labels(names: Sequence[tuple[Hashable, ...]]) -> list[Hashable]:
    """Labels of columns that are named by several levels, such as (field, ticker): levels that vary, or the one.

    >>> asset_labels([("Close", "AAPL"), ("Close", "MSFT")])
    ['AAPL', 'MSFT']
    >>> asset_labels([("tech", "AAPL"), ("banks", "JPM")])
    [('tech', 'AAPL'), ('banks', 'JPM')]

    Raises
    ------
    InvalidRequest
        If there are several fields of quotes; names them.
    """
    levels = list(zip(*names, strict=True))
    assets = []
    for level in levels:
        found = list(dict.fromkeys(level))
        if all(map(_is_field, found)):
            require(len(found) == 1, _FIELDS_FOUND.format(found))
        else:
            assets.append(level)
    assets = [level for level in assets if len(set(level)) > 1] or assets[-1:] or levels[-1:]
    return list(assets[0]) if len(assets) == 1 else list(zip(*assets, strict=True))


def refuse_fields(labels: Sequence[Hashable]) -> None:
    """Refuse quotes of one asset: columns such as Open, High, Low, Close.

    Raises
    ------
    InvalidRequest
        If labels are fields and nothing else; names them.
    """
    are_fields = len(labels) > _FEW_FIELDS and all(map(_is_field, labels))
    require(not are_fields, _FIELDS_FOUND.format(list(labels)))


def _is_field(name: Hashable) -> bool:
    """LOW and OPEN are tickers."""
    return isinstance(name, str) and name.strip().lower() in QUOTE_FIELDS and not name.isupper()


def _from_pandas(frame: Any) -> Table:
    columns, index = frame.columns, frame.index
    labels = columns.tolist()
    if columns.nlevels > 1:
        labels = asset_labels(labels)
    refuse_fields(labels)
    dates = [label for label in labels if isinstance(label, datetime.date | np.datetime64)]
    require(not labels or len(dates) < len(labels), f"returns have dates for columns ({dates[:1]} ...): transpose them")
    kinds = [dtype.kind for dtype in frame.dtypes]
    if is_a(index, "pandas", "RangeIndex") and sum(kind not in "fiu" for kind in kinds) == 1:
        place = next(i for i, kind in enumerate(kinds) if kind not in "fiu")
        column = frame.iloc[:, place]
        if _holds_dates(column, len(frame)):
            del labels[place], kinds[place]
            frame, index = frame.drop(columns=columns[place]), column
    if all(kind in "iu" for kind in kinds):
        return Table(np.asarray(frame), labels, index)
    if all(kind in "fiu" for kind in kinds):
        return Table(frame.to_numpy(dtype=np.float64, na_value=np.nan), labels, index)
    values, faults = np.empty(frame.shape), {}
    for i, (label, kind) in enumerate(zip(labels, kinds, strict=True)):
        column = frame.iloc[:, i]
        if kind in "fiu":
            values[:, i] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values[:, i], wrong = objects_as_floats(column)
            if wrong is not None:
                row = str(frame.index[wrong]).removesuffix(" 00:00:00")
                faults[label] = f"{shown(column.iloc[wrong])} in row {wrong} ({row})"
    _refuse_columns(faults)
    return Table(values, labels, index)


def _from_arrow(returns: Any) -> Table:
    import pyarrow as pa

    try:
        table = pa.table(returns)
    except (TypeError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InvalidRequest(f"returns must be an Arrow table: {error}") from None
    columns, labels, faults, others = [], [], {}, {}
    is_integer = True
    for place, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or kind == pa.null():
            columns.append(table.column(place).cast(pa.float64()).to_numpy())
            labels.append(field.name)
            is_integer &= pa.types.is_integer(kind)
        elif (
            pa.types.is_date(kind)
            or pa.types.is_timestamp(kind)
            or (_is_text(kind) and _holds_dates(table.column(place).to_pylist(), len(table)))
        ):
            others[place] = field.name
        else:
            faults[field.name] = f"{kind}, such as {next(iter(table.column(place).to_pylist()), None)!r}"
    _refuse_columns(faults)
    require(len(others) <= 1, f"returns must have one column of dates, got {list(others.values())}")
    require(len(columns) > 0, "returns are empty: they have no column of numbers")
    refuse_fields(labels)
    values = np.column_stack(columns)
    return Table(
        values.astype(np.int64) if is_integer else values, labels, _arrow_dates(table, *others) if others else None
    )


def _arrow_dates(table: Any, place: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(place)
    if _is_text(column.type):
        return column.to_pylist()
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = pc.local_timestamp(column)  # the day where the exchange is
    return column.to_numpy()


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _from_xarray(array: Any) -> Table:
    require(array.ndim == 2, f"returns must have shape (rows, assets), got {dict(array.sizes)}")
    kinds = [array[name].dtype.kind if name in array.coords else "" for name in array.dims]
    rows, assets = array.dims if kinds[0] == "M" or kinds[1] != "M" else array.dims[::-1]
    values = floats("returns", array.transpose(rows, assets).to_numpy())
    coordinates = (array[name].to_numpy() if name in array.coords else None for name in (rows, assets))
    index, labels = coordinates
    return Table(values, None if labels is None else labels.tolist(), index)


def _holds_dates(column: Iterable[Any], n_rows: int) -> bool:
    """Whether a column that holds no numbers holds the dates of the rows."""
    try:
        return index_rows(column, n_rows).times is not None
    except InvalidRequest:
        return True  # dates that cannot be read, or are out of order: the reader of rows says so


def _refuse_columns(faults: Mapping[Hashable, str]) -> None:
    if faults:
        label, fault = next(iter(faults.items()))
        raise InvalidRequest(
            f"returns must be numbers, but columns {list(faults)[:_SHOWN]} are not ({len(faults)} in all): "
            f"{label!r} holds {fault}"
        )
