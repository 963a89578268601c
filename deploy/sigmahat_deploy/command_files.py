# SPDX-License-Identifier: Apache-2.0
"""What commands read and write: their checks before the work, tables of any kind, files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import pandas as pd

from sigmahat_client.columns import described
from sigmahat_kernels.request import MARKET_COLUMNS

INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)
STDOUT = Path("-")
TABLES: Mapping[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda table, path: table.to_csv(path),
    ".parquet": lambda table, path: _write_parquet(table, path),
    ".feather": lambda table, path: _write_feather(table, path),
    ".json": lambda table, path: _write_json(table, path),
}
"""Ending -> what writes a table with names of rows."""

UNIVERSES = click.option(
    "--universes", type=INPUT, help="JSON: name to assets, or to assets, start and stop. Default: all assets."
)
MARKET = click.option(
    "--market",
    type=INPUT,
    help=f"File of market indicators, dates first, as RETURNS: columns {', '.join(MARKET_COLUMNS)}, one or more.",
)
BLOCKS = click.option(
    "--blocks", type=INPUT, help="CSV of two columns, asset and block (sector ...), or JSON: asset to block."
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Say at the end what was done as one JSON object, on one line."
)
"""Options that several commands have."""


def check_outputs(inputs: Sequence[Path | None], outputs: Mapping[str, tuple[Path | None, Sequence[str]]]) -> None:
    """Find out before the work, not after it, that its result could not be written.

    Parameters
    ----------
    inputs : sequence of paths
        What is read, which must not be written over.
    outputs : mapping of options to (path, endings that it may have)
        ``-``, if it is one of the endings, is standard output.

    Raises
    ------
    click.ClickException
    """
    known: list[Path] = []
    for option, (path, endings) in outputs.items():
        if path is None or (path == STDOUT and "-" in endings):
            continue
        if path.suffix.lower() not in endings:
            files = ", ".join(ending for ending in endings if ending != "-")
            raise click.BadParameter(
                f"must end with {files}{', or be -' * ('-' in endings)}, got {path}", param_hint=option
            )
        if path.suffix.lower() in (".parquet", ".feather"):
            try:
                import pyarrow  # noqa: F401
            except ImportError as error:  # also where it does not fit the NumPy that is installed
                raise click.ClickException(f"{path.suffix} files need a working pyarrow: {error}") from error
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path.parent} is not a folder: create it first", param_hint=option)
        if path.exists() and any(source is not None and path.samefile(source) for source in inputs):
            raise click.BadParameter(f"must not be {path}, which is read: name another file", param_hint=option)
        if path in known:
            raise click.BadParameter(f"must not be {path}, which is written too: name another file", param_hint=option)
        known.append(path)


def write_all(contents: Mapping[Path, pd.DataFrame | Callable[[Path], object]]) -> None:
    """Write files whole, all or none: they get their names only when all are complete.

    Parameters
    ----------
    contents : mapping of paths to tables or functions
        A table goes to a file of one of `TABLES`, or as CSV to `STDOUT`; a function is given the file to write.
    """
    with ExitStack() as files:
        for path, content in contents.items():
            if not isinstance(content, pd.DataFrame):
                content(files.enter_context(_draft_of(path)))
            elif path == STDOUT:
                click.echo(content.to_csv(), nl=False)
            else:
                TABLES[path.suffix.lower()](content, files.enter_context(_draft_of(path)))


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` when the block ends well, and goes away otherwise."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(described(pa.Table.from_pandas(table)), path)


def _write_feather(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import feather

    feather.write_feather(described(pa.Table.from_pandas(table.reset_index())), path)


def _write_json(table: pd.DataFrame, path: Path) -> None:
    """An object by name; where several names lead to a row, which JSON has no key for, a list of rows."""
    if isinstance(table.index, pd.MultiIndex):
        table.reset_index().to_json(path, orient="records", double_precision=15, date_format="iso")
    else:
        table.to_json(path, orient="index", double_precision=15, date_format="iso")
