# SPDX-License-Identifier: Apache-2.0
"""`sigmahat report`: what was estimated of a panel, as one page that needs nothing else."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sigmahat_client import Estimates, ShrinkageClient, SigmahatError
from sigmahat_deploy.command_files import INPUT
from sigmahat_deploy.connection import Connection, connection_options
from sigmahat_deploy.report.backtest import Backtest, walk_forward
from sigmahat_deploy.report.errors import ReportError
from sigmahat_deploy.report.page import Options, Page, page
from sigmahat_deploy.report.release import release
from sigmahat_deploy.report.result_files import check_fit, read_covariances, read_table, read_weights
from sigmahat_deploy.report.study import Study, from_estimates, study_of
from sigmahat_deploy.returns_file import Universes, UnreadableFile, read_returns, read_universes
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.members import MemberError
from sigmahat_kernels.released import released_repository


@click.command()
@click.argument("returns", type=INPUT)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="HTML file to write.")
@click.option("--universes", type=INPUT, help="JSON, as for `sigmahat estimate`. Default: all assets.")
@click.option("--estimates", type=INPUT, help="What `sigmahat estimate --out` wrote: nothing is estimated anew.")
@click.option("--covariances", type=INPUT, help="What `sigmahat estimate --covariances` wrote in the same run.")
@click.option("--weights", type=INPUT, help="My portfolio: .csv of asset and weight, or .json.")
@click.option("--earlier", type=INPUT, help="Covariances of an earlier run, to show what changed.")
@click.option("--backtest", is_flag=True, help="Walk forward over RETURNS with the first universe that is shown.")
@click.option(
    "--backtest-window", default=252, show_default=True, type=click.IntRange(min=20), help="Rows before each date."
)
@click.option("--detail", multiple=True, help="Name of a universe to show whole, before the first ones of the file.")
@click.option(
    "--periods-per-year", type=click.FloatRange(min=1), help="To annualise. Default: by the dates, 252 if daily."
)
@click.option("--title", help="Of the page. Default: the name of RETURNS.")
@connection_options(deadline_s=3600.0)
@click.option("--drop-bad-assets", is_flag=True, help="Estimate universes without the assets that cannot be used.")
@click.option("--json", is_flag=True, help="Say at the end what was done as one JSON object, on one line.")
def report(connection: Connection, **options: Any) -> None:
    """Show what is estimated of RETURNS, a file as `sigmahat estimate` reads it, as one HTML page."""
    begin = time.monotonic()
    _check_options(options)
    try:
        with _progress() as progress:
            made, study = _make(options, connection, progress)
        write_whole(options["out"], lambda file: file.write(made.html.encode()))
    except (UnreadableFile, ReportError, SigmahatError, MemberError, ModuleNotFoundError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failed = study.table["message"][study.table["status"] != 0]
    if options["json"]:
        done = {
            "out": str(options["out"]),
            "bytes": len(made.html.encode()),
            "universes": len(study.table),
            "whole": list(made.detailed),
            "failed": failed.to_dict(),
            "seconds": round(time.monotonic() - begin, 3),
        }
        click.echo(json.dumps(done))
        return
    detail = f"{len(made.detailed)} of {len(study.table):,} universes whole"
    click.echo(
        f"wrote {options['out']} ({len(made.html.encode()) / 1e6:.1f} MB): {detail}"
        + f", {len(failed):,} failed" * (len(failed) > 0)
    )


def _make(
    options: dict[str, Any], connection: Connection, progress: Callable[[str, int, int], object]
) -> tuple[Page, Study]:
    returns = read_returns(options["returns"])
    asked = Universes({"all": returns.columns.tolist()}, {})
    if options["universes"] is not None:
        asked = read_universes(options["universes"], pd.DatetimeIndex(returns.index))
    weights = None
    if options["weights"] is not None:
        weights = read_weights(options["weights"], returns.columns.tolist())
    earlier = None if options["earlier"] is None else read_covariances(options["earlier"])
    if options["estimates"] is not None:
        study = _from_files(returns, asked, options)
        source = f"of {options['estimates'].name} and {options['covariances'].name}"
    else:
        with connection.client() as client:
            estimates = _estimate(client, returns, asked, options["drop_bad_assets"], progress)
        study = from_estimates(returns, estimates, asked.windows, options["periods_per_year"])
        source = "computed in the process that wrote this page" if connection.local else f"of {connection.servers}"
    unknown = [name for name in options["detail"] if name not in study.covariances]
    if unknown:
        raise ReportError(f"--detail {unknown[0]}: there is no such universe, or it was not estimated")
    holders = [
        name for name in study.estimated if weights is not None and set(weights.index) <= set(study.assets[name])
    ]
    if weights is not None and not holders:
        raise ReportError(f"{options['weights']}: no universe that was estimated holds all {len(weights)} assets of it")
    detail = tuple(options["detail"]) or tuple(holders[:1])
    tested = None
    if options["backtest"]:
        name = detail[0] if detail else study.estimated[0]
        with connection.client() as client:
            tested = _backtest(client, study, name, weights if name in holders else None, options["backtest_window"])
    made = page(
        study,
        Options(
            title=options["title"] or f"Covariances of {options['returns'].name}",
            command=shlex.join(["sigmahat", *sys.argv[1:]]),
            release=release(source, connection.model_repository or released_repository()),
            weights=weights,
            earlier=earlier,
            backtest=tested,
            detail=detail,
        ),
        lambda done, total: progress("drawing", done, total),
    )
    return made, study


def _check_options(options: dict[str, Any]) -> None:
    """Find out before the work, not after it, that the page could not be written."""
    out: Path = options["out"]
    if out.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"must end with .html, got {out}", param_hint="--out")
    if not out.parent.is_dir():
        raise click.BadParameter(f"{out.parent} is not a folder: create it first", param_hint="--out")
    if (options["estimates"] is None) != (options["covariances"] is None):
        raise click.UsageError("--estimates and --covariances belong together: give both of one run, or neither")


def _from_files(returns: pd.DataFrame, asked: Universes, options: dict[str, Any]) -> Study:
    table = read_table(options["estimates"])
    assets, covariances = read_covariances(options["covariances"])
    windows = {name: window for name, window in asked.windows.items() if name in covariances}
    check_fit(returns, table, assets, covariances, windows)
    return study_of(returns, table, assets, covariances, windows, options["periods_per_year"])


def _estimate(
    client: ShrinkageClient,
    returns: pd.DataFrame,
    asked: Universes,
    drop_bad_assets: bool,
    progress: Callable[[str, int, int], object],
) -> Estimates:
    return client.estimate(
        returns,
        asked.assets,
        windows=asked.windows,
        covariance=True,
        on_bad_asset="drop" if drop_bad_assets else "raise",
        progress=lambda done, total: progress("estimating", done, total),
    )


def _backtest(client: ShrinkageClient, study: Study, name: str, weights: pd.Series | None, window: int) -> Backtest:
    """Over all rows up to the end of the universe's window."""

    def estimate(panel: pd.DataFrame, windows: list[tuple[int, int]]) -> Estimates:
        universes = {f"{start}": panel.columns.tolist() for start, _ in windows}
        return client.estimate(panel, universes, windows=dict(zip(universes, windows, strict=True)), covariance=True)

    panel = study.returns.iloc[: study.window(name)[1]][study.assets[name]]
    return walk_forward(name, panel, weights, estimate, window=window, periods_per_year=study.periods_per_year)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], object]]:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
