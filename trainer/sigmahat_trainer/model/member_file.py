# SPDX-License-Identifier: Apache-2.0
"""A trained member on disk: its weights, with its settings and the names of its features in the header."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch

from sigmahat_kernels.files import write_whole
from sigmahat_trainer.config import TrainConfig, from_dict
from sigmahat_trainer.model.network import MemberNetwork

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """The checkpoint is not one of a member that reads the expected features."""


class SavedMember(NamedTuple):
    """A checkpoint: the network in eval mode, the settings it was trained with, the names of its features in order."""

    network: MemberNetwork
    config: TrainConfig
    feature_names: tuple[str, ...]


def save_member(
    network: MemberNetwork, config: TrainConfig, path: str | os.PathLike[str], *, feature_names: Sequence[str]
) -> None:
    """Write the float network as one safetensors file, with `config` and the names of its features in the header."""
    for name, of_network in (("network", network.config), ("preprocessing", network.preprocessing.config)):
        if (given := getattr(config, name)) != of_network:
            raise ValueError(f"config.{name} must be the network's own, got {given} and {of_network}")
    if len(feature_names) != network.n_features:
        raise ValueError(f"{network.n_features} feature_names wanted, got {len(feature_names)}")
    header = {"format_version": FORMAT_VERSION, "config": asdict(config), "feature_names": list(feature_names)}
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(weights, metadata={"sigmahat_member": json.dumps(header)})
    write_whole(Path(path), lambda file: file.write(content))


def checkpoints(run: Path) -> list[Path]:
    """The members' checkpoints in a folder of ``sigmahat train``, as many as its settings say."""
    n_members: int = json.loads((run / "metrics.json").read_text())["config"]["members"]
    return [run / f"member_{k}.safetensors" for k in range(1, n_members + 1)]


def load_member(path: str | os.PathLike[str], *, feature_names: Sequence[str]) -> SavedMember:
    """Read what `save_member` wrote, for features that must be named and ordered as in `feature_names`.

    Raises
    ------
    CheckpointError
        If the file is no member's checkpoint, has another format version, or reads other features.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sigmahat_member", "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
    if header is None:
        raise CheckpointError(f"{os.fspath(path)} is not a member's checkpoint")
    if header["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{os.fspath(path)} has format {header['format_version']}, {FORMAT_VERSION} wanted")
    _check_feature_names(header["feature_names"], list(feature_names), os.fspath(path))
    config = from_dict(TrainConfig, header["config"])
    network = MemberNetwork(len(feature_names), config.network, config.preprocessing)
    network.load_state_dict(weights)
    return SavedMember(network.eval(), config, tuple(feature_names))


def _check_feature_names(stored: list[str], expected: list[str], path: str) -> None:
    if stored == expected:
        return
    missing, unknown = [n for n in expected if n not in stored], [n for n in stored if n not in expected]
    if missing or unknown:
        detail = f"it does not read {missing[:10]} and reads {unknown[:10]} instead"
    else:
        detail = "it reads the same features in another order"
    raise CheckpointError(f"{path} was trained on {len(stored)} features, {len(expected)} wanted: {detail}")
