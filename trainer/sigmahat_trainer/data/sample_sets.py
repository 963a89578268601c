# SPDX-License-Identifier: Apache-2.0
"""Training and validation samples that were drawn once, for every experiment that is judged on the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from sigmahat_kernels.files import new_folder
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset, Sample, Size, can_draw, draw_dataset, open_dataset, save_dataset
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.split import day_after, split_panels

ALL = "all"
"""Name of a validation set that is not parted by panel."""


class SampleSets(NamedTuple):
    """What experiments are run on; mapped into memory."""

    training: Dataset
    validation: dict[str, Dataset]  # by panel, or one under `ALL`


def open_sample_sets(folder: Path) -> SampleSets:
    """Open ``training`` and ``validation`` of a folder, as `save_dataset` wrote them.

    ``validation`` is one dataset, or holds a folder with one for each panel.

    Raises
    ------
    FileNotFoundError
        If a dataset is missing or has no samples.
    """
    validation = folder / "validation"
    parts = {path.name: open_dataset(path) for path in sorted(validation.glob("*/"))}
    sets = SampleSets(open_dataset(folder / "training"), parts or {ALL: open_dataset(validation)})
    for name, dataset in {"training": sets.training, **sets.validation}.items():
        if not len(dataset):
            where = name if name == "training" else f"validation ({name})"
            raise FileNotFoundError(f"{folder} has no samples for {where}; `sigmahat draw` writes such a folder")
    return sets


def pool(datasets: Mapping[str, Dataset]) -> Dataset:
    """All samples of several datasets in one; with a single one, that one itself."""
    if len(datasets) == 1:
        return next(iter(datasets.values()))
    stacks: dict[Size, list[Sample]] = {}
    for dataset in datasets.values():
        for size, stack in dataset.by_size.items():
            stacks.setdefault(size, []).append(stack)
    return Dataset({size: Sample(*map(np.concatenate, zip(*stacks[size], strict=True))) for size in sorted(stacks)})


def drawing_settings(config: TrainConfig, *, train_until: str, validation_samples: int) -> dict[str, dict[str, Any]]:
    """Settings of `draw_dataset` for the training samples of a configuration, and for those that it is judged on."""
    return {
        "training": {
            "n_samples": config.windows,
            "simulated_share": config.simulated_share,
            "horizon": config.horizon,
            "seed": config.seed,
            "market_power": config.market_power,
        },
        "validation": {
            "n_samples": validation_samples,
            "simulated_share": 0.0,
            "horizon": config.horizon,
            "seed": config.seed + 1,
            "market_power": config.market_power,
            "first": day_after(train_until),  # not one holding period overlaps
        },
    }


def draw_sample_sets(
    panels: Sequence[ReturnPanel],
    config: TrainConfig,
    folder: Path,
    *,
    train_until: str,
    validate_until: str,
    validation_samples: int,
    console: Console | None = None,
) -> None:
    """Draw samples as a training run does, but validation samples for each panel; `open_sample_sets` opens the folder.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    config : TrainConfig
        Its windows, simulated_share, market_power, horizon and seed.
    folder : Path
        Is made, and appears when it is complete.
    train_until, validate_until : str
        ISO dates, see `split.split_panels`.
    validation_samples : int
        For each panel that has dates to validate on.
    console : Console, optional
        Where to say which panels train nothing.

    Raises
    ------
    FileExistsError
        If `folder` is there already.
    ValueError
        If no panel can be validated on.
    """
    settings = drawing_settings(config, train_until=train_until, validation_samples=validation_samples)
    first = settings["validation"]["first"]
    split = split_panels(panels, train_until=train_until, validate_until=validate_until, console=console)
    validated = [panel for panel in split.validation if can_draw(panel, config.horizon, first)]
    if not validated:
        raise ValueError(f"no panel has {config.horizon} days from {first} to {validate_until}")
    with new_folder(folder) as unfinished:
        save_dataset(draw_dataset(split.training, **settings["training"], progress=True), unfinished / "training")
        for panel in validated:
            validation = draw_dataset([panel], **settings["validation"], progress=True)
            save_dataset(validation, unfinished / "validation" / panel.name)
