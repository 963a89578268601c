# SPDX-License-Identifier: Apache-2.0
"""The network against its definition in NumPy, its layers against the design, its outputs against their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, TARGETS, split_parameters
from sigmahat_trainer.config import NetworkConfig
from sigmahat_trainer.model.network import FORMS, HEAD_COLUMNS, MemberNetwork, activate, constant_logits

N_FEATURES = 11
LARGE = NetworkConfig(
    extraction_units=(256, 128, 96, 64),
    dropout=0.1,
    tokens=5,
    attention_heads=4,
    attention_dimension=64,
    residual_blocks=3,
    residual_units=128,
    head_units=(64, 32, 16),
)
CONSTANTS = {
    "target_intensity": (0.24, 0.01, 0.31),
    "target_weights": (0.5, 0.1, 0.4),
    "memory": 0.26,
    "factor_memory": 0.15,
    "volatility": (0.23, 0.40, 0.37, 0.1),
}


@pytest.fixture
def network():
    return _network(NetworkConfig())


def _network(config):
    """A network whose buffers and BatchNorms are not at their neutral start."""
    torch.manual_seed(3)
    network = MemberNetwork(N_FEATURES, config)
    rng = np.random.default_rng(3)
    network.set_scaling(rng.normal(size=N_FEATURES), rng.uniform(0.5, 2.0, size=N_FEATURES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def _features(n=40, spread=2.0, seed=5):
    return torch.randn(n, N_FEATURES, generator=torch.Generator().manual_seed(seed)) * spread


@torch.no_grad()
def _answers(network, features):
    return split_parameters(network(features).double().numpy())


# The definition, universe by universe, in float64.


def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def _oracle(network, row):
    weights = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
    config = network.config

    def dense(name, x):
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)

    def batch_norm(name, x):
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return (x - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = batch_norm("input_norm", (row - weights["median"]) * weights["scale"]).clip(-6, 6)
    for k in range(len(config.extraction_units)):
        x = _elu(dense(f"extraction.{3 * k}", x))

    width = config.attention_dimension // config.attention_heads
    tokens = dense("attention.tokens", x).reshape(config.tokens, config.attention_dimension)
    query, key, value = ([dense(f"attention.{part}", t) for t in tokens] for part in ("query", "key", "value"))
    regime = dense("attention.regime", x)
    context = np.zeros((config.tokens, config.attention_dimension))
    for head in range(config.attention_heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(config.tokens):
            scores = np.array([query[t][part] @ key[s][part] for s in range(config.tokens)]) / np.sqrt(width)
            context[t, part] = sum(a * v[part] for a, v in zip(_softmax(scores), value, strict=True))
    context += _softmax(regime) @ weights["attention.regime_embedding"]
    x = dense("attention.projection", context.ravel())

    for k in range(config.residual_blocks):
        block = f"residual_blocks.{k}"
        inner = _elu(batch_norm(f"{block}.norm_1", dense(f"{block}.dense_1", x)))
        x = _elu(x + batch_norm(f"{block}.norm_2", dense(f"{block}.dense_2", inner)))

    logits = {}
    for name in [*TARGETS, "selection", "memory", "tilt", "level", "auxiliary", "uncertainty"]:
        hidden = x
        for k in range(len(config.head_units)):
            hidden = _elu(dense(f"heads.{name}.hidden.{2 * k}", hidden))
        logits[name] = dense(f"heads.{name}.output", hidden)
    condition, expected_error = logits["auxiliary"]
    return {
        "target_intensity": [_sigmoid(logits[target][0]) for target in TARGETS],
        "target_weights": _softmax(logits["selection"]),
        "target_confidence": [_sigmoid(logits[target][1]) for target in TARGETS],
        "memory": _sigmoid(logits["memory"][:1]),
        "factor_memory": _sigmoid(logits["memory"][1:2]),
        "volatility": [*_softmax(logits["memory"][2:5]), _sigmoid(logits["memory"][5])],
        "intensity_tilt": 2 * np.tanh(logits["tilt"][:12] / 2),
        "volatility_tilt": 0.3 * np.tanh(logits["tilt"][12:]),
        "level": [np.tanh(logits["level"][0]), np.log1p(np.exp(logits["level"][1]))],
        "condition": [np.log1p(np.exp(condition))],
        "expected_error": [expected_error],
        "log_variance": 8 * np.tanh(logits["uncertainty"] / 8),
        "regime": _softmax(regime),
    }


@pytest.mark.parametrize("config", [NetworkConfig(), LARGE], ids=["default", "large"])
def test_network_computes_its_definition(config):
    network = _network(config)
    features = _features(4, spread=4.0)  # some beyond the clip
    answers = _answers(network, features)
    for i, row in enumerate(features.double().numpy()):
        for name, expected in _oracle(network, row).items():
            np.testing.assert_allclose(getattr(answers, name)[i], expected, rtol=2e-5, atol=2e-6, err_msg=name)


def _linears(network):
    return {
        name: (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    }


def test_default_layers_are_those_of_the_design(network):
    expected = {
        "extraction.0": (N_FEATURES, 128),
        "extraction.3": (128, 64),
        "attention.tokens": (64, 8 * 32),
        "attention.query": (32, 32),
        "attention.key": (32, 32),
        "attention.value": (32, 32),
        "attention.regime": (64, 4),
        "attention.projection": (8 * 32, 64),
        **{f"residual_blocks.{k}.dense_{i}": (64, 64) for k in range(2) for i in (1, 2)},
    }
    outputs = {**dict.fromkeys(TARGETS, 2), "selection": 3, "memory": 6, "tilt": 24, "level": 2}
    outputs |= {"auxiliary": 2, "uncertainty": 1}
    for name, n_outputs in outputs.items():
        layers = {"hidden.0": (64, 32), "hidden.2": (32, 16), "output": (16, n_outputs)}
        expected |= {f"heads.{name}.{layer}": sizes for layer, sizes in layers.items()}
    assert _linears(network) == expected
    assert [type(layer) for layer in network.extraction] == [nn.Linear, nn.ELU, nn.Dropout, nn.Linear, nn.ELU]
    assert network.extraction[2].p == 0.3
    assert network.attention.n_heads == 2
    assert network.attention.regime_embedding.shape == (4, 32)


def test_layers_follow_the_config():
    network = MemberNetwork(N_FEATURES, LARGE)
    sizes = _linears(network)
    assert [sizes[f"extraction.{3 * k}"][1] for k in range(4)] == [256, 128, 96, 64]
    assert [layer.p for layer in network.extraction if isinstance(layer, nn.Dropout)] == [0.1] * 3
    assert sizes["attention.tokens"] == (64, 5 * 64)
    assert sizes["attention.projection"] == (5 * 64, 128)
    assert network.attention.n_heads == 4
    assert [name for name in sizes if name.endswith("dense_2")] == [f"residual_blocks.{k}.dense_2" for k in range(3)]
    assert sizes["residual_blocks.2.dense_1"] == (128, 128)
    assert [sizes[f"heads.memory.{layer}"] for layer in ("hidden.0", "hidden.2", "hidden.4", "output")] == [
        (128, 64),
        (64, 32),
        (32, 16),
        (16, 6),
    ]


def test_each_column_of_the_layout_has_one_head():
    assert sorted(column for columns in HEAD_COLUMNS.values() for column in columns) == list(range(N_PARAMETERS))


def test_every_head_has_a_form_and_its_parts_take_all_its_columns():
    assert list(FORMS) == list(HEADS)
    for name, form in FORMS.items():
        assert sum(part.columns for part in form.parts) == HEADS[name], name
        assert HEADS[name] % len(form.layers) == 0, name
    names = [part.name for form in FORMS.values() for part in form.parts]
    assert len(set(names)) == len(names)


def test_outputs_keep_their_ranges_and_sums():
    logits = torch.randn(2000, N_PARAMETERS, generator=torch.Generator().manual_seed(0)) * 30
    answers = split_parameters(activate(logits).double().numpy())
    volatility_blend, pull = answers.volatility[:, :3], answers.volatility[:, 3:]
    for weights in (answers.target_weights, volatility_blend, answers.regime):
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    shares = (answers.memory, answers.factor_memory, pull, volatility_blend)
    for probability in (answers.target_intensity, answers.target_confidence, *shares):
        assert probability.min() >= 0
        assert probability.max() <= 1
        assert probability.max() - probability.min() > 0.9
    assert (answers.condition >= 0).all()
    assert np.abs(answers.log_variance).max() <= 8
    assert np.abs(answers.log_variance).max() > 7.9
    np.testing.assert_array_equal(answers.expected_error[:, 0], logits[:, HEAD_COLUMNS["auxiliary"][1]].numpy())
    for bounded, limit in ((answers.intensity_tilt, 2), (answers.volatility_tilt, 0.3), (answers.level[:, 0], 1)):
        assert np.abs(bounded).max() <= limit + 1e-6
        assert bounded.max() - bounded.min() > 1.9 * limit
    assert (answers.level[:, 1] >= 0).all()


def test_log_variance_has_a_gradient_near_its_limit():
    logits = torch.zeros(N_PARAMETERS)
    logits[HEAD_COLUMNS["uncertainty"][0]] = 20.0
    logits.requires_grad_()
    activate(logits)[HEAD_COLUMNS["uncertainty"][0]].backward()
    assert logits.grad.abs().max() > 1e-3


def test_initialised_network_answers_the_constants(network):
    network.initialise_outputs(CONSTANTS)
    answers = _answers(network, _features())
    for name, expected in CONSTANTS.items():
        np.testing.assert_allclose(getattr(answers, name), np.broadcast_to(expected, (40, HEADS[name])), rtol=1e-4)
    # Heads that are not named start at logit 0.
    np.testing.assert_allclose(answers.target_confidence, 0.5)
    np.testing.assert_allclose(answers.regime, 0.25)
    np.testing.assert_array_equal(answers.expected_error, 0.0)
    np.testing.assert_array_equal(answers.log_variance, 0.0)


def test_a_small_weight_scale_starts_near_the_constants(network):
    network.initialise_outputs(CONSTANTS, weight_scale=0.01)
    memory = _answers(network, _features()).memory
    np.testing.assert_allclose(memory, 0.26, rtol=0.02)
    assert memory.std() > 1e-6


def test_constants_of_every_head_come_back():
    constants = {
        **CONSTANTS,
        "target_confidence": (0.1, 0.5, 0.999),
        "intensity_tilt": np.linspace(-1.9, 1.9, 12),
        "volatility_tilt": np.linspace(-0.29, 0.29, 12),
        "level": (-0.3, 0.02),
        "condition": 2.5,
        "expected_error": -0.03,
        "log_variance": -3.2,
        "regime": (0.7, 0.2, 0.08, 0.02),
    }
    assert set(HEADS) == set(constants)
    answers = split_parameters(activate(constant_logits(constants)).numpy())
    for name, expected in constants.items():
        np.testing.assert_allclose(getattr(answers, name), np.atleast_1d(expected), rtol=1e-4, err_msg=name)


def test_constants_at_the_border_can_still_learn():
    logits = constant_logits({"memory": 0.0, "target_intensity": (0, 1, 0.5), "target_weights": (1, 0, 0)})
    answers = split_parameters(activate(logits).numpy())
    np.testing.assert_allclose(answers.memory, 1e-4, rtol=1e-3)
    np.testing.assert_allclose(answers.target_intensity, (1e-4, 1 - 1e-4, 0.5), rtol=1e-3)
    np.testing.assert_allclose(answers.target_weights, (1.0, 1e-4, 1e-4), rtol=1e-3)
    assert logits.abs().max() < 10


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"delta": 0.3}, r"unknown heads \['delta'\]; the layout has \['target_intensity'"),
        ({"target_intensity": (0.1, 0.2)}, "constants of target_intensity must be 3 finite numbers"),
        ({"memory": float("nan")}, "constants of memory must be 1 finite numbers"),
        ({"memory": 1.2}, "probabilities must be in 0..1"),
        ({"target_weights": (0.5, 0.5, 0.5)}, "weights must be at least 0 and sum to 1"),
        ({"volatility": (0.5, 0.3, 0.3, 0.1)}, "weights must be at least 0 and sum to 1"),
        ({"condition": 0.0}, "values must be above 0"),
        ({"log_variance": -8.0}, "values must be inside ±8"),
        ({"intensity_tilt": [2.0] * 12}, "values must be inside ±2"),
        ({"level": (0.0, 0.0)}, "values must be above 0"),
    ],
)
def test_impossible_constants_are_refused(constants, message):
    with pytest.raises(ValueError, match=message):
        constant_logits(constants)


def test_a_universe_does_not_depend_on_its_neighbours(network):
    features = _features(33)
    together = network(features)
    for i in (0, 16, 32):
        torch.testing.assert_close(network(features[i : i + 1])[0], together[i], rtol=1e-5, atol=1e-6)


def test_scaling_is_by_median_and_interquartile_range(network):
    features = _features()
    median, iqr = torch.randn(N_FEATURES) * 100, torch.rand(N_FEATURES) * 50 + 1
    network.set_scaling(np.zeros(N_FEATURES), np.ones(N_FEATURES))
    expected = network(features)
    network.set_scaling(median, iqr)
    torch.testing.assert_close(network(features * iqr + median), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("median", "iqr"), [(0.3, 0.0), (5.0, 1e-7)])
def test_a_feature_without_spread_is_ignored(network, median, iqr):
    medians, iqrs = np.zeros(N_FEATURES), np.ones(N_FEATURES)
    medians[4], iqrs[4] = median, iqr
    network.set_scaling(medians, iqrs)
    features = _features()
    changed, other = features.clone(), features.clone()
    changed[:, 4], other[:, 5] = torch.linspace(-1e6, 1e6, len(features)), 0.0
    torch.testing.assert_close(network(changed), network(features), rtol=0, atol=0)
    assert (network(other) - network(features)).abs().max() > 1e-3
    network.train()
    assert network(changed).isfinite().all()


def test_scaling_is_checked(network):
    good = np.ones(N_FEATURES)
    with pytest.raises(ValueError, match=r"median must have shape \(11,\), got \(3,\)"):
        network.set_scaling(np.ones(3), good)
    with pytest.raises(ValueError, match="iqr must be finite and not negative"):
        network.set_scaling(good, -good)
    with pytest.raises(ValueError, match="median must be finite"):
        network.set_scaling(good * np.nan, good)
    with pytest.raises(ValueError, match="n_features must be at least 1, got 0"):
        MemberNetwork(0)


def test_extreme_features_are_clipped(network):
    features = _features()
    far, farther = features.clone(), features.clone()
    far[:, 2], farther[:, 2] = 1e4, 1e8
    torch.testing.assert_close(network(far), network(farther), rtol=0, atol=0)


def _gradients(network):
    network.zero_grad()
    answers = network.train()(_features(64))
    weights = torch.randn(answers.shape, generator=torch.Generator().manual_seed(1))
    (answers * weights).sum().backward()
    return {name: parameter.grad.abs().max().item() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("config", [NetworkConfig(), LARGE], ids=["default", "large"])
def test_gradient_reaches_every_parameter(config):
    gradients = _gradients(_network(config))
    assert not {name: size for name, size in gradients.items() if not size > 1e-4}


def test_a_network_started_at_the_constants_learns_in_all_its_layers(network):
    network.initialise_outputs(CONSTANTS)
    _gradients(network)
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    assert not {name: size for name, size in _gradients(network).items() if not size > 1e-6}
