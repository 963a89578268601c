# SPDX-License-Identifier: Apache-2.0
"""The ablation: what shuffling and leaving out change, its judge against the training's own, its script."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module

import numpy as np
import pytest
import torch

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.config import NetworkConfig, PreprocessingConfig, TrainConfig
from sigmahat_trainer.data.dataset import Dataset, draw_dataset, save_dataset
from sigmahat_trainer.model.member_file import save_member
from sigmahat_trainer.model.network import MemberNetwork, activate, constant_logits
from sigmahat_trainer.model.preprocessing import robust_scaling
from sigmahat_trainer.training import expanding
from sigmahat_trainer.training.constants import STARTING_CONSTANTS
from sigmahat_trainer.training.shared_losses import evaluate_losses

SMALL = NetworkConfig(
    extraction_units=(64, 64), tokens=2, attention_dimension=16, residual_units=32, head_units=(16, 16)
)
CONFIG = TrainConfig(network=SMALL, batch_size=16, epochs=1)
CONSTANTS = constant_logits(STARTING_CONSTANTS)


@pytest.fixture(scope="module")
def ablation():
    return import_module("benchmarks.accuracy.ablation")


@pytest.fixture(scope="module")
def panels():
    def draw(n_samples, seed):
        return draw_dataset([], n_samples=n_samples, simulated_share=1.0, horizon=10, seed=seed, market_power=0.5)

    return {"north": draw(60, 1), "south": draw(24, 2)}


@pytest.fixture
def table():
    return np.random.default_rng(0).standard_t(2, (400, 6)).astype(np.float32)


def test_only_the_columns_meant_change(ablation, table):
    order = np.random.default_rng(1).permutation(len(table))
    told = ablation.shuffled(table, [3, 5], order)
    np.testing.assert_array_equal(told[:, [0, 1, 2, 4]], table[:, [0, 1, 2, 4]])
    np.testing.assert_array_equal(told[:, [3, 5]], table[order][:, [3, 5]])
    told = ablation.left_out(table, [3], np.arange(6, dtype=np.float32))
    assert (told[:, 3] == 3).all()
    np.testing.assert_array_equal(np.delete(told, 3, axis=1), np.delete(table, 3, axis=1))


def test_each_switch_is_on_alone_in_some_variant(ablation):
    usual = asdict(PreprocessingConfig())
    switches = list(ablation.VARIANTS.values())
    assert not switches[0]
    assert all(len(each) == 1 and usual[name] != value for each in switches[1:] for name, value in each.items())
    assert {name for each in switches for name in each} == set(usual)


def test_groups_part_the_features(ablation):
    groups = ablation.groups()
    assert {"spectrum", "correlation", "regime", "temporal", "market", "missing"} <= set(groups)
    assert sorted(name for names in groups.values() for name in names) == sorted(FEATURE_NAMES)
    assert "vix" in " ".join(groups["market"])


def test_the_judge_agrees_with_validation_in_training(ablation, panels):
    torch.manual_seed(0)
    network = MemberNetwork(len(FEATURE_NAMES), SMALL).eval()
    network.initialise_outputs(STARTING_CONSTANTS, weight_scale=0.5)
    network.set_scaling(*robust_scaling(panels["north"].features()))
    judge = ablation.Judge(panels)
    losses = judge.losses(ablation.network_answer(network))
    expected = [evaluate_losses(network, panel, CONFIG)["decision"] for panel in panels.values()]
    np.testing.assert_allclose(losses.by_panel(), expected, rtol=1e-5)
    assert losses.windows.sum(axis=1).tolist() == [len(panel) for panel in panels.values()]
    assert ((losses.windows > 0).sum(axis=1) > 2).all()


def test_differences_and_their_error(ablation, panels):
    """By hand: two panels, windows only in two stretches of time, differences of ln variance of two members."""
    judge = ablation.Judge(panels)
    windows = np.zeros((2, ablation.BLOCKS))
    windows[:, :2] = [[10, 30], [20, 20]]
    one, other = np.zeros((2, 2, ablation.BLOCKS))
    one[:, :2], other[:, :2] = [[0.02, 0.06], [0.00, 0.04]], [[0.06, 0.10], [0.00, 0.04]]
    compared = judge.compare([one, other], windows)
    # Means 0.04, 0.08 and 0.00, 0.04; times 50: 2, 4 and 0, 2; panels 3.5 and 1.
    assert compared["by_panel"] == {"north": 3.5, "south": 1.0}
    assert compared["difference_percent"] == 2.25
    of_time = 2 * (0.25**2 * 1.5**2 + 0.75**2 * 0.5**2) + 2 * (0.5**2 * 1 + 0.5**2 * 1)
    of_members = ((1.75 - 2.25) ** 2 + (2.75 - 2.25) ** 2) / 2
    assert compared["t"] == pytest.approx(2.25 / (of_time / 4 + of_members) ** 0.5, rel=1e-3)
    alone = judge.compare([(one + other) / 2], windows)
    assert alone["t"] == pytest.approx(2.25 / (of_time / 4) ** 0.5, rel=1e-3)


def test_shuffling_finds_what_an_answer_reads(ablation, panels):
    """A feature that says which of two answers is the better one, and an answer that reads nothing else."""
    judge = ablation.Judge({"south": panels["south"]})
    column = 5
    few, many = (constant_logits({**STARTING_CONSTANTS, "target_intensity": [x] * 3}) for x in (0.05, 0.95))
    few, many = activate(few), activate(many)
    for part in judge.parts:
        answers = (each.expand(part.samples.n_samples, -1) for each in (few, many))
        losses = [ablation.decision_loss(answer, part.samples) for answer in answers]
        judge.features[part.rows, column] = np.argmin(losses)
    assert set(judge.features[:, column]) == {0.0, 1.0}

    def reads_one(features):
        return np.where(features[:, [column]] > 0.5, many.numpy(), few.numpy())

    subjects = {"read": [column], "unread": [column + 1], "together": [column, column + 1]}
    costs = ablation.shuffling_costs(judge, [reads_one, reads_one], subjects, 2)
    assert costs["unread"] == {"difference_percent": 0.0, "t": 0.0, "by_panel": {"south": 0.0}}
    assert costs["read"]["difference_percent"] > 1
    assert costs["together"] == costs["read"]  # the same shuffle


def test_first_windows_keep_the_mix_of_sizes(ablation, panels):
    half = ablation.first(panels["north"], len(panels["north"]) // 2)
    for size, stack in half.by_size.items():
        whole = panels["north"].by_size[size]
        assert len(stack.features) == max(1, round(0.5 * len(whole.features)))
        assert all(np.shares_memory(a, b) for a, b in zip(stack, whole, strict=True))
    assert len(ablation.first(panels["north"], 10_000)) == len(panels["north"])


def in_the_calendar(dataset):
    """The same simulated samples with months, and a VIX in half of them."""

    def of_stack(stack):
        features = stack.features.copy()
        for name, value in (("has_vix", 1.0), ("log_vix", 0.3)):
            features[::2, FEATURE_NAMES.index(name)] = value
        return stack._replace(features=features, period=np.arange(len(features)))

    return Dataset({size: of_stack(stack) for size, stack in dataset.by_size.items()})


def test_the_script(ablation, panels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(expanding, "LEAST_VALUES", 8)
    save_dataset(in_the_calendar(panels["north"]), tmp_path / "drawn" / "training")
    for name, panel in panels.items():
        save_dataset(panel, tmp_path / "drawn" / "validation" / name)
    torch.manual_seed(0)
    network = MemberNetwork(len(FEATURE_NAMES), SMALL)
    network.initialise_outputs(STARTING_CONSTANTS, weight_scale=0.1)
    (tmp_path / "run").mkdir()
    save_member(network, CONFIG, tmp_path / "run" / "member_1.safetensors", feature_names=FEATURE_NAMES)
    out = tmp_path / "ablation.json"
    command = ["ablation.py", tmp_path / "drawn", "--members", tmp_path / "run", "--out", out, "--judged", 20]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--epochs", "1", "--seeds", "1", "--windows", "40"])
    ablation.main()
    content = json.loads(out.read_text())
    assert set(content) == {"machine", "versions", "commit", "settings", "figures"}
    figures = content["figures"]
    assert set(figures["told_less"]["features_shuffled"]) == set(FEATURE_NAMES)
    variants = figures["variants"]
    assert list(variants) == list(ablation.VARIANTS)
    differences = {name: row["against_robust_scaling"]["difference_percent"] for name, row in variants.items()}
    assert [name for name, value in differences.items() if value == 0] == ["robust_scaling"]
    n_features = {name: row["n_features"] for name, row in variants.items()}
    assert n_features == {**dict.fromkeys(variants, 92), "principal_components": 32, "top_half": 46}
    assert out.with_suffix(".png").stat().st_size > 20_000
    assert "told otherwise" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds neither"):
        ablation.load_answers(tmp_path)
