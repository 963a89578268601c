# SPDX-License-Identifier: Apache-2.0
"""``sigmahat draw`` and ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from sigmahat_trainer.commands.options import TRAIN_UNTIL, VALIDATE_UNTIL
from sigmahat_trainer.commands.train import PRESETS, apply_preset
from sigmahat_trainer.config import TrainConfig, click_options

if TYPE_CHECKING:
    from sigmahat_trainer.search.space import Vary

_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_folder, required=True, help="Folder with return panels (*.npz).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder that is made for the windows.")
@click.option("--train-until", default=TRAIN_UNTIL, show_default=True, help="Last day of the training data.")
@click.option("--validate-until", default=VALIDATE_UNTIL, show_default=True, help="Last day of the validation data.")
@click.option(
    "--validation-windows", default=600, show_default=True, type=click.IntRange(2), help="Of each panel with such days."
)
@click_options(TrainConfig)
def draw(
    data: Path, out: Path, train_until: str, validate_until: str, validation_windows: int, config: TrainConfig
) -> None:
    """Draw training and validation windows once, for `sigmahat search`.

    Of the settings, only windows, simulated-share, horizon and seed matter here.
    """
    from sigmahat_trainer.data.panels import load_panels
    from sigmahat_trainer.data.window_sets import draw as draw_windows

    try:
        draw_windows(
            load_panels(data),
            config,
            out,
            train_until=train_until,
            validate_until=validate_until,
            validation_windows=validation_windows,
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _ranges(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[Vary] | None:
    from sigmahat_trainer.search.space import Vary

    vary = []
    for text in texts:
        name, equals, limits = text.partition("=")
        try:
            low, high = map(float, limits.split(":")) if equals else (None, None)
        except ValueError:
            raise click.BadParameter(f"SETTING or SETTING=LOW:HIGH is wanted, got {text!r}") from None
        vary.append(Vary(name.strip().replace("-", "_"), low, high))
    return vary or None


@click.command()
@click.argument("dataset", type=_folder)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for search.json and pictures; with a search that was cut off in it, that one goes on.",
)
@click.option("--trials", default=50, show_default=True, type=click.IntRange(1), help="In all, with those before.")
@click.option("--timeout-s", default=None, type=click.FloatRange(0), help="Start no trial later than this.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1), help="Trials side by side.")
@click.option(
    "--vary",
    multiple=True,
    callback=_ranges,
    metavar="SETTING[=LOW:HIGH]",
    help="Search this setting, in its own range or within this one; may be repeated.  [default: all of the network, "
    "learning-rate, weight-decay, batch-size, schedule]",
)
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    is_eager=True,
    expose_value=False,
    callback=apply_preset,
    help="Settings that are not searched, as `sigmahat train` takes them. Options given beside it win.",
)
@click_options(TrainConfig)
def search(
    dataset: Path,
    out: Path,
    trials: int,
    timeout_s: float | None,
    processes: int,
    vary: list[Vary] | None,
    config: TrainConfig,
) -> None:
    """Search for the settings with which one member validates best on DATASET, a folder of `sigmahat draw`.

    The options below are the settings of the first trial; those that are searched change after it, the others stay.
    """
    from sigmahat_kernels.scratch import keep_freed_memory
    from sigmahat_trainer.search.study import search as run

    keep_freed_memory()
    console = Console(stderr=True)
    try:
        result = run(
            dataset,
            config,
            out,
            trials=trials,
            timeout_s=timeout_s,
            processes=processes,
            vary=vary,
            console=console,
        )
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _show(result["figures"], console)


def _show(figures: dict[str, Any], console: Console) -> None:
    """The best settings as one types them for `sigmahat train`, and what the search came to."""
    states = [trial["state"] for trial in figures["trials"]]
    console.print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    if (best := figures["best"]) is None:
        raise click.ClickException("no trial was completed; search.json says why")
    against = best["volatility_against_constants_percent"]
    console.print(f"best: trial {best['trial']}, {best['loss']:.4f}, {against:+.2f} % volatility against the constants")
    for name, value in best["settings"].items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"
        console.print(f"  --{name.replace('_', '-')} {text}", highlight=False)
