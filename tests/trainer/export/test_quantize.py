# SPDX-License-Identifier: Apache-2.0
"""Int8 layers against NumPy, the choice of layers, and the price of rounding on a trained network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sigmahat_kernels.parameters import TARGETS
from sigmahat_trainer.export.quantize import QLinear, freeze, quantised_layers, quantize
from sigmahat_trainer.model.network import MemberNetwork

N_FEATURES = 12
HEADS = [*TARGETS, "selection", "memory", "tilt", "level", "auxiliary", "uncertainty"]


def _heavy_tailed(n, seed):
    """Columns with scales from 0.01 to 100, offsets, and Student's t with 4 degrees of freedom."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(-2, 2, N_FEATURES)
    return torch.from_numpy(rng.standard_t(4, size=(n, N_FEATURES)) * scales + 3 * scales).float()


def _labels(features):
    scales = torch.logspace(-2, 2, N_FEATURES)
    x = (features / scales - 3).tanh()
    return torch.sigmoid(torch.stack([x[:, 0] + x[:, 5] * x[:, 7], x[:, 1] - x[:, 11], 2 * x[:, 2] * x[:, 3]], dim=1))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Steps this small are ten times slower on a machine whose cores are shared, when each waits for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    features = _heavy_tailed(4096, seed=0)
    labels = _labels(features)
    network = MemberNetwork(N_FEATURES)
    q1, median, q3 = np.percentile(features.numpy(), [25, 50, 75], axis=0)
    network.set_scaling(median, q3 - q1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(300):
        rows = torch.randint(len(features), (128,))
        optimiser.zero_grad()
        nn.functional.mse_loss(network.train()(features[rows])[:, :3], labels[rows]).backward()
        optimiser.step()
    return network


@pytest.fixture(scope="module")
def quantised(trained):
    return quantize(trained, _heavy_tailed(4096, seed=0))


def test_rounding_costs_little_on_a_trained_network(trained, quantised):
    features = _heavy_tailed(8192, seed=1)
    labels = _labels(features)
    with torch.no_grad():
        expected = copy.deepcopy(trained).eval()(features)[:, :3]
        rounded = quantised(features)[:, :3]
    error = (expected - labels).square().mean().sqrt().item()
    assert error < 0.5 * labels.std(dim=0).mean().item()  # it has learned something that rounding could destroy
    difference = (rounded - expected).abs().numpy()
    assert 1e-5 < difference.mean() < 0.01
    assert np.quantile(difference, 0.99) < 0.03
    assert (rounded - labels).square().mean().sqrt().item() < 1.01 * error


def test_all_layers_but_the_last_of_each_head_are_int8(quantised):
    linears = {name: module for name, module in quantised.named_modules() if isinstance(module, nn.Linear)}
    in_float = {name for name, module in linears.items() if not isinstance(module, QLinear)}
    assert in_float == {"attention.regime", *(f"heads.{name}.output" for name in HEADS)}
    assert len(quantised_layers(quantised)) == 2 + 5 + 4 + 2 * len(HEADS)
    assert all(layer.mode == "quant" and not layer.seen for layer in quantised_layers(quantised))


def test_only_the_input_keeps_its_batch_norm_and_the_fold_changes_nothing(trained, quantised):
    norms = [name for name, module in quantised.named_modules() if isinstance(module, nn.BatchNorm1d)]
    assert norms == ["input_norm"]
    unrounded = copy.deepcopy(quantised)
    for layer in quantised_layers(unrounded):
        layer.mode = "off"
    features = _heavy_tailed(256, seed=2)
    expected = copy.deepcopy(trained).eval()(features)
    torch.testing.assert_close(unrounded(features), expected, rtol=1e-4, atol=1e-5)


def test_quantising_and_freezing_leave_the_original_alone(trained):
    network = copy.deepcopy(trained).train()
    quantised = quantize(network, _heavy_tailed(512, seed=3))
    assert network.training
    assert not quantised_layers(network)
    for (name, before), after in zip(trained.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(before, after), name
    frozen = freeze(quantised)
    assert {layer.mode for layer in quantised_layers(quantised)} == {"quant"}
    assert {layer.mode for layer in quantised_layers(frozen)} == {"export"}
    assert not any("int8" in name for name in quantised.state_dict())


def _layer(bias=True):
    torch.manual_seed(1)
    linear = nn.Linear(7, 5, bias=bias)
    with torch.no_grad():
        linear.weight *= torch.tensor([1e-3, 0.1, 1.0, 10.0, 0.0])[:, None]  # one scale for all would lose the first
    return QLinear(linear)


def _to_int8_and_back(values, scale, lowest):
    return np.clip(np.rint(values / scale), lowest, 127) * scale


@pytest.mark.parametrize("bias", [True, False])
def test_layer_equals_numpy_quantise_and_dequantise(bias):
    layer = _layer(bias)
    layer.scale.fill_(0.02)
    layer.mode = "quant"
    x = torch.randn(50, 7)
    x[0], x[1] = 5.0, -5.0  # beyond ±127 and -128 steps of 0.02
    weight = layer.weight.detach().numpy()
    weight_scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.float32(1e-8)) / np.float32(127)
    rounded = _to_int8_and_back(x.numpy(), np.float32(0.02), -128)
    assert rounded.min() == np.float32(-128) * np.float32(0.02)
    assert rounded.max() == np.float32(127) * np.float32(0.02)
    expected = rounded.astype(np.float64) @ _to_int8_and_back(weight, weight_scale, -127).T
    if bias:
        expected += layer.bias.detach().numpy()
    actual = layer(x).detach().numpy()
    scale = np.maximum(np.abs(expected).max(axis=0), 1e-12)  # the channels differ by 10,000 times
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-5)


def test_scale_is_the_9999th_of_10000_absolute_inputs():
    layer = _layer()
    x = torch.randn(2857, 7, generator=torch.Generator().manual_seed(4))  # 19,999 numbers
    x[0, 0] = -1e4
    layer.mode = "calib"
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    for rows in x.split(1000):
        layer(rows)
    torch.testing.assert_close(layer(x[:1]), plain[:1])
    layer.seen.pop()
    layer.finish_calibration()
    expected = np.sort(np.abs(x.numpy().ravel()))[round(0.9999 * 19_999) - 1] / 127
    assert layer.scale.item() == pytest.approx(expected, rel=1e-6)
    assert layer.mode == "quant"
    assert layer.seen == []


def test_a_layer_whose_inputs_are_all_zero_stays_finite():
    layer = _layer()
    layer.mode = "calib"
    layer(torch.zeros(4, 7))
    layer.finish_calibration()
    assert layer.scale > 0
    torch.testing.assert_close(layer(torch.zeros(1, 7))[0], layer.bias)


def test_gradient_passes_through_the_rounding():
    layer = _layer()
    layer.scale.fill_(0.02)
    layer.mode = "quant"
    x = torch.full((1, 7), 0.5, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], layer._round_weight().sum(dim=0))
    torch.testing.assert_close(layer.weight.grad, torch.full_like(layer.weight, 0.5))


def test_frozen_weights_are_the_rounded_ones(quantised):
    for before, after in zip(quantised_layers(quantised), quantised_layers(freeze(quantised)), strict=True):
        assert after.int8_weight.dtype == torch.int8
        assert after.int8_weight.abs().amax(dim=1).min() == 127
        assert not after.int8_weight_zero.any()
        restored = after.int8_weight.float() * after.int8_weight_scale[:, None]
        torch.testing.assert_close(restored, before._round_weight())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(5, 3), r"must have shape \(n, 12\), got \(5, 3\)"),
        (torch.zeros(12), r"must have shape \(n, 12\), got \(12,\)"),
        (torch.zeros(0, 12), "at least one row"),
        (torch.full((5, 12), torch.nan), "finite values only"),
    ],
)
def test_calibration_features_are_checked(features, message):
    with pytest.raises(ValueError, match=message):
        quantize(MemberNetwork(N_FEATURES), features)
