# SPDX-License-Identifier: Apache-2.0
"""What each column of a table of estimates or risks means, and its unit: the one list of them, for files and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sigmahat_kernels.parameters import PUBLISHED, REGIMES

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

_OF_WEIGHTS = "that of the weights"
RISK_COLUMNS: dict[str, Column] = {
    "portfolio": Column("", "name of the portfolio"),
    "gross": Column(_OF_WEIGHTS, "sum of the sizes of its positions in the universe's assets"),
    "net": Column(_OF_WEIGHTS, "sum of these positions"),
    "volatility": Column(_OF_WEIGHTS, "standard deviation of its gain, over the horizon or the year asked for"),
    "diversification_ratio": Column(
        "1", "volatilities of its positions, added up, over its own; 1 = no diversification"
    ),
    "effective_bets": Column("1", "as many equal contributions to volatility would be spread as widely"),
    **{
        f"volatility_{regime}": Column(_OF_WEIGHTS, f"volatility if the market's of the next month is {regime}")
        for regime in REGIMES
    },
    "portfolio_status": Column("code", "0 = good; otherwise the portfolio's numbers are NaN in this universe"),
    "asset": Column("", "name of an asset that the portfolio holds"),
    "weight": Column(_OF_WEIGHTS, "the position in it"),
    "contribution": Column(_OF_WEIGHTS, "what it contributes to the volatility; contributions add up to it"),
    "marginal": Column("1", "by how much volatility grows with one more unit of it"),
    "beta": Column("1 over that of the weights", "its expected return for a gain of the portfolio by 1"),
}
"""The same of what `risk` answers beside columns of `COLUMNS`; the last five are of contributions."""

_BLOCK = "block_intensity_"


def describe(name: str) -> Column | None:
    """Return what a column is; None of one that is not ours."""
    if name.startswith(_BLOCK):
        return Column("1", f"shrinkage intensity of block {name.removeprefix(_BLOCK)}; NaN where it is not held")
    return COLUMNS.get(name) or RISK_COLUMNS.get(name)


def described(table: pa.Table) -> pa.Table:
    """Put `unit` and `meaning` into the metadata of each field, where Parquet and Feather files keep them."""
    import pyarrow as pa

    fields = []
    for field in table.schema:
        column = describe(field.name)
        fields.append(field if column is None else field.with_metadata(dict(column._asdict())))
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata=table.schema.metadata))
