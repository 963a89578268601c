# SPDX-License-Identifier: Apache-2.0
"""A trained member on disk: its checkpoint, its ONNX file, and the gate between the two."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import safetensors
import safetensors.torch
import torch

from sigmahat_kernels.combine import combine
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import TrainConfig, from_dict
from sigmahat_trainer.export.quantize import freeze, half_body
from sigmahat_trainer.model.network import CLIP, FORMS, MemberNetwork

INPUT, OUTPUT = "FEATURES", "PARAMETERS"
OPSET = 20

MEAN_LIMIT = 0.01
P99_LIMIT = 0.03
"""What int8 may change in an answer, in its unit, on average and in its worst hundredth; a maximum would measure single
flips."""

FORMAT_VERSION = 1


class QuantisationError(ValueError):
    """The int8 file answers too differently from the network that it was made from."""


class CheckpointError(ValueError):
    """The checkpoint is not one of a member that reads the expected features."""


class Member(NamedTuple):
    """A checkpoint: the network in eval mode, the settings it was trained with, the names of its features in order."""

    network: MemberNetwork
    config: TrainConfig
    feature_names: tuple[str, ...]


def export_onnx(
    network: MemberNetwork, path: str | os.PathLike[str], metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """Write `network` as one ONNX file: FEATURES (n, n_features) to PARAMETERS (n, N_PARAMETERS), n free, from 1.

    A network from `quantize` becomes a file with int8 weights and Q/DQ nodes; a float network becomes a float file.
    With `half`, what stands between the input's Clip and the last activations is float16; inputs and outputs never are.
    `metadata` is stored in the model's properties. The file depends on the network and `metadata` only, and appears
    under its name when it is complete.
    """
    wrong = {key: value for key, value in metadata.items() if not isinstance(key, str) or not isinstance(value, str)}
    if wrong:
        raise TypeError(f"metadata must map words to words, got {wrong}")
    frozen = freeze(network).cpu()
    with _quiet_exporter():
        program = torch.onnx.export(
            half_body(frozen) if half else frozen,
            (torch.zeros(2, network.n_features),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    _drop_traces(program.model)
    program.model.metadata_props.update(metadata)
    with _written_whole(Path(path)) as unfinished:
        program.save(unfinished, external_data=False)


def int8_difference(
    network: MemberNetwork, onnx_path: str | os.PathLike[str], features: Any
) -> dict[str, dict[str, float]]:
    """How far the file's answers are from the float network's, on features of shape (n, n_features).

    For each part of the answer that has a unit, see `in_units`, the mean and the 99 % quantile of the absolute
    difference, over rows and columns. The file runs in ONNX Runtime on one thread.
    """
    features = np.asarray(features, dtype=np.float32)
    from_file = in_units(_run(onnx_path, features))
    with torch.no_grad():
        expected = in_units(copy.deepcopy(network).cpu().eval()(torch.from_numpy(features)).numpy())
    difference = {name: np.abs(from_file[name] - expected[name]) for name in expected}
    return {
        name: {"mean": float(values.mean()), "p99": float(np.quantile(values, 0.99))}
        for name, values in difference.items()
    }


def intensity_difference(
    networks: Sequence[MemberNetwork], onnx_paths: Sequence[str | os.PathLike[str]], features: Any
) -> dict[str, float]:
    """How far the ensemble's intensity delta is from the float networks', on features of shape (n, n_features).

    The mean and the 99 % quantile of the absolute difference, after the members were weighed.
    """
    features = np.asarray(features, dtype=np.float32)
    good = np.zeros((len(features), 1), np.int32)
    with torch.no_grad():
        expected = [copy.deepcopy(n).cpu().eval()(torch.from_numpy(features)).numpy() for n in networks]
    answers = [_run(path, features) for path in onnx_paths]
    difference = np.abs(combine(answers, good).intensity - combine(expected, good).intensity)
    return {"mean": float(difference.mean()), "p99": float(np.quantile(difference, 0.99))}


def clipped_share(network: MemberNetwork, features: Any) -> np.ndarray:
    """Share of each feature's values that the Clip before the first int8 layer limits, of shape (n_features,).

    Int8 saturates beyond the clip as the float network does, so a share of a few per cent loses nothing that training
    had; a feature whose share grows in production has left the data that the members were trained on.
    """
    rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
    member = copy.deepcopy(network).cpu().eval()
    with torch.no_grad():
        normalised = member.input_norm((rows - member.median) * member.scale)
    share: np.ndarray = (normalised.abs() > CLIP).double().mean(dim=0).numpy()
    return share


def check_int8_difference(
    difference: Mapping[str, Mapping[str, float]], *, mean_limit: float = MEAN_LIMIT, p99_limit: float = P99_LIMIT
) -> None:
    """Raise QuantisationError, naming the outputs, if `int8_difference` found more than the limits allow."""
    limits = {"mean": mean_limit, "p99": p99_limit}
    # "not <=" and not ">", so that NaN is refused too.
    broken = [
        f"{name}: {statistic} {values[statistic]:.4f} above {limit}"
        for name, values in difference.items()
        for statistic, limit in limits.items()
        if not values[statistic] <= limit
    ]
    if broken:
        raise QuantisationError("int8 changes the answers too much; " + "; ".join(broken))


def save_member(
    network: MemberNetwork, config: TrainConfig, path: str | os.PathLike[str], *, feature_names: Sequence[str]
) -> None:
    """Write the float network as one safetensors file, with `config` and the names of its features in the header."""
    if config.network != network.config:
        raise ValueError(f"config.network must be the network's own, got {config.network} and {network.config}")
    if len(feature_names) != network.n_features:
        raise ValueError(f"{network.n_features} feature_names wanted, got {len(feature_names)}")
    header = {"format_version": FORMAT_VERSION, "config": asdict(config), "feature_names": list(feature_names)}
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with _written_whole(Path(path)) as unfinished:
        safetensors.torch.save_file(weights, unfinished, metadata={"sigmahat_member": json.dumps(header)})


def checkpoints(run: Path) -> list[Path]:
    """The members' checkpoints in a folder of ``sigmahat train``, as many as its settings say."""
    n_members: int = json.loads((run / "metrics.json").read_text())["config"]["members"]
    return [run / f"member_{k}.safetensors" for k in range(1, n_members + 1)]


def load_member(path: str | os.PathLike[str], *, feature_names: Sequence[str]) -> Member:
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
    network = MemberNetwork(len(feature_names), config.network)
    network.load_state_dict(weights)
    return Member(network.eval(), config, tuple(feature_names))


def _check_feature_names(stored: list[str], expected: list[str], path: str) -> None:
    if stored == expected:
        return
    missing, unknown = [n for n in expected if n not in stored], [n for n in stored if n not in expected]
    if missing or unknown:
        detail = f"it does not read {missing[:10]} and reads {unknown[:10]} instead"
    else:
        detail = "it reads the same features in another order"
    raise CheckpointError(f"{path} was trained on {len(stored)} features, {len(expected)} wanted: {detail}")


def _run(onnx_path: str | os.PathLike[str], features: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns that it has no float16 kernel to fold a constant with
    session = onnxruntime.InferenceSession(os.fspath(onnx_path), options, providers=["CPUExecutionProvider"])
    answers: np.ndarray = session.run([OUTPUT], {INPUT: features})[0]
    return answers


def in_units(parameters: np.ndarray) -> dict[str, np.ndarray]:
    """What the gate judges of PARAMETERS of shape (n, N_PARAMETERS): each part of a head that has a unit, in that unit.

    A bounded answer is measured in the width of its bounds, which for a probability is 1; see `network.FORMS`.
    """
    heads = split_parameters(parameters)._asdict()
    return {
        part.name: columns / part.unit
        for name, form in FORMS.items()
        for part, columns in form.cut(heads[name])
        if part.unit is not None
    }


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporter says about itself: packages it does without, and its own use of old torch calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _drop_traces(model: Any) -> None:
    """Remove what the exporter notes about the source: it doubles the file and holds the paths of this machine."""
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()


@contextmanager
def _written_whole(path: Path) -> Iterator[str]:
    """The name of a temporary file beside `path` that takes its place once it is written."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield unfinished
        # mkstemp gives a file to its owner alone; the server that reads it is another user.
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
