# SPDX-License-Identifier: Apache-2.0
"""Tables of universes in, tables of estimates out: what Spark, Dask and Ray hand to a function, and want back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from sigmahat_client.client import Arguments
from sigmahat_client.errors import InvalidRequest
from sigmahat_client.shared_clients import shared_client

if TYPE_CHECKING:
    import pyarrow as pa

Batch = TypeVar("Batch")


def score_batches(
    batches: Iterable[Batch],
    returns: Any,
    *,
    url: str | None = None,
    model_repository: str | Path | None = None,
    **arguments: Unpack[Arguments],
) -> Iterator[Batch]:
    """Estimate the universes of each batch. Needs pandas and pyarrow.

    A worker process has one connection, made when it is first needed, so this may be sent to workers as it is.

    Parameters
    ----------
    batches : iterable of DataFrame, pyarrow.Table or pyarrow.RecordBatch
        One row a universe: `universe`, its name, which may occur again; `assets`, a list of labels, or of columns
        where `returns` has no labels; if wanted `start` and `stop`, its window's rows [start, stop).
    returns
        As `ShrinkageClient.estimate` takes it; the panel of all batches.
    url : str, optional
        host:port of a server. Default: compute in the worker process, without one.
    model_repository : path, optional
        Where the members are for that; default: those that come with this package.
    **arguments
        As `ShrinkageClient.estimate` takes them, `windows` aside.

    Yields
    ------
    DataFrame, pyarrow.Table or pyarrow.RecordBatch
        What the batch was, with the columns of `Estimates.to_arrow`. An empty batch gives an empty table.
    """
    for batch in batches:
        table = _score(batch, returns, url, model_repository, arguments)
        yield _like(batch, table)


def result_schema(*, covariance: bool = False) -> pa.Schema:
    """Columns of what `score_batches` yields without blocks, for frameworks that want to know them beforehand."""
    import pyarrow as pa

    from sigmahat_client.decoding import unanswered
    from sigmahat_client.intake import encode

    job = encode(np.zeros((1, 1)), {"": [""]}, assets=[""])
    schema = unanswered(job, slice(0, 1), covariance=covariance).to_arrow().schema
    return pa.schema([field.with_nullable(True) for field in schema])


def _score(batch: Any, returns: Any, url: str | None, model_repository: str | Path | None, arguments: Any) -> pa.Table:
    columns = {name: batch[name] for name in _names(batch)}
    missing = {"universe", "assets"} - columns.keys()
    if missing:
        raise InvalidRequest(f"a batch needs the columns universe and assets, got {sorted(columns)}")
    names, assets = (_listed(columns[name]) for name in ("universe", "assets"))
    if not names:
        return result_schema(covariance=arguments.get("covariance", False)).empty_table()
    if "start" in columns and "stop" in columns:
        windows = np.column_stack([_listed(columns["start"]), _listed(columns["stop"])])
        arguments = {**arguments, "windows": windows}
    estimates = shared_client(url, model_repository).estimate(returns, assets, **arguments)
    return replace(estimates, universes=tuple(names)).to_arrow()


def _names(batch: Any) -> list[str]:
    return list(batch.schema.names if hasattr(batch, "schema") else batch.columns)


def _listed(column: Any) -> list[Any]:
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column.tolist())


def _like(batch: Any, table: pa.Table) -> Any:
    import pyarrow as pa

    if isinstance(batch, pa.RecordBatch):
        return table.combine_chunks().to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)
    return table if isinstance(batch, pa.Table) else table.to_pandas()
