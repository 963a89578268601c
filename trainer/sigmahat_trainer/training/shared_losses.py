# SPDX-License-Identifier: Apache-2.0
"""The losses of a batch, shared out among the processes that train together, and their averages over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import N_PARAMETERS, TARGETS
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.loss import Losses, member_losses
from sigmahat_trainer.model.network import MemberNetwork, activate
from sigmahat_trainer.training.batches import BatchPart, batches, features_of, samples_in
from sigmahat_trainer.training.distributed import add_up, own_share

PIECE = 5e7
"""Cost of a piece: small enough to share out evenly, large enough that its calls do not matter."""

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with what is trained, epochs done, epochs in all, and the metrics of the last."""


def batch_losses(
    logits: Tensor, constants: Tensor, batch: Sequence[BatchPart], config: TrainConfig, rng: np.random.Generator
) -> Losses:
    """Averages over the samples of a batch; `logits` of shape (B, N_PARAMETERS). Only `total` has a gradient.

    Nearly all time goes into these losses, hardly any into the network. So processes that train together all run the
    network on the whole batch, with the same dropout and the same statistics of BatchNorm, and share out the losses:
    each takes some pieces, and the losses and the gradient of `total` with respect to `logits` are summed over
    processes, in one tensor. A row belongs to one piece, all others add zeros: the sums are those of one process, to
    the bit, and so is the step. What a loss draws at random must neither depend on who computes it nor move the
    generator of the dropout, so each piece starts from the same seed.

    The batch may be on the host: a process moves its own pieces to where `logits` and `constants` are.
    """
    device, learns = logits.device, logits.requires_grad
    target, seed = int(rng.integers(len(TARGETS))), int(rng.integers(2**32))
    pieces = list(pieces_of(batch))
    counts = [piece.n_samples for piece in pieces]
    own = sorted(own_share([cost(piece) for piece in pieces]))
    leaf = logits.detach().requires_grad_(learns)
    rows = leaf.split(counts)
    weights = (torch.tensor(counts) / sum(counts)).to(device)
    found = torch.zeros(len(pieces), len(Losses._fields), device=device)
    gradient = torch.zeros_like(leaf)
    if own:
        taken = torch.stack([_piece_losses(rows[k], constants, pieces[k], config, target, seed) for k in own])
        found[own] = taken.detach()
        if learns:
            (gradient,) = torch.autograd.grad((weights[own] @ taken)[0], leaf)
    n_losses = found.numel()
    summed = add_up(torch.cat([found.flatten(), gradient.flatten()] if learns else [found.flatten()]))
    total, *others = weights @ summed[:n_losses].view_as(found)
    if learns:
        total = _WithGradient.apply(logits, total, summed[n_losses:].view_as(leaf))
    return Losses(total, *others)


def _piece_losses(
    rows: Tensor, constants: Tensor, piece: BatchPart, config: TrainConfig, target: int, seed: int
) -> Tensor:
    """All `Losses` of a piece, (9,)."""
    device = rows.device
    piece = piece.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        losses = member_losses(
            activate(rows),
            rows,
            constants,
            piece.inputs,
            piece.after,
            target=target,
            qlike_weight=config.qlike_weight,
            auxiliary_weight=config.auxiliary_weight,
            residual_weight=config.residual_weight,
        )
    return torch.stack(losses)


class _WithGradient(torch.autograd.Function):
    """A number whose gradient with respect to a tensor is known already."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, of_value: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return of_value * gradient, None, None


def pieces_of(batch: Sequence[BatchPart]) -> Iterator[BatchPart]:
    """Cut a batch where one size costs much: the same cuts however many processes share them."""
    for part in batch:
        n_pieces = min(part.n_samples, math.ceil(cost(part) / PIECE))
        for rows in np.array_split(np.arange(part.n_samples), max(n_pieces, 1)):
            yield part.rows(slice(rows[0], rows[-1] + 1))


def cost(part: BatchPart) -> int:
    """Factorising a stack of B matrices N x N goes with B N^3."""
    return part.n_samples * part.after.forward.shape[-1] ** 3


@torch.no_grad()
def evaluate_losses(network: MemberNetwork | Tensor, dataset: Dataset, config: TrainConfig) -> dict[str, float]:
    """Average losses over a dataset, of a network or of constant logits; without the pull to the constants.

    They are computed where the network or the logits are.
    """
    rng = np.random.default_rng(0)
    averages = LossAverages()
    if isinstance(network, MemberNetwork):
        network.eval()
    device = network.median.device if isinstance(network, MemberNetwork) else network.device
    origin = torch.zeros(N_PARAMETERS, device=device)
    for batch in batches(dataset, config.batch_size, rng):
        if isinstance(network, MemberNetwork):
            logits = network.forward_logits(features_of(batch).to(device))
        else:
            logits = network.expand(samples_in(batch), -1)
        averages.add(batch_losses(logits, origin, batch, config, rng), samples_in(batch))
    return {name: value for name, value in averages.means().items() if name not in ("total", "residual")}


class LossAverages:
    """Averages of `Losses` over samples."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(Losses._fields, 0.0)
        self.count = 0

    def add(self, losses: Losses, n_samples: int) -> None:
        """Count the averages over a batch of `n_samples`; waits for the device once."""
        self.count += n_samples
        for name, value in zip(Losses._fields, torch.stack(losses).tolist(), strict=True):
            self.sums[name] += n_samples * value

    def means(self) -> dict[str, float]:
        """Of each loss, over all that was added."""
        return {name: value / max(self.count, 1) for name, value in self.sums.items()}
