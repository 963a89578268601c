# SPDX-License-Identifier: Apache-2.0
"""Processes that train together, started by torchrun, against one that trains alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer.training.test_member import SMALL, independent_returns, one_thread, structured_returns, toy_dataset  # noqa: F401

from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.network import constant_logits
from sigmahat_trainer.training import distributed, shared_losses
from sigmahat_trainer.training.batches import BatchPart, batch_part
from sigmahat_trainer.training.constants import STARTING_CONSTANTS, fit_constants
from sigmahat_trainer.training.member import train_member

CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=2, learning_rate=5e-3)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def train_toy():
    """What a run finds: constants, history, weights; and the costs of the pieces that this process took."""
    designs = [independent_returns, structured_returns]
    parts = [toy_dataset(designs, n_samples=n, n_assets=size) for size, n in ((8, 70), (20, 50))]
    dataset = Dataset({size: stack for part in parts for size, stack in part.by_size.items()})
    taken, real = [], shared_losses.member_losses
    shared_losses.member_losses = lambda *args, **kwargs: (
        taken.append(shared_losses.cost(BatchPart(args[0], *args[3:5]))) or real(*args, **kwargs)
    )
    try:
        constants = fit_constants(dataset, CONFIG, epochs=1)
        trained = train_member(dataset, dataset, constants, CONFIG, member=0)
    finally:
        shared_losses.member_losses = real
    return {
        "constants": constants,
        "history": trained.history,
        "weights": trained.network.state_dict(),
        "taken": torch.tensor(taken),
    }


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from sigmahat_trainer.training import distributed
from sigmahat_trainer.training import shared_losses
from trainer.training.test_distributed import train_toy
torch.set_num_threads(1)
shared_losses.PIECE = {piece}
with distributed.group():
    rank = torch.distributed.get_rank()
    assert distributed.is_first() == (rank == 0)
    torch.save(train_toy(), f"{out}/{{rank}}.pt")
"""


@pytest.mark.parametrize(
    ("processes", "piece"), [(2, 4e4), (3, 1e9)], ids=["two share pieces", "three, one of whom has nothing"]
)
def test_processes_that_train_together_find_what_one_finds_to_the_bit(tmp_path, monkeypatch, processes, piece):
    monkeypatch.setattr(shared_losses, "PIECE", piece)
    alone = train_toy()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), piece=piece, out=tmp_path))
    subprocess.run([*TORCHRUN, str(processes), str(script)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    together = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for found in together:
        assert torch.equal(found["constants"], alone["constants"])
        assert found["history"] == alone["history"]
        for name, tensor in alone["weights"].items():
            assert torch.equal(found["weights"][name], tensor), name
    # Each piece was computed once.
    taken = torch.cat([found["taken"] for found in together])
    assert torch.equal(taken.sort().values, alone["taken"].sort().values)
    assert sum(len(found["taken"]) > 0 for found in together) == 2


def as_process(monkeypatch, rank, size):
    monkeypatch.setattr(distributed, "group_size", lambda: size)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)


def test_work_is_shared_by_its_cost(monkeypatch):
    costs = [1.0, 1.0, 8.0, 1.0, 5.0, 4.0, 1.0, 1.0]
    shares = []
    for rank in range(3):
        as_process(monkeypatch, rank, 3)
        shares.append(distributed.own_share(costs))
    assert sorted(k for share in shares for k in share) == list(range(8))
    assert sorted(sum(costs[k] for k in share) for share in shares) == [7.0, 7.0, 8.0]


def test_alone_a_process_does_everything():
    assert distributed.own_share([3.0, 0.0, 1.0]) == {0, 1, 2}
    assert distributed.group_size() == 1
    assert distributed.is_first()
    with distributed.group(), distributed.first_alone():
        assert not torch.distributed.is_initialized()


def test_pieces_make_up_the_batch_and_are_shared_by_their_cost(monkeypatch):
    monkeypatch.setattr(shared_losses, "PIECE", 1e4)
    parts = [toy_dataset([independent_returns], n_samples=n, n_assets=size) for size, n in ((5, 9), (10, 25), (30, 3))]
    batch = [batch_part(stack, np.arange(len(stack.features))) for part in parts for stack in part.by_size.values()]
    pieces = list(shared_losses.pieces_of(batch))
    assert [len(piece.features) for piece in pieces] == [9, 9, 8, 8, 1, 1, 1]  # of 125, 1000 and 27000 a window
    for fields in (lambda part: [part.features], lambda part: part.inputs, lambda part: part.after):
        for k, part in zip((slice(0, 1), slice(1, 4), slice(4, 7)), batch, strict=True):
            for whole, *cuts in zip(fields(part), *map(fields, pieces[k]), strict=True):
                assert torch.equal(torch.cat(cuts), whole)
    shared, constants = [], constant_logits(STARTING_CONSTANTS)
    monkeypatch.setattr(shared_losses, "own_share", lambda costs: shared.append(costs) or {*range(len(costs))})
    shared_losses.batch_losses(constants.expand(37, -1), constants, batch, CONFIG, np.random.default_rng(0))
    assert shared == [[9 * 125, 9_000, 8_000, 8_000, 27_000, 27_000, 27_000]]
