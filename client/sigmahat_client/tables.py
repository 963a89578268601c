# SPDX-License-Identifier: Apache-2.0
"""Tables with names in front: the index of a frame, and the columns that it becomes in Arrow."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def index_of(names: Sequence[Hashable], name: str | None = None) -> pd.Index[Any]:
    """Names as they are: pandas would take tuples apart."""
    import pandas as pd

    index: pd.Index[Any] = pd.Index(list(names), tupleize_cols=False)
    return index.rename(name)


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """A frame with its rows' names, the levels of its index, as the first columns; needs pandas and pyarrow."""
    import pyarrow as pa

    levels = {str(name): frame.index.get_level_values(i) for i, name in enumerate(frame.index.names)}
    columns = {name: _arrow_names(level.tolist()) for name, level in levels.items()}
    numbers = pa.Table.from_pandas(frame, preserve_index=False)
    columns |= dict(zip(numbers.column_names, numbers.columns, strict=True))
    return pa.table(columns)


def arrow_lists(lists: Sequence[Sequence[Hashable]]) -> pa.Array:
    """A column of lists of names."""
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, _arrow_names(list(chain.from_iterable(lists))))


def _arrow_names(names: Sequence[Hashable]) -> pa.Array:
    """Names of one type as they are, tuples and names of mixed types as text: a column has one type."""
    import pyarrow as pa

    if any(isinstance(name, tuple) for name in names):
        return pa.array(map(str, names), pa.string())
    try:
        return pa.array(names)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(map(str, names), pa.string())
