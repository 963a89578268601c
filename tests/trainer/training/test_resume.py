# SPDX-License-Identifier: Apache-2.0
"""A training that is killed and gone on with ends where an uninterrupted one does, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer.training.test_member import SMALL, independent_returns, one_thread, structured_returns, toy_dataset  # noqa: F401

from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.model.network import constant_logits
from sigmahat_trainer.training import member as module
from sigmahat_trainer.training.constants import STARTING_CONSTANTS
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.resume import Checkpoint, OtherRunError

CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=3, learning_rate=5e-3)
RUN = {"config": {"learning_rate": 5e-3, "network": {"units": [64, 64]}}, "panels": {"north": "ab"}, "first": None}


def train_toy(path):
    dataset = toy_dataset([independent_returns, structured_returns], n_samples=96)
    checkpoint = path and Checkpoint(path, RUN)
    return train_member(dataset, dataset, constant_logits(STARTING_CONSTANTS), CONFIG, member=1, checkpoint=checkpoint)


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {tests!r})
import torch
from sigmahat_kernels import files
from trainer.training.test_resume import train_toy
torch.set_num_threads(1)
written, replace = [], os.replace
def kill_in_time(draft, path):
    written.append(path)
    if len(written) == {kill_before}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(draft, path)
    if len(written) == {kill_after}:
        os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = kill_in_time
train_toy(pathlib.Path({path!r}))
"""


@pytest.fixture(scope="module")
def uninterrupted():
    return train_toy(None)


@pytest.mark.parametrize(
    ("kill_after", "kill_before", "epochs_left"),
    [(1, 0, 2), (0, 2, 2), (2, 0, 1)],
    ids=["after the first epoch", "while the second is written down", "after the second"],
)
def test_a_killed_training_goes_on_to_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, kill_after, kill_before, epochs_left
):
    path = tmp_path / "checkpoints" / "member_2.pt"
    tests = str(Path(__file__).parents[2])
    script = KILLED.format(tests=tests, path=str(path), kill_after=kill_after, kill_before=kill_before)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    validated, real = [], module.evaluate_losses
    monkeypatch.setattr(module, "evaluate_losses", lambda *args: validated.append(1) or real(*args))
    torch.manual_seed(999)  # what this process drew before does not matter
    resumed = train_toy(path)
    assert len(validated) == epochs_left
    assert resumed.history == uninterrupted.history
    expected = uninterrupted.network.state_dict()
    assert list(expected) == list(resumed.network.state_dict())
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch, uninterrupted):
    train_toy(tmp_path / "member.pt")
    monkeypatch.setattr(module, "batches", None)
    reports = []
    trained = train_member(
        toy_dataset([independent_returns, structured_returns], n_samples=96),
        None,
        constant_logits(STARTING_CONSTANTS),
        CONFIG,
        member=1,
        progress=lambda *report: reports.append(report),
        checkpoint=Checkpoint(tmp_path / "member.pt", RUN),
    )
    assert not trained.network.training
    assert trained.history == uninterrupted.history
    assert reports == [("member 2", 3, 3, uninterrupted.history[-1])]


def test_state_comes_back_as_it_was_and_only_one_file_is_left(tmp_path):
    checkpoint = Checkpoint(tmp_path / "new" / "state.pt", RUN)
    assert checkpoint.load() is None
    rng = np.random.default_rng(1)
    for step in range(2):
        checkpoint.save({"step": step, "weights": torch.arange(3.0) / 7, "numpy": rng.bit_generator.state})
    saved = checkpoint.load()
    assert saved["step"] == 1
    assert torch.equal(saved["weights"], torch.arange(3.0) / 7)
    assert saved["numpy"] == rng.bit_generator.state  # integers of 128 bits
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            {**RUN, "config": {"learning_rate": 1e-3, "network": {"units": [64, 64]}}},
            "learning_rate was 0.005, is 0.001",
        ),
        (
            {**RUN, "config": {"learning_rate": 5e-3, "network": {"units": [64, 128]}}},
            r"units was \[64, 64\], is \[64, 1",
        ),
        ({**RUN, "panels": {"north": "cd"}}, "panels.north was ab, is cd"),
        ({**RUN, "panels": {"north": "ab", "south": "ef"}}, "panels.south was not there, is ef"),
        ({**RUN, "first": "2013-01-01"}, "first was None, is 2013-01-01"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, run, words):
    path = tmp_path / "state.pt"
    Checkpoint(path, RUN).save({"step": 1})
    with pytest.raises(OtherRunError, match=f"{tmp_path} holds an unfinished run of other settings.*: [a-z.]*{words}"):
        Checkpoint(path, run).load()
    assert Checkpoint(path, {**RUN, "config": {**RUN["config"], "network": {"units": (64, 64)}}}).load() == {"step": 1}
