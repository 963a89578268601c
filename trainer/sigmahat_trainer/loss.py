# SPDX-License-Identifier: Apache-2.0
"""What training minimises: the realised variance of the minimum-variance portfolio, and the auxiliary heads' scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sigmahat_kernels.parameters import N_PARAMETERS, TARGETS, split_parameters

CONDITION_ROWS = 1
"""Rows of each size of a batch whose condition number is measured: an eigenvalue problem each, and few teach."""

_RIDGE = 1e-5
_SMALLEST_VARIANCE = 1e-12


class Batch(NamedTuple):
    """A batch of `dataset.Sample` as tensors; `B` universes of `N` assets."""

    features: Tensor  # (B, F)
    slow: Tensor  # (B, N, N)
    fast: Tensor  # (B, N, N)
    log_volatility: Tensor  # (B, 3, N)
    forward: Tensor  # (B, H, N)
    regime: Tensor  # (B,)
    period: Tensor  # (B,)


class Portfolio(NamedTuple):
    """The minimum-variance portfolio of an estimate, and what became of it."""

    log_realised: Tensor  # (B,) ln of its realised variance per period
    log_forecast: Tensor  # (B,) ln of the variance that the estimate gave it


def blend_log_volatility(log_volatility: Tensor, blend: Tensor) -> Tensor:
    """As `sigmahat_kernels.covariance.blend_volatility`, differentiable and in logarithms; (B, 3, N) -> (B, N)."""
    logs = torch.einsum("bkn,bk->bn", log_volatility, blend[:, :-1])
    return logs + blend[:, -1:] * (logs.mean(dim=1, keepdim=True) - logs)


def shrink_correlation(batch: Batch, memory: Tensor, weights: Tensor) -> Tensor:
    """As `sigmahat_kernels.covariance.shrink_correlation` with one intensity a universe, differentiable.

    Parameters
    ----------
    batch : Batch
    memory : tensor of shape (B, 1)
    weights : tensor of shape (B, 3)
        w_k = pi_k alpha_k over identity, constant correlation, single factor.

    Returns
    -------
    tensor of shape (B, N, N), unit diagonal.
    """
    slow = batch.slow
    n_assets = slow.shape[-1]
    row_sum = slow.sum(dim=-1)
    total = row_sum.sum(dim=-1)
    average = (total - n_assets) / (n_assets * (n_assets - 1))
    loadings = row_sum / total.clamp_min(1e-6).sqrt()[:, None]
    kept = (1.0 - weights.sum(dim=1, keepdim=True)) * torch.cat([1.0 - memory, memory], dim=1)

    def cell(coefficient: Tensor) -> Tensor:
        return coefficient[:, None, None]

    mixed = cell(kept[:, 0]) * slow + cell(kept[:, 1]) * batch.fast + cell(weights[:, 1] * average)
    mixed = mixed + (cell(weights[:, 2]) * loadings[:, :, None]) * loadings[:, None, :]
    # Every target has a unit diagonal, and so has their mix.
    off_diagonal = 1.0 - torch.eye(n_assets, dtype=slow.dtype)
    return mixed * off_diagonal + torch.eye(n_assets, dtype=slow.dtype)


def minimum_variance(correlation: Tensor, log_volatility: Tensor, forward: Tensor) -> Portfolio:
    """Score an estimate by its unconstrained minimum-variance portfolio over the holding period.

    With Sigma = D R D: w = Sigma^-1 1 / (1' Sigma^-1 1), realised variance = mean_h (w' r_h)^2, forecast variance
    1 / (1' Sigma^-1 1). Solved for R alone, which is well scaled, and put back to units afterwards.

    Parameters
    ----------
    correlation : tensor of shape (B, N, N)
    log_volatility : tensor of shape (B, N)
    forward : tensor of shape (B, H, N)
    """
    level = log_volatility.mean(dim=1, keepdim=True)
    inverse_volatility = torch.exp(level - log_volatility)
    solution = _SolveSpd.apply(correlation, inverse_volatility) * inverse_volatility
    total = solution.sum(dim=1)
    weights = solution / total[:, None]
    realised = (torch.einsum("bhn,bn->bh", forward, weights) ** 2).mean(dim=1)
    return Portfolio(
        realised.clamp_min(_SMALLEST_VARIANCE).log(),
        2.0 * level[:, 0] - total.clamp_min(1e-12).log(),
    )


class Losses(NamedTuple):
    """Averages over a batch; `total` is what is minimised."""

    total: Tensor
    decision: Tensor  # ln realised variance of the minimum-variance portfolio
    alone: Tensor  # the same, shrinking toward one target only, at that head's own intensity
    confidence: Tensor  # binary cross-entropy
    condition: Tensor  # squared error of log10 condition number
    expected_error: Tensor  # Gaussian negative log likelihood
    regime: Tensor  # cross-entropy
    residual: Tensor  # squared distance of the decision logits from the constants


def member_losses(
    parameters: Tensor,
    logits: Tensor,
    constant_logits: Tensor,
    batch: Batch,
    *,
    target: int,
    auxiliary_weight: float,
    residual_weight: float,
) -> Losses:
    """All losses of one batch.

    Parameters
    ----------
    parameters, logits : tensors of shape (B, N_PARAMETERS)
        A member's answer, after and before its activations.
    constant_logits : tensor of shape (N_PARAMETERS,)
        The learned constants, to which the decision heads are pulled.
    batch : Batch
    target : int
        Which head is scored alone in this batch: one drawn at random costs a third of all and has the same average.
    auxiliary_weight, residual_weight : float
        Weights of the sum of the auxiliary losses, and of the pull to the constants.
    """
    heads = split_parameters(parameters)
    log_volatility = blend_log_volatility(batch.log_volatility, heads.volatility)
    weights = heads.target_weights * heads.target_intensity
    correlation = shrink_correlation(batch, heads.memory, weights)
    together = minimum_variance(correlation, log_volatility, batch.forward)

    # Alone, only the head's own intensity learns: what it would use if it were the one target.
    only = functional.one_hot(torch.tensor(target), len(TARGETS)) * heads.target_intensity
    alone_correlation = shrink_correlation(batch, heads.memory.detach(), only)
    alone = minimum_variance(alone_correlation, log_volatility.detach(), batch.forward)
    as_good = (alone.log_realised <= together.log_realised).float().detach()
    confidence = functional.binary_cross_entropy(heads.target_confidence[:, target], as_good)

    # Half a difference of ln variances is ln(realised volatility / forecast volatility).
    error = 0.5 * (together.log_realised - together.log_forecast).detach()
    log_variance = heads.log_variance[:, 0]
    expected_error = 0.5 * (log_variance + (error - heads.expected_error[:, 0]) ** 2 * torch.exp(-log_variance))
    rows = slice(0, CONDITION_ROWS)
    measured = log10_condition(correlation[rows].detach(), log_volatility[rows].detach())
    condition = (heads.condition[rows, 0] - measured) ** 2
    regime = functional.nll_loss(heads.regime.clamp_min(1e-8).log(), batch.regime)
    residual = ((logits - constant_logits)[:, _DECISION] ** 2).mean()

    decision, alone_loss = together.log_realised.mean(), alone.log_realised.mean()
    auxiliary = alone_loss + confidence + condition.mean() + expected_error.mean() + regime
    total = decision + auxiliary_weight * auxiliary + residual_weight * residual
    return Losses(total, decision, alone_loss, confidence, condition.mean(), expected_error.mean(), regime, residual)


def log10_condition(correlation: Tensor, log_volatility: Tensor) -> Tensor:
    """log10 of the condition number of D R D, shape (B,); in float64."""
    volatility = torch.exp(log_volatility - log_volatility.mean(dim=1, keepdim=True)).double()
    eigenvalues = torch.linalg.eigvalsh(correlation.double() * volatility[:, :, None] * volatility[:, None, :])
    return (eigenvalues[:, -1] / eigenvalues[:, 0].clamp_min(1e-12)).log10().float()


_columns = split_parameters(torch.arange(N_PARAMETERS))
_DECISION = torch.cat([_columns.target_intensity, _columns.target_weights, _columns.memory, _columns.volatility])


class _SolveSpd(torch.autograd.Function):
    """x = A^-1 b for a stack of positive definite A; its gradient costs one more solve, not a second factorisation.

    dL/db = A^-1 dL/dx and dL/dA = -(dL/db) x'.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, right: Tensor) -> Tensor:
        # A singular estimate (no shrinkage and N > T) must cost much, not stop the run: hence the small ridge.
        ridge = _RIDGE * torch.eye(matrix.shape[-1], dtype=matrix.dtype)
        factor = torch.linalg.cholesky(matrix + ridge)
        solution = torch.cholesky_solve(right[..., None], factor)
        ctx.save_for_backward(factor, solution)
        return solution[..., 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        factor, solution = ctx.saved_tensors
        right = torch.cholesky_solve(gradient[..., None], factor)
        return -right @ solution.transpose(-1, -2), right[..., 0]
