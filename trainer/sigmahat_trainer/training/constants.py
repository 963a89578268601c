# SPDX-License-Identifier: Apache-2.0
"""The learned constants: the one answer that serves all samples best, from which every member starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import HEADS
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.network import constant_logits
from sigmahat_trainer.training.batches import batches, samples_in
from sigmahat_trainer.training.distributed import CPU
from sigmahat_trainer.training.shared_losses import LossAverages, Progress, batch_losses

STARTING_CONSTANTS: dict[str, Any] = {
    "target_intensity": [0.5, 0.3, 0.6],
    "target_weights": [0.45, 0.05, 0.5],
    "memory": 0.5,
    "volatility": [0.34, 0.33, 0.33, 0.1],
    "level": [0.0, 0.05],
}


def fit_constants(
    dataset: Dataset,
    config: TrainConfig,
    *,
    epochs: int = 2,
    fixed: Sequence[str] = (),
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> Tensor:
    """Find the one answer that serves all samples best: logits of shape (N_PARAMETERS,), on the host.

    The same losses as for a member, with the same parameters for every universe. They are the baseline that the
    network must beat, and the point it starts from. Heads named in `fixed` stay at `STARTING_CONSTANTS`, or 0. The
    losses are computed on `device`.
    """
    torch.manual_seed(config.seed)
    logits = constant_logits(STARTING_CONSTANTS).to(device).requires_grad_()
    learns = ~torch.cat([torch.full((width,), name in fixed) for name, width in HEADS.items()]).to(device)
    optimiser = torch.optim.Adam([logits], lr=0.03)
    rng = np.random.default_rng(config.seed)
    for epoch in range(epochs):
        averages = LossAverages()
        for batch in batches(dataset, config.batch_size, rng):
            rows = logits.expand(samples_in(batch), -1)
            losses = batch_losses(rows, logits.detach(), batch, config, rng)
            optimiser.zero_grad()
            losses.total.backward()
            assert logits.grad is not None
            logits.grad *= learns
            optimiser.step()
            averages.add(losses, samples_in(batch))
        for group in optimiser.param_groups:
            group["lr"] *= 0.3
        if progress:
            progress("constants", epoch + 1, epochs, averages.means())
    return logits.detach().cpu()
