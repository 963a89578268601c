# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX, which compiles without a GPU, takes every member and says which products it computes in int8.

Its engines are not Triton's (another product, for other GPUs): what is proven is that the graphs obey the rules of
explicit quantisation, and what TensorRT's compiler makes of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sigmahat_deploy.engines.builders import Profile, logger, serialized_plan
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.fused import fuse
from sigmahat_deploy.engines.graph import Graph, read_graph
from sigmahat_deploy.engines.layers import check_layers
from sigmahat_kernels.members import MEMBER_FILES

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13, for Linux on x86-64")

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")


def member(k: int, precision: str = "int8") -> Path:
    return REPOSITORY / f"member_{k}" / "1" / MEMBER_FILES[precision]


def compile_for(graph: Graph, capability: str) -> tuple[bytes, dict[str, Any]]:
    """The plan, and the report of its layers in the form of TensorRT's inspector, which needs a GPU, from the log."""

    def target(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)

    plan = serialized_plan(trt, graph, Profile(), target)
    return plan, {"Layers": list(filter(None, map(layer_of, logger(trt).lines)))}


def layer_of(line: str) -> dict[str, Any] | None:
    match = re.match(
        r"Name: (.*?), LayerType: (\w+), Inputs: \[(.*?)\], (?:Constants|Outputs): .*Metadata: ?(.*)$", line
    )
    if match is None:
        return None
    name, kind, _, metadata = match.groups()
    inputs = line.partition(", Constants: [")[0]
    types = re.findall(r"Datatype: (\w+)", inputs)
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Datatype": datatype} for datatype in types],
        "Metadata": metadata,
    }


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_member_compiles_with_int8_where_the_graph_says_so(k: int, capability: str) -> None:
    graph = read_graph(member(k))
    plan, report = compile_for(graph, capability)
    assert len(plan) > 100_000
    in_int8 = check_layers(graph, report)
    assert set(in_int8) == set(graph.int8_products)
    # In float stay both products of attention, the regime embedding, and the last layer of each head.
    products = [node for node in onnx.load(graph.path).graph.node if node.op_type in ("Gemm", "MatMul")]
    weights = {node.name: node.input[1] for node in products}
    kept = [weights[name] for name in graph.float_products]
    named = {name for name in kept if "." in name}
    assert named == {"attention.regime.weight", "attention.regime_embedding"} | {
        name for name in named if re.fullmatch(r"heads\.\w+\.output\.weight", name)
    }
    assert len(kept) - len(named) == 2


@pytest.mark.parametrize("precision", ["fp16", "int8-fp16"])
def test_other_precisions_compile(precision: str) -> None:
    graph = read_graph(member(1, precision))
    _, report = compile_for(graph, "SM89")
    assert set(check_layers(graph, report)) == set(graph.int8_products)
    products = [layer for layer in report["Layers"] if layer["LayerType"] in ("gemm", "runtime_fusion")]
    types = {tensor["Datatype"] for layer in products for tensor in layer["Inputs"]}
    assert types == ({"Half"} if precision == "fp16" else {"Int8", "Half"})


def test_fused_members_compile(tmp_path: Path) -> None:
    onnx.save(fuse([onnx.load(member(k)) for k in (1, 2, 3)]), tmp_path / "fused.onnx")
    graph = read_graph(tmp_path / "fused.onnx")
    _, report = compile_for(graph, "SM89")
    assert set(check_layers(graph, report)) == set(graph.int8_products)


# ------------------------------------------------------------------------------------------------ graphs it refuses


def with_quantised_bias(model: onnx.ModelProto) -> None:
    """What ONNX Runtime's quantiser does unless told otherwise: int32, scale of the input times that of the weight."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    width = len(constant(model, gemm.input[2]))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros(width, np.int32), "bias_int32"),
            numpy_helper.from_array(np.full(width, 1e-4, np.float32), "bias_scale"),
        ]
    )
    node = helper.make_node("DequantizeLinear", ["bias_int32", "bias_scale"], ["bias_float"], name="bias", axis=0)
    gemm.input[2] = "bias_float"
    insert_before(model, gemm, node)


def with_asymmetric_activations(model: onnx.ModelProto) -> None:
    quantise = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] == quantise.input[1]:
            node.input[2] = "zero_of_three"
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int8), "zero_of_three"))


def with_integer_operators(model: onnx.ModelProto) -> None:
    """QOperator form: one node multiplies int8 and answers int8."""
    producers = {name: node for node in model.graph.node for name in node.output}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    activation, weight = producers[gemm.input[0]], producers[gemm.input[1]]
    columns = constant(model, weight.input[0]).T.copy()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(columns, "columns"),
            numpy_helper.from_array(np.array(0.05, np.float32), "answer_scale"),
        ]
    )
    product = [*activation.input[:3], "columns", *weight.input[1:3], "answer_scale", activation.input[2]]
    nodes = [
        helper.make_node("QLinearMatMul", product, ["product"], name="integer_product"),
        helper.make_node("DequantizeLinear", ["product", "answer_scale", activation.input[2]], list(gemm.output)),
    ]
    for node in nodes:
        insert_before(model, gemm, node)
    model.graph.node.remove(gemm)


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def insert_before(model: onnx.ModelProto, successor: onnx.NodeProto, node: onnx.NodeProto) -> None:
    model.graph.node.insert(list(model.graph.node).index(successor), node)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_quantised_bias, "has type Int32 but must have type"),
        (with_asymmetric_activations, "Non-zero zero point is not supported"),
        (with_integer_operators, "QLinearMatMul|Plugin not found"),
    ],
)
def test_known_mistakes_are_refused(tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = onnx.load(member(1))
    spoil(model)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "spoilt.onnx")
    with pytest.raises(EngineError, match=message):
        compile_for(read_graph(tmp_path / "spoilt.onnx"), "SM89")


def test_product_that_lost_its_quantisation_is_noticed(tmp_path: Path) -> None:
    """The graph still compiles, so that only the layers tell."""
    wanted = read_graph(member(1))
    model = onnx.load(member(1))
    producers = {name: node for node in model.graph.node for name in node.output}
    gemm = next(node for node in model.graph.node if node.name == wanted.int8_products[1])
    gemm.input[0] = producers[producers[gemm.input[0]].input[0]].input[0]
    onnx.save(model, tmp_path / "partly.onnx")
    _, report = compile_for(read_graph(tmp_path / "partly.onnx"), "SM89")
    with pytest.raises(EngineError, match=f"1 of {len(wanted.int8_products)} products .*: {gemm.name}$"):
        check_layers(wanted, report)
    assert TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
