# SPDX-License-Identifier: Apache-2.0
"""Which of a graph's matrix products an engine computes in int8, read from TensorRT's own report of its layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.graph import Graph

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_PRODUCT = re.compile(r"gemm|matrix.?multiply|fully.?connected|matmul", re.IGNORECASE)
_FUSED_PRODUCT = re.compile(r"__myl_\w*?(Fc|Gemm|MatMul)")  # the compiler names a fused kernel for what it does


def int8_products(layers: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """ONNX node -> whether the layer that multiplies it reads int8.

    Parameters
    ----------
    layers : sequence of mappings
        The ``Layers`` of TensorRT's inspector or of ``trtexec --exportLayerInfo``, built with detailed verbosity.

    Notes
    -----
    TensorRT merges products (the projections of query, key and value are one), splits off pointwise work, and folds the
    smallest products into it; each layer's ``Metadata`` lists the ONNX nodes that it came from. Of the layers of one
    node those that multiply decide, and only where there is none, the others.
    """
    multiplied: dict[str, bool] = {}
    touched: dict[str, bool] = {}
    for layer in layers:
        found = multiplied if _multiplies(layer) else touched
        reads_int8 = any(_is_int8(tensor) for tensor in layer.get("Inputs", ()))
        for node in _ONNX_NODE.findall(str(layer.get("Metadata", ""))):
            found[node] = found.get(node, False) or reads_int8
    return touched | multiplied


def read_layers(path: Path) -> Any:
    """What TensorRT wrote about an engine's layers."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"TensorRT left no readable layer report at {path}: {error}") from error


def check_layers(graph: Graph, report: Any) -> list[str]:
    """Return the nodes that are int8 in the engine; all that the graph wants must be.

    Raises
    ------
    EngineError
        If the report names no ONNX nodes, or a product that the graph quantises is computed in another type.
    """
    layers = report.get("Layers", []) if isinstance(report, dict) else []
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise EngineError(
            f"the layer report of {graph.path.name} has no details: it must be built with detailed profiling verbosity"
        )
    products = int8_products(layers)
    if missing := [node for node in graph.int8_products if node not in products]:
        raise EngineError(f"the layer report of {graph.path.name} does not say how {missing[:5]} are computed")
    if wrong := [node for node in graph.int8_products if not products[node]]:
        raise EngineError(
            f"{len(wrong)} of {len(graph.int8_products)} products of {graph.path.name} are not int8 in the engine: "
            f"{', '.join(wrong[:5])}"
        )
    return [node for node in (*graph.int8_products, *graph.float_products) if products.get(node)]


def _multiplies(layer: Mapping[str, Any]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('TacticName', '')}"
    return bool(_PRODUCT.search(kind) or _FUSED_PRODUCT.match(str(layer.get("Name", ""))))


def _is_int8(tensor: Any) -> bool:
    # TensorRT 10 has one field, "Format/Datatype"; 11 has two.
    fields = (str(tensor.get(name, "")) for name in ("Format/Datatype", "Datatype", "DataType"))
    return any(re.search(r"\bint8\b", field, re.IGNORECASE) for field in fields)
