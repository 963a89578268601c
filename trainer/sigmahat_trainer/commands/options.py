# SPDX-License-Identifier: Apache-2.0
"""What several commands share: periods of the data, presets, folders, errors in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from sigmahat_trainer.config import TrainConfig, click_options
from sigmahat_trainer.data.split import TRAIN_UNTIL, VALIDATE_UNTIL

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
DEFAULT_PRESET = "small"
"""What a first try wants. Every other preset names all that this one does."""

Command = TypeVar("Command", bound=Callable[..., Any])

existing_folder = click.Path(exists=True, file_okay=False, path_type=Path)
any_folder = click.Path(file_okay=False, path_type=Path)

panel_folders = click.option(
    "--data",
    type=existing_folder,
    required=True,
    multiple=True,
    help="Folder with return panels; may be repeated.",
)
train_until = click.option(
    "--train-until", default=TRAIN_UNTIL, show_default=True, help="Last day of the training data."
)
validate_until = click.option(
    "--validate-until",
    default=VALIDATE_UNTIL,
    show_default=True,
    help="Last day of the validation data; of a panel that begins after the training data, its first third.",
)


def training_settings(command: Command) -> Command:
    """Decorate a command with ``--preset`` and an option for every setting; it receives the checked `config`."""
    presets = "; ".join(f"{name}: {as_options(settings)}" for name, settings in PRESETS.items())
    preset = click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default=DEFAULT_PRESET,
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_apply_preset,
        help=f"small takes minutes on a laptop, full is what the committed members were trained with. {presets}. "
        "Options given beside it win.",
    )
    return preset(click_options(TrainConfig, defaults=PRESETS[DEFAULT_PRESET])(command))


def _apply_preset(context: click.Context, _: click.Parameter, name: str) -> None:
    context.default_map = {**(context.default_map or {}), **PRESETS[name]}


def as_options(settings: Mapping[str, Any]) -> str:
    """Settings as one types them.

    >>> as_options({"batch_size": 64, "head_units": (32, 16)})
    '--batch-size 64 --head-units 32,16'
    """

    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

    return " ".join(f"--{name.replace('_', '-')} {text(value)}" for name, value in settings.items())


def say_next(console: Console, command: str) -> None:
    """Say what to type next in one line of text, whatever the width: it is there to be copied."""
    say(console, f"next: {command}")


def say(console: Console, text: str) -> None:
    """Say in one line of text what is there to be copied, whatever the width."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a user can mend into one line; anything else is ours, and stays a traceback."""
    from sigmahat_kernels.manifest import ManifestError
    from sigmahat_kernels.members import MemberError

    try:
        yield
    except (ManifestError, MemberError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
