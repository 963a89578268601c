# SPDX-License-Identifier: Apache-2.0
"""A whole training run: windows, constants, and the members side by side, one process and one thread each."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.parallel import available_threads
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset, open_dataset
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.window_cache import cached_windows, describe_windows
from sigmahat_trainer.export.onnx import save_member
from sigmahat_trainer.model.network import activate
from sigmahat_trainer.processes import end_with_parent
from sigmahat_trainer.provenance import code_digest, provenance
from sigmahat_trainer.training.distributed import first_alone, group_size, is_first, meet
from sigmahat_trainer.training.member import evaluate_losses, fit_constants, train_member
from sigmahat_trainer.training.resume import Checkpoint

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
    cache: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Train all members and write them with their metrics.

    A run that was killed goes on where it was, if it is started again as it was; the outcome is the same to the bit.
    Inside `distributed.group` all processes share each batch and train one member after the other; alone, this process
    starts one for each member. Again the outcome is the same.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    config : TrainConfig
    folder : Path
        Receives ``member_k.safetensors``, ``features.npz`` (rows for calibration and for checks), their manifest and
        ``metrics.json``; until then, checkpoints.
    train_until, validate_until : str
        ISO dates. Training windows and their holding periods end by the first; validation holding periods lie between.
    console : Console
        Shows the progress.
    cache : Path, optional
        Keeps the windows for other runs, see `shards`; default the folder ``windows`` beside `folder`.
    workers : int, optional
        Processes that draw them; default one per available core.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    OtherRunError
        If `folder` holds an unfinished run of other settings, data or code.
    """
    started, source = time.time(), provenance()  # of what starts, whatever is changed meanwhile
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices
    wanted = _wanted_windows(panels, config, train_until, validate_until)
    run = {
        "config": asdict(config),
        "torch": torch.__version__,
        "code": code_digest("sigmahat_trainer.training.member"),
        **{name: describe_windows(days, **settings) for name, (days, settings) in wanted.items()},
    }
    checkpoints = folder / "checkpoints"
    of_constants = Checkpoint(checkpoints / "constants.pt", run)
    fitted = of_constants.load()
    with first_alone():
        windows = {
            name: cached_windows(days, cache or folder.parent / "windows", console=console, workers=workers, **settings)
            for name, (days, settings) in wanted.items()
        }
    drawn = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    training, validation = (open_dataset(windows[name]) for name in ("training", "validation"))
    if fitted is None:
        with console.status("fitting the constants"):
            constants = fit_constants(training, config)
            fitted = {"constants": constants, "validation": evaluate_losses(constants, validation, config)}
            of_constants.save(fitted)
    constants = fitted["constants"]
    task = _Task(config, constants.numpy(), windows, folder, checkpoints, run)
    histories = _train_members(task, console)

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
        "validation_of_constants": fitted["validation"],
        "members": histories,
        "seconds": {"windows": round(drawn - started, 1), "all": round(time.time() - started, 1)},
        **source,
    }
    meet()  # the others may still be reading the last checkpoint
    if is_first():
        _save_feature_rows(training, validation, folder / "features.npz", config.seed)
        write_manifest(folder, [*sorted(folder.glob("member_*.safetensors")), folder / "features.npz"])
        write_whole(folder / "metrics.json", lambda file: file.write(json.dumps(metrics, indent=1).encode() + b"\n"))
        shutil.rmtree(checkpoints)
    return metrics


def _wanted_windows(
    panels: Sequence[ReturnPanel], config: TrainConfig, train_until: str, validate_until: str
) -> dict[str, tuple[list[ReturnPanel], dict[str, Any]]]:
    """The panels' days that may be used, and the settings of `draw_dataset`, for training and validation."""
    training = {
        "n_windows": config.windows,
        "simulated_share": config.simulated_share,
        "horizon": config.horizon,
        "seed": config.seed,
    }
    validation = {
        "n_windows": VALIDATION_WINDOWS,
        "simulated_share": 0.0,
        "horizon": config.horizon,
        "seed": config.seed + 1,
        "first": str(np.datetime64(train_until, "D") + 1),
    }
    return {
        "training": ([panel.between(None, train_until) for panel in panels], training),
        "validation": ([panel.between(None, validate_until) for panel in panels], validation),
    }


class _Task(NamedTuple):
    """What all members have in common; sent to their processes."""

    config: TrainConfig
    constants: np.ndarray
    windows: dict[str, Path]
    folder: Path
    checkpoints: Path
    run: dict[str, Any]


Report = Callable[[tuple[int, int, float]], object]  # member, epochs done, validation loss


def _train_members(task: _Task, console: Console) -> list[list[dict[str, float]]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    members = range(task.config.members)
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(f"member {k + 1}", total=task.config.epochs, loss="") for k in members]

        def show(message: tuple[int, int, float]) -> None:
            member, epoch, decision = message
            progress.update(bars[member], completed=epoch, loss=f"validation {decision:.4f}")

        if group_size() > 1:
            return [_train_one(member, task, show) for member in members]
        return _train_side_by_side(task, show)


def _train_side_by_side(task: _Task, show: Report) -> list[list[dict[str, float]]]:
    """Train in as many processes as there are cores; each sends its progress home through a queue."""
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    n_members = task.config.members
    n_processes = min(n_members, available_threads())
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    with manager, ProcessPoolExecutor(n_processes, mp_context=context, initializer=end_with_parent) as pool:
        messages = manager.Queue()
        futures = [pool.submit(_train_one, member, task, messages.put) for member in range(n_members)]
        for future in futures:
            while not future.done() or not messages.empty():
                if messages.empty():
                    time.sleep(0.2)
                    continue
                show(messages.get())
        return [future.result() for future in futures]


def _train_one(member: int, task: _Task, report: Report) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    name = f"member_{member + 1}"

    def progress(_: str, epoch: int, __: int, metrics: dict[str, float]) -> None:
        report((member, epoch, metrics["validation_decision"]))

    trained = train_member(
        open_dataset(task.windows["training"]),
        open_dataset(task.windows["validation"]),
        torch.from_numpy(task.constants),
        task.config,
        member=member,
        progress=progress,
        checkpoint=Checkpoint(task.checkpoints / f"{name}.pt", task.run),
    )
    if is_first():
        save_member(trained.network, task.config, task.folder / f"{name}.safetensors", feature_names=FEATURE_NAMES)
    return trained.history


def _save_feature_rows(training: Dataset, validation: Dataset, path: Path, seed: int) -> None:
    rows = training.features()
    picked = np.random.default_rng(seed).permutation(len(rows))[:CALIBRATION_ROWS]
    content = {"calibration": rows[picked], "validation": validation.features()}
    write_whole(path, lambda file: np.savez_compressed(file, **content))
