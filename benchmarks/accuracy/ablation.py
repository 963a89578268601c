# SPDX-License-Identifier: Apache-2.0
"""Which features and which preprocessing pay, judged on validation, into ``results/ablation.json`` and ``.png``.

Two questions. What do trained members lose when they are told less: one feature shuffled over the windows, a group of
features shuffled together, or a group left out, its training medians in its place? And what does training gain from
each switch of `PreprocessingConfig` alone, before the robust scaling that is always there? All is the decision loss, as
a difference of volatility in per cent; above zero is worse.

    python -m benchmarks.accuracy.ablation DRAWN --members model_repository

DRAWN is a folder of ``sigmahat draw``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.figures import RESULTS, Figures, four_digits, write_figures
from sigmahat_kernels import features as published
from sigmahat_kernels.features import FEATURE_NAMES, FEATURES
from sigmahat_kernels.members import Member
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.commands.options import PRESETS
from sigmahat_trainer.config import TrainConfig, replace_settings
from sigmahat_trainer.data.dataset import Dataset, Sample
from sigmahat_trainer.data.sample_sets import open_sample_sets, pool
from sigmahat_trainer.evaluation.figures import VOLATILITY_PERCENT
from sigmahat_trainer.model.estimate import estimate
from sigmahat_trainer.model.loss import minimum_variance
from sigmahat_trainer.model.member_file import load_member
from sigmahat_trainer.model.network import activate
from sigmahat_trainer.training.batches import BatchPart, batch_part
from sigmahat_trainer.training.constants import fit_constants
from sigmahat_trainer.training.member import train_member

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

RESULT = RESULTS / "ablation.json"
BLOCKS = 6
"""Stretches of time that a panel's windows are cut into: from their spread comes the error of a difference."""

SHOWN = 25
"""Features that have room in the picture."""

VARIANTS: dict[str, dict[str, Any]] = {
    "robust_scaling": {},
    "ranks": {"rank_transform": "all"},
    "ranks_of_non_gaussian": {"rank_transform": "non-gaussian"},
    "principal_components": {"principal_components": 32},  # 95 % of the features' variance
    "top_half": {"selected_features": -(-len(FEATURE_NAMES) // 2)},
    "expanding_normalisation": {"expanding_normalisation": "on"},
    "median_imputation": {"median_imputation": "on"},
}
"""Name -> settings of `PreprocessingConfig`; the first is what the others are compared with."""

Answer = Callable[[np.ndarray], np.ndarray]
"""Features (n, F) to PARAMETERS (n, N_PARAMETERS)."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawn", type=Path, help="folder of `sigmahat draw`")
    parser.add_argument("--members", type=Path, default=Path("model_repository"), help="model repository or run folder")
    parser.add_argument("--windows", type=int, default=12_000, help="training windows of the variants, at most")
    parser.add_argument("--judged", type=int, default=400, help="validation windows of each panel, at most")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of a variant; 0 trains none")
    parser.add_argument("--seeds", type=int, default=3, help="members trained of each variant")
    parser.add_argument("--repeats", type=int, default=1, help="shuffles of each feature, for each member")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices

    drawn = open_sample_sets(arguments.drawn)
    validation = {panel: first(dataset, arguments.judged) for panel, dataset in drawn.validation.items()}
    training = first(drawn.training, arguments.windows)
    answers, config = load_answers(arguments.members)
    judge = Judge(validation)
    settings: dict[str, Any] = {
        "windows": len(training),
        "judged": {panel: len(dataset) for panel, dataset in validation.items()},
        **{name: getattr(arguments, name) for name in ("epochs", "seeds", "repeats")},
        "members": len(answers),
    }
    figures: Figures = {}
    with Progress(console=Console(stderr=True)) as progress:
        figures["told_less"] = told_less(judge, answers, training.features(), arguments.repeats, progress)
        write_figures(arguments.out, figures, settings=settings)
        if arguments.epochs:
            config = replace(config, epochs=arguments.epochs)
            figures["variants"] = {}
            for name, variant in variants(training, validation, judge, config, arguments.seeds, progress):
                figures["variants"][name] = variant
                write_figures(arguments.out, figures, settings=settings)
    draw_figures(figures, arguments.out.with_suffix(".png"))
    show(figures, Console())


# Windows


def first(dataset: Dataset, n_windows: int) -> Dataset:
    """About the first `n_windows` of a dataset, of each size the same share; views, so what is mapped stays so."""
    share = min(1.0, n_windows / len(dataset))
    return Dataset(
        {
            size: Sample(*(field[: max(1, round(share * len(stack.features)))] for field in stack))
            for size, stack in dataset.by_size.items()
        }
    )


# Judging


class BlockLosses(NamedTuple):
    """Decision losses by panel and stretch of time."""

    mean: np.ndarray  # (panels, BLOCKS), 0 where there is no window
    windows: np.ndarray  # (panels, BLOCKS)

    def by_panel(self) -> np.ndarray:
        """(panels,)"""
        mean: np.ndarray = (self.mean * self.windows).sum(axis=1) / self.windows.sum(axis=1)
        return mean


class _Part(NamedTuple):
    panel: int
    block: int
    rows: slice  # of Judge.features
    samples: BatchPart


class Judge:
    """Validation windows, and the decision loss of whoever answers their features."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.panels = list(datasets)
        self.parts: list[_Part] = []
        features: list[np.ndarray] = []
        n_rows = 0
        for panel, dataset in enumerate(datasets.values()):
            periods = np.concatenate([stack.period for stack in dataset.by_size.values()])
            edges = np.quantile(periods, np.arange(1, BLOCKS) / BLOCKS)
            for stack in dataset.by_size.values():
                blocks = np.searchsorted(edges, stack.period, side="right")
                for block in np.unique(blocks).tolist():
                    samples = batch_part(stack, np.flatnonzero(blocks == block))
                    features.append(samples.features.numpy())
                    self.parts.append(_Part(panel, block, slice(n_rows, n_rows + len(features[-1])), samples))
                    n_rows += len(features[-1])
        self.features = np.concatenate(features)

    @torch.no_grad()
    def losses(self, answer: Answer, features: np.ndarray | None = None) -> BlockLosses:
        """Of `answer` when it is told `features`, shape (n, F), in the place of the windows' own."""
        parameters = torch.from_numpy(answer(self.features if features is None else features))
        sums, windows = np.zeros((2, len(self.panels), BLOCKS))
        for part in self.parts:
            of_part = parameters[part.rows]
            where, count = (part.panel, part.block), len(of_part)
            sums[where] += count * decision_loss(of_part, part.samples)
            windows[where] += count
        return BlockLosses(sums / np.maximum(windows, 1), windows)

    def compare(self, differences: Sequence[np.ndarray], windows: np.ndarray) -> dict[str, Any]:
        """Mean difference of volatility in per cent, its t, and the difference in each panel.

        Each of `differences` is a difference of `BlockLosses.mean`, of one member or one shuffle; they are averaged. A
        panel counts as much as another. The error is the spread between stretches of time, panels taken to be
        independent, and that between members or shuffles.
        """
        each = VOLATILITY_PERCENT * np.stack(differences)
        mean = each.mean(axis=0)
        weight = windows / windows.sum(axis=1, keepdims=True)
        by_panel = (weight * mean).sum(axis=1)
        used = (windows > 0).sum(axis=1)
        of_time = (weight**2 * (mean - by_panel[:, None]) ** 2).sum(axis=1) * used / np.maximum(used - 1, 1)
        of_members = (weight * each).sum(axis=2).mean(axis=1).var(ddof=1) / len(each) if len(each) > 1 else 0.0
        error = np.sqrt(of_time.sum() / len(self.panels) ** 2 + of_members)
        return {
            "difference_percent": four_digits(by_panel.mean()),
            "t": four_digits(by_panel.mean() / error) if error > 0 else 0.0,
            "by_panel": dict(zip(self.panels, map(four_digits, by_panel), strict=True)),
        }


def decision_loss(parameters: torch.Tensor, samples: BatchPart) -> float:
    """Mean ln realised variance of the minimum-variance portfolios of PARAMETERS, shape (B, N_PARAMETERS)."""
    matrices = estimate(samples.inputs, split_parameters(parameters))
    return float(minimum_variance(matrices, samples.after.forward).log_realised.mean())


def load_answers(folder: Path) -> tuple[list[Answer], TrainConfig]:
    """The INT8 members of a model repository or the float members of a run, and the settings to train others with."""
    if files := sorted(folder.glob("member_*/*/model.onnx")):
        return [Member(path) for path in files], replace_settings(TrainConfig(), PRESETS["full"])
    members = [load_member(path, feature_names=FEATURE_NAMES) for path in sorted(folder.glob("member_*.safetensors"))]
    if not members:
        raise FileNotFoundError(f"{folder} holds neither member_*/VERSION/model.onnx nor member_*.safetensors")
    return [network_answer(member.network) for member in members], members[0].config


def network_answer(network: torch.nn.Module) -> Answer:
    """A network in eval mode as an `Answer`."""

    def answer(features: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parameters: np.ndarray = network(torch.from_numpy(features)).numpy()
        return parameters

    return answer


# Told less


def groups() -> dict[str, list[str]]:
    """The lists that `sigmahat_kernels.features` puts together: name -> features."""
    found = {
        name.lower(): list(value)
        for name, value in vars(published).items()
        if isinstance(value, dict) and value is not FEATURES and value and value.items() <= FEATURES.items()
    }
    listed = sorted(name for names in found.values() for name in names)
    if listed != sorted(FEATURES):
        raise ValueError(f"each feature must be in one group, got {found}")
    return found


def shuffled(features: np.ndarray, columns: Sequence[int], order: np.ndarray) -> np.ndarray:
    """The same features but for `columns`, which come from other windows, all from the same one."""
    told = features.copy()
    told[:, columns] = features[order[:, None], columns]
    return told


def left_out(features: np.ndarray, columns: Sequence[int], medians: np.ndarray) -> np.ndarray:
    """The same features but for `columns`, which are their medians."""
    told = features.copy()
    told[:, columns] = medians[columns]
    return told


def shuffling_costs(
    judge: Judge,
    answers: Sequence[Answer],
    subjects: Mapping[str, Sequence[int]],
    repeats: int,
    step: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """For each subject, a set of columns, what shuffling it costs; all subjects are shuffled alike."""
    orders = [np.random.default_rng(k).permutation(len(judge.features)) for k in range(repeats * len(answers))]
    own = [judge.losses(answer) for answer in answers]
    costs = {}
    for name, columns in subjects.items():
        differences = [
            judge.losses(answer, shuffled(judge.features, columns, order)).mean - before.mean
            for answer, before, turns in zip(answers, own, _share(orders, len(answers)), strict=True)
            for order in turns
        ]
        costs[name] = judge.compare(differences, own[0].windows)
        step()
    return costs


def told_less(
    judge: Judge, answers: Sequence[Answer], training: np.ndarray, repeats: int, progress: Progress
) -> dict[str, Any]:
    """What the members lose without a feature or a group of them."""
    medians = np.median(training, axis=0).astype(np.float32)
    columns = {group: [FEATURE_NAMES.index(name) for name in names] for group, names in groups().items()}
    features = {name: [column] for column, name in enumerate(FEATURE_NAMES)}
    task = progress.add_task("members told less", total=len(features) + 2 * len(columns))

    def step() -> None:
        progress.advance(task)

    own = [judge.losses(answer) for answer in answers]
    without = {}
    for group, those in columns.items():
        told = left_out(judge.features, those, medians)
        differences = [judge.losses(a, told).mean - before.mean for a, before in zip(answers, own, strict=True)]
        without[group] = judge.compare(differences, own[0].windows)
        step()
    group_of = {name: group for group, names in groups().items() for name in names}
    by_feature = shuffling_costs(judge, answers, features, repeats, step)
    return {
        "decision": {
            panel: four_digits(loss)
            for panel, loss in zip(judge.panels, np.mean([each.by_panel() for each in own], axis=0), strict=True)
        },
        "groups_left_out": without,
        "groups_shuffled": shuffling_costs(judge, answers, columns, repeats, step),
        "features_shuffled": {name: {"group": group_of[name], **cost} for name, cost in by_feature.items()},
    }


# Told otherwise


def variants(
    training: Dataset,
    validation: Mapping[str, Dataset],
    judge: Judge,
    config: TrainConfig,
    seeds: int,
    progress: Progress,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train members on the same windows, told otherwise; yields name and figures of each variant.

    Members of the same seed see the same months in the same order, so their differences are those of the variants.
    """
    task = progress.add_task("variants trained", total=len(VARIANTS) * seeds * config.epochs)
    constants = fit_constants(training, config)
    of_constants = judge.losses(lambda features: activate(constants).expand(len(features), -1).numpy())
    together = pool(validation)
    reference: list[BlockLosses] = []
    for name, switches in VARIANTS.items():
        switched, started, losses = replace_settings(config, switches), time.monotonic(), []
        for seed in range(seeds):
            network = train_member(
                training, together, constants, switched, member=seed, progress=lambda *_: progress.advance(task)
            ).network
            losses.append(judge.losses(network_answer(network)))
        reference = reference or losses
        differences = [ours.mean - theirs.mean for ours, theirs in zip(losses, reference, strict=True)]
        windows = of_constants.windows
        yield (
            name,
            {
                "n_features": network.n_inputs,
                "decision": four_digits(np.mean([each.by_panel() for each in losses])),
                "against_constants": judge.compare([each.mean - of_constants.mean for each in losses], windows),
                "against_robust_scaling": {
                    **judge.compare(differences, windows),
                    "by_seed": [judge.compare([each], windows)["difference_percent"] for each in differences],
                },
                "seconds": round(time.monotonic() - started, 1),
            },
        )


# Results


def draw_figures(figures: dict[str, Any], path: Path) -> None:
    """Groups, the features that matter most, and the variants, side by side."""
    figure, axes = plt.subplots(1, 3, figsize=(15.0, 7.5), layout="constrained")
    told = figures["told_less"]
    _bars(axes[0], {"shuffled": told["groups_shuffled"], "left out": told["groups_left_out"]}, "groups of features")
    features = told["features_shuffled"]
    top = sorted(features, key=lambda name: -features[name]["difference_percent"])[:SHOWN]
    _bars(axes[1], {"shuffled": {name: features[name] for name in top}}, f"the first {len(top)} features")
    if "variants" in figures:
        rows = {name: variant["against_robust_scaling"] for name, variant in figures["variants"].items()}
        _bars(axes[2], {"retrained": rows}, "preprocessing, against robust scaling")
    else:
        axes[2].remove()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(axis: Axes, kinds: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> None:
    names = list(next(iter(kinds.values())))
    height = 0.8 / len(kinds)
    for k, (kind, rows) in enumerate(kinds.items()):
        values = np.array([rows[name]["difference_percent"] for name in names])
        t = np.array([rows[name]["t"] for name in names])
        error = np.divide(1.96 * np.abs(values), np.abs(t), out=np.zeros_like(values), where=t != 0)
        where = np.arange(len(names)) + (k - (len(kinds) - 1) / 2) * height
        axis.barh(where, values, height, xerr=error, label=kind, error_kw={"lw": 0.8})
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="black", lw=0.8)
    axis.set(title=title, xlabel="volatility, % (above 0 is worse), 95 % interval")
    if len(kinds) > 1:
        axis.legend()


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the groups and the variants."""
    table = Table("", "volatility, %", "t", title="told less")
    for kind in ("groups_left_out", "groups_shuffled"):
        for name, row in figures["told_less"][kind].items():
            table.add_row(
                f"{name}, {kind[7:].replace('_', ' ')}", f"{row['difference_percent']:+.2f}", f"{row['t']:+.1f}"
            )
    console.print(table)
    table = Table("", "features", "volatility, % against robust scaling", "t", "by seed", title="told otherwise")
    for name, variant in figures.get("variants", {}).items():
        row = variant["against_robust_scaling"]
        by_seed = " ".join(f"{value:+.2f}" for value in row["by_seed"])
        table.add_row(
            name, f"{variant['n_features']}", f"{row['difference_percent']:+.2f}", f"{row['t']:+.1f}", by_seed
        )
    if table.row_count:
        console.print(table)


def _share(items: Sequence[Any], n_parts: int) -> list[Sequence[Any]]:
    return [items[k::n_parts] for k in range(n_parts)]


if __name__ == "__main__":
    main()
