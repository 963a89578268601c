# SPDX-License-Identifier: Apache-2.0
"""The command `sigmahat`: its subcommands are imported only when they are called."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

try:
    import click
except ModuleNotFoundError:
    raise SystemExit("the command sigmahat needs click, which is not installed: pip install 'sigmahat[cli]'") from None


class Subcommand(NamedTuple):
    """Where a subcommand is, what it needs, and its line in `sigmahat --help`, which must import none of them."""

    target: str  # module:attribute
    extra: str  # sigmahat[extra] installs what it imports
    short_help: str


SUBCOMMANDS = {
    "serve": Subcommand("sigmahat_deploy.serve_command:serve", "serve", "Serve the models with Triton, locally."),
    "probe": Subcommand("sigmahat_deploy.probe_command:probe", "cli", "Ask the server here whether it is well."),
    "estimate": Subcommand("sigmahat_deploy.estimate_command:estimate", "cli", "Estimate covariances from a file."),
    "risk": Subcommand("sigmahat_deploy.risk_command:risk", "cli", "Measure portfolios from files."),
    "engines": Subcommand(
        "sigmahat_deploy.engines.command:engines", "engines", "Build TensorRT engines on a GPU node."
    ),
    "loadtest": Subcommand("sigmahat_deploy.loadtest.command:loadtest", "loadtest", "Load servers, and report."),
    "train": Subcommand("sigmahat_trainer.commands.train:train", "train", "Train the members of the ensemble."),
    "export": Subcommand("sigmahat_trainer.commands.export:export", "train", "Quantise members into the repository."),
    "draw": Subcommand("sigmahat_trainer.commands.search:draw", "train", "Draw samples once, for a search."),
    "search": Subcommand("sigmahat_trainer.commands.search:search", "search", "Search for the settings of training."),
    "fit-baselines": Subcommand("sigmahat_trainer.commands.evaluate:fit_baselines", "evaluate", "Fit what learns."),
    "evaluate": Subcommand("sigmahat_trainer.commands.evaluate:evaluate", "evaluate", "Compare with other estimators."),
    "figures": Subcommand(
        "sigmahat_trainer.commands.evaluate:figures", "evaluate", "Make an evaluation's figures again."
    ),
}


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
            raise _not_installed(cmd_name, error) from error
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; one that imports its packages only when it runs gets the same message."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if ctx.invoked_subcommand is None:
                raise
            raise _not_installed(ctx.invoked_subcommand, error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.short_help) for name, subcommand in SUBCOMMANDS.items()])


def _not_installed(name: str, error: ModuleNotFoundError) -> click.ClickException:
    missing = error.name or str(error)
    if missing.startswith("sigmahat_"):
        return click.ClickException(f"sigmahat {name} is not part of this installation: it has no module {missing}")
    extra = SUBCOMMANDS[name].extra
    return click.ClickException(
        f"sigmahat {name} needs packages that are not installed ({missing}): pip install 'sigmahat[{extra}]'"
    )


@click.group(cls=LazyGroup)
@click.version_option(package_name="sigmahat", prog_name="sigmahat")
def main() -> None:
    """Turn asset returns into well-conditioned covariance matrices, thousands of universes per call."""
