# SPDX-License-Identifier: Apache-2.0
"""`sigmahat loadtest`: load running servers, and write what they did as a page, a table and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sigmahat_deploy.loadtest import binary, report
from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.levels import capacity
from sigmahat_deploy.loadtest.run import Settings, run
from sigmahat_deploy.loadtest.steps import ASKED
from sigmahat_deploy.returns_file import UnreadableFile
from sigmahat_kernels.status import InvalidRequest

_DEFAULTS = Settings()
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_RANGE = (click.IntRange(min=1), click.IntRange(min=1))
_POSITIVE = click.FloatRange(min=0, min_open=True)


class Numbers(click.ParamType):
    """Positive numbers, separated by commas."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(map(float, str(value).split(",")))
        except ValueError:
            self.fail(f"wanted numbers separated by commas, such as 1,2,4, got {value!r}", param, ctx)
        if not all(0 < number < float("inf") for number in numbers):
            self.fail(f"wanted numbers above zero, got {value!r}", param, ctx)
        return numbers


def _install(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    try:
        tool = binary.install(binary.default_folder())
    except (LoadTestError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{tool.binary}: perf_analyzer {tool.version}")
    ctx.exit()


def _option(name: str, *flags: str, **settings: Any) -> Callable[..., Any]:
    """An option that fills the field `name` of `Settings`, and has its default."""
    return click.option(*flags, name, default=getattr(_DEFAULTS, name), show_default=True, **settings)


@click.command()
@_option("urls", "--url", multiple=True, help="host:port of a server's gRPC; several share the load.")
@_option(
    "metrics", "--metrics", multiple=True, help="host:port of each server's metrics.  [default: port 8002 beside it]"
)
@_option("returns", "--returns", type=_FILE, help="Where requests are drawn from, as `sigmahat estimate` reads it.")
@_option("models", "--model", multiple=True, type=click.Choice(ASKED), help="Asked at the same time.")
@_option("requests", "--requests", type=click.IntRange(min=1), help="Different ones, sent in turn.")
@_option("assets", "--assets", type=_RANGE, help="Of a universe: least and most.")
@_option("universes", "--universes", type=_RANGE, help="Of a request: least and most.")
@_option("seed", "--seed", type=click.IntRange(min=0), help="Of the requests, and of the open loop's times.")
@_option("in_flight", "--in-flight", type=Numbers(), help="Closed loop: of each model at each server.")
@_option("poisson", "--poisson", type=Numbers(), help="By perf_analyzer: shares of the closed loop's best.")
@_option("open_loop", "--open-loop", type=Numbers(), help="The same by our own caller, who survives refusals.")
@_option("seconds", "--seconds", type=_POSITIVE, help="Counted at each level.")
@_option("objective_ms", "--objective-ms", type=_POSITIVE, help="What p99 may be at most.")
@_option("process_pool", "--process-pool/--no-process-pool", help="Compare with scikit-learn in a process pool.")
@_option("perf_analyzer", "--perf-analyzer", type=_FILE, help="Its binary; default: installed as below, or on PATH.")
@_option("root_certificates", "--root-certificates", type=_FILE, help="PEM: speak TLS, and trust these authorities.")
@_option("certificate_chain", "--certificate-chain", type=_FILE, help="PEM: this caller's own, for mutual TLS.")
@_option("private_key", "--private-key", type=_FILE, help="PEM: the key of --certificate-chain.")
@_option("out", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write.")
@click.option(
    "--install-perf-analyzer",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_install,
    help="Download it into the user's cache, and exit.",
)
def loadtest(**options: Any) -> None:
    """Load running servers with requests of real returns and realistic sizes.

    perf_analyzer asks in a closed loop and, below saturation, at Poisson times; an open loop of our own goes beyond.
    OUT gets loadtest.html, loadtest.json, loadtest.csv, and in perf_analyzer/ all that it wrote and a script of its
    commands. docs/loadtest.md says how to read the page.
    """
    settings = Settings(**options)
    for name in ("assets", "universes"):
        least, most = getattr(settings, name)
        if most < least:
            raise click.BadParameter(f"wanted least and most, got {least} {most}", param_hint=f"--{name}")
    try:
        with _progress(settings.n_levels + 1 + settings.process_pool) as announce:
            test = run(settings, _command(settings), announce)
        report.write(test, settings.out)
    except (LoadTestError, UnreadableFile, InvalidRequest, OSError) as error:
        raise click.ClickException(str(error)) from error
    best = capacity(test.levels, settings.objective_ms)
    objective = f"p99 <= {settings.objective_ms:g} ms"
    if best is None:
        click.echo(f"no Poisson load met {objective} with every request answered")
    else:
        click.echo(f"capacity at {objective}: {best.universes_per_s:,.0f} universes a second")
    click.echo(f"wrote {settings.out / 'loadtest.html'}; the same by perf_analyzer alone: {test.bare}")


def _command(settings: Settings) -> str:
    """The command line that gives these settings."""
    words = ["sigmahat", "loadtest"]
    for parameter in loadtest.params:
        if parameter.name not in {field.name for field in fields(Settings)}:
            continue
        value = getattr(settings, parameter.name)
        if value == getattr(_DEFAULTS, parameter.name):
            continue
        flag = parameter.opts[0]
        if isinstance(parameter.type, Numbers):
            words += [flag, ",".join(f"{number:g}" for number in value)]
        elif isinstance(value, bool):
            words.append(flag if value else parameter.secondary_opts[0])
        elif parameter.multiple:
            words += [word for one in value for word in (flag, one)]
        else:
            words += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], object]]:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=-1)
        yield lambda what: progress.update(task, description=what, advance=1)
