# SPDX-License-Identifier: Apache-2.0
"""What each column of a table of estimates means, and its unit: the one list of them, for files and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sigmahat_kernels.parameters import PUBLISHED

if TYPE_CHECKING:
    import pyarrow as pa


class Column(NamedTuple):
    """One column."""

    unit: str
    """1 of a number without one, log10 or ln of a logarithm; empty of texts."""
    meaning: str


COLUMNS: dict[str, Column] = {
    "universe": Column("", "name of the universe"),
    "assets": Column("", "assets of the universe, in the order of the matrix"),
    "n_assets": Column("assets", "size of the universe"),
    "n_rows": Column("rows", "length of the window"),
    "first_date": Column("date", "date of the window's first row"),
    "last_date": Column("date", "date of the window's last row: the estimate is for the period after it"),
    **{
        name: Column(head.unit.split(", ")[min(i, head.unit.count(", "))], head.meaning)
        for head in PUBLISHED.values()
        for i, name in enumerate(head.columns)
    },
    "warnings": Column("", "what is odd about the universe or its assets; estimated all the same"),
    "n_dropped": Column("assets", "assets left out because they cannot be used"),
    "status": Column("code", "0 = good; otherwise the universe's numbers are NaN"),
    "message": Column("", "what the status says; empty if good"),
    "covariance": Column(
        "squared returns per period of the input", "the matrix row by row; for daily returns, times 252 for a year"
    ),
}
"""Name -> what it is. Columns ``block_intensity_NAME`` are named by the caller's blocks, see `describe`."""

_BLOCK = "block_intensity_"


def describe(name: str) -> Column | None:
    """Return what a column is; None of one that is not ours."""
    if name.startswith(_BLOCK):
        return Column("1", f"shrinkage intensity of block {name.removeprefix(_BLOCK)}; NaN where it is not held")
    return COLUMNS.get(name)


def described(table: pa.Table) -> pa.Table:
    """Put `unit` and `meaning` into the metadata of each field, where Parquet and Feather files keep them."""
    import pyarrow as pa

    fields = []
    for field in table.schema:
        column = describe(field.name)
        fields.append(field if column is None else field.with_metadata(dict(column._asdict())))
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))
