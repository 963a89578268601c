# SPDX-License-Identifier: Apache-2.0
"""What a trained network loses without a feature: the measure that selection goes by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import N_PARAMETERS
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.network import MemberNetwork
from sigmahat_trainer.training.batches import BatchPart, batches, features_of, samples_in
from sigmahat_trainer.training.shared_losses import batch_losses

IMPORTANCE_SAMPLES = 2048
"""Samples, about, on which every feature is shuffled in turn."""


@torch.no_grad()
def shuffling_costs(
    network: MemberNetwork, dataset: Dataset, config: TrainConfig, rng: np.random.Generator
) -> np.ndarray:
    """By how much the decision loss grows when a feature comes from other samples of its batch, of shape (n_features,).

    Permutation importance (Breiman 2001; Fisher, Rudin, Dominici 2019), on random batches of `dataset`. All features
    of a batch are shuffled alike.
    """
    network.eval()
    costs, count = np.zeros(network.n_features), 0
    for batch in islice(batches(dataset, config.batch_size, rng), -(-IMPORTANCE_SAMPLES // config.batch_size)):
        features, n_samples = features_of(batch), samples_in(batch)
        others = features[torch.from_numpy(rng.permutation(n_samples))]
        own = _decision(network, features, batch, config)
        for column in range(network.n_features):
            told = features.clone()
            told[:, column] = others[:, column]
            costs[column] += n_samples * (_decision(network, told, batch, config) - own)
        count += n_samples
    return costs / count


def _decision(network: MemberNetwork, told: Tensor, batch: Sequence[BatchPart], config: TrainConfig) -> float:
    """The decision loss of a network that is told features which need not be those of the samples."""
    logits, rng = network.forward_logits(told), np.random.default_rng(0)  # which draws for other losses
    return float(batch_losses(logits, torch.zeros(N_PARAMETERS), batch, config, rng).decision)
