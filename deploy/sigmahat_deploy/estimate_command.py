# SPDX-License-Identifier: Apache-2.0
"""`sigmahat estimate`: from a file of returns to a file of shrinkage parameters, and one of covariance matrices."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd

from sigmahat_client import Estimates, SigmahatError
from sigmahat_deploy.closing_lines import say_as_json, say_what_is_odd, say_what_was_written
from sigmahat_deploy.command_files import (
    AS_JSON,
    BLOCKS,
    INPUT,
    MARKET,
    OUTPUT,
    STDOUT,
    TABLES,
    UNIVERSES,
    check_outputs,
    write_all,
)
from sigmahat_deploy.connection import Connection, connection_options
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
from sigmahat_kernels.status import Status

SOME_FAILED = 3
"""Exit code when the files were written but some universes could not be estimated."""


@click.command()
@click.argument("returns", type=INPUT)
@UNIVERSES
@click.option(
    "--out",
    required=True,
    type=OUTPUT,
    help=f"File to write, one row a universe: {', '.join(TABLES)}; - writes CSV to standard output.",
)
@click.option("--covariances", type=OUTPUT, help="NPZ file to write: covariance/NAME and assets/NAME of each universe.")
@MARKET
@BLOCKS
@connection_options()
@click.option("--classic", is_flag=True, help="Covariances by textbook linear shrinkage of the sample covariance.")
@click.option("--drop-bad-assets", is_flag=True, help="Estimate universes without the assets that cannot be used.")
@AS_JSON
def estimate(
    returns: Path,
    universes: Path | None,
    out: Path,
    covariances: Path | None,
    market: Path | None,
    blocks: Path | None,
    connection: Connection,
    classic: bool,
    drop_bad_assets: bool,
    as_json: bool,
) -> None:
    """Estimate the universes of RETURNS, a .csv, .csv.gz, .parquet, .feather or .npz file of simple daily returns.

    0.01 is 1 %. The first column holds dates, oldest first, the others are assets; an .npz file holds the arrays
    dates, tickers and ret. Half a year to two years of rows do well; a universe may have a window of its own.
    """
    begin = time.monotonic()
    check_outputs(
        [returns, universes, market, blocks],
        {"--out": (out, (*TABLES, "-")), "--covariances": (covariances, (".npz",))},
    )
    if classic and covariances is None:
        raise click.UsageError("--classic changes covariances only: give --covariances too")
    try:
        panel = read_returns(returns)
        asked = Universes({"all": panel.columns.tolist()}, {})
        if universes is not None:
            asked = read_universes(universes, pd.DatetimeIndex(panel.index))
        with connection.client() as client, progress_of("universes") as progress:
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
        matrices = {} if covariances is None else {covariances: lambda draft: _write_matrices(estimates, draft)}
        write_all({**matrices, out: estimates.to_frame()})
    except (UnreadableFile, SigmahatError, MemberError, ModuleNotFoundError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failures = estimates.failures
    say_what_is_odd(estimates, failures)
    if failures:
        click.echo(f"{len(failures)} of {len(estimates)} universes failed", err=True)
    if as_json:
        failed = {str(error.universe): str(error) for error in failures}
        files = {"out": out, "covariances": covariances}
        say_as_json(estimates, files, time.monotonic() - begin, {"failed": failed})
    else:
        good = len(estimates) - len(failures)
        what = f"{good} of {len(estimates)} universes"
        following = _next(estimates, returns, universes, out, covariances)
        say_what_was_written(estimates, [out, covariances], what, following)
    if failures:
        raise click.exceptions.Exit(SOME_FAILED)


def _next(
    estimates: Estimates, returns: Path, universes: Path | None, out: Path, covariances: Path | None
) -> list[str]:
    if covariances is None:
        return [": the same with --covariances covariances.npz for the matrices, which sigmahat report shows"]
    good = np.flatnonzero(estimates.status == Status.GOOD)[:1].tolist()
    following = [
        f", in Python: numpy.load({str(covariances)!r})[{f'covariance/{estimates.universes[u]}'!r}]" for u in good
    ]
    if out != STDOUT:
        command = ["sigmahat", "report", str(returns)]
        if universes is not None:
            command += ["--universes", str(universes)]
        command += ["--estimates", str(out), "--covariances", str(covariances), "--out", "report.html"]
        following.append(f", to look at it: {shlex.join(command)}")
    return following


def _write_matrices(estimates: Estimates, path: Path) -> None:
    with path.open("wb") as file:  # given a name, savez would change its ending
        np.savez(file, **_matrices(estimates))


def _matrices(estimates: Estimates) -> dict[str, np.ndarray]:
    failed = {error.universe for error in estimates.failures}
    arrays = {}
    for name, assets, matrix in zip(estimates.universes, estimates.assets, estimates.covariance or (), strict=True):
        if name not in failed:
            arrays[f"covariance/{name}"] = matrix
            arrays[f"assets/{name}"] = np.array(assets, dtype=np.str_)
    return arrays
