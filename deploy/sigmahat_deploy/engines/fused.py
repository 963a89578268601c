# SPDX-License-Identifier: Apache-2.0
"""All members and their weighting in one graph: one engine, one step of the ensemble instead of one a member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sigmahat_kernels.parameters import HEADS, N_PARAMETERS

FUSED = "fused"
WEIGHTED = "WEIGHTED"

_COLUMN = dict(zip(HEADS, np.cumsum([0, *HEADS.values()])[:-1].tolist(), strict=True))


def fuse(members: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph from FEATURES (n, n_features) to WEIGHTED (n, N_PARAMETERS + 1), as `combine.weigh` computes it.

    The members keep their nodes, types and names behind a prefix; the weighting is float32. Softmax over the members of
    -log_variance gives their precisions' shares.
    """
    source = members[0].graph.input[0]
    prefixed = [
        onnx.compose.add_prefix_graph(member.graph, f"member_{k}/", rename_inputs=False)
        for k, member in enumerate(members, start=1)
    ]
    nodes = [node for graph in prefixed for node in graph.node]
    weighting, constants = _weighting([graph.output[0].name for graph in prefixed])
    batch = source.type.tensor_type.shape.dim[0].dim_param
    graph = helper.make_graph(
        [*nodes, *weighting],
        FUSED,
        [source],
        [helper.make_tensor_value_info(WEIGHTED, TensorProto.FLOAT, [batch, N_PARAMETERS + 1])],
        [*(tensor for graph in prefixed for tensor in graph.initializer), *constants],
    )
    model = helper.make_model(graph, opset_imports=members[0].opset_import, ir_version=members[0].ir_version)
    model.metadata_props.extend(members[0].metadata_props)
    onnx.checker.check_model(model, full_check=True)
    return model


def _weighting(answers: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """With members stacked along axis 1: w = softmax(-v), mean = sum w P, variance = sum w exp(v), between."""
    log_variance, error = _COLUMN["log_variance"], _COLUMN["expected_error"]
    constants = {
        "stack_axis": np.array([1], np.int64),
        "log_variance_column": np.array([log_variance], np.int64),
        "error_column": np.array([error], np.int64),
        "before_log_variance": np.arange(log_variance, dtype=np.int64),
        "after_log_variance": np.arange(log_variance + 1, N_PARAMETERS, dtype=np.int64),
    }
    nodes = []

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [output], name=f"weighting/{output}", **attributes))
        return output

    rows = [node("Unsqueeze", [name, "stack_axis"], f"row_{k}") for k, name in enumerate(answers)]
    stack = node("Concat", rows, "stack", axis=1)  # (n, members, parameters)
    claimed = node("Gather", [stack, "log_variance_column"], "claimed", axis=2)
    weights = node("Softmax", [node("Neg", [claimed], "minus_claimed")], "weights", axis=1)

    def average(values: str, output: str) -> str:
        return node("ReduceSum", [node("Mul", [weights, values], f"{output}_terms"), "stack_axis"], output, keepdims=0)

    mean = average(stack, "mean")
    variance = average(node("Exp", [claimed], "variances"), "variance")
    centre = node("Unsqueeze", [node("Gather", [mean, "error_column"], "mean_error", axis=1), "stack_axis"], "centre")
    gap = node("Sub", [node("Gather", [stack, "error_column"], "errors", axis=2), centre], "gap")
    between = average(node("Mul", [gap, gap], "squared_gap"), "between")
    parts = [
        node("Gather", [mean, "before_log_variance"], "before", axis=1),
        node("Log", [variance], "mixed_log_variance"),
        node("Gather", [mean, "after_log_variance"], "after", axis=1),
        between,
    ]
    node("Concat", parts, WEIGHTED, axis=1)
    return nodes, [numpy_helper.from_array(values, name) for name, values in constants.items()]
