# SPDX-License-Identifier: Apache-2.0
"""The command `sigmahat`: its subcommands are imported only when they are called."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

try:
    import click
    from click.shell_completion import CompletionItem
except ModuleNotFoundError:
    raise SystemExit("the command sigmahat needs click, which is not installed: pip install 'sigmahat[cli]'") from None

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {0: "all went well", 1: "it failed; the last line says why", 2: "wrong options"}
)
"""Of every command, unless its row of `SUBCOMMANDS` says otherwise."""


class Subcommand(NamedTuple):
    """Where a subcommand is, what it needs, and its line in `sigmahat --help`, which must import none of them."""

    target: str  # module:attribute
    extra: str  # sigmahat[extra] installs what it imports
    short_help: str
    examples: tuple[str, ...] = ()
    """At the end of its --help and on the page of all commands; a command of a group shows those that begin with it."""
    exit_codes: Mapping[int, str] = MappingProxyType({})
    """What its own codes mean, beside `EXIT_CODES` or instead."""


SUBCOMMANDS = {
    "estimate": Subcommand(
        "sigmahat_deploy.estimate_command:estimate",
        "cli",
        "Estimate covariances from a file.",
        (
            "sigmahat estimate returns.csv --local --out estimates.csv --covariances covariances.npz",
            "sigmahat estimate returns.csv --universes universes.json --out estimates.parquet",
            "sigmahat estimate returns.csv --market vix.csv --blocks sectors.csv --local --out - --json",
        ),
        {
            0: "all universes were estimated",
            1: "nothing was written; the last line says why",
            3: "files were written, but some universes failed",
        },
    ),
    "risk": Subcommand(
        "sigmahat_deploy.risk_command:risk",
        "cli",
        "Measure portfolios from files.",
        (
            "sigmahat risk returns.csv --portfolios book.csv --annualise 252 --local --out risk.csv",
            "sigmahat risk returns.csv --portfolios book.csv --out risk.parquet --contributions contributions.parquet",
            "sigmahat risk returns.csv --portfolios book.csv --window 252 --days 252 --out risk.parquet",
        ),
        {
            0: "all portfolios were measured in all universes",
            1: "nothing was written; the last line says why",
            3: "files were written, but some universes or portfolios failed",
        },
    ),
    "report": Subcommand(
        "sigmahat_deploy.report_command:report",
        "report",
        "Show an estimate as one HTML page.",
        (
            "sigmahat report returns.csv --local --out report.html",
            "sigmahat report returns.csv --local --weights portfolio.csv --backtest --out report.html",
            "sigmahat report returns.csv --estimates estimates.csv --covariances covariances.npz --out report.html",
        ),
    ),
    "serve": Subcommand(
        "sigmahat_deploy.serve_command:serve",
        "serve",
        "Serve the models with Triton, locally.",
        (
            "sigmahat serve",
            "sigmahat serve --model-repository model_repository/ --ready-file ready.json",
            "sigmahat serve --host 0.0.0.0 --tls-certificate server.pem --tls-key server.key",
        ),
        {
            0: "ended by a signal, accepted requests answered",
            1: "could not start; the last line says why",
            3: "gave up: the server had been ready, but died again and again",
        },
    ),
    "probe": Subcommand(
        "sigmahat_deploy.probe_command:probe",
        "cli",
        "Ask the server here whether it is well.",
        ("sigmahat probe", "sigmahat probe --or-progress-within-s 1200"),
        {0: "the server is well", 1: "it is not; the line says why"},
    ),
    "completion": Subcommand(
        "sigmahat_deploy.completion_command:completion",
        "cli",
        "Print a shell's completion of this command.",
        (
            "sigmahat completion bash > ~/.local/share/bash-completion/completions/sigmahat",
            "sigmahat completion zsh > ~/.zfunc/_sigmahat",
            "sigmahat completion fish > ~/.config/fish/completions/sigmahat.fish",
        ),
    ),
    "engines": Subcommand(
        "sigmahat_deploy.engines.command:engines",
        "engines",
        "Build TensorRT engines on a GPU node.",
        (
            "sigmahat engines build --model-repository model_repository/ --cache engines/",
            "sigmahat engines check --model-repository model_repository/ --cache engines/",
        ),
    ),
    "loadtest": Subcommand(
        "sigmahat_deploy.loadtest.command:loadtest",
        "loadtest",
        "Load servers, and report.",
        (
            "sigmahat loadtest --returns returns.parquet --out loadtest/",
            "sigmahat loadtest --returns returns.parquet --url 10.0.0.7:8001",
        ),
    ),
    "train": Subcommand(
        "sigmahat_trainer.commands.train:train",
        "train",
        "Train the members of the ensemble.",
        (
            "sigmahat train --data panels/ --out runs/1",
            "sigmahat train --data panels/ --data more_panels/ --out runs/2 --preset full",
        ),
    ),
    "export": Subcommand(
        "sigmahat_trainer.commands.export:export",
        "train",
        "Quantise members into the repository.",
        ("sigmahat export runs/1", "sigmahat export runs/1 --model-repository model_repository/"),
    ),
    "draw": Subcommand(
        "sigmahat_trainer.commands.search:draw",
        "train",
        "Draw samples once, for a search.",
        ("sigmahat draw --data panels/ --out drawn/",),
    ),
    "search": Subcommand(
        "sigmahat_trainer.commands.search:search",
        "search",
        "Search for the settings of training.",
        ("sigmahat search drawn/ --out runs/search --trials 50 --vary dropout --vary learning-rate=1e-4:1e-3",),
    ),
    "fit-baselines": Subcommand(
        "sigmahat_trainer.commands.evaluate:fit_baselines",
        "evaluate",
        "Fit what learns.",
        ("sigmahat fit-baselines panels/us.npz panels/uk.npz --out runs/baselines",),
    ),
    "evaluate": Subcommand(
        "sigmahat_trainer.commands.evaluate:evaluate",
        "evaluate",
        "Compare with other estimators.",
        ("sigmahat evaluate panels/us.npz --baselines runs/baselines --out runs/validation",),
    ),
    "figures": Subcommand(
        "sigmahat_trainer.commands.evaluate:figures",
        "evaluate",
        "Make an evaluation's figures again.",
        ("sigmahat figures runs/validation",),
    ),
}

_DEBUG = "sigmahat.debug"


class LazyGroup(click.Group):
    """A click group over `SUBCOMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, attribute = SUBCOMMANDS[cmd_name].target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing:  # a shell completes, and wants no messages
                return None
            raise _not_installed(cmd_name, error) from error
        _add_manners(command, f"sigmahat {cmd_name}", SUBCOMMANDS[cmd_name])
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; whatever goes wrong ends in one line, and in its traceback only with --debug."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends these without a word
            raise
        except click.ClickException as error:
            if ctx.meta.get(_DEBUG) and error.__cause__ is not None:
                traceback.print_exc()
            raise
        except Exception as error:  # the outermost door: there is nobody behind it to tell
            if ctx.meta.get(_DEBUG):
                raise
            if isinstance(error, ModuleNotFoundError) and ctx.invoked_subcommand is not None:
                raise _not_installed(ctx.invoked_subcommand, error) from error
            what = " ".join([type(error).__name__ + ":" * bool(str(error)), *str(error).split()])
            raise click.ClickException(f"{what} (unforeseen: the same command with --debug shows where)") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.short_help) for name, subcommand in SUBCOMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names from the table alone."""
        names = [name for name in SUBCOMMANDS if name.startswith(incomplete)]
        own = [CompletionItem(name, help=SUBCOMMANDS[name].short_help) for name in names]
        return [*own, *click.Command.shell_complete(self, ctx, incomplete)]


def _add_manners(command: click.Command, path: str, row: Subcommand) -> None:
    """Give a command, and those of a group, their examples, exit codes and --debug."""
    if isinstance(command, click.Group):
        for name, member in command.commands.items():
            _add_manners(member, f"{path} {name}", row)
    elif not any(parameter.name == "debug" for parameter in command.params):
        option = click.Option(
            ["--debug"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_remember_debug,
            help="Show the traceback of what goes wrong.",
        )
        command.params.append(option)
    examples = [f"  {example}" for example in row.examples if example.startswith(path)]
    codes = [f"  {code}  {meaning}" for code, meaning in exit_codes(row).items()]
    command.epilog = "\n".join(["\b", "Examples:", *examples, "", "\b", "Exit codes:", *codes])


def exit_codes(row: Subcommand) -> dict[int, str]:
    """All exit codes of a subcommand, in order."""
    return dict(sorted({**EXIT_CODES, **row.exit_codes}.items()))


def _remember_debug(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    ctx.meta[_DEBUG] = wanted


def _not_installed(name: str, error: ModuleNotFoundError) -> click.ClickException:
    missing = error.name or str(error)
    if missing.startswith("sigmahat_"):
        return click.ClickException(f"sigmahat {name} is not part of this installation: it has no module {missing}")
    if missing in sys.stdlib_module_names:
        return click.ClickException(f"sigmahat {name} needs Linux: the Python of this system has no module {missing}")
    extra = SUBCOMMANDS[name].extra
    return click.ClickException(
        f"sigmahat {name} needs packages that are not installed ({missing}): pip install 'sigmahat[{extra}]'"
    )


@click.group(
    cls=LazyGroup,
    epilog="Each command has examples: sigmahat COMMAND --help. All of them, and exit codes: docs/command_line.md.",
)
@click.version_option(package_name="sigmahat", prog_name="sigmahat")
def main() -> None:
    """Turn asset returns into well-conditioned covariance matrices, thousands of universes per call."""
