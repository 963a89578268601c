# SPDX-License-Identifier: Apache-2.0
"""``sigmahat train`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sigmahat_trainer.config import TrainConfig, click_options

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"windows": 12_000, "epochs": 6},
    # Found on validation: the loss of a window is noisy, so large batches pay. Less dropout fits a little better, but
    # its answers are steeper than INT8 can follow within the gate.
    "full": {
        "windows": 108_000,
        "simulated_share": 0.35,
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "residual_weight": 5e-3,
    },
}

TRAIN_UNTIL, VALIDATE_UNTIL = "2012-12-31", "2015-12-31"

_folder = click.Path(exists=True, file_okay=False, path_type=Path)


def apply_preset(context: click.Context, _: click.Parameter, name: str | None) -> None:
    """Callback of an option ``--preset``: its settings become the defaults of the other options."""
    if name is not None:
        context.default_map = {**(context.default_map or {}), **PRESETS[name]}


@click.command()
@click.option("--data", type=_folder, required=True, help="Folder with return panels (*.npz).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the members and metrics.json.")
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    is_eager=True,
    expose_value=False,
    callback=apply_preset,
    help="full: as the committed members; small: minutes on a laptop. Options given beside it win.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the windows drawn, for other runs of the same data and settings. [default: windows beside "
    "OUT]",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that draw windows. [default: one a core]")
@click.option("--train-until", default=TRAIN_UNTIL, show_default=True, help="Last day of the training data.")
@click.option("--validate-until", default=VALIDATE_UNTIL, show_default=True, help="Last day of the validation data.")
@click_options(TrainConfig)
def train(
    data: Path,
    out: Path,
    cache: Path | None,
    workers: int | None,
    train_until: str,
    validate_until: str,
    config: TrainConfig,
) -> None:
    """Train the ensemble on real and simulated returns.

    A run that was killed goes on where it was when the same command is given again. Under torchrun, several processes
    train each member together: torchrun --nproc-per-node 4 --no-python sigmahat train ...
    """
    from sigmahat_kernels.scratch import keep_freed_memory
    from sigmahat_trainer.data.panels import load_panels
    from sigmahat_trainer.training.distributed import group, is_first
    from sigmahat_trainer.training.run import train_ensemble

    keep_freed_memory()
    with group():
        console = Console(stderr=True, quiet=not is_first())
        try:
            metrics = train_ensemble(
                load_panels(data),
                config,
                out,
                train_until=train_until,
                validate_until=validate_until,
                console=console,
                cache=cache,
                workers=workers,
            )
        except (FileNotFoundError, ValueError) as error:
            raise click.ClickException(str(error)) from error
    table = Table("", "validation: ln realised variance", "against the constants")
    baseline = metrics["validation_of_constants"]["decision"]
    table.add_row("learned constants", f"{baseline:.4f}", "")
    for k, history in enumerate(metrics["members"], start=1):
        decision = history[-1]["validation_decision"]
        table.add_row(f"member {k}", f"{decision:.4f}", f"{50 * (decision - baseline):+.1f} % volatility")
    console.print(table)
    console.print(f"{out}: {metrics['seconds']['all']} s")


@click.command()
@click.argument("run", type=_folder)
@click.option("--model-repository", type=_folder, default=Path("model_repository"), show_default=True)
def export(run: Path, model_repository: Path) -> None:
    """Quantise the members of RUN to INT8 and write them into the model repository, with their model card."""
    from sigmahat_kernels.manifest import ManifestError
    from sigmahat_kernels.members import MemberError
    from sigmahat_trainer.export.card import export_ensemble
    from sigmahat_trainer.export.onnx import CheckpointError, QuantisationError

    try:
        difference = export_ensemble(run, model_repository)
    except (CheckpointError, ManifestError, MemberError, QuantisationError, FileNotFoundError) as error:
        raise click.ClickException(str(error)) from error
    table = Table("output", *(f"member {k + 1}: mean, p99" for k in range(len(difference))))
    for output in difference[0]:
        table.add_row(output, *(f"{member[output]['mean']:.4f}, {member[output]['p99']:.4f}" for member in difference))
    Console(stderr=True).print(table)
