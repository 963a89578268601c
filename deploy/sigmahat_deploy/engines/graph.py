# SPDX-License-Identifier: Apache-2.0
"""What a member's ONNX file promises: its products and their types, and a batch of features to try it with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from sigmahat_deploy.engines.errors import EngineError


class Graph(NamedTuple):
    """One ONNX file with one input of shape (n, n_features)."""

    path: Path
    sha256: str
    input: str
    n_features: int
    int8_products: tuple[str, ...]  # nodes, by name, whose two factors are int8
    float_products: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """Read the file and find its matrix products.

    Raises
    ------
    EngineError
        If there is no such file, it is no ONNX file, or it has not the one input (n, n_features) of a member.
    """
    if not path.is_file():
        raise EngineError(f"no ONNX file at {path}: run `sigmahat export` or check out the committed file")
    content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's own errors have no common base
        raise EngineError(f"{path} is not an ONNX file: {error}") from error
    if len(model.graph.input) != 1:
        raise EngineError(f"{path} has {len(model.graph.input)} inputs, 1 wanted")
    (source,) = model.graph.input
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    int8 = [node.name for node in products if set(node.input[:2]) <= dequantised]
    return Graph(
        path,
        hashlib.sha256(content).hexdigest(),
        source.name,
        source.type.tensor_type.shape.dim[-1].dim_value,
        tuple(int8),
        tuple(node.name for node in products if node.name not in set(int8)),
    )


def golden_batch(path: Path, n: int) -> np.ndarray:
    """The same `n` rows of features each time, float32, shaped by the statistics that the file itself holds.

    A member opens with ``(features - median) * scale`` and a BatchNormalization; the rows are what those turn into
    independent Student t variables with four degrees of freedom, so that some lie beyond the Clip, as real ones do.
    """
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    opening = {node.op_type: node for node in reversed(model.graph.node)}
    try:
        median = numpy_helper.to_array(constants[opening["Sub"].input[1]])
        scale = numpy_helper.to_array(constants[opening["Mul"].input[1]])
        _, _, mean, variance = (
            numpy_helper.to_array(constants[name]) for name in opening["BatchNormalization"].input[1:]
        )
    except KeyError as error:
        raise EngineError(f"{path} does not open with scaling and BatchNormalization as members do: {error}") from error
    normalised = np.random.default_rng(0).standard_t(4, size=(n, len(median))) / np.sqrt(2.0)
    scaled = mean + np.sqrt(variance) * normalised
    # A scale of 0 marks a feature that the member ignores.
    return (median + scaled / np.where(scale == 0, 1, scale)).astype(np.float32)
