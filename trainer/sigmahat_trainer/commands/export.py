# SPDX-License-Identifier: Apache-2.0
"""``sigmahat export``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from sigmahat_trainer.commands.options import existing_folder, plain_errors, say_next


@click.command()
@click.argument("run", type=existing_folder)
@click.option("--model-repository", type=existing_folder, default=Path("model_repository"), show_default=True)
def export(run: Path, model_repository: Path) -> None:
    """Quantise the members of RUN to INT8 and write them into the model repository, with their model card."""
    from sigmahat_trainer.export.install import export_ensemble

    with plain_errors():
        differences = export_ensemble(run, model_repository)
    table = Table("output", *(f"member {k + 1}: mean, p99" for k in range(len(differences))))
    for output in differences[0]:
        table.add_row(output, *(f"{member[output]['mean']:.4f}, {member[output]['p99']:.4f}" for member in differences))
    console = Console(stderr=True)
    console.print(table)
    say_next(console, f"sigmahat serve --model-repository {shlex.quote(str(model_repository))}")
