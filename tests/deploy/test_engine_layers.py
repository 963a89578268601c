# SPDX-License-Identifier: Apache-2.0
"""TensorRT's layer reports, in the words of 10 and of 11; the golden batch; the fused graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sigmahat_deploy.engines.accuracy import reference
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.fused import fuse
from sigmahat_deploy.engines.graph import Graph, golden_batch, read_graph
from sigmahat_deploy.engines.layers import check_layers, int8_products
from sigmahat_kernels.combine import weigh
from sigmahat_kernels.members import MEMBER_FILES

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MEMBER = REPOSITORY / "member_1" / "1" / "model.onnx"
GRAPH = Graph(Path("member.onnx"), "", "x", 3, ("q", "k", "head"), ("attention",))


def layer(kind: str, nodes: str, *, type_field: str = "Datatype", **fields: Any) -> dict[str, Any]:
    metadata = "\u001f".join(f"[ONNX Layer: {node}]" for node in nodes.split())
    return {"LayerType": "gemm", "Inputs": [{type_field: kind}], "Metadata": metadata, **fields}


def test_merged_products_count_for_each_node() -> None:
    report = {"Layers": [layer("Int8", "q k q_scale"), layer("Int8", "head"), layer("Half", "attention")]}
    assert check_layers(GRAPH, report) == ["q", "k", "head"]


@pytest.mark.parametrize(
    "head",
    [
        layer("Int8", "head", type_field="Format/Datatype"),  # TensorRT 10
        layer("Row major Int8 format", "head", type_field="Format/Datatype"),
        layer("Int8", "head", LayerType="fusion", TacticName="sm80_xmma_gemm_i8i8_i8i32_f32_tn"),
        layer("Int8", "head", LayerType="runtime_fusion", Name="__myl_FcAdd_myl0_24"),
        layer("Int8", "head", LayerType="unheard of"),
        layer("Int8", "head", LayerType="CaskGemmMatrixMultiply"),
    ],
)
def test_words_of_several_versions(head: dict[str, Any]) -> None:
    assert check_layers(GRAPH, {"Layers": [layer("Int8", "q k"), layer("Float", "attention"), head]})[-1] == "head"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([layer("Int8", "q k"), layer("Half", "head"), layer("Half", "attention")], "1 of 3 products .*: head"),
        ([layer("Int8", "q k"), layer("UInt8", "head"), layer("Half", "attention")], "1 of 3 products .*: head"),
        ([layer("Int8", "q k"), layer("Half", "attention")], r"does not say how \['head'\]"),
        # A pointwise layer that reads int8 and carries the node's name multiplies nothing.
        (
            [
                layer("Int8", "q k"),
                layer("Half", "attention"),
                layer("Half", "head"),
                layer("Int8", "head", LayerType="kgen", Name="__myl_CastMulAdd"),
            ],
            "1 of 3 products .*: head",
        ),
        (["q", "k"], "has no details"),
        ([], "has no details"),
    ],
)
def test_float_or_unknown_products_are_refused(layers: list[Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_layers(GRAPH, {"Layers": layers})


def test_node_is_int8_if_any_of_its_products_is() -> None:
    assert int8_products([layer("Half", "q"), layer("Int8", "q"), layer("Half", "attention")]) == {
        "q": True,
        "attention": False,
    }


def test_committed_members_quantise_all_but_attention_and_the_heads_last_layers() -> None:
    int8, half = read_graph(MEMBER), read_graph(MEMBER.with_name(MEMBER_FILES["fp16"]))
    assert len(int8.int8_products) == 29
    assert len(int8.float_products) == 13
    assert not half.int8_products
    assert len(half.float_products) == 42
    assert read_graph(MEMBER.with_name(MEMBER_FILES["int8-fp16"])).int8_products == int8.int8_products


def test_golden_batch_follows_the_statistics_of_the_file() -> None:
    batch = golden_batch(MEMBER, 4096)
    np.testing.assert_array_equal(batch, golden_batch(MEMBER, 4096))
    np.testing.assert_array_equal(batch[:100], golden_batch(MEMBER, 4096)[:100])
    model = onnx.load(MEMBER)
    assert batch.shape == (4096, read_graph(MEMBER).n_features)
    assert batch.dtype == np.float32
    # What the member's own opening nodes make of it, up to the Clip.
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    weight, bias = (constants[name] for name in norm.input[1:3])
    opening = onnx.utils.Extractor(model).extract_model(["FEATURES"], [clip.input[0]])
    session = onnxruntime.InferenceSession(opening.SerializeToString(), providers=["CPUExecutionProvider"])
    normalised = (session.run(None, {"FEATURES": batch})[0] - bias) / weight
    variance = constants[norm.input[4]]
    alive = variance > 1e-3  # below that the BatchNormalization's own epsilon shrinks it
    assert alive.sum() > 0.8 * len(alive)
    np.testing.assert_allclose(np.median(normalised[:, alive], axis=0), 0, atol=0.06)
    spread = normalised[:, alive].std(axis=0)
    assert ((spread > 0.5) & (spread < 2.0)).all()  # a feature whose mean is far from its median is drawn too wide
    beyond = np.abs(normalised[:, alive] * weight[alive] + bias[alive]) > 6
    assert 0 < beyond.mean() < 0.02
    answers = reference(read_graph(MEMBER), batch)["PARAMETERS"]
    assert answers[:, 0].std() > 0.05  # it stirs the outputs, so that a wrong engine shows


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no ONNX file at .*missing\.onnx"):
        read_graph(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(EngineError, match=r"text\.onnx is not an ONNX file"):
        read_graph(tmp_path / "text.onnx")
    plain = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> plain (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }'
    )
    onnx.save(plain, tmp_path / "plain.onnx")
    with pytest.raises(EngineError, match="does not open with scaling and BatchNormalization"):
        golden_batch(tmp_path / "plain.onnx", 3)
    two = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> two (float[n] x, float[n] z) => (float[n] y) { y = Add(x, z) }'
    )
    onnx.save(two, tmp_path / "two.onnx")
    with pytest.raises(EngineError, match="has 2 inputs, 1 wanted"):
        read_graph(tmp_path / "two.onnx")


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_fused_graph_answers_as_the_members_and_their_weighting(tmp_path: Path, precision: str) -> None:
    files = [REPOSITORY / f"member_{k}" / "1" / MEMBER_FILES[precision] for k in (1, 2, 3)]
    path = tmp_path / "fused.onnx"
    onnx.save(fuse([onnx.load(file) for file in files]), path)
    graph, parts = read_graph(path), [read_graph(file) for file in files]
    assert len(graph.int8_products) == sum(len(part.int8_products) for part in parts)
    assert len(graph.float_products) == sum(len(part.float_products) for part in parts)
    for n in (1, 700):
        features = golden_batch(path, n)
        expected = weigh([reference(part, features)["PARAMETERS"] for part in parts])
        (answer,) = reference(graph, features).values()
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, rtol=0, atol=3e-6)
    assert expected[:, -1].max() > 1e-3  # the members disagree somewhere
