# SPDX-License-Identifier: Apache-2.0
"""The training loop of one member of the ensemble."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset, Size
from sigmahat_trainer.model.network import MemberNetwork, activate
from sigmahat_trainer.training.batches import batches, bootstrap_months, features_of, samples_in
from sigmahat_trainer.training.distributed import CPU, generator_of
from sigmahat_trainer.training.expanding import expanding_dataset
from sigmahat_trainer.training.importance import shuffling_costs
from sigmahat_trainer.training.resume import Checkpoint
from sigmahat_trainer.training.shared_losses import LossAverages, Progress, batch_losses, evaluate_losses

GRADIENT_LIMIT = 1.0
"""Norm at which a gradient is cut: one sample in which a portfolio explodes must not undo an epoch."""


class TrainedMember(NamedTuple):
    """One member and how it came about."""

    network: MemberNetwork  # in eval mode, on the host
    history: list[dict[str, float]]  # one entry an epoch


def train_member(
    dataset: Dataset,
    validation: Dataset,
    constants: Tensor,
    config: TrainConfig,
    *,
    member: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    device: torch.device = CPU,
) -> TrainedMember:
    """Train one member on a bootstrap of the months, starting at the learned constants.

    Parameters
    ----------
    dataset, validation : Dataset
    constants : tensor of shape (N_PARAMETERS,)
        Logits from `fit_constants`.
    config : TrainConfig
    member : int
        Added to the seed: members differ in their starting weights and in the months that they see.
    progress : callable, optional
    checkpoint : Checkpoint, optional
        Written after each epoch; if it is there at the start, training goes on from it, to the same bits as without.
    device : torch.device
        Where the network and the losses are computed; a GPU's bits are not those of the CPU.
    """
    if config.preprocessing.expanding_normalisation == "on":
        dataset = expanding_dataset(dataset)
    rng, network = _starting_member(dataset, constants, config, config.seed + member)
    network.to(device)
    constants, dropout = constants.to(device), generator_of(device)
    rows = bootstrap_months(dataset, rng)
    optimiser, schedule = _optimiser(network, rows, config)
    history: list[dict[str, float]] = []
    learners = {"network": network, "optimiser": optimiser, "schedule": schedule}
    if checkpoint and (saved := checkpoint.load()):
        history = _restore(saved, learners, dropout, rng)
        if progress:
            progress(f"member {member + 1}", len(history), config.epochs, history[-1])
    else:
        network.fit_inputs(dataset.features(), _importance(dataset, constants.cpu(), config, config.seed + member))
    for epoch in range(len(history), config.epochs):
        averages = _train_pass(network, optimiser, schedule, dataset, rows, constants, config, rng)
        metrics = {f"train_{name}": value for name, value in averages.means().items()}
        metrics |= {f"validation_{name}": value for name, value in evaluate_losses(network, validation, config).items()}
        history.append({"epoch": epoch + 1, **metrics})
        if checkpoint:
            checkpoint.save(_state(learners, dropout, rng, history))
        if progress:
            progress(f"member {member + 1}", epoch + 1, config.epochs, metrics)
    return TrainedMember(network.eval().cpu(), history)


def _starting_member(
    dataset: Dataset, constants: Tensor, config: TrainConfig, seed: int
) -> tuple[np.random.Generator, MemberNetwork]:
    """What decides the course of a member: its generator, and a network that answers nearly the constants."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    network = MemberNetwork(dataset.features().shape[1], config.network, config.preprocessing)
    answers = split_parameters(activate(constants))._asdict()
    network.initialise_outputs({name: values.tolist() for name, values in answers.items()}, weight_scale=0.1)
    return rng, network


def _importance(dataset: Dataset, constants: Tensor, config: TrainConfig, seed: int) -> np.ndarray | None:
    """What shuffling each feature costs a member trained for one pass with all of them; None where none is selected."""
    if not config.preprocessing.selected_features:
        return None
    with_all = replace(config.preprocessing, selected_features=0, principal_components=0)
    config = replace(config, preprocessing=with_all, epochs=1)
    with torch.random.fork_rng(devices=[]):  # the member's own course does not depend on it
        rng, pilot = _starting_member(dataset, constants, config, seed)
        pilot.fit_inputs(dataset.features())
        rows = bootstrap_months(dataset, rng)
        _train_pass(pilot, *_optimiser(pilot, rows, config), dataset, rows, constants, config, rng)
    return shuffling_costs(pilot, dataset, config, rng)


def _optimiser(
    network: MemberNetwork, rows: Mapping[Size, np.ndarray], config: TrainConfig
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimiser of a network that sees `rows` in each epoch, and its learning rate's course."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    full_steps, rest = divmod(sum(map(len, rows.values())), config.batch_size)
    # As `batches` leaves out a single one.
    return optimiser, learning_rate_schedule(optimiser, config, full_steps + (rest > 1))


def _train_pass(
    network: MemberNetwork,
    optimiser: torch.optim.Optimizer,
    schedule: LambdaLR,
    dataset: Dataset,
    rows: Mapping[Size, np.ndarray],
    constants: Tensor,
    config: TrainConfig,
    rng: np.random.Generator,
) -> LossAverages:
    """Learn from each of `rows` once."""
    network.train()
    averages = LossAverages()
    for batch in batches(dataset, config.batch_size, rng, rows):
        logits = network.forward_logits(features_of(batch).to(constants.device))
        losses = batch_losses(logits, constants, batch, config, rng)
        optimiser.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT, error_if_nonfinite=True)
        optimiser.step()
        schedule.step()
        averages.add(losses, samples_in(batch))
    return averages


def learning_rate_schedule(optimiser: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Course of the learning rate: cosine to zero, tenfold drops at 60 and 85 % of the steps, or a hundredth in all."""
    total = config.epochs * steps_per_epoch
    course = {
        "cosine": lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / total, 1.0))),
        "step": lambda step: 0.1 ** ((step >= 0.6 * total) + (step >= 0.85 * total)),
        "exponential": lambda step: 0.01 ** (step / total),
    }[config.schedule]
    return LambdaLR(optimiser, course)


def _state(
    learners: Mapping[str, Any], dropout: torch.Generator, rng: np.random.Generator, history: list[dict[str, float]]
) -> dict[str, Any]:
    """Everything that decides how training goes on."""
    states = {name: learner.state_dict() for name, learner in learners.items()}
    return {**states, "torch": dropout.get_state(), "numpy": rng.bit_generator.state, "history": history}


def _restore(
    state: Mapping[str, Any], learners: Mapping[str, Any], dropout: torch.Generator, rng: np.random.Generator
) -> list[dict[str, float]]:
    """Put back what `_state` took; returns the history."""
    for name, learner in learners.items():
        learner.load_state_dict(state[name])
    dropout.set_state(state["torch"])
    rng.bit_generator.state = state["numpy"]
    history: list[dict[str, float]] = state["history"]
    return history
