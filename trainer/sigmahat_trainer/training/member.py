# SPDX-License-Identifier: Apache-2.0
"""The training loop: learned constants first, then each member around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, TARGETS, split_parameters
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.loss import Batch, Losses, member_losses
from sigmahat_trainer.model.network import MemberNetwork, activate, constant_logits
from sigmahat_trainer.training.distributed import add_up, own_share
from sigmahat_trainer.training.resume import Checkpoint

GRADIENT_LIMIT = 1.0
"""Norm at which a gradient is cut: one window in which a portfolio explodes must not undo an epoch."""

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with what is trained, epochs done, epochs in all, and the metrics of the last."""

STARTING_CONSTANTS: dict[str, Any] = {
    "target_intensity": [0.5, 0.3, 0.6],
    "target_weights": [0.45, 0.05, 0.5],
    "memory": 0.5,
    "volatility": [0.34, 0.33, 0.33, 0.1],
    "level": [0.0, 0.05],
}


class Trained(NamedTuple):
    """One member and how it came about."""

    network: MemberNetwork  # in eval mode
    history: list[dict[str, float]]  # one entry an epoch


def fit_constants(
    dataset: Dataset,
    config: TrainConfig,
    *,
    epochs: int = 2,
    fixed: Sequence[str] = (),
    progress: Progress | None = None,
) -> Tensor:
    """Find the one answer that serves all windows best: logits of shape (N_PARAMETERS,).

    The same losses as for a member, with the same parameters for every universe. They are the baseline that the
    network must beat, and the point it starts from. Heads named in `fixed` stay at `STARTING_CONSTANTS`, or 0.
    """
    torch.manual_seed(config.seed)
    logits = constant_logits(STARTING_CONSTANTS).requires_grad_()
    learns = ~torch.cat([torch.full((width,), name in fixed) for name, width in HEADS.items()])
    optimiser = torch.optim.Adam([logits], lr=0.03)
    rng = np.random.default_rng(config.seed)
    for epoch in range(epochs):
        running = _Running()
        for batch in batches(dataset, config.batch_size, rng):
            rows = logits.expand(windows_in(batch), -1)
            losses = _losses(rows, logits.detach(), batch, config, rng)
            optimiser.zero_grad()
            losses.total.backward()
            assert logits.grad is not None
            logits.grad *= learns
            optimiser.step()
            running.add(losses, windows_in(batch))
        for group in optimiser.param_groups:
            group["lr"] *= 0.3
        if progress:
            progress("constants", epoch + 1, epochs, running.means())
    return logits.detach()


def train_member(
    dataset: Dataset,
    validation: Dataset,
    constants: Tensor,
    config: TrainConfig,
    *,
    member: int,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Trained:
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
    """
    seed = config.seed + member
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    network = MemberNetwork(dataset.features().shape[1], config.network)
    network.set_scaling(*robust_scaling(dataset.features()))
    answers = split_parameters(activate(constants))._asdict()
    network.initialise_outputs({name: values.tolist() for name, values in answers.items()}, weight_scale=0.1)
    drawn = bootstrap_months(dataset, rng)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    n_windows = sum(map(len, drawn.values()))
    steps_per_epoch = n_windows // config.batch_size + (n_windows % config.batch_size > 1)
    schedule = learning_rate_schedule(optimiser, config, steps_per_epoch)
    history: list[dict[str, float]] = []
    learners = {"network": network, "optimiser": optimiser, "schedule": schedule}
    if checkpoint and (saved := checkpoint.load()):
        history = _restore(saved, learners, rng)
        if progress:
            progress(f"member {member + 1}", len(history), config.epochs, history[-1])
    for epoch in range(len(history), config.epochs):
        network.train()
        running = _Running()
        for batch in batches(dataset, config.batch_size, rng, drawn):
            losses = _losses(network.forward_logits(features_of(batch)), constants, batch, config, rng)
            optimiser.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_LIMIT)
            optimiser.step()
            schedule.step()
            running.add(losses, windows_in(batch))
        metrics = {f"train_{name}": value for name, value in running.means().items()}
        metrics |= {f"validation_{name}": value for name, value in evaluate_losses(network, validation, config).items()}
        history.append({"epoch": epoch + 1, **metrics})
        if checkpoint:
            checkpoint.save(_state(learners, rng, history))
        if progress:
            progress(f"member {member + 1}", epoch + 1, config.epochs, metrics)
    return Trained(network.eval(), history)


@torch.no_grad()
def evaluate_losses(network: MemberNetwork | Tensor, dataset: Dataset, config: TrainConfig) -> dict[str, float]:
    """Average losses over a dataset, of a network or of constant logits; without the pull to the constants."""
    rng = np.random.default_rng(0)
    running = _Running()
    if isinstance(network, MemberNetwork):
        network.eval()
    for batch in batches(dataset, config.batch_size, rng):
        if isinstance(network, MemberNetwork):
            logits = network.forward_logits(features_of(batch))
        else:
            logits = network.expand(windows_in(batch), -1)
        running.add(_losses(logits, torch.zeros(N_PARAMETERS), batch, config, rng), windows_in(batch))
    return {name: value for name, value in running.means().items() if name not in ("total", "residual")}


def batches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator, rows: Mapping[int, np.ndarray] | None = None
) -> Iterator[list[Batch]]:
    """Batches of mixed sizes in random order, each as one `Batch` a universe size; the short rest too, if above one.

    Sizes mix because BatchNorm must see what it will be served: in a batch of one size, the size is a constant.

    `rows` says which samples of each size are meant, as `bootstrap_months` draws them; default all. Only a batch's own
    samples are read, so a dataset that is mapped into memory stays there.
    """
    if rows is None:
        rows = {size: np.arange(len(stack.features)) for size, stack in dataset.by_size.items()}
    sizes = np.repeat(list(rows), [len(meant) for meant in rows.values()])
    meant = np.concatenate(list(rows.values()))
    order = rng.permutation(len(meant))
    for i in range(0, len(order), batch_size):
        piece = order[i : i + batch_size]
        if len(piece) > 1:  # batch normalisation needs two
            yield [
                Batch(*(torch.from_numpy(field[meant[piece[sizes[piece] == size]]]) for field in dataset.by_size[size]))
                for size in np.unique(sizes[piece]).tolist()
            ]


def features_of(batch: Sequence[Batch]) -> Tensor:
    """Features of all windows of a batch, (B, F)."""
    return torch.cat([part.features for part in batch])


def windows_in(batch: Sequence[Batch]) -> int:
    """How many windows a batch has."""
    return sum(len(part.features) for part in batch)


def bootstrap_months(dataset: Dataset, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Draw as many months as there are, with replacement: each size's samples, as often as their month was drawn."""
    periods = dataset.periods()
    counts = np.bincount(rng.integers(len(periods), size=len(periods)), minlength=len(periods))
    drawn = {
        size: np.repeat(np.arange(len(stack.period)), counts[np.searchsorted(periods, stack.period)])
        for size, stack in dataset.by_size.items()
    }
    return {size: rows for size, rows in drawn.items() if len(rows)}


def robust_scaling(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and interquartile range of each feature; where more than half of the values are equal, their deviation."""
    low, median, high = np.quantile(features.astype(np.float64), [0.25, 0.5, 0.75], axis=0)
    spread = high - low
    deviation = features.std(axis=0, dtype=np.float64)
    return median, np.where(spread > 0, np.maximum(spread, 0.1 * deviation), deviation)


def learning_rate_schedule(
    optimiser: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Course of the learning rate: cosine to zero, tenfold drops at 60 and 85 % of the steps, or a hundredth in all."""
    total = config.epochs * steps_per_epoch
    course = {
        "cosine": lambda step: 0.5 * (1.0 + math.cos(math.pi * min(step / total, 1.0))),
        "step": lambda step: 0.1 ** ((step >= 0.6 * total) + (step >= 0.85 * total)),
        "exponential": lambda step: 0.01 ** (step / total),
    }[config.schedule]
    return torch.optim.lr_scheduler.LambdaLR(optimiser, course)


def _state(learners: Mapping[str, Any], rng: np.random.Generator, history: list[dict[str, float]]) -> dict[str, Any]:
    """Everything that decides how training goes on."""
    states = {name: learner.state_dict() for name, learner in learners.items()}
    return {**states, "torch": torch.get_rng_state(), "numpy": rng.bit_generator.state, "history": history}


def _restore(state: Mapping[str, Any], learners: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, float]]:
    """Put back what `_state` took; returns the history."""
    for name, learner in learners.items():
        learner.load_state_dict(state[name])
    torch.set_rng_state(state["torch"])
    rng.bit_generator.state = state["numpy"]
    history: list[dict[str, float]] = state["history"]
    return history


def _losses(
    logits: Tensor, constants: Tensor, batch: Sequence[Batch], config: TrainConfig, rng: np.random.Generator
) -> Losses:
    """Averages over the windows of a batch; `logits` of shape (B, N_PARAMETERS).

    Nearly all time goes into these losses, hardly any into the network. So processes that train together all run the
    network on the whole batch, with the same dropout and the same statistics of BatchNorm, and share out the losses:
    each takes some pieces, and both the losses and their gradient with respect to `logits` are summed over processes.
    A row belongs to one piece, all others add zeros: the sums are those of one process, to the bit, and so is the step.
    What a loss draws at random must neither depend on who computes it nor move the generator of the dropout, so each
    piece starts from the same seed.
    """
    target, seed = int(rng.integers(len(TARGETS))), int(rng.integers(2**32))
    pieces = list(_pieces(batch))
    counts = [len(piece.features) for piece in pieces]
    own = own_share([_cost(piece) for piece in pieces])
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
                    piece,
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


PIECE = 5e7
"""Cost of a piece: small enough to share out evenly, large enough that its calls do not matter."""


def _pieces(batch: Sequence[Batch]) -> Iterator[Batch]:
    """Cut a batch where one size costs much: the same cuts however many processes share them."""
    for part in batch:
        n_rows = len(part.features)
        n_pieces = min(n_rows, math.ceil(_cost(part) / PIECE))
        for rows in np.array_split(np.arange(n_rows), max(n_pieces, 1)):
            yield Batch(*(field[rows[0] : rows[-1] + 1] for field in part))


def _cost(part: Batch) -> int:
    """Factorising a stack of B matrices N x N goes with B N^3."""
    return len(part.features) * part.forward.shape[-1] ** 3


class _Running:
    """Averages of `Losses` over windows."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(Losses._fields, 0.0)
        self.count = 0

    def add(self, losses: Losses, n_windows: int) -> None:
        self.count += n_windows
        for name, value in losses._asdict().items():
            self.sums[name] += n_windows * float(value.detach())

    def means(self) -> dict[str, float]:
        return {name: value / max(self.count, 1) for name, value in self.sums.items()}
