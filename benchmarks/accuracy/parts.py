# SPDX-License-Identifier: Apache-2.0
"""What parts of the estimate bring, judged on validation, into ``results/parts.json``.

Constants and members are trained on the same windows with and without a part: alone, added to an estimate without any
of them, and last, taken from the whole one. All is the decision loss, as a difference of volatility in per cent; below
zero the part helps.

    python -m benchmarks.accuracy.parts DRAWN

DRAWN is a folder of ``sigmahat draw``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.accuracy.ablation import BlockLosses, Judge, first, network_answer
from benchmarks.figures import RESULTS, write_figures
from sigmahat_trainer.commands.options import PRESETS
from sigmahat_trainer.config import TrainConfig, replace_settings
from sigmahat_trainer.data.dataset import Dataset, Sample
from sigmahat_trainer.data.sample_sets import open_sample_sets, pool
from sigmahat_trainer.model.network import activate
from sigmahat_trainer.training.constants import fit_constants
from sigmahat_trainer.training.member import train_member

RESULT = RESULTS / "parts.json"
N_FIRST_STATISTICS = 8
"""Statistics of assets that the estimate always had; the others are a part that is judged here."""


def _without_factors(sample: Sample) -> Sample:
    # Factors that load on nothing are one more identity, which is a target anyhow.
    return sample._replace(loadings=np.zeros_like(sample.loadings))


def _without_statistics(sample: Sample) -> Sample:
    statistics = sample.asset_statistics.copy()
    statistics[..., N_FIRST_STATISTICS:] = 0.0
    return sample._replace(asset_statistics=statistics)


PARTS: dict[str, Callable[[Sample], Sample]] = {
    "fast_factors": _without_factors,
    "statistics_of_assets": _without_statistics,
}
"""Part -> samples without it."""


def without(dataset: Dataset, parts: Sequence[str]) -> Dataset:
    """The same samples without some parts."""
    stacks = dict(dataset.by_size)
    for part in parts:
        stacks = {size: PARTS[part](stack) for size, stack in stacks.items()}
    return Dataset(stacks)


def losses_without(
    parts: Sequence[str],
    training: Dataset,
    validation: Mapping[str, Dataset],
    config: TrainConfig,
    seeds: int,
    step: Callable[[], None],
) -> tuple[Judge, BlockLosses, list[BlockLosses]]:
    """Losses of the constants and of members, trained and judged without some parts."""
    training = without(training, parts)
    validation = {panel: without(dataset, parts) for panel, dataset in validation.items()}
    judge, together = Judge(validation), pool(validation)
    constants = fit_constants(training, config)
    of_constants = judge.losses(lambda features: activate(constants).expand(len(features), -1).numpy())
    of_members = []
    for seed in range(seeds):
        member = train_member(training, together, constants, config, member=seed, progress=lambda *_: step())
        of_members.append(judge.losses(network_answer(member.network)))
    return judge, of_constants, of_members


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawn", type=Path, help="folder of `sigmahat draw`")
    parser.add_argument("--windows", type=int, default=12_000, help="training windows, at most")
    parser.add_argument("--judged", type=int, default=400, help="validation windows of each panel, at most")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2, help="members trained each time")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices

    drawn = open_sample_sets(given.drawn)
    training = first(drawn.training, given.windows)
    validation = {panel: first(dataset, given.judged) for panel, dataset in drawn.validation.items()}
    config = replace(replace_settings(TrainConfig(), PRESETS["full"]), epochs=given.epochs)
    lacking = [some for n in range(len(PARTS) + 1) for some in combinations(PARTS, n)]
    found: dict[tuple[str, ...], tuple[Judge, BlockLosses, list[BlockLosses]]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("members trained", total=len(lacking) * given.seeds * given.epochs)
        for parts in lacking:
            found[parts] = losses_without(
                parts, training, validation, config, given.seeds, lambda: progress.advance(task)
            )

    figures: dict[str, Any] = {}
    for part in PARTS:
        others = tuple(name for name in PARTS if name != part)
        for how, (base, added) in {"alone": (tuple(PARTS), others), "last": ((part,), ())}.items():
            judge, of_constants, of_members = found[added]
            _, constants_before, members_before = found[base]
            differences = [ours.mean - theirs.mean for ours, theirs in zip(of_members, members_before, strict=True)]
            figures.setdefault(part, {})[how] = {
                "constants": judge.compare([of_constants.mean - constants_before.mean], of_constants.windows),
                "members": judge.compare(differences, of_constants.windows),
            }
    Console().print_json(
        data={
            part: {how: {who: row["difference_percent"] for who, row in rows.items()} for how, rows in of_part.items()}
            for part, of_part in figures.items()
        }
    )
    settings: dict[str, Any] = {
        "windows": len(training),
        "judged": {panel: len(dataset) for panel, dataset in validation.items()},
        **{name: getattr(given, name) for name in ("epochs", "seeds")},
    }
    write_figures(given.out, figures, settings=settings)


if __name__ == "__main__":
    main()
