# SPDX-License-Identifier: Apache-2.0
"""Steps of training on the CPU and on a GPU, and how far apart their losses are, into ``results/gpu_training.json``.

``python -m benchmarks.speed.gpu_training`` needs torch and the sources; without a CUDA device it measures the CPU.
Samples are drawn of normal returns: what is measured does not depend on what they are.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.figures import RESULTS, four_digits, write_figures
from benchmarks.speed.gpu_measurement import Lines, options
from sigmahat_kernels.features import N_FEATURES
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset, Sample, Size, estimate_inputs
from sigmahat_trainer.model.estimate import EstimateInputs
from sigmahat_trainer.model.network import MemberNetwork, constant_logits
from sigmahat_trainer.training.batches import BatchPart, batches, features_of
from sigmahat_trainer.training.constants import STARTING_CONSTANTS
from sigmahat_trainer.training.distributed import CPU, training_device
from sigmahat_trainer.training.shared_losses import batch_losses

N_OBS, HORIZON = 252, 21


class Problem(NamedTuple):
    """What is trained with."""

    sizes: tuple[int, ...]
    batch_size: int
    steps: int


FULL = Problem((20, 50, 100, 200), 128, 20)
REHEARSAL = Problem((5, 8), 16, 1)


def draw_batch(problem: Problem) -> list[BatchPart]:
    """As many samples of each size, on the host."""
    rng = np.random.default_rng(0)
    by_size = {}
    n = -(-problem.batch_size // len(problem.sizes))
    for size in problem.sizes:
        returns = 0.01 * (rng.standard_normal((N_OBS + HORIZON, size)) + rng.standard_normal((N_OBS + HORIZON, 1)))
        measured = dict(zip(EstimateInputs._fields, estimate_inputs(returns[:N_OBS]), strict=True))
        stacked = {
            name: np.repeat(field[None], n, axis=0) for name, field in (measured | {"forward": returns[N_OBS:]}).items()
        }
        stacked["features"] = rng.standard_normal((n, N_FEATURES))
        floats = {name: field.astype(np.float32) for name, field in stacked.items()}
        by_size[Size(size, HORIZON)] = Sample(**floats, regime=np.zeros(n, np.int64), period=np.zeros(n, np.int64))
    return next(batches(Dataset(by_size), n * len(problem.sizes), rng))


def losses_of(batch: list[BatchPart], constants: torch.Tensor, config: TrainConfig, device: torch.device) -> Any:
    """Losses at the constants, where nothing is drawn at random but the portfolios."""
    logits = constants.to(device).expand(sum(part.n_samples for part in batch), -1)
    return batch_losses(logits, constants.to(device), batch, config, np.random.default_rng(0))


def seconds_of_step(batch: list[BatchPart], config: TrainConfig, device: torch.device, steps: int) -> float:
    """Median time of a whole step: batch to the device, network, losses, gradient, optimiser."""
    torch.manual_seed(0)
    network = MemberNetwork(N_FEATURES, config.network).to(device).train()
    constants = constant_logits(STARTING_CONSTANTS).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    times = []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        logits = network.forward_logits(features_of(batch).to(device))
        losses = batch_losses(logits, constants, batch, config, np.random.default_rng(0))
        optimiser.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.total.item()  # waits for the device
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:]))


def main() -> int:
    """Measure, print, write."""
    parser = options(__doc__, RESULTS / "gpu_training.json", seconds=60.0)
    arguments = parser.parse_args()
    problem, lines = REHEARSAL if arguments.rehearsal else FULL, Lines(arguments.lines)
    torch.set_num_threads(1)
    config, constants, batch = TrainConfig(), constant_logits(STARTING_CONSTANTS), draw_batch(problem)
    devices = dict.fromkeys([training_device(), CPU])
    figures: dict[str, float] = {}

    def record(name: str, value: float) -> None:
        figures[name] = four_digits(value)
        lines.add(name, figures[name])
        write_figures(arguments.out, figures, **({"commit": arguments.commit} if arguments.commit else {}))

    for device in devices:
        record(f"training_decision_{device.type}", float(losses_of(batch, constants, config, device).decision))
        steps = problem.steps if device.type == "cuda" else 1 + problem.steps // 10  # the GPU's are what is asked for
        record(f"training_step_{device.type}_seconds", seconds_of_step(batch, config, device, steps))
    if len(devices) > 1:
        record("training_gpu_over_cpu", figures["training_step_cpu_seconds"] / figures["training_step_cuda_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
