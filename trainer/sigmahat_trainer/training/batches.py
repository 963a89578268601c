# SPDX-License-Identifier: Apache-2.0
"""From samples to batches: which samples a member sees, in which order, and as which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmahat_trainer.data.dataset import Dataset, Sample, Size
from sigmahat_trainer.model.estimate import EstimateInputs
from sigmahat_trainer.model.loss import HoldingPeriod


class BatchPart(NamedTuple):
    """The samples of a batch that have one universe size."""

    features: Tensor  # (B, F), what the network reads
    inputs: EstimateInputs
    after: HoldingPeriod

    @property
    def n_samples(self) -> int:
        """B."""
        return len(self.features)

    def to(self, device: torch.device) -> BatchPart:
        """The same on a device."""
        return BatchPart(
            self.features.to(device),
            EstimateInputs(*(field.to(device) for field in self.inputs)),
            HoldingPeriod(*(field.to(device) for field in self.after)),
        )

    def rows(self, which: slice) -> BatchPart:
        """Some of the samples."""
        return BatchPart(
            self.features[which],
            EstimateInputs(*(field[which] for field in self.inputs)),
            HoldingPeriod(*(field[which] for field in self.after)),
        )


def batch_part(stack: Sample, rows: np.ndarray) -> BatchPart:
    """Some rows of stacked samples as tensors; only they are read, so a dataset that is mapped into memory stays there.

    Parameters
    ----------
    stack : Sample
        Each field with the samples along its first axis.
    rows : array of int
    """

    def tensors(names: Sequence[str]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(getattr(stack, name)[rows]) for name in names}

    return BatchPart(
        **tensors(["features"]),
        inputs=EstimateInputs(**tensors(EstimateInputs._fields)),
        after=HoldingPeriod(**tensors(HoldingPeriod._fields)),
    )


def batches(
    dataset: Dataset, batch_size: int, rng: np.random.Generator, rows: Mapping[Size, np.ndarray] | None = None
) -> Iterator[list[BatchPart]]:
    """Batches of mixed sizes in random order, each as one part a universe size; the short rest too, if above one.

    Sizes mix because BatchNorm must see what it will be served: in a batch of one size, the size is a constant.

    `rows` says which samples of each size are meant, as `bootstrap_months` draws them; default all.
    """
    if rows is None:
        rows = {size: np.arange(len(stack.features)) for size, stack in dataset.by_size.items()}
    sizes = sorted(rows)
    meant = np.concatenate([rows[size] for size in sizes])
    stacks = np.repeat(np.arange(len(sizes)), [len(rows[size]) for size in sizes])
    order = rng.permutation(len(meant))
    for i in range(0, len(order), batch_size):
        piece = order[i : i + batch_size]
        if len(piece) > 1:  # batch normalisation needs two
            yield [
                batch_part(dataset.by_size[sizes[stack]], meant[piece[stacks[piece] == stack]])
                for stack in np.unique(stacks[piece]).tolist()
            ]


def features_of(batch: Sequence[BatchPart]) -> Tensor:
    """Features of all samples of a batch, (B, F)."""
    return torch.cat([part.features for part in batch])


def samples_in(batch: Sequence[BatchPart]) -> int:
    """How many samples a batch has."""
    return sum(part.n_samples for part in batch)


def bootstrap_months(dataset: Dataset, rng: np.random.Generator) -> dict[Size, np.ndarray]:
    """Draw as many months as there are, with replacement: rows of each size, as often as their month was drawn."""
    periods = dataset.periods()
    counts = np.bincount(rng.integers(len(periods), size=len(periods)), minlength=len(periods))
    rows = {
        size: np.repeat(np.arange(len(stack.period)), counts[np.searchsorted(periods, stack.period)])
        for size, stack in dataset.by_size.items()
    }
    return {size: meant for size, meant in rows.items() if len(meant)}
