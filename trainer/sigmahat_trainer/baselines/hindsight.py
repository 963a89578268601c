# SPDX-License-Identifier: Apache-2.0
"""The best constants in hindsight: a bound on what one answer for all universes of an evaluation could reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.data.dataset import estimate_inputs
from sigmahat_trainer.model.loss import Batch, estimate, minimum_variance
from sigmahat_trainer.model.network import activate, constant_logits

ITERATIONS = 12


class Outcome(NamedTuple):
    """A universe's returns before and after a date, as an evaluation sees them."""

    past: np.ndarray  # (n_obs, n_assets), NaN = missing
    forward: np.ndarray  # (horizon, n_assets)


def hindsight_constants(outcomes: Sequence[Outcome], start: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Minimise the mean ln realised variance over constants, given what happened.

    Parameters
    ----------
    outcomes : sequence of Outcome
        All of one shape.
    start : mapping
        Constants to start from, a value for each head.

    Returns
    -------
    dict
        As `start`; heads that no covariance depends on are left as they are.
    """
    batch = _batch(outcomes)
    logits = constant_logits(start).requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _mean_log_variance(logits, batch)
        loss.backward()
        return loss

    optimiser.step(closure)
    answers = split_parameters(activate(logits.detach()))._asdict()
    return {name: values.tolist() for name, values in answers.items()}


def _mean_log_variance(logits: Tensor, batch: Batch) -> Tensor:
    heads = split_parameters(activate(logits.expand(len(batch.slow), -1)))
    return minimum_variance(estimate(batch, heads), batch.forward).log_realised.mean()


def _batch(outcomes: Sequence[Outcome]) -> Batch:
    def stack(arrays: Iterable[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(list(arrays))).float()

    inputs = zip(*(estimate_inputs(outcome.past.astype(np.float32)) for outcome in outcomes), strict=True)
    slow, fast, log_volatility, assets = map(stack, inputs)
    forward = stack(outcome.forward for outcome in outcomes)
    unused = torch.zeros(len(outcomes))
    return Batch(unused[:, None], slow, fast, log_volatility, assets, forward, unused, unused)
