# SPDX-License-Identifier: Apache-2.0
"""The best constants in hindsight: a bound on what one answer for all universes of an evaluation could reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigmahat_kernels.panel import FAST_HALFLIFE, correlation_factor, prepare_window
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.loss import Batch, blend_log_volatility, minimum_variance, shrink_correlation
from sigmahat_trainer.network import activate, constant_logits

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
    correlation = shrink_correlation(batch, heads.memory, heads.target_weights * heads.target_intensity)
    log_volatility = blend_log_volatility(batch.log_volatility, heads.volatility)
    return minimum_variance(correlation, log_volatility, batch.forward).log_realised.mean()


def _batch(outcomes: Sequence[Outcome]) -> Batch:
    slow, fast, log_volatility = [], [], []
    for outcome in outcomes:
        window = prepare_window(outcome.past.astype(np.float32))
        factor, fast_factor = correlation_factor(window), correlation_factor(window, halflife=FAST_HALFLIFE)
        slow.append(factor.T @ factor)
        fast.append(fast_factor.T @ fast_factor)
        log_volatility.append(np.log(window.volatilities))
    unused = torch.zeros(len(outcomes))

    def stack(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).float()

    forward = stack([outcome.forward for outcome in outcomes])
    return Batch(unused[:, None], stack(slow), stack(fast), stack(log_volatility), forward, unused, unused)
