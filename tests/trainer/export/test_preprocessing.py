# SPDX-License-Identifier: Apache-2.0
"""Preprocessing in the exported files: they answer as the network does, int8 and float16 leave it alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from trainer.model.test_preprocessing import EVERYTHING, N_FEATURES, published

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.config import PreprocessingConfig
from sigmahat_trainer.export.gate import check_int8_difference, clipped_share, in_units, int8_difference
from sigmahat_trainer.export.onnx import export_onnx
from sigmahat_trainer.export.quantize import quantised_layers, quantize
from sigmahat_trainer.model.network import CLIP, MemberNetwork

SWITCHES = {
    "ranks": PreprocessingConfig(rank_transform="all"),
    "selection": PreprocessingConfig(selected_features=40),
    "everything": EVERYTHING,
}


@pytest.fixture(scope="module")
def networks():
    """By switch, networks that have seen their features and answer differently from row to row."""

    def network_of(config):
        torch.manual_seed(0)
        network = MemberNetwork(N_FEATURES, preprocessing=config)
        network.fit_inputs(published(1000), np.random.default_rng(1).standard_normal(N_FEATURES))
        for layer in network.output_layers().values():
            torch.nn.init.normal_(layer.weight, std=1.0)
        with torch.no_grad():
            for seed in range(3):
                network.train()(torch.from_numpy(published(500, seed)))
        return network.eval()

    return {name: network_of(config) for name, config in SWITCHES.items()}


def answers(network, features):
    with torch.no_grad():
        return network(torch.from_numpy(features)).numpy()


def from_file(path, features):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["PARAMETERS"], {"FEATURES": features})[0]


def test_the_file_answers_as_the_network(networks, tmp_path):
    network, served = networks["everything"], published(64, seed=9)
    served[:2] = [[-1e6] * N_FEATURES, [1e6] * N_FEATURES]
    export_onnx(network, tmp_path / "model.onnx", {})
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    expected = in_units(answers(network, served))
    for rows in (served, served[5:6]):
        got = in_units(from_file(tmp_path / "model.onnx", rows))
        for name, values in got.items():
            reference = expected[name] if len(rows) > 1 else expected[name][5:6]
            np.testing.assert_allclose(values, reference, rtol=2e-4, atol=2e-5, err_msg=name)
    assert np.std(expected["target_intensity"], axis=0).min() > 5e-3


def test_int8_and_float16_leave_preprocessing_in_float(networks, tmp_path):
    network, served = networks["everything"], published(500, seed=9)
    quantised = quantize(network, torch.from_numpy(published(1000)))
    assert len(quantised_layers(quantised)) == len(quantised_layers(quantize(MemberNetwork(5), torch.zeros(2, 5))))
    for before, after in zip(network.preprocessing.buffers(), quantised.preprocessing.buffers(), strict=True):
        assert torch.equal(before, after)
    export_onnx(quantised, tmp_path / "model.onnx", {}, half=True)
    difference = int8_difference(quantised, tmp_path / "model.onnx", served)
    check_int8_difference(difference)
    graph = onnx.load(tmp_path / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert "QuantizeLinear" not in kinds[: kinds.index("BatchNormalization")]
    halved = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    assert halved
    assert not [name for name in halved if name.startswith("preprocessing")]


def test_share_of_clipped_inputs_is_that_of_what_stands_before_the_clip(networks):
    served = published(500, seed=9) * 3
    for switch, names in (
        ("ranks", FEATURE_NAMES),
        ("selection", networks["selection"].preprocessing.names(FEATURE_NAMES)),
        ("everything", tuple(f"component_{k}" for k in range(1, 21))),
    ):
        network = networks[switch]
        share = clipped_share(network, served, FEATURE_NAMES)
        assert tuple(share) == names
        with torch.no_grad():
            inputs = network.preprocessing(torch.from_numpy(served)).double().numpy()
        norm = {name: tensor.double().numpy() for name, tensor in network.input_norm.state_dict().items()}
        scaled = (inputs - network.median.numpy()) * network.scale.numpy()
        z = (scaled - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5) * norm["weight"] + norm["bias"]
        np.testing.assert_allclose(list(share.values()), (np.abs(z) > CLIP).mean(axis=0), atol=1 / 500)
    assert max(clipped_share(networks["selection"], served, FEATURE_NAMES).values()) > 0.01
