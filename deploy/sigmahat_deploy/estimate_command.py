# SPDX-License-Identifier: Apache-2.0
"""`sigmahat estimate`: from a file of returns to a file of shrinkage parameters, and one of covariance matrices."""

from __future__ import annotations

import json
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Timer

import click
import numpy as np
import pandas as pd

from sigmahat_client import AssetsDropped, Estimates, EstimateWarning, ShrinkageClient, SigmahatError, Tls
from sigmahat_client.columns import described
from sigmahat_client.errors import listed
from sigmahat_deploy.progress_line import progress_of
from sigmahat_deploy.returns_file import (
    Universes,
    UnreadableFile,
    read_blocks,
    read_market,
    read_returns,
    read_universes,
)
from sigmahat_kernels.members import MemberError
from sigmahat_kernels.request import MARKET_COLUMNS
from sigmahat_kernels.status import Status

SOME_FAILED = 3
"""Exit code when the files were written but some universes could not be estimated."""

_SHOWN_FAILURES = 10
_SILENCE_S, _LOOK_S = 0.8, 0.3
"""After how long nobody may have answered, and how long that is asked: with the start of Python, less than 2 s."""
_DEFAULT_URL = "127.0.0.1:8001"
_STDOUT = Path("-")
_WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda table, path: table.to_csv(path),
    ".parquet": lambda table, path: _write_parquet(table, path),
    ".feather": lambda table, path: _write_feather(table, path),
    ".json": lambda table, path: table.to_json(path, orient="index", double_precision=15, date_format="iso"),
}
"""Ending of --out -> what writes it."""
_INPUT = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("returns", type=_INPUT)
@click.option(
    "--universes", type=_INPUT, help="JSON: name to assets, or to assets, start and stop. Default: all assets."
)
@click.option(
    "--out",
    required=True,
    type=_OUTPUT,
    help=f"File to write, one row a universe: {', '.join(_WRITERS)}; - writes CSV to standard output.",
)
@click.option(
    "--covariances", type=_OUTPUT, help="NPZ file to write: covariance/NAME and assets/NAME of each universe."
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help=f"host:port of a server's gRPC; several share the work.  [default: {_DEFAULT_URL}]",
)
@click.option(
    "--market",
    type=_INPUT,
    help=f"File of market indicators, dates first, as RETURNS: columns {', '.join(MARKET_COLUMNS)}, one or more.",
)
@click.option(
    "--blocks", type=_INPUT, help="CSV of two columns, asset and block (sector ...), or JSON: asset to block."
)
@click.option("--local", is_flag=True, help="Compute in this process, without a server.")
@click.option(
    "--model-repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the members for --local.  [default: those that come with this package]",
)
@click.option(
    "--deadline-s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that all of it may take on the server.",
)
@click.option(
    "--retry-s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds for which a server that is not available is tried again.",
)
@click.option("--root-certificates", type=_INPUT, help="PEM file: use TLS, and trust servers that these vouch for.")
@click.option("--certificate-chain", type=_INPUT, help="PEM file: the client's own certificate, for mutual TLS.")
@click.option("--private-key", type=_INPUT, help="PEM file: the key of --certificate-chain.")
@click.option("--classic", is_flag=True, help="Covariances by textbook linear shrinkage of the sample covariance.")
@click.option("--drop-bad-assets", is_flag=True, help="Estimate universes without the assets that cannot be used.")
@click.option("--json", "as_json", is_flag=True, help="Say at the end what was done as one JSON object, on one line.")
def estimate(
    returns: Path,
    universes: Path | None,
    out: Path,
    covariances: Path | None,
    market: Path | None,
    blocks: Path | None,
    urls: tuple[str, ...],
    local: bool,
    model_repository: Path | None,
    deadline_s: float,
    retry_s: float,
    root_certificates: Path | None,
    certificate_chain: Path | None,
    private_key: Path | None,
    classic: bool,
    drop_bad_assets: bool,
    as_json: bool,
) -> None:
    """Estimate the universes of RETURNS, a .csv, .csv.gz, .parquet, .feather or .npz file of simple daily returns.

    0.01 is 1 %. The first column holds dates, oldest first, the others are assets; an .npz file holds the arrays
    dates, tickers and ret. Half a year to two years of rows do well; a universe may have a window of its own.
    """
    begin = time.monotonic()
    _check_options([returns, universes, market, blocks], out, covariances, classic)
    if local and (urls or root_certificates or certificate_chain or private_key):
        raise click.UsageError("--local computes in this process: leave --url and certificates out")
    if model_repository is not None and not local:
        raise click.UsageError("--model-repository is for --local: a server has its own")
    try:
        panel = read_returns(returns)
        asked = Universes({"all": panel.columns.tolist()}, {})
        if universes is not None:
            asked = read_universes(universes, pd.DatetimeIndex(panel.index))
        if local:
            connection = ShrinkageClient.local(model_repository, deadline_s=deadline_s)
        else:
            certificates = root_certificates, certificate_chain, private_key
            tls = Tls(*certificates) if any(certificates) else None
            connection = ShrinkageClient(urls or _DEFAULT_URL, deadline_s=deadline_s, retry_s=retry_s, tls=tls)
        with (
            connection as client,
            _hint_of(client, urls),
            progress_of("universes") as progress,
            warnings.catch_warnings(),
        ):
            for said_at_the_end in (AssetsDropped, EstimateWarning):
                warnings.simplefilter("ignore", said_at_the_end)
            estimates = client.estimate(
                panel,
                asked.assets,
                windows=asked.windows,
                market=None if market is None else read_market(market, pd.DatetimeIndex(panel.index)),
                blocks=None if blocks is None else read_blocks(blocks),
                covariance=covariances is not None,
                classic=classic,
                on_bad_asset="drop" if drop_bad_assets else "raise",
                progress=progress,
            )
        _write(estimates, out, covariances)
    except (UnreadableFile, SigmahatError, MemberError, ModuleNotFoundError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _say_what_is_odd(estimates)
    _say_what_was_written(estimates, out, covariances, time.monotonic() - begin if as_json else None)
    if covariances is not None and out != _STDOUT and not as_json:
        _say_how_to_look(returns, universes, out, covariances)
    if estimates.failures:
        raise click.exceptions.Exit(SOME_FAILED)


def _check_options(inputs: list[Path | None], out: Path, covariances: Path | None, classic: bool) -> None:
    """Find out before the work, not after it, that its result could not be written."""
    if out != _STDOUT and out.suffix.lower() not in _WRITERS:
        raise click.BadParameter(f"must end with {', '.join(_WRITERS)}, or be -, got {out}", param_hint="--out")
    if covariances is not None and covariances.suffix.lower() != ".npz":
        raise click.BadParameter(f"must end with .npz, got {covariances}", param_hint="--covariances")
    if out.suffix.lower() in (".parquet", ".feather"):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:  # also where it does not fit the NumPy that is installed
            raise click.ClickException(f"{out.suffix} files need a working pyarrow: {error}") from error
    for option, path in (("--out", out), ("--covariances", covariances)):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path.parent} is not a folder: create it first", param_hint=option)
        if path.exists() and any(source is not None and path.samefile(source) for source in inputs):
            raise click.BadParameter(f"must not be {path}, which is read: name another file", param_hint=option)
    if classic and covariances is None:
        raise click.UsageError("--classic changes covariances only: give --covariances too")


@contextmanager
def _hint_of(client: ShrinkageClient, urls: tuple[str, ...]) -> Iterator[None]:
    """Say what to type when nobody has answered for a second: the client itself goes on trying."""

    over = Event()

    def look() -> None:
        if client.is_live(_LOOK_S) or over.is_set():
            return
        what_to_type = "start one with `sigmahat serve`, name another with --url, or compute here with --local"
        where = ", ".join(urls) or _DEFAULT_URL
        click.echo(f"{where}: no answer yet; if no server is there, {what_to_type}", err=True)

    timer = Timer(_SILENCE_S, look)
    timer.start()
    try:
        yield
    finally:
        over.set()
        timer.cancel()
        timer.join()


def _write(estimates: Estimates, out: Path, covariances: Path | None) -> None:
    """Write both files whole or neither: they get their names only when both are complete."""
    with ExitStack() as files:
        if covariances is not None:
            draft = files.enter_context(_draft_of(covariances))
            with draft.open("wb") as file:  # given a name, savez would change its ending
                np.savez(file, **_matrices(estimates))
        if out == _STDOUT:
            click.echo(estimates.to_frame().to_csv(), nl=False)
        else:
            _WRITERS[out.suffix.lower()](estimates.to_frame(), files.enter_context(_draft_of(out)))


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(described(pa.Table.from_pandas(table)), path)


def _write_feather(table: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import feather

    feather.write_feather(described(pa.Table.from_pandas(table.reset_index())), path)


def _matrices(estimates: Estimates) -> dict[str, np.ndarray]:
    failed = {error.universe for error in estimates.failures}
    arrays = {}
    for name, assets, matrix in zip(estimates.universes, estimates.assets, estimates.covariance or (), strict=True):
        if name not in failed:
            arrays[f"covariance/{name}"] = matrix
            arrays[f"assets/{name}"] = np.array(assets, dtype=np.str_)
    return arrays


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` when the block ends well, and goes away otherwise."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _say_what_is_odd(estimates: Estimates) -> None:
    failures = estimates.failures
    lines = [
        f"universe {name!r} is estimated without {len(dropped)} assets: {listed(dropped)}"
        for name, dropped in zip(estimates.universes, estimates.dropped, strict=True)
        if dropped
    ]
    for found in (lines, estimates.warning_lines, list(map(str, failures))):
        for line in found[:_SHOWN_FAILURES]:
            click.echo(line, err=True)
        if len(found) > _SHOWN_FAILURES:
            click.echo(f"... and {len(found) - _SHOWN_FAILURES} more", err=True)
    if failures:
        click.echo(f"{len(failures)} of {len(estimates)} universes failed", err=True)


def _say_what_was_written(estimates: Estimates, out: Path, covariances: Path | None, seconds: float | None) -> None:
    """Say it in words on standard error; or, given how long it took, as JSON where nothing else is written."""
    good = len(estimates) - len(estimates.failures)
    dates = [str(date.astype("datetime64[D]")) for date in estimates.last_date if not np.isnat(date)]
    if seconds is not None:
        done = {
            "out": None if out == _STDOUT else str(out),
            "covariances": None if covariances is None else str(covariances),
            "universes": len(estimates),
            "failed": {str(error.universe): str(error) for error in estimates.failures},
            "warnings": estimates.warning_lines,
            "last_date": max(dates, default=None),
            "seconds": round(seconds, 3),
        }
        click.echo(json.dumps(done), err=out == _STDOUT)
        return
    files = [str(path) for path in (out, covariances) if path is not None and path != _STDOUT]
    if not files:
        return
    until = f" to {max(dates)}" if dates else ""
    click.echo(f"wrote {' and '.join(files)}: {good} of {len(estimates)} universes{until}", err=True)
    if covariances is None:
        click.echo(
            "next: the same with --covariances covariances.npz for the matrices, which sigmahat report shows", err=True
        )
    else:
        for u in np.flatnonzero(estimates.status == Status.GOOD)[:1].tolist():
            name = f"covariance/{estimates.universes[u]}"
            click.echo(f"next, in Python: numpy.load({str(covariances)!r})[{name!r}]", err=True)


def _say_how_to_look(returns: Path, universes: Path | None, out: Path, covariances: Path) -> None:
    command = ["sigmahat", "report", str(returns)]
    if universes is not None:
        command += ["--universes", str(universes)]
    command += ["--estimates", str(out), "--covariances", str(covariances), "--out", "report.html"]
    click.echo(f"next, to look at it: {shlex.join(command)}", err=True)
