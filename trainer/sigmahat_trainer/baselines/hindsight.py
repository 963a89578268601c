# SPDX-License-Identifier: Apache-2.0
"""The best constants in hindsight: a bound on what one answer for all universes of an evaluation could reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.data.dataset import estimate_inputs
from sigmahat_trainer.model.estimate import EstimateInputs, estimate
from sigmahat_trainer.model.loss import minimum_variance
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
    inputs = _estimate_inputs(outcomes)
    forward = torch.from_numpy(np.stack([outcome.forward for outcome in outcomes])).float()
    logits = constant_logits(start).requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _mean_log_variance(logits, inputs, forward)
        loss.backward()
        return loss

    optimiser.step(closure)
    answers = split_parameters(activate(logits.detach()))._asdict()
    return {name: values.tolist() for name, values in answers.items()}


def _mean_log_variance(logits: Tensor, inputs: EstimateInputs, forward: Tensor) -> Tensor:
    heads = split_parameters(activate(logits.expand(len(forward), -1)))
    return minimum_variance(estimate(inputs, heads), forward).log_realised.mean()


def _estimate_inputs(outcomes: Sequence[Outcome]) -> EstimateInputs:
    fields = zip(*(estimate_inputs(outcome.past.astype(np.float32)) for outcome in outcomes), strict=True)
    return EstimateInputs(*(torch.from_numpy(np.stack(field)).float() for field in fields))
