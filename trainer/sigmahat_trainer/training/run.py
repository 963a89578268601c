# SPDX-License-Identifier: Apache-2.0
"""A whole training run: samples, constants, and the members side by side, one process and one thread each."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.parallel import available_threads
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import open_dataset
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.data.sample_cache import cached_samples, describe_samples
from sigmahat_trainer.data.sample_sets import drawing_settings
from sigmahat_trainer.data.split import split_panels
from sigmahat_trainer.model.member_file import save_member
from sigmahat_trainer.model.network import activate
from sigmahat_trainer.processes import end_with_parent
from sigmahat_trainer.progress import Progress
from sigmahat_trainer.provenance import code_digest, provenance
from sigmahat_trainer.training.constants import fit_constants
from sigmahat_trainer.training.distributed import first_alone, group_size, is_first, meet, training_device
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.resume import Checkpoint, OtherRunError, differences
from sigmahat_trainer.training.shared_losses import evaluate_losses

VALIDATION_SAMPLES = 3_000
CALIBRATION_ROWS = 8_192
"""Rows of features of training samples that a run keeps: what the scales of INT8 are taken from."""

METRICS, CHECKPOINTS = "metrics.json", "checkpoints"


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
    One that is finished is left as it is. Inside `distributed.group` all processes share each batch and train one
    member after the other; alone, this process starts one for each member. Again the outcome is the same.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    config : TrainConfig
    folder : Path
        Receives ``member_k.safetensors``, ``features.npz`` (rows for calibration and for checks), their manifest and
        ``metrics.json``; until then, checkpoints.
    train_until, validate_until : str
        ISO dates, see `data.split.split_panels`.
    console : Console
        Shows the progress.
    cache : Path, optional
        Keeps the samples for other runs, see `data.sample_cache`; default the folder ``samples`` beside `folder`.
    workers : int, optional
        Processes that draw them; default one per available core.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    OtherRunError
        If `folder` holds a run of other settings, data or code, finished or not.
    """
    started, source = time.time(), provenance()  # of what starts, whatever is changed meanwhile
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices
    split = split_panels(panels, train_until=train_until, validate_until=validate_until, console=console)
    settings_of = drawing_settings(config, train_until=train_until, validation_samples=VALIDATION_SAMPLES)
    wanted = {name: (used, settings_of[name]) for name, used in split._asdict().items()}
    run = _identity(config, wanted)
    if finished := _finished(folder, run):
        console.print(f"{folder} holds this run already, finished: nothing to do")
        return finished
    of_constants = Checkpoint(folder / CHECKPOINTS / "constants.pt", run)
    of_constants.load()  # before anything is drawn: the folder may hold another run
    with first_alone():
        samples = {
            name: cached_samples(used, cache or folder.parent / "samples", console=console, workers=workers, **settings)
            for name, (used, settings) in wanted.items()
        }
    drawn_at = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    fitted = _fitted_constants(samples, config, of_constants, console)
    histories = _train_members(_SharedByMembers(config, fitted["constants"].numpy(), samples, folder, run), console)
    metrics = {
        "config": asdict(config),
        "data": [_extent(panel) for panel in panels],
        "train_until": train_until,
        "validate_until": validate_until,
        "constants": _by_head(fitted["constants"]),
        "validation_of_constants": fitted["validation"],
        "members": histories,
        "seconds": {"windows": round(drawn_at - started, 1), "all": round(time.time() - started, 1)},
        **source,
        "run": run,
    }
    meet()  # the others may still be reading the last checkpoint
    if is_first():
        _finish(folder, samples, config.seed, metrics)
    return metrics


def _identity(config: TrainConfig, samples: Mapping[str, tuple[list[ReturnPanel], dict[str, Any]]]) -> dict[str, Any]:
    """What must be the same for a run to go on: its settings, its samples, and what trains."""
    return {
        "config": asdict(config),
        "torch": torch.__version__,
        "device": training_device().type,
        "code": code_digest("sigmahat_trainer.training.member", "sigmahat_trainer.training.constants"),
        **{name: describe_samples(used, **settings) for name, (used, settings) in samples.items()},
    }


def _finished(folder: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics of the run if it is finished; None if it is not there, or not to its end."""
    if not (folder / METRICS).exists():
        return None
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text())
    if others := differences(metrics.get("run", {}), run):
        raise OtherRunError(
            f"{folder} holds a finished run of other settings, data or code; name a new folder: {', '.join(others)}"
        )
    return metrics


def _fitted_constants(
    samples: Mapping[str, Path], config: TrainConfig, checkpoint: Checkpoint, console: Console
) -> dict[str, Any]:
    """The learned constants and their losses, from the checkpoint or into it."""
    fitted = checkpoint.load()
    if fitted is None:
        training, validation = (open_dataset(samples[name]) for name in ("training", "validation"))
        with console.status("fitting the constants"):
            device = training_device()
            constants = fit_constants(training, config, device=device)
            fitted = {"constants": constants, "validation": evaluate_losses(constants.to(device), validation, config)}
        checkpoint.save(fitted)
    return fitted


def _by_head(logits: torch.Tensor) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in split_parameters(activate(logits))._asdict().items()}


def _extent(panel: ReturnPanel) -> dict[str, Any]:
    n_rows, n_assets = panel.returns.shape
    span = {"first": str(panel.dates[0]), "last": str(panel.dates[-1])}
    return {"panel": panel.name, "rows": n_rows, "assets": n_assets, **span}


class _SharedByMembers(NamedTuple):
    """What all members have in common; sent to their processes."""

    config: TrainConfig
    constants: np.ndarray
    samples: dict[str, Path]  # "training", "validation"
    folder: Path
    run: dict[str, Any]


Report = Callable[[tuple[int, int, float]], object]  # member, epochs done, validation loss


def _train_members(shared: _SharedByMembers, console: Console) -> list[list[dict[str, float]]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    members = range(shared.config.members)
    with Progress(*columns, console=console) as progress:
        bars = [progress.add_task(f"member {k + 1}", total=shared.config.epochs, loss="") for k in members]

        def show(message: tuple[int, int, float]) -> None:
            member, epoch, decision = message
            progress.update(bars[member], completed=epoch, loss=f"validation {decision:.4f}")

        if group_size() > 1:
            return [_train_one(member, shared, show) for member in members]
        return _train_side_by_side(shared, show)


def _train_side_by_side(shared: _SharedByMembers, show: Report) -> list[list[dict[str, float]]]:
    """Train in as many processes as there are cores, on the GPUs in turn if there are any; each reports by a queue."""
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
    n_members = shared.config.members
    n_processes = min(n_members, available_threads())
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    with manager, ProcessPoolExecutor(n_processes, mp_context=context, initializer=end_with_parent) as pool:
        messages = manager.Queue()
        futures = [pool.submit(_train_one, member, shared, messages.put) for member in range(n_members)]
        for future in futures:
            while not future.done() or not messages.empty():
                if messages.empty():
                    time.sleep(0.2)
                    continue
                show(messages.get())
        return [future.result() for future in futures]


def _train_one(member: int, shared: _SharedByMembers, report: Report) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    name = f"member_{member + 1}"

    def progress(_: str, epoch: int, __: int, metrics: dict[str, float]) -> None:
        report((member, epoch, metrics["validation_decision"]))

    trained = train_member(
        open_dataset(shared.samples["training"]),
        open_dataset(shared.samples["validation"]),
        torch.from_numpy(shared.constants),
        shared.config,
        member=member,
        progress=progress,
        checkpoint=Checkpoint(shared.folder / CHECKPOINTS / f"{name}.pt", shared.run),
        device=training_device(member),
    )
    if is_first():
        save_member(trained.network, shared.config, shared.folder / f"{name}.safetensors", feature_names=FEATURE_NAMES)
    return trained.history


def _finish(folder: Path, samples: Mapping[str, Path], seed: int, metrics: Mapping[str, Any]) -> None:
    """Write what else a finished run holds, the metrics last: they say that it is finished."""
    training, validation = (open_dataset(samples[name]).features() for name in ("training", "validation"))
    picked = np.random.default_rng(seed).permutation(len(training))[:CALIBRATION_ROWS]
    rows = {"calibration": training[picked], "validation": validation}
    write_whole(folder / "features.npz", lambda file: np.savez_compressed(file, **rows))
    write_manifest(folder, [*sorted(folder.glob("member_*.safetensors")), folder / "features.npz"])
    write_whole(folder / METRICS, lambda file: file.write(json.dumps(metrics, indent=1).encode() + b"\n"))
    shutil.rmtree(folder / CHECKPOINTS)
