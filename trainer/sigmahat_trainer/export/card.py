# SPDX-License-Identifier: Apache-2.0
"""From a training run to the model repository: INT8 members, the gate they must pass, and the model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import read_verified, write_manifest
from sigmahat_kernels.members import MEMBER_FILES, MemberError
from sigmahat_trainer.data.dataset import SIZES, WINDOWS
from sigmahat_trainer.export.onnx import (
    MEAN_LIMIT,
    P99_LIMIT,
    check_int8_difference,
    checkpoints,
    clipped_share,
    export_onnx,
    int8_difference,
    intensity_difference,
    load_member,
)
from sigmahat_trainer.export.quantize import quantize
from sigmahat_trainer.model.network import CLIP, MemberNetwork

CARD, READABLE_CARD = "model_card.json", "MODEL_CARD.md"


def export_ensemble(run: Path, model_repository: Path) -> list[dict[str, dict[str, float]]]:
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
        Of each member, what INT8 changed in its probabilities on validation features (`export.int8_difference`).

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
    differences = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / path.stem for path in trained]
        for network, folder in zip(networks, folders, strict=True):
            folder.mkdir()
            quantised = quantize(network, torch.from_numpy(calibration))
            export_onnx(quantised, folder / MEMBER_FILES["int8"], metadata)
            export_onnx(quantised, folder / MEMBER_FILES["int8-fp16"], metadata, half=True)
            export_onnx(network, folder / MEMBER_FILES["fp16"], metadata, half=True)
            differences.append(
                {name: int8_difference(network, folder / file, validation) for name, file in MEMBER_FILES.items()}
            )
            for difference in differences[-1].values():
                check_int8_difference(difference)
        intensity = intensity_difference(networks, [folder / MEMBER_FILES["int8"] for folder in folders], validation)
        check_int8_difference({"intensity": intensity})
        clipped = [_clipped_inputs(network, validation) for network in networks]
        card = _summary(metrics, differences, {"intensity_difference": intensity, "clipped_inputs": clipped})
        page = readable(card)
        for folder in folders:
            installed = model_repository / folder.name / "1"
            installed.mkdir(parents=True, exist_ok=True)
            for file in MEMBER_FILES.values():
                shutil.copy(folder / file, installed / file)
    write_manifest(model_repository, sorted(model_repository.glob("member_*/1/*.onnx")))
    (model_repository / CARD).write_text(json.dumps(card, indent=1) + "\n")
    (model_repository / READABLE_CARD).write_text(page)
    return [difference["int8"] for difference in differences]


def _check_members(model_repository: Path, trained: int) -> None:
    configured = len(list(model_repository.glob("member_*/config.pbtxt")))
    if configured not in (0, trained):  # a folder without configurations is no repository yet
        raise MemberError(
            f"{model_repository} is configured for {configured} members, the run has {trained}: run "
            f"python {model_repository / 'make_configurations.py'} --members {trained} first"
        )


def _clipped_inputs(network: MemberNetwork, validation: np.ndarray) -> dict[str, Any]:
    share = clipped_share(network, validation)
    most = int(share.argmax())
    return {"share": float(share.mean()), "most_feature": FEATURE_NAMES[most], "most_share": float(share[most])}


def _summary(metrics: dict[str, Any], differences: Sequence[dict[str, Any]], quality: dict[str, Any]) -> dict[str, Any]:
    last = [
        {name: history[-1][name] for name in map("validation_{}".format, _LOSSES)} for history in metrics["members"]
    ]
    kept = {name: value for name, value in metrics.items() if name != "members"}
    kept["validation_of_constants"] = {name: metrics["validation_of_constants"][name] for name in _LOSSES}
    by_precision = {
        f"{name.replace('-', '_')}_difference": [member[name] for member in differences] for name in MEMBER_FILES
    }
    return {**kept, "validation_of_members": last, **by_precision, **quality}


def read_card(model_repository: Path) -> dict[str, Any]:
    """The card beside the members: what they were trained on, the learned constants, what INT8 changed."""
    card: dict[str, Any] = json.loads((model_repository / CARD).read_text())
    return card


def readable(card: dict[str, Any]) -> str:
    """The card as Markdown, from ``model_card.md.jinja``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sigmahat_trainer.export", ""),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja").render(
        card,
        n_features=len(FEATURE_NAMES),
        windows=WINDOWS,
        sizes=SIZES,
        losses=_LOSSES,
        mean_limit=MEAN_LIMIT,
        p99_limit=P99_LIMIT,
        clip=CLIP,
    )


_LOSSES = {
    "decision": "ln realised variance of the minimum-variance portfolio",
    "qlike": "QLIKE of random portfolios and of that one",
    "alone": "the same, shrinking toward one target at its head's own intensity",
    "confidence": "cross-entropy of the confidences",
    "condition": "squared error of the log10 condition number",
    "expected_error": "Gaussian negative log likelihood of ln(realised / forecast volatility)",
    "regime": "cross-entropy of the regime probabilities",
}
