# SPDX-License-Identifier: Apache-2.0
"""``sigmahat train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sigmahat_trainer.commands.options import (
    any_folder,
    panel_folders,
    plain_errors,
    say_next,
    train_until,
    training_settings,
    validate_until,
)
from sigmahat_trainer.config import TrainConfig


@click.command()
@panel_folders
@click.option("--out", type=any_folder, required=True, help="Folder for the members and metrics.json.")
@click.option(
    "--cache",
    type=any_folder,
    help="Folder that keeps the samples drawn, for other runs of the same data and settings. [default: samples beside "
    "OUT]",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that draw samples. [default: one a core]")
@train_until
@validate_until
@training_settings
def train(
    data: tuple[Path, ...],
    out: Path,
    cache: Path | None,
    workers: int | None,
    train_until: str,
    validate_until: str,
    config: TrainConfig,
) -> None:
    """Train the ensemble on real and simulated returns.

    Every file of the folders that `sigmahat estimate` could read is a panel: simple daily returns. A panel without a
    day up to --train-until trains nothing and validates on its first third.

    A run that was killed goes on where it was when the same command is given again; one that is finished is left as it
    is. Under torchrun, several processes train each member together, to the same bits: torchrun --nproc-per-node 4
    --no-python sigmahat train ... Where PyTorch finds GPUs they are used, by each process one.
    """
    from sigmahat_kernels.scratch import keep_freed_memory
    from sigmahat_trainer.data.panels import load_panels
    from sigmahat_trainer.training.distributed import group, is_first
    from sigmahat_trainer.training.run import train_ensemble

    keep_freed_memory()
    with plain_errors(), group():
        console = Console(stderr=True, quiet=not is_first())
        metrics = train_ensemble(
            load_panels(data, console),
            config,
            out,
            train_until=train_until,
            validate_until=validate_until,
            console=console,
            cache=cache,
            workers=workers,
        )
    console.print(_against_the_constants(metrics))
    console.print(f"{out}: {metrics['seconds']['all']} s")
    say_next(console, f"sigmahat export {shlex.quote(str(out))}")


def _against_the_constants(metrics: dict[str, Any]) -> Table:
    table = Table("", "validation: ln realised variance", "against the constants")
    baseline = metrics["validation_of_constants"]["decision"]
    table.add_row("learned constants", f"{baseline:.4f}", "")
    for k, history in enumerate(metrics["members"], start=1):
        decision = history[-1]["validation_decision"]
        table.add_row(f"member {k}", f"{decision:.4f}", f"{50 * (decision - baseline):+.1f} % volatility")
    return table
