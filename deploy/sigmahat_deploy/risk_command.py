# SPDX-License-Identifier: Apache-2.0
"""`sigmahat risk`: from files of returns and portfolios to a file of volatilities, and one of what makes them up."""

from __future__ import annotations

import time
from pathlib import Path

import click
import pandas as pd

from sigmahat_client import PortfolioError, SigmahatError
from sigmahat_deploy.closing_lines import say_as_json, say_what_is_odd, say_what_was_written
from sigmahat_deploy.command_files import (
    AS_JSON,
    BLOCKS,
    INPUT,
    MARKET,
    OUTPUT,
    TABLES,
    UNIVERSES,
    check_outputs,
    write_all,
)
from sigmahat_deploy.connection import Connection, connection_options
from sigmahat_deploy.estimate_command import SOME_FAILED
from sigmahat_deploy.portfolios_file import read_portfolios
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
from sigmahat_kernels.status import PortfolioStatus


@click.command()
@click.argument("returns", type=INPUT)
@click.option(
    "--portfolios",
    required=True,
    type=INPUT,
    help="CSV, Parquet or Feather: columns portfolio, asset, weight, or a row a portfolio and a column an asset; "
    "or JSON: name to {asset: weight}.",
)
@UNIVERSES
@click.option(
    "--out",
    required=True,
    type=OUTPUT,
    help=f"File to write, one row a universe and portfolio: {', '.join(TABLES)}; - writes CSV to standard output.",
)
@click.option("--contributions", type=OUTPUT, help="File to write, one row a universe, portfolio and asset held.")
@click.option("--window", type=click.IntRange(min=1), help="Rows before each day of --days.  [default: all]")
@click.option(
    "--days", type=click.IntRange(min=1), help="Measure as of each of the last so many rows: 252 is a year of days."
)
@click.option("--horizon", default=1.0, show_default=True, help="Periods of the returns over which risk is told.")
@click.option("--annualise", type=float, help="Tell it as of a year of so many periods instead, such as 252.")
@MARKET
@BLOCKS
@connection_options()
@click.option("--classic", is_flag=True, help="By textbook linear shrinkage of the sample covariance.")
@click.option("--drop-bad-assets", is_flag=True, help="Measure without the assets that cannot be used.")
@AS_JSON
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
    market: Path | None,
    blocks: Path | None,
    connection: Connection,
    classic: bool,
    drop_bad_assets: bool,
    as_json: bool,
) -> None:
    """Measure portfolios by RETURNS, a file as `sigmahat estimate` takes it: positions in, volatilities out.

    Each universe takes of each portfolio the positions in its own assets.
    """
    begin = time.monotonic()
    tables = tuple(TABLES)
    check_outputs(
        [returns, portfolios, universes, market, blocks],
        {"--out": (out, (*tables, "-")), "--contributions": (contributions, tables)},
    )
    if window is not None and days is None:
        raise click.UsageError("--window is of the days of --days: give --days too")
    try:
        panel = read_returns(returns)
        dates = pd.DatetimeIndex(panel.index)
        asked = Universes({"all": panel.columns.tolist()}, {})
        if universes is not None:
            asked = read_universes(universes, dates)
        if days is not None:
            asked = _rolled(asked, dates, window, days)
        with connection.client() as client, progress_of("universes") as progress:
            risks = client.risk(
                panel,
                asked.assets,
                read_portfolios(portfolios),
                windows=asked.windows,
                market=None if market is None else read_market(market, dates),
                blocks=None if blocks is None else read_blocks(blocks),
                horizon=horizon,
                annualise=False if annualise is None else annualise,
                classic=classic,
                on_bad_asset="drop" if drop_bad_assets else "raise",
                progress=progress,
            )
        parts = {} if contributions is None else {contributions: risks.contributions_frame()}
        write_all({**parts, out: risks.to_frame()})
    except (UnreadableFile, SigmahatError, MemberError, ModuleNotFoundError, OSError) as error:
        raise click.ClickException(str(error)) from error
    failures, estimates = risks.failures, risks.estimates
    say_what_is_odd(estimates, failures)
    good, total = int((risks.portfolio_status == PortfolioStatus.GOOD).sum()), risks.portfolio_status.size
    if failures:
        click.echo(f"{total - good} of {total} portfolios in {len(risks)} universes failed", err=True)
    if as_json:
        failed = [
            {
                "universe": str(error.universe),
                "portfolio": str(error.portfolio) if isinstance(error, PortfolioError) else None,
                "message": str(error),
            }
            for error in failures
        ]
        files = {"out": out, "contributions": contributions}
        say_as_json(estimates, files, time.monotonic() - begin, {"portfolios": total, "failed": failed})
    else:
        what = f"{good} of {total} portfolios in {len(risks)} universes"
        following = [": the same with --contributions contributions.csv for what each asset adds"]
        say_what_was_written(estimates, [out, contributions], what, following * (contributions is None))
    if failures:
        raise click.exceptions.Exit(SOME_FAILED)


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
