# SPDX-License-Identifier: Apache-2.0
"""Baselines that learn from earlier data, fitted and written as one folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.baselines.average_oracle import OracleKey, fit_oracle, load_oracles, save_oracles
from sigmahat_trainer.baselines.ridge import Ridge, fit_ridge
from sigmahat_trainer.baselines.rienet import load_rienet, save_rienet, train_rienet
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import draw_dataset
from sigmahat_trainer.data.episodes import draw_episodes, sizes_of
from sigmahat_trainer.data.panels import ReturnPanel
from sigmahat_trainer.model.network import activate
from sigmahat_trainer.progress import Progress, track
from sigmahat_trainer.provenance import provenance
from sigmahat_trainer.training.constants import fit_constants

BEYOND_LINEAR = ("intensity_tilt", "volatility_tilt", "level")
"""Heads that one linear shrinkage for all assets does without."""

CONSTANTS, RIDGE, ORACLES, RIENET = "constants.json", "ridge.json", "average_oracle.npz", "rienet.safetensors"


class LearnedBaselines(NamedTuple):
    """What `fit_baselines` wrote; a part whose file is not there is empty."""

    constants: dict[str, dict[str, list[float]]]  # learned_constants, and tilted_constants with tilts and levels
    ridge: Ridge | None
    oracles: dict[OracleKey, Any]
    rienet: torch.nn.Module | None


def fit_baselines(
    panels: Sequence[ReturnPanel],
    folder: Path,
    *,
    sizes: Sequence[int],
    lengths: Sequence[int],
    horizon: int,
    windows: int,
    oracle_windows: int,
    epochs: int,
    seed: int,
    console: Console,
) -> None:
    """Fit the learned constants, the ridge of volatilities, the Average Oracles and, with epochs > 0, RIEnet.

    Parameters
    ----------
    panels : sequence of ReturnPanel
        Cut to the dates that may be used: holding periods lie within them too.
    folder : Path
        An empty folder, which receives ``constants.json``, ``ridge.json``, ``average_oracle.npz`` and
        ``rienet.safetensors``.
    sizes, lengths : sequences of int
        Shapes (n_assets, n_obs) for which every panel gets an oracle.
    windows, oracle_windows : int
        How many for the constants, and for the ridge and RIEnet, all of real returns; and for each oracle.
    """
    if epochs:
        import_module("rienet_torch")  # that it is missing is said before the work, not after the constants
    torch.set_num_threads(1)
    config = TrainConfig(horizon=horizon, seed=seed)
    dataset = draw_dataset(
        panels,
        n_samples=windows,
        simulated_share=0.0,
        horizon=horizon,
        seed=seed,
        market_power=config.market_power,
        progress=True,
    )
    with console.status("fitting the constants"):
        constants = {
            "learned_constants": _by_head(fit_constants(dataset, config, fixed=BEYOND_LINEAR), without=BEYOND_LINEAR),
            "tilted_constants": _by_head(fit_constants(dataset, config)),
        }
    del dataset
    content = {**provenance(), "panels": [_extent(panel) for panel in panels], "windows": windows, "seed": seed}
    (folder / CONSTANTS).write_text(json.dumps({**content, "constants": constants}, indent=1) + "\n")

    episodes = draw_episodes(panels, n_episodes=windows, horizon=horizon, seed=seed)
    with console.status("fitting the ridge of volatilities"):
        fit_ridge(episodes, horizon=horizon).save(folder / RIDGE)

    oracles: dict[OracleKey, Any] = {}
    shapes = [(panel, size, length) for panel in panels for size in sizes_of(panel, sizes) for length in lengths]
    for panel, size, length in track(shapes, "Average Oracle", total=len(shapes), console=console):
        settings = {"n_assets": size, "n_obs": length, "horizon": horizon, "n_episodes": oracle_windows, "seed": seed}
        eigenvalues = fit_oracle(panel, **settings)
        if eigenvalues is not None:
            oracles[panel.name, size, length] = eigenvalues
    save_oracles(oracles, folder / ORACLES)

    if epochs:
        columns = (TextColumn("RIEnet"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[loss]}"), console=console, transient=True) as progress:
            task = progress.add_task("", total=None, loss="")

            def report(step: int, steps: int, loss: float) -> None:
                progress.update(task, completed=step, total=steps, loss=f"ln variance {loss:.4f}")

            network = train_rienet(episodes, horizon=horizon, epochs=epochs, seed=seed, progress=report)
        save_rienet(network, folder / RIENET)


def load_learned(folder: Path) -> LearnedBaselines:
    """Read what `fit_baselines` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder has no constants.
    """
    if not (folder / CONSTANTS).is_file():
        raise FileNotFoundError(f"{folder} has no {CONSTANTS}: is it a folder that `sigmahat fit-baselines` wrote?")
    constants = json.loads((folder / CONSTANTS).read_text())["constants"]
    ridge = Ridge.load(folder / RIDGE) if (folder / RIDGE).is_file() else None
    oracles = load_oracles(folder / ORACLES) if (folder / ORACLES).is_file() else {}
    network = load_rienet(folder / RIENET) if (folder / RIENET).is_file() else None
    return LearnedBaselines(constants, ridge, oracles, network)


def _by_head(logits: torch.Tensor, *, without: Sequence[str] = ()) -> dict[str, list[float]]:
    heads = split_parameters(activate(logits))._asdict()
    return {name: values.tolist() for name, values in heads.items() if name not in without}


def _extent(panel: ReturnPanel) -> dict[str, Any]:
    return {"panel": panel.name, "first": str(panel.dates[0]), "last": str(panel.dates[-1])}
