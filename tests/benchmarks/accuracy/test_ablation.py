# SPDX-License-Identifier: Apache-2.0
"""The ablation: its transforms against SciPy and a plain eigendecomposition, its judge against the training's own."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from rich.progress import Progress
from scipy.stats import rankdata

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.config import NetworkConfig, TrainConfig
from sigmahat_trainer.data.dataset import draw_dataset, save_dataset
from sigmahat_trainer.model.member_file import save_member
from sigmahat_trainer.model.network import CLIP, MemberNetwork, activate, constant_logits
from sigmahat_trainer.training.constants import STARTING_CONSTANTS
from sigmahat_trainer.training.member import robust_scaling
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
    """Training features of heavy tails, one with ties, one that is constant, two that nearly agree."""
    rng = np.random.default_rng(0)
    table = rng.standard_t(2, (400, 6)).astype(np.float32)
    table[:, 1] = rng.integers(4, size=400)
    table[:, 2] = 7.0
    table[:, 4] = 2 * table[:, 3] + 0.01 * rng.standard_normal(400)
    return table


def test_ranks_are_scipys(ablation, table):
    transform = ablation.ranks(table)
    expected = (rankdata(table, axis=0) - 0.5) / len(table)
    np.testing.assert_allclose(transform(table), expected, rtol=1e-6)
    new = np.array([[-1e9], [1e9]], np.float32).repeat(6, axis=1)
    assert (transform(new) == [[0.0] * 6, [1.0] * 6]).all()
    between = np.float32([[0, 1.5, 0, 0, 0, 0]])
    assert transform(between)[0, 1] == pytest.approx((table[:, 1] < 1.5).mean())


def test_components_are_the_eigenvectors_with_most_variance(ablation, table):
    median, spread = robust_scaling(table)
    alive = [0, 1, 3, 4, 5]
    scaled = ((table - median) / np.where(spread > 0, spread, 1))[:, alive].clip(-CLIP, CLIP)
    values, vectors = np.linalg.eigh(np.cov(scaled.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(values) / values.sum(), 0.95) + 1)
    assert 1 < kept < 5
    transform = ablation.principal_components(table)
    expected = (scaled - scaled.mean(axis=0)) @ vectors[:, :kept]
    got = transform(table)
    assert got.shape == (400, kept)
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got * signs, expected, atol=1e-4)
    np.testing.assert_allclose(transform(table[:3]), got[:3], atol=1e-6)  # fitted on training, not on what it is given


def test_only_the_columns_meant_change(ablation, table):
    order = np.random.default_rng(1).permutation(len(table))
    told = ablation.shuffled(table, [3, 5], order)
    np.testing.assert_array_equal(told[:, [0, 1, 2, 4]], table[:, [0, 1, 2, 4]])
    np.testing.assert_array_equal(told[:, [3, 5]], table[order][:, [3, 5]])
    told = ablation.left_out(table, [3], np.arange(6, dtype=np.float32))
    assert (told[:, 3] == 3).all()
    np.testing.assert_array_equal(np.delete(told, 3, axis=1), np.delete(table, 3, axis=1))


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
    with Progress(disable=True) as progress:
        chosen = ablation.most_important(judge, [reads_one], 1, progress)
    assert column in chosen
    assert len(chosen) == (len(FEATURE_NAMES) + 1) // 2


def test_first_windows_keep_the_mix_of_sizes(ablation, panels):
    half = ablation.first(panels["north"], len(panels["north"]) // 2)
    for size, stack in half.by_size.items():
        whole = panels["north"].by_size[size]
        assert len(stack.features) == max(1, round(0.5 * len(whole.features)))
        assert all(np.shares_memory(a, b) for a, b in zip(stack, whole, strict=True))
    assert len(ablation.first(panels["north"], 10_000)) == len(panels["north"])


def test_the_script(ablation, panels, tmp_path, monkeypatch, capsys):
    save_dataset(panels["north"], tmp_path / "drawn" / "training")
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
    assert len(figures["top_half"]) == (len(FEATURE_NAMES) + 1) // 2
    variants = figures["variants"]
    assert list(variants) == ["robust_scaling", "ranks", "principal_components", "top_half"]
    assert variants["robust_scaling"]["against_robust_scaling"]["difference_percent"] == 0
    assert variants["ranks"]["against_robust_scaling"]["difference_percent"] != 0
    assert variants["principal_components"]["n_features"] < variants["top_half"]["n_features"] < len(FEATURE_NAMES)
    assert out.with_suffix(".png").stat().st_size > 20_000
    assert "told otherwise" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="holds neither"):
        ablation.load_answers(tmp_path)
