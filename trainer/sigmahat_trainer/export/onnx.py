# SPDX-License-Identifier: Apache-2.0
"""A member's graph as one ONNX file."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sigmahat_kernels.files import write_whole
from sigmahat_trainer.export.quantize import freeze, half_body
from sigmahat_trainer.model.network import MemberNetwork

INPUT, OUTPUT = "FEATURES", "PARAMETERS"
OPSET = 20


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
    write_whole(Path(path), lambda file: file.write(program.model_proto.SerializeToString()))


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
