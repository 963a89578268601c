# SPDX-License-Identifier: Apache-2.0
"""RIEnet, the published network, trained on the data that ours is trained on; it needs ``sigmahat[evaluate]``.

Bongiorno, Manolakis, Mantegna (2026), J. Finance and Data Science 12, 100179; their package ``rienet-torch``, which has
no weights. Its layer, its sizes and its portfolio are theirs; the loss is the logarithm of theirs, averaged over
episodes, as that is what an evaluation here reports, and otherwise a few crises would drown the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sigmahat_kernels.request import Request
from sigmahat_trainer.baselines.adapters import Estimator, universe_returns
from sigmahat_trainer.data.episodes import Episode
from sigmahat_trainer.data.panels import PERIODS_PER_YEAR, fill_missing

BATCH_SIZE = 16
LEARNING_RATE = 2e-3
GRADIENT_LIMIT = 1.0


def build_rienet(output: str | Sequence[str] = "covariance") -> nn.Module:
    """The compact architecture of the authors, 2,175 parameters."""
    from rienet_torch import RIEnetLayer

    layer: nn.Module = RIEnetLayer(output_type=output)
    layer(torch.randn(1, 5, 30) * 0.01)  # it makes its weights when it first sees data
    return layer


def train_rienet(
    episodes: Sequence[Episode],
    *,
    horizon: int,
    epochs: int,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """Minimise the mean ln realised variance of its minimum-variance portfolio.

    `progress` is called with the steps done, the steps in all, and the mean loss of the epoch so far.
    """
    from rienet_torch import variance_loss_function

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = build_rienet("weights")
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    steps_per_epoch = sum(1 for _ in _batches(episodes, np.random.default_rng(seed)))
    total = epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 0.5 * (1 + math.cos(math.pi * min(k / total, 1))))
    step = 0
    for _ in range(epochs):
        losses: list[float] = []
        for batch in _batches(episodes, rng):
            past = np.stack([episode.past().T for episode in batch])
            forward = torch.from_numpy(np.stack([episode.forward(horizon) for episode in batch])).float()
            realised = forward.transpose(1, 2) @ forward * (PERIODS_PER_YEAR / horizon)
            variance = variance_loss_function(realised, network(torch.from_numpy(past).float()))
            loss = variance.clamp_min(1e-10).log().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            step += 1
            if progress:
                progress(step, total, float(np.mean(losses)))
    return network.eval()


def rienet(network: Callable[[torch.Tensor], torch.Tensor]) -> Estimator:
    """The estimator. The network leaves the level free: its covariance is given the trace of the sample's.

    Universes of one shape go through the network together: its recurrent layer takes little longer for many than for
    one, and what it is compared with sees them together too.
    """

    def estimate(request: Request) -> list[np.ndarray]:
        returns = [fill_missing(rows) for rows in universe_returns(request)]
        covariances = list(returns)  # places for the answers
        for shape in {rows.shape for rows in returns}:
            same = [k for k, rows in enumerate(returns) if rows.shape == shape]
            with torch.no_grad():
                answers = network(torch.from_numpy(np.stack([returns[k].T for k in same])).float())
            for k, covariance in zip(same, answers.double().numpy(), strict=True):
                covariances[k] = covariance * (returns[k].var(axis=0, ddof=1).sum() / np.trace(covariance))
        return covariances

    return estimate


def save_rienet(network: nn.Module, path: Path) -> None:
    """Write the weights."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def load_rienet(path: Path) -> nn.Module:
    """Read what `save_rienet` wrote."""
    from safetensors.torch import load_file

    network = build_rienet()
    network.load_state_dict(load_file(path))
    return network.eval()


def _batches(episodes: Sequence[Episode], rng: np.random.Generator) -> Iterator[list[Episode]]:
    """Episodes of one shape each, in random order."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for k in rng.permutation(len(episodes)):
        by_shape.setdefault((len(episodes[k].universe), episodes[k].n_obs), []).append(int(k))
    pieces = [rows[i : i + BATCH_SIZE] for rows in by_shape.values() for i in range(0, len(rows), BATCH_SIZE)]
    for k in rng.permutation(len(pieces)):
        yield [episodes[row] for row in pieces[k]]
