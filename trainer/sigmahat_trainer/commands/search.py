# SPDX-License-Identifier: Apache-2.0
"""``sigmahat draw`` and ``search``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from sigmahat_trainer.commands.options import (
    DEFAULT_PRESET,
    PRESETS,
    any_folder,
    as_options,
    existing_folder,
    panel_folders,
    plain_errors,
    say_next,
    train_until,
    training_settings,
    validate_until,
)
from sigmahat_trainer.config import TrainConfig, replace_settings, settings_of

if TYPE_CHECKING:
    from sigmahat_trainer.search.space import Vary


@click.command()
@panel_folders
@click.option("--out", type=any_folder, required=True, help="Folder that is made for the samples.")
@train_until
@validate_until
@click.option(
    "--validation-windows",
    "validation_samples",
    default=600,
    show_default=True,
    type=click.IntRange(2),
    help="Samples of each panel with such days.",
)
@training_settings
def draw(
    data: tuple[Path, ...],
    out: Path,
    train_until: str,
    validate_until: str,
    validation_samples: int,
    config: TrainConfig,
) -> None:
    """Draw training and validation samples once, for `sigmahat search`.

    Of the settings, only windows, simulated-share, market-power, horizon and seed matter here.
    """
    from sigmahat_trainer.data.panels import load_panels
    from sigmahat_trainer.data.sample_sets import draw_sample_sets

    console = Console(stderr=True)
    with plain_errors():
        draw_sample_sets(
            load_panels(data, console),
            config,
            out,
            train_until=train_until,
            validate_until=validate_until,
            validation_samples=validation_samples,
            console=console,
        )
    say_next(console, f"sigmahat search {shlex.quote(str(out))} --out {shlex.quote(f'{out}-search')}")


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
@click.argument("dataset", type=existing_folder)
@click.option(
    "--out",
    type=any_folder,
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
@training_settings
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
    with plain_errors():
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
    _show(result["figures"], console)
    settings = _best_settings(config, result["figures"]["best"]["settings"])
    say_next(console, f"sigmahat train --data PANELS --out RUN {settings}")


def _best_settings(config: TrainConfig, found: dict[str, Any]) -> str:
    """All settings with which the best trial trained, as far as `sigmahat train` would not take them anyway."""
    usual = settings_of(replace_settings(TrainConfig(), PRESETS[DEFAULT_PRESET]))
    best = settings_of(config) | found
    return as_options({name: value for name, value in best.items() if value != usual[name]})


def _show(figures: dict[str, Any], console: Console) -> None:
    """The best settings as one types them for `sigmahat train`, and what the search came to."""
    states = [trial["state"] for trial in figures["trials"]]
    console.print(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
    if (best := figures["best"]) is None:
        raise click.ClickException("no trial was completed; search.json says why")
    against = best["volatility_against_constants_percent"]
    console.print(f"best: trial {best['trial']}, {best['loss']:.4f}, {against:+.2f} % volatility against the constants")
    for name, value in best["settings"].items():
        console.print(f"  {as_options({name: value})}", highlight=False)
