# SPDX-License-Identifier: Apache-2.0
"""The losses of a batch, shared out among the processes that train together, and their averages over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

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
    """Averages over the samples of a batch; `logits` of shape (B, N_PARAMETERS).

    Nearly all time goes into these losses, hardly any into the network. So processes that train together all run the
    network on the whole batch, with the same dropout and the same statistics of BatchNorm, and share out the losses:
    each takes some pieces, and both the losses and their gradient with respect to `logits` are summed over processes.
    A row belongs to one piece, all others add zeros: the sums are those of one process, to the bit, and so is the step.
    What a loss draws at random must neither depend on who computes it nor move the generator of the dropout, so each
    piece starts from the same seed.
    """
    target, seed = int(rng.integers(len(TARGETS))), int(rng.integers(2**32))
    pieces = list(pieces_of(batch))
    counts = [piece.n_samples for piece in pieces]
    own = own_share([cost(piece) for piece in pieces])
    if logits.requires_grad:
        logits.register_hook(add_up)
    values = []
    for k, (piece, rows) in enumerate(zip(pieces, logits.split(counts), strict=True)):
        if k in own:
            with torch.random.fork_rng(devices=[]):
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
            values.append(torch.stack(losses))
        else:
            values.append(rows[:0].sum().expand(len(Losses._fields)))  # 0, and backward still comes by
    found = torch.stack(values)
    is_own = torch.tensor([k in own for k in range(len(pieces))])[:, None]
    found = torch.where(is_own, found, add_up(found))  # what the others found is a number here, nothing to learn from
    return Losses(*(torch.tensor(counts) / sum(counts) @ found))


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
    """Average losses over a dataset, of a network or of constant logits; without the pull to the constants."""
    rng = np.random.default_rng(0)
    averages = LossAverages()
    if isinstance(network, MemberNetwork):
        network.eval()
    for batch in batches(dataset, config.batch_size, rng):
        if isinstance(network, MemberNetwork):
            logits = network.forward_logits(features_of(batch))
        else:
            logits = network.expand(samples_in(batch), -1)
        averages.add(batch_losses(logits, torch.zeros(N_PARAMETERS), batch, config, rng), samples_in(batch))
    return {name: value for name, value in averages.means().items() if name not in ("total", "residual")}


class LossAverages:
    """Averages of `Losses` over samples."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(Losses._fields, 0.0)
        self.count = 0

    def add(self, losses: Losses, n_samples: int) -> None:
        """Count the averages over a batch of `n_samples`."""
        self.count += n_samples
        for name, value in losses._asdict().items():
            self.sums[name] += n_samples * float(value.detach())

    def means(self) -> dict[str, float]:
        """Of each loss, over all that was added."""
        return {name: value / max(self.count, 1) for name, value in self.sums.items()}
