# SPDX-License-Identifier: Apache-2.0
"""From a training run to the model repository: every member as ONNX files, past the gate, with the model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import read_verified, write_manifest
from sigmahat_kernels.members import MEMBER_FILES, MemberError
from sigmahat_trainer.export.gate import (
    Difference,
    check_int8_difference,
    clipped_share,
    int8_difference,
    intensity_difference,
)
from sigmahat_trainer.export.model_card import describe, write_card
from sigmahat_trainer.export.onnx import export_onnx
from sigmahat_trainer.export.quantize import quantize
from sigmahat_trainer.model.member_file import checkpoints, load_member
from sigmahat_trainer.model.network import MemberNetwork


def export_ensemble(run: Path, model_repository: Path) -> list[Difference]:
    """Quantise, check and install all members; nothing is installed unless all of them pass.

    Parameters
    ----------
    run : Path
        Folder that ``sigmahat train`` wrote.
    model_repository : Path
        Receives ``member_k/1/*.onnx``, a file a precision, their manifest and the card.

    Returns
    -------
    list of dict
        Of each member, what INT8 changed in its answers on validation features (`gate.int8_difference`).

    Raises
    ------
    QuantisationError
        If INT8 changes a member's answers, or the ensemble's intensity, too much.
    ManifestError
        If a file of the run is not the one that training wrote.
    MemberError
        If the repository is configured for another number of members than the run has.
    """
    metrics = json.loads((run / "metrics.json").read_text())
    trained = checkpoints(run)
    _check_members(model_repository, len(trained))
    for path in (run / "features.npz", *trained):
        read_verified(path, run)
    with np.load(run / "features.npz", allow_pickle=False) as rows:
        calibration, validation = rows["calibration"], rows["validation"]
    networks = [load_member(path, feature_names=FEATURE_NAMES).network for path in trained]
    metadata = {"features": ",".join(FEATURE_NAMES), "commit": metrics["commit"]}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / path.stem for path in trained]
        differences = []
        for network, folder in zip(networks, folders, strict=True):
            folder.mkdir()
            _write_precisions(network, calibration, folder, metadata)
            differences.append(_checked_differences(network, validation, folder))
        intensity = intensity_difference(networks, [folder / MEMBER_FILES["int8"] for folder in folders], validation)
        check_int8_difference({"intensity": intensity})
        clipped = [clipped_share(network, validation, FEATURE_NAMES) for network in networks]
        card = describe(metrics, differences, intensity, clipped)
        for folder in folders:
            installed = model_repository / folder.name / "1"
            installed.mkdir(parents=True, exist_ok=True)
            for file in MEMBER_FILES.values():
                shutil.copy(folder / file, installed / file)
    write_manifest(model_repository, sorted(model_repository.glob("member_*/1/*.onnx")))
    write_card(card, model_repository)
    return [difference["int8"] for difference in differences]


def _check_members(model_repository: Path, trained: int) -> None:
    configured = len(list(model_repository.glob("member_*/configs/gpu.pbtxt")))
    if configured not in (0, trained):  # a folder without configurations is no repository yet
        raise MemberError(
            f"{model_repository} is configured for {configured} members, the run has {trained}: run "
            f"python {model_repository / 'make_configurations.py'} --members {trained} first"
        )


def _write_precisions(
    network: MemberNetwork, calibration: np.ndarray, folder: Path, metadata: Mapping[str, str]
) -> None:
    quantised = quantize(network, torch.from_numpy(calibration))
    export_onnx(quantised, folder / MEMBER_FILES["int8"], metadata)
    export_onnx(quantised, folder / MEMBER_FILES["int8-fp16"], metadata, half=True)
    export_onnx(network, folder / MEMBER_FILES["fp16"], metadata, half=True)


def _checked_differences(network: MemberNetwork, validation: np.ndarray, folder: Path) -> dict[str, Difference]:
    """By precision; QuantisationError if one changes too much."""
    differences = {name: int8_difference(network, folder / file, validation) for name, file in MEMBER_FILES.items()}
    for difference in differences.values():
        check_int8_difference(difference)
    return differences
