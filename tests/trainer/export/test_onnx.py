# SPDX-License-Identifier: Apache-2.0
"""The ONNX file, node by node and number by number, and the gate on int8."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from sigmahat_kernels.members import session_on_cpu
from sigmahat_kernels.parameters import N_PARAMETERS, TARGETS
from sigmahat_trainer.export.gate import QuantisationError, check_int8_difference, in_units, int8_difference
from sigmahat_trainer.export.onnx import export_onnx
from sigmahat_trainer.export.quantize import quantize
from sigmahat_trainer.model.network import MemberNetwork, activate

N_FEATURES = 60
NAMES = [f"feature_{k}" for k in range(N_FEATURES)]
METADATA = {"feature_names": json.dumps(NAMES), "sigmahat_version": "0.1.0"}
HEADS = [*TARGETS, "selection", "memory", "tilt", "level", "auxiliary", "uncertainty"]


def _features(n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(4, size=(n, N_FEATURES)) * 3 + 1).float()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = MemberNetwork(N_FEATURES)
    network.set_scaling(np.ones(N_FEATURES), np.full(N_FEATURES, 4.0))
    for layer in network.output_layers().values():
        torch.nn.init.normal_(layer.weight, std=0.5)  # answers that differ from row to row
    for seed in range(3):
        network.train()(_features(512, seed))
    return network.eval()


@pytest.fixture(scope="module")
def quantised(network):
    return quantize(network, _features(4096))


@pytest.fixture(scope="module")
def onnx_path(quantised, tmp_path_factory):
    path = tmp_path_factory.mktemp("member") / "model.onnx"
    with _no_chatter():
        export_onnx(quantised, path, METADATA)
    return path


@contextmanager
def _no_chatter():
    """The exporter has more to say the first time in a process than later."""
    said = []
    handler: Any = logging.Handler()
    handler.emit = said.append
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not [record.getMessage() for record in said]
    assert logger.level == level


@pytest.fixture(scope="module")
def model(onnx_path):
    model = onnx.load(onnx_path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    return model


def _run(path, features):
    return session_on_cpu(path).run(["PARAMETERS"], {"FEATURES": features.numpy()})[0]


def test_every_product_is_int8_but_attention_and_the_last_layers(model):
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    int8, in_float = 0, []
    for node in model.graph.node:
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        sources = [producers.get(name) for name in node.input[:2]]
        if not all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
            assert all(source is None or source.op_type != "DequantizeLinear" for source in sources)
            in_float.append(node.input[1])
            continue
        int8 += 1
        activation, weight = sources
        assert producers[activation.input[0]].op_type == "QuantizeLinear"
        assert constants[activation.input[1]].dims == []  # one scale a tensor
        assert constants[weight.input[0]].data_type == TensorProto.INT8
        assert list(constants[weight.input[1]].dims) == constants[weight.input[0]].dims[:1]  # one a channel
        assert [attribute.i for attribute in weight.attribute if attribute.name == "axis"] == [0]
        assert [attribute.i for attribute in node.attribute if attribute.name == "transB"] == [1]
        assert all(constants[name].data_type == TensorProto.FLOAT for name in node.input[2:])  # bias
    assert int8 == 2 + 5 + 4 + 2 * len(HEADS)
    weights = {f"heads.{name}.output.weight" for name in HEADS}
    weights |= {"attention.regime.weight", "attention.regime_embedding"}
    assert {name for name in in_float if name in constants} == weights
    assert len(in_float) == len(weights) + 2  # attention's two products of activations


def test_zero_points_are_zero_and_scales_positive(model):
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) > 50
    for node in nodes:
        assert (constants[node.input[1]] > 0).all()
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()


def test_raw_features_are_scaled_normalised_and_clipped_in_float(model):
    assert [node.op_type for node in model.graph.node[:5]] == [
        "Sub",
        "Mul",
        "BatchNormalization",
        "Clip",
        "QuantizeLinear",
    ]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    clip = model.graph.node[3]
    assert [constants[name].item() for name in clip.input[1:]] == [-6.0, 6.0]
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 1


def test_names_types_and_free_batch(model):
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    for values, name, columns in (
        (model.graph.input, "FEATURES", N_FEATURES),
        (model.graph.output, "PARAMETERS", N_PARAMETERS),
    ):
        (value,) = values
        assert value.name == name
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        batch, width = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert width.dim_value == columns


def test_one_small_file_that_says_nothing_about_this_machine(model, onnx_path):
    assert [path.name for path in onnx_path.parent.iterdir()] == ["model.onnx"]
    assert onnx_path.stat().st_size < 160_000
    assert onnx_path.stat().st_mode & 0o777 == 0o644
    assert not any(tensor.HasField("data_location") and tensor.data_location for tensor in model.graph.initializer)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    content = onnx_path.read_bytes()
    for trace in (b"network.py", b"sigmahat_trainer", b"stack_trace"):
        assert trace not in content


@pytest.mark.parametrize("n", [1, 7, 333])
def test_file_answers_like_the_quantised_network(quantised, onnx_path, n):
    features = _features(n, seed=9)
    answers = _run(onnx_path, features)
    assert answers.shape == (n, N_PARAMETERS)
    with torch.no_grad():
        difference = np.abs(answers - quantised(features).numpy())
    assert difference.mean() < 1e-6  # on every processor, so by no int8 kernel: those saturate, or round otherwise
    assert difference.max() < 0.03  # a single value can round to the other side


def test_exporting_again_gives_the_same_bytes_without_a_word(quantised, onnx_path, tmp_path, capfd):
    export_onnx(quantised, tmp_path / "again.onnx", METADATA)
    assert (tmp_path / "again.onnx").read_bytes() == onnx_path.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_a_float_network_becomes_a_float_file(network, tmp_path):
    path = tmp_path / "float.onnx"
    export_onnx(network, path, {})
    assert not any("Quantize" in node.op_type for node in onnx.load(path).graph.node)
    features = _features(50, seed=9)
    with torch.no_grad():
        np.testing.assert_allclose(_run(path, features), network(features).numpy(), rtol=1e-4, atol=1e-5)
    assert max(values["p99"] for values in int8_difference(network, path, features).values()) < 1e-5


@pytest.mark.parametrize("int8", [False, True])
def test_a_halved_file_is_float16_between_the_clip_and_the_activations(network, quantised, tmp_path, int8):
    path = tmp_path / "half.onnx"
    export_onnx(quantised if int8 else network, path, METADATA, half=True)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert types == {"FEATURES": TensorProto.FLOAT, "PARAMETERS": TensorProto.FLOAT}
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    weights = {name: constants[name] for node in products for name in node.input if name in constants}
    assert set(weights.values()) == {TensorProto.FLOAT16}  # of int8 products only the bias, the rest stands behind DQ
    assert len(weights) > 20
    int8_weights = sum(kind == TensorProto.INT8 and name.endswith("int8_weight") for name, kind in constants.items())
    assert int8_weights == (len(products) - len(HEADS) - 4 if int8 else 0)
    operators = [node.op_type for node in model.graph.node]
    assert operators[:5] == ["Sub", "Mul", "BatchNormalization", "Clip", "Cast"]
    assert operators.count("BatchNormalization") == 1
    assert operators.index("Softplus") > len(operators) - operators[::-1].index("Cast") - 1  # after the last Cast
    difference = int8_difference(network, path, _features(2000, seed=9))
    assert max(values["p99"] for values in difference.values()) < (0.03 if int8 else 0.001)
    assert not any(
        layer.weight.dtype == torch.float16 for layer in network.output_layers().values()
    )  # a copy was halved


def test_metadata_must_be_words(network, tmp_path):
    with pytest.raises(TypeError, match=r"metadata must map words to words, got \{'version': 3\}"):
        export_onnx(network, tmp_path / "model.onnx", {"version": 3})


def test_difference_is_measured_on_each_probability(network, onnx_path):
    features = _features(2000, seed=9)
    network.train()  # the comparison is with what the network answers when served
    difference = int8_difference(network, onnx_path, features.numpy())
    assert network.training
    network.eval()
    with torch.no_grad():
        gap = np.abs(_run(onnx_path, features) - network(features).numpy())
    columns = {
        "target_intensity": slice(0, 3),
        "target_weights": slice(3, 6),
        "target_confidence": slice(6, 9),
        "memory": slice(9, 10),
        "factor_memory": slice(10, 11),
        "volatility_blend": slice(11, 14),
        "volatility_pull": slice(14, 15),
        "intensity_tilt": slice(15, 27),
        "volatility_tilt": slice(27, 39),
        "log_volatility_level": slice(39, 40),
        "common_variance": slice(40, 41),
        "log_variance": slice(43, 44),
        "regime": slice(44, 48),
    }
    widths = {"intensity_tilt": 4.0, "volatility_tilt": 0.6, "log_volatility_level": 2.0, "log_variance": 16.0}
    assert difference.keys() == columns.keys()
    for name, where in columns.items():
        assert difference[name]["mean"] == pytest.approx(gap[:, where].mean() / widths.get(name, 1.0), rel=1e-3)
        assert difference[name]["p99"] == pytest.approx(
            np.quantile(gap[:, where], 0.99) / widths.get(name, 1.0), rel=1e-3
        )
        assert difference[name]["mean"] > 1e-5
    check_int8_difference(difference)


def test_what_is_judged_spans_one_unit_at_most_unless_it_has_no_bounds():
    logits = torch.randn(2000, N_PARAMETERS, generator=torch.Generator().manual_seed(0)) * 30
    judged = in_units(activate(logits).double().numpy())
    unbounded = judged.pop("common_variance")
    assert unbounded.max() > 50
    for name, values in judged.items():
        assert 0.9 < values.max() - values.min() <= 1 + 1e-6, name
    assert not judged.keys() & {"condition", "expected_error"}


def test_gate_names_what_is_too_different(network, onnx_path):
    good = {"mean": 0.01, "p99": 0.03}
    check_int8_difference({"memory": good})
    with pytest.raises(
        QuantisationError, match=r"too much; regime: mean 0\.0101 above 0\.01; regime: p99 0\.0400 above 0\.03$"
    ):
        check_int8_difference({"memory": good, "regime": {"mean": 0.0101, "p99": 0.04}})
    with pytest.raises(QuantisationError, match="memory: p99 nan"):
        check_int8_difference({"memory": {"mean": 0.0, "p99": float("nan")}})
    torch.manual_seed(1)
    stranger = MemberNetwork(N_FEATURES)
    for layer in stranger.output_layers().values():
        torch.nn.init.normal_(layer.weight, std=0.5)
    with pytest.raises(QuantisationError, match="target_intensity: mean"):
        check_int8_difference(int8_difference(stranger, onnx_path, _features(500)))
