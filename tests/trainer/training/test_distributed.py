# SPDX-License-Identifier: Apache-2.0
"""Processes that train together, started by torchrun, against one that trains alone."""

from __future__ import annotations

import hashlib
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
from sigmahat_trainer.model.loss import member_losses
from sigmahat_trainer.model.network import MemberNetwork, activate, constant_logits
from sigmahat_trainer.training import distributed, shared_losses
from sigmahat_trainer.training.batches import BatchPart, batch_part
from sigmahat_trainer.training.constants import STARTING_CONSTANTS, fit_constants
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.resume import Checkpoint

CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=2, learning_rate=5e-3)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def two_sizes(*, n_samples=(70, 50)):
    designs = [independent_returns, structured_returns]
    parts = [toy_dataset(designs, n_samples=n, n_assets=size) for size, n in zip((8, 20), n_samples, strict=True)]
    return Dataset({size: stack for part in parts for size, stack in part.by_size.items()})


def train_toy(folder):
    """What a run finds: constants, history, weights; and the costs of the pieces that this process took.

    The checkpoint of the last epoch is in `folder`.
    """
    dataset = two_sizes()
    taken, real = [], shared_losses.member_losses
    shared_losses.member_losses = lambda *args, **kwargs: (
        taken.append(shared_losses.cost(BatchPart(args[0], *args[3:5]))) or real(*args, **kwargs)
    )
    try:
        constants = fit_constants(dataset, CONFIG, epochs=1)
        checkpoint = Checkpoint(folder / "member.pt", {})
        trained = train_member(dataset, dataset, constants, CONFIG, member=0, checkpoint=checkpoint)
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
from pathlib import Path
import torch
from sigmahat_trainer.training import distributed
from sigmahat_trainer.training import shared_losses
from trainer.training.test_distributed import train_toy
torch.set_num_threads(1)
shared_losses.PIECE = {piece}
with distributed.group():
    rank = torch.distributed.get_rank()
    assert distributed.is_first() == (rank == 0)
    torch.save(train_toy(Path("{out}")), f"{out}/{{rank}}.pt")
"""


@pytest.mark.parametrize(
    ("processes", "piece"), [(2, 4e4), (3, 1e9)], ids=["two share pieces", "three, one of whom has nothing"]
)
def test_processes_that_train_together_find_what_one_finds_to_the_bit(tmp_path, monkeypatch, processes, piece):
    monkeypatch.setattr(shared_losses, "PIECE", piece)
    alone = train_toy(tmp_path / "alone")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), piece=piece, out=tmp_path))
    subprocess.run([*TORCHRUN, str(processes), str(script)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    together = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for found in together:
        assert torch.equal(found["constants"], alone["constants"])
        assert found["history"] == alone["history"]
        for name, tensor in alone["weights"].items():
            assert torch.equal(found["weights"][name], tensor), name
    checkpoints = [(folder / "member.pt").read_bytes() for folder in (tmp_path / "alone", tmp_path)]
    assert len({hashlib.sha256(content).hexdigest() for content in checkpoints}) == 1
    # Each piece was computed once.
    taken = torch.cat([found["taken"] for found in together])
    assert torch.equal(taken.sort().values, alone["taken"].sort().values)
    assert sum(len(found["taken"]) > 0 for found in together) == 2


def as_process(monkeypatch, rank, size):
    monkeypatch.setattr(distributed, "group_size", lambda: size)
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: rank)


def test_the_gradient_is_that_of_the_plain_sum_to_the_bit(monkeypatch):
    """As if autograd had gone through all losses at once: the weighted mean over pieces, of one process."""
    monkeypatch.setattr(shared_losses, "PIECE", 1e4)
    dataset = two_sizes(n_samples=(9, 7))
    batch = [batch_part(stack, np.arange(len(stack.features))) for stack in dataset.by_size.values()]
    constants = constant_logits(STARTING_CONSTANTS)
    logits = constants + 0.3 * torch.randn(16, len(constants), generator=torch.Generator().manual_seed(1))
    losses = shared_losses.batch_losses(logits.requires_grad_(), constants, batch, CONFIG, np.random.default_rng(2))
    (3.0 * losses.total).backward()

    rng, plain = np.random.default_rng(2), logits.detach().clone().requires_grad_()
    target, seed = int(rng.integers(3)), int(rng.integers(2**32))
    pieces = list(shared_losses.pieces_of(batch))
    counts = torch.tensor([piece.n_samples for piece in pieces])
    found = []
    for piece, rows in zip(pieces, plain.split(counts.tolist()), strict=True):
        torch.manual_seed(seed)
        weights = {name: getattr(CONFIG, name) for name in ("qlike_weight", "auxiliary_weight", "residual_weight")}
        answer = member_losses(activate(rows), rows, constants, piece.inputs, piece.after, target=target, **weights)
        found.append(torch.stack(answer))
    expected = counts / 16 @ torch.stack(found)
    expected[0].backward()
    assert torch.equal(torch.stack(losses), expected)
    assert torch.equal(logits.grad, 3.0 * plain.grad)
    assert plain.grad.abs().max() > 0
    assert not any(loss.requires_grad for loss in losses[1:])


def test_a_step_stays_where_the_network_is():
    """Nothing of the host meets what lies on a device: "meta" refuses it as a GPU does, and computes nothing."""
    device = torch.device("meta")
    dataset = two_sizes(n_samples=(9, 7))
    batch = [batch_part(stack, np.arange(len(stack.features))) for stack in dataset.by_size.values()]
    network, constants = MemberNetwork(4, SMALL).to(device), constant_logits(STARTING_CONSTANTS).to(device)
    optimiser = torch.optim.AdamW(network.parameters())
    logits = network.forward_logits(torch.cat([part.features for part in batch]).to(device))
    losses = shared_losses.batch_losses(logits, constants, batch, CONFIG, np.random.default_rng(0))
    losses.total.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    assert {loss.device for loss in losses} == {device}
    assert {parameter.grad.device for parameter in network.parameters()} == {device}
    with pytest.raises(RuntimeError, match="device"):
        shared_losses.batch_losses(
            logits, constants.new_zeros(1, device="cpu"), batch, CONFIG, np.random.default_rng(0)
        )


def on_a_node(monkeypatch, *, gpus, **environment):
    """torch as it is on a node with GPUs; returns what it is told."""
    told = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: told.update(device=device))
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda backend, timeout: told.update(backend=backend, timeout=timeout)
    )
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: told.update(ended=True))
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return told


def test_on_a_gpu_node_each_process_has_its_own(monkeypatch):
    told = on_a_node(monkeypatch, gpus=4, WORLD_SIZE=8, LOCAL_WORLD_SIZE=4, LOCAL_RANK=3)
    with distributed.group():
        assert distributed.training_device() == torch.device("cuda", 3)
    assert told == {
        "device": torch.device("cuda", 3),
        "backend": "cpu:gloo,cuda:nccl",
        "timeout": distributed.PATIENCE,
        "ended": True,
    }


def test_without_a_gpu_they_meet_by_gloo(monkeypatch):
    told = on_a_node(monkeypatch, gpus=0, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, LOCAL_RANK=1)
    with distributed.group():
        assert distributed.training_device() == torch.device("cpu")
    assert told["backend"] == "gloo"
    assert "device" not in told


def test_more_processes_than_gpus_are_refused(monkeypatch):
    told = on_a_node(monkeypatch, gpus=2, WORLD_SIZE=3, LOCAL_WORLD_SIZE=3, LOCAL_RANK=2)
    message = "torchrun started 3 processes on a node with 2 GPUs: --nproc-per-node 2 is the most"
    with pytest.raises(distributed.TooFewGpusError, match=message), distributed.group():
        pass
    assert told == {}


def test_members_side_by_side_take_the_gpus_in_turn(monkeypatch):
    on_a_node(monkeypatch, gpus=2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert [distributed.training_device(member).index for member in range(3)] == [0, 1, 0]


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
