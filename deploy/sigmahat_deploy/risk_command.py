# SPDX-License-Identifier: Apache-2.0
"""`sigmahat risk`: from files of returns and portfolios to a file of volatilities, and one of what makes them up."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path

import click
import pandas as pd

from sigmahat_client import AssetsDropped, EstimateWarning, Risks, ShrinkageClient, SigmahatError, Tls
from sigmahat_deploy.estimate_command import (
    _DEFAULT_URL,
    _INPUT,
    _OUTPUT,
    _SHOWN_FAILURES,
    _STDOUT,
    _WRITERS,
    SOME_FAILED,
    _draft_of,
)
from sigmahat_deploy.portfolios_file import read_portfolios
from sigmahat_deploy.returns_file import Universes, UnreadableFile, read_returns, read_universes
from sigmahat_kernels.members import MemberError
from sigmahat_kernels.status import PortfolioStatus

_TABLE_WRITERS = {
    **_WRITERS,
    ".json": lambda table, path: table.reset_index().to_json(path, orient="records", double_precision=15),
}
"""Ending of a file -> what writes it: several names lead to a row, which JSON has no key for."""


@click.command()
@click.argument("returns", type=_INPUT)
@click.option(
    "--portfolios",
    required=True,
    type=_INPUT,
    help="CSV, Parquet or Feather: columns portfolio, asset, weight, or a row a portfolio and a column an asset; "
    "or JSON: name to {asset: weight}.",
)
@click.option(
    "--universes", type=_INPUT, help="JSON: name to assets, or to assets, start and stop. Default: all assets."
)
@click.option(
    "--out",
    required=True,
    type=_OUTPUT,
    help=f"File to write, one row a universe and portfolio: {', '.join(_WRITERS)}; - writes CSV to standard output.",
)
@click.option("--contributions", type=_OUTPUT, help="File to write, one row a universe, portfolio and asset held.")
@click.option("--window", type=click.IntRange(min=1), help="Rows before each day of --days.  [default: all]")
@click.option(
    "--days", type=click.IntRange(min=1), help="Measure as of each of the last so many rows: 252 is a year of days."
)
@click.option("--horizon", default=1.0, show_default=True, help="Periods of the returns over which risk is told.")
@click.option("--annualise", type=float, help="Tell it as of a year of so many periods instead, such as 252.")
@click.option(
    "--url",
    "urls",
    multiple=True,
    help=f"host:port of a server's gRPC; several share the work.  [default: {_DEFAULT_URL}]",
)
@click.option("--local", is_flag=True, help="Compute in this process, without a server.")
@click.option(
    "--model-repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("model_repository"),
    help="Folder of the members for --local.  [default: model_repository]",
)
@click.option("--deadline-s", default=600.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--root-certificates", type=_INPUT, help="PEM file: use TLS, and trust servers that these vouch for.")
@click.option("--certificate-chain", type=_INPUT, help="PEM file: the client's own certificate, for mutual TLS.")
@click.option("--private-key", type=_INPUT, help="PEM file: the key of --certificate-chain.")
@click.option("--classic", is_flag=True, help="By textbook linear shrinkage of the sample covariance.")
@click.option("--drop-bad-assets", is_flag=True, help="Measure without the assets that cannot be used.")
def risk(
    returns: Path,
    portfolios: Path,
    universes: Path | None,
    out: Path,
    contributions: Path | None,
    window: int | None,
    days: int | None,
    horizon: float,
    annualise: float | None,
    urls: tuple[str, ...],
    local: bool,
    model_repository: Path,
    deadline_s: float,
    root_certificates: Path | None,
    certificate_chain: Path | None,
    private_key: Path | None,
    classic: bool,
    drop_bad_assets: bool,
) -> None:
    """Measure portfolios by RETURNS, a file as `sigmahat estimate` takes it: positions in, volatilities out.

    Each universe takes of each portfolio the positions in its own assets.

    \b
    A year of daily risk of a book, a year of returns before each day:
      sigmahat risk returns.csv --portfolios book.csv --window 252 --days 252 --out risk.parquet

    \b
    Exit codes: 0 everything was measured, 1 nothing was written,
    2 wrong options, 3 files were written but some universes or portfolios failed.
    """
    _check_options([returns, portfolios, universes], out, contributions)
    if local and (urls or root_certificates or certificate_chain or private_key):
        raise click.UsageError("--local computes in this process: leave --url and certificates out")
    if window is not None and days is None:
        raise click.UsageError("--window is of the days of --days: give --days too")
    try:
        panel = read_returns(returns)
        asked = Universes({"all": panel.columns.tolist()}, {})
        if universes is not None:
            asked = read_universes(universes, pd.DatetimeIndex(panel.index))
        if days is not None:
            asked = _rolled(asked, pd.DatetimeIndex(panel.index), window, days)
        certificates = root_certificates, certificate_chain, private_key
        tls = Tls(*certificates) if any(certificates) else None
        connection = (
            ShrinkageClient.local(model_repository, deadline_s=deadline_s)
            if local
            else ShrinkageClient(urls or _DEFAULT_URL, deadline_s=deadline_s, tls=tls)
        )
        with connection as client, warnings.catch_warnings():
            for said_at_the_end in (AssetsDropped, EstimateWarning):
                warnings.simplefilter("ignore", said_at_the_end)
            risks = client.risk(
                panel,
                asked.assets,
                read_portfolios(portfolios),
                windows=asked.windows,
                horizon=horizon,
                annualise=False if annualise is None else annualise,
                classic=classic,
                on_bad_asset="drop" if drop_bad_assets else "raise",
            )
        _write(risks, out, contributions)
    except (UnreadableFile, SigmahatError, MemberError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--local needs {error.name}: pip install {error.name}") from error
    _report(risks)


def _rolled(universes: Universes, dates: pd.DatetimeIndex, window: int | None, days: int) -> Universes:
    """Each universe as of each of the last days: named after it and the day, with the window that ends there."""
    if universes.windows:
        names = ", ".join(list(universes.windows)[:10])
        raise click.UsageError(f"--days makes the windows, but --universes has its own of {names}")
    first = max(len(dates) - days, 0 if window is None else window - 1)
    if first >= len(dates):
        raise click.UsageError(f"--window {window} is longer than the {len(dates)} rows of returns")
    rolled = Universes({}, {})
    for stop in range(first + 1, len(dates) + 1):
        for name, assets in universes.assets.items():
            day = f"{name} {str(dates[stop - 1]).removesuffix(' 00:00:00')}"
            rolled.assets[day] = assets
            rolled.windows[day] = (0 if window is None else stop - window, stop)
    return rolled


def _check_options(inputs: list[Path | None], out: Path, contributions: Path | None) -> None:
    """Find out before the work, not after it, that its result could not be written."""
    for option, path in (("--out", out), ("--contributions", contributions)):
        if path is None or (path == _STDOUT and option == "--out"):
            continue
        if path.suffix.lower() not in _WRITERS:
            raise click.BadParameter(f"must end with {', '.join(_WRITERS)}, got {path}", param_hint=option)
        if not path.parent.is_dir():
            raise click.BadParameter(f"{path.parent} is not a folder: create it first", param_hint=option)
        if path.exists() and any(source is not None and path.samefile(source) for source in inputs):
            raise click.BadParameter(f"must not be {path}, which is read: name another file", param_hint=option)
    if out == contributions:
        raise click.BadParameter(f"must not be {out}, which is --out: name another file", param_hint="--contributions")


def _write(risks: Risks, out: Path, contributions: Path | None) -> None:
    """Write both files whole or neither: they get their names only when both are complete."""
    with ExitStack() as files:
        if contributions is not None:
            draft = files.enter_context(_draft_of(contributions))
            _TABLE_WRITERS[contributions.suffix.lower()](risks.contributions_frame(), draft)
        if out == _STDOUT:
            click.echo(risks.to_frame().to_csv(), nl=False)
        else:
            _TABLE_WRITERS[out.suffix.lower()](risks.to_frame(), files.enter_context(_draft_of(out)))


def _report(risks: Risks) -> None:
    failures = list(map(str, risks.failures))
    for found in (risks.estimates.warning_lines, failures):
        for line in found[:_SHOWN_FAILURES]:
            click.echo(line, err=True)
        if len(found) > _SHOWN_FAILURES:
            click.echo(f"... and {len(found) - _SHOWN_FAILURES} more", err=True)
    if failures:
        good = int((risks.portfolio_status == PortfolioStatus.GOOD).sum())
        click.echo(f"{good} of {risks.portfolio_status.size} numbers were measured", err=True)
        raise click.exceptions.Exit(SOME_FAILED)
