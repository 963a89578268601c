# SPDX-License-Identifier: Apache-2.0
"""A whole training run: windows, constants, and the members side by side, one process and one thread each."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.parallel import available_threads
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import TrainConfig, from_dict
from sigmahat_trainer.dataset import Dataset, draw_dataset, open_dataset, save_dataset
from sigmahat_trainer.export import save_member
from sigmahat_trainer.network import activate
from sigmahat_trainer.panels import ReturnPanel
from sigmahat_trainer.provenance import provenance
from sigmahat_trainer.train import evaluate_losses, fit_constants, train_member

VALIDATION_WINDOWS = 3_000
CALIBRATION_ROWS = 8_192


def train_ensemble(
    panels: Sequence[ReturnPanel],
    config: TrainConfig,
    folder: Path,
    *,
    train_until: str,
    validate_until: str,
    console: Console,
) -> dict[str, Any]:
    """Train all members and write them with their metrics.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    config : TrainConfig
    folder : Path
        Receives ``member_k.safetensors``, ``features.npz`` (rows for calibration and for checks), their manifest and
        ``metrics.json``.
    train_until, validate_until : str
        ISO dates. Training windows and their holding periods end by the first; validation holding periods lie between.
    console : Console
        Shows the progress.

    Returns
    -------
    dict
        What ``metrics.json`` holds.
    """
    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices
    after_training = str(np.datetime64(train_until, "D") + 1)
    with tempfile.TemporaryDirectory(prefix="sigmahat-") as scratch:
        console.print(f"drawing {config.windows:,} training and {VALIDATION_WINDOWS:,} validation windows")
        training = draw_dataset(
            [panel.between(None, train_until) for panel in panels],
            n_windows=config.windows,
            simulated_share=config.simulated_share,
            horizon=config.horizon,
            seed=config.seed,
            progress=True,
        )
        validation = draw_dataset(
            [panel.between(None, validate_until) for panel in panels],
            n_windows=VALIDATION_WINDOWS,
            simulated_share=0.0,
            horizon=config.horizon,
            seed=config.seed + 1,
            first=after_training,
            progress=True,
        )
        drawn = time.time()
        save_dataset(training, Path(scratch) / "training")
        save_dataset(validation, Path(scratch) / "validation")
        _save_feature_rows(training, validation, folder / "features.npz", config.seed)

        with console.status("fitting the constants"):
            constants = fit_constants(training, config)
            baseline = evaluate_losses(constants, validation, config)
        del training, validation
        histories = _train_members(config, constants, Path(scratch), folder, console)

    metrics = {
        "config": asdict(config),
        "data": [
            {"panel": panel.name, "rows": len(panel.dates), "assets": panel.returns.shape[1]}
            | {"first": str(panel.dates[0]), "last": str(panel.dates[-1])}
            for panel in panels
        ],
        "train_until": train_until,
        "validate_until": validate_until,
        "constants": {
            name: values.tolist() for name, values in split_parameters(activate(constants))._asdict().items()
        },
        "validation_of_constants": baseline,
        "members": histories,
        "seconds": {"windows": round(drawn - started, 1), "all": round(time.time() - started, 1)},
        **provenance(),
    }
    write_manifest(folder, [*sorted(folder.glob("member_*.safetensors")), folder / "features.npz"])
    _write_json(folder / "metrics.json", metrics)
    return metrics


def _train_members(
    config: TrainConfig, constants: torch.Tensor, scratch: Path, folder: Path, console: Console
) -> list[list[dict[str, float]]]:
    """Train in as many processes as there are cores; each sends its progress home through a queue."""
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(min(config.members, available_threads()), mp_context=context) as pool,
        Progress(*columns, console=console) as progress,
    ):
        messages = manager.Queue()
        tasks = [progress.add_task(f"member {k + 1}", total=config.epochs, loss="") for k in range(config.members)]
        arguments = (asdict(config), constants.numpy(), str(scratch), str(folder), messages)
        futures = [pool.submit(_train_one, member, *arguments) for member in range(config.members)]
        for future in futures:
            while not future.done() or not messages.empty():
                if messages.empty():
                    time.sleep(0.2)
                    continue
                member, epoch, decision = messages.get()
                progress.update(tasks[member], completed=epoch, loss=f"validation {decision:.4f}")
        return [future.result() for future in futures]


def _train_one(
    member: int, config: dict[str, Any], constants: np.ndarray, scratch: str, folder: str, messages: Any
) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    settings = from_dict(TrainConfig, config)

    def report(what: str, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        messages.put((member, epoch, metrics["validation_decision"]))

    trained = train_member(
        open_dataset(Path(scratch) / "training"),
        open_dataset(Path(scratch) / "validation"),
        torch.from_numpy(constants),
        settings,
        member=member,
        progress=report,
    )
    path = Path(folder) / f"member_{member + 1}.safetensors"
    save_member(trained.network, settings, path, feature_names=FEATURE_NAMES)
    return trained.history


def _save_feature_rows(training: Dataset, validation: Dataset, path: Path, seed: int) -> None:
    rows = training.features()
    picked = np.random.default_rng(seed).permutation(len(rows))[:CALIBRATION_ROWS]
    np.savez_compressed(path, calibration=rows[picked], validation=validation.features())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
