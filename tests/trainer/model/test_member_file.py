# SPDX-License-Identifier: Apache-2.0
"""A member's file: what comes back from it, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import safetensors.torch
import torch

from sigmahat_trainer.config import NetworkConfig, TrainConfig
from sigmahat_trainer.model import member_file as module
from sigmahat_trainer.model.member_file import CheckpointError, load_member, save_member
from sigmahat_trainer.model.network import MemberNetwork

N_FEATURES = 60
NAMES = [f"feature_{k}" for k in range(N_FEATURES)]


def _features(n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_t(4, size=(n, N_FEATURES)) * 3 + 1).float()


CONFIG = TrainConfig(network=NetworkConfig(head_units=(64, 32, 16), residual_blocks=3), seed=11)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(2)
    network = MemberNetwork(N_FEATURES, CONFIG.network)
    network.set_scaling(np.arange(N_FEATURES), np.arange(N_FEATURES))
    network(_features(64))
    path = tmp_path / "member.safetensors"
    save_member(network, CONFIG, path, feature_names=NAMES)
    return network, path


def test_checkpoint_comes_back_bit_by_bit(checkpoint):
    network, path = checkpoint
    member = load_member(path, feature_names=NAMES)
    assert member.config == CONFIG
    assert member.feature_names == tuple(NAMES)
    assert not member.network.training
    for (name, saved), (other, loaded) in zip(
        network.state_dict().items(), member.network.state_dict().items(), strict=True
    ):
        assert name == other
        assert saved.dtype == loaded.dtype
        assert torch.equal(saved, loaded), name
    assert torch.equal(network.eval()(_features(9)), member.network(_features(9)))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([*NAMES[:-1], "other"], r"60 wanted: it does not read \['other'\] and reads \['feature_59'\] instead"),
        ([NAMES[1], NAMES[0], *NAMES[2:]], "the same features in another order"),
        (NAMES[:-1], r"60 features, 59 wanted: it does not read \[\] and reads \['feature_59'\]"),
    ],
)
def test_a_checkpoint_of_other_features_is_refused(checkpoint, names, message):
    with pytest.raises(CheckpointError, match=message):
        load_member(checkpoint[1], feature_names=names)


def test_a_file_that_is_no_checkpoint_is_refused(checkpoint, tmp_path, monkeypatch):
    path = checkpoint[1]
    (tmp_path / "text").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="text is not a safetensors file"):
        load_member(tmp_path / "text", feature_names=NAMES)
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="weights is not a member's checkpoint"):
        load_member(tmp_path / "weights", feature_names=NAMES)
    with pytest.raises(FileNotFoundError):
        load_member(tmp_path / "nothing", feature_names=NAMES)
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    with pytest.raises(CheckpointError, match="has format 1, 2 wanted"):
        load_member(path, feature_names=NAMES)


def test_a_checkpoint_must_describe_its_network(checkpoint, tmp_path):
    network = checkpoint[0]
    with pytest.raises(ValueError, match=r"config\.network must be the network's own"):
        save_member(network, TrainConfig(), tmp_path / "x", feature_names=NAMES)
    with pytest.raises(ValueError, match="60 feature_names wanted, got 3"):
        save_member(network, CONFIG, tmp_path / "x", feature_names=NAMES[:3])


def test_a_failed_write_leaves_the_old_file(checkpoint, monkeypatch):
    network, path = checkpoint
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_member(network, CONFIG, path, feature_names=NAMES)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
