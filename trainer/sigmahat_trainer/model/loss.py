# SPDX-License-Identifier: Apache-2.0
"""What training minimises: realised variance of minimum-variance portfolios, QLIKE of forecasts, auxiliary scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sigmahat_kernels.parameters import LAYOUT, N_PARAMETERS, TARGETS, Parameters, split_parameters
from sigmahat_trainer.model.estimate import Estimate, EstimateInputs, estimate

CONDITION_ROWS = 1
"""Rows of each size of a batch whose condition number is measured: an eigenvalue problem each, and few teach."""

DECISION_HEADS = tuple(name for name, head in LAYOUT.items() if head.shapes_matrix)
"""Heads that the matrix depends on."""

PORTFOLIOS = 4
"""Random portfolios of each kind, long-only and long-short, that score a universe."""

LARGEST_RATIO = 50.0
"""Realised over forecast variance counts up to here: one crash must not set the level of all days."""

_RIDGE = 1e-5
_SMALLEST_VARIANCE = 1e-12


class HoldingPeriod(NamedTuple):
    """What the losses read: the period after each of `B` windows of `N` assets."""

    forward: Tensor  # (B, H, N) simple returns, as of `dataset.Sample`
    regime: Tensor  # (B,) int64, `dataset.regime_label`
    period: Tensor  # (B,) int64, month; below 0 where `forward` stands for a known covariance


class Portfolio(NamedTuple):
    """The minimum-variance portfolio of an estimate, and what became of it."""

    weights: Tensor  # (B, N)
    log_realised: Tensor  # (B,) ln of its realised variance per period
    log_forecast: Tensor  # (B,) ln of the variance that the estimate gave it


def minimum_variance(estimate: Estimate, forward: Tensor) -> Portfolio:
    """Score an estimate by its unconstrained minimum-variance portfolio over the holding period.

    With S = D R D: w = S^-1 1 / (1' S^-1 1), which neither the factor nor the common variance changes; realised
    variance = mean_h (w' r_h)^2, forecast variance e^2s (1 / (1' S^-1 1) + c). Solved for R alone, which is well
    scaled, and put back to units afterwards.

    Parameters
    ----------
    estimate : Estimate
    forward : tensor of shape (B, H, N)
    """
    mean = estimate.log_volatility.mean(dim=1, keepdim=True)
    inverse_volatility = torch.exp(mean - estimate.log_volatility)
    solution = _SolveSpd.apply(estimate.correlation, inverse_volatility) * inverse_volatility
    total = solution.sum(dim=1)
    weights = solution / total[:, None]
    realised = (torch.einsum("bhn,bn->bh", forward, weights) ** 2).mean(dim=1)
    forecast = torch.exp(2.0 * mean[:, 0]) / total.clamp_min(1e-12) + estimate.common_variance
    return Portfolio(
        weights,
        realised.clamp_min(_SMALLEST_VARIANCE).log(),
        2.0 * estimate.log_factor + forecast.clamp_min(_SMALLEST_VARIANCE).log(),
    )


def random_portfolios(n: int, n_assets: int, device: torch.device | None = None) -> Tensor:
    """Weights of shape (n, 2 * PORTFOLIOS, N) by torch's generator: long-only ones, then long-short ones."""
    long_only = torch.empty(n, PORTFOLIOS, n_assets, device=device).exponential_()
    long_short = torch.randn(n, PORTFOLIOS, n_assets, device=device) / n_assets**0.5
    return torch.cat([long_only / long_only.sum(dim=2, keepdim=True), long_short], dim=1)


def qlike(estimate: Estimate, forward: Tensor, weights: Tensor) -> Tensor:
    """QLIKE, ln f + v / f, of portfolios with forecast variance f and realised variance v (Patton 2011).

    Parameters
    ----------
    estimate : Estimate
    forward : tensor of shape (B, H, N)
    weights : tensor of shape (B, P, N)

    Returns
    -------
    tensor of shape (B, P)
    """
    exposures = weights * torch.exp(estimate.log_volatility)[:, None]
    forecast = ((exposures @ estimate.correlation) * exposures).sum(dim=2)
    forecast = forecast + estimate.common_variance[:, None] * weights.sum(dim=2) ** 2
    log_forecast = 2.0 * estimate.log_factor[:, None] + forecast.clamp_min(_SMALLEST_VARIANCE).log()
    realised = (torch.einsum("bhn,bpn->bph", forward, weights) ** 2).mean(dim=2)
    return log_forecast + (realised * torch.exp(-log_forecast)).clamp_max(LARGEST_RATIO)


class Losses(NamedTuple):
    """Averages over a batch; `total` is what is minimised."""

    total: Tensor
    decision: Tensor  # ln realised variance of the minimum-variance portfolio
    qlike: Tensor  # of random portfolios, long-only and long-short, and of the minimum-variance portfolio
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
    inputs: EstimateInputs,
    after: HoldingPeriod,
    *,
    target: int,
    qlike_weight: float,
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
    inputs : EstimateInputs
    after : HoldingPeriod
    target : int
        Which head is scored alone in this batch: one drawn at random costs a third of all and has the same average.
    qlike_weight, auxiliary_weight, residual_weight : float
        Weights of the score of random portfolios, of the sum of the auxiliary losses, and of the pull to the constants.
    """
    heads = split_parameters(parameters)
    whole = estimate(inputs, heads)
    together = minimum_variance(whole, after.forward)

    score = _forecast_score(whole, heads, together.weights.detach(), after.forward)
    alone = minimum_variance(estimate(inputs, _alone(heads, target)), after.forward)
    as_good = (alone.log_realised <= together.log_realised).float().detach()
    confidence = functional.binary_cross_entropy(heads.target_confidence[:, target], as_good)

    # Half a difference of ln variances is ln(realised volatility / forecast volatility).
    error = 0.5 * (together.log_realised - together.log_forecast).detach()
    log_variance = heads.log_variance[:, 0]
    likelihood = 0.5 * (log_variance + (error - heads.expected_error[:, 0]) ** 2 * torch.exp(-log_variance))
    # Against a covariance that is known no forecast errs as it does against the days to come.
    expected_error = torch.where(after.period >= 0, likelihood, 0.0)
    rows = slice(0, CONDITION_ROWS)
    measured = log10_condition(Estimate(*(values[rows].detach() for values in whole)))
    condition = (heads.condition[rows, 0] - measured) ** 2
    regime = functional.nll_loss(heads.regime.clamp_min(1e-8).log(), after.regime)
    residual = ((logits - constant_logits)[:, _DECISION] ** 2).mean()

    decision, alone_loss = together.log_realised.mean(), alone.log_realised.mean()
    auxiliary = alone_loss + confidence + condition.mean() + expected_error.mean() + regime
    total = decision + qlike_weight * score + auxiliary_weight * auxiliary + residual_weight * residual
    return Losses(
        total, decision, score, alone_loss, confidence, condition.mean(), expected_error.mean(), regime, residual
    )


def _forecast_score(whole: Estimate, heads: Parameters, weights: Tensor, forward: Tensor) -> Tensor:
    """QLIKE of random portfolios and of the minimum-variance one, whose weights are given.

    Only the level learns by it: it leaves the minimum-variance portfolio as the decision wants it. That one is forecast
    too, because an estimate is most wrong about what was optimised on it.
    """
    levelled = Estimate(
        whole.correlation.detach(),
        whole.log_volatility.detach(),
        whole.log_factor,
        heads.level[:, 1] / torch.exp(-2.0 * whole.log_volatility.detach()).mean(dim=1),
    )
    n, n_assets = weights.shape
    portfolios = torch.cat([random_portfolios(n, n_assets, weights.device), weights[:, None]], dim=1)
    return qlike(levelled, forward, portfolios).mean()


def _alone(heads: Parameters, target: int) -> Parameters:
    """With one target only. Its own intensity alone learns: what it would use if it were the one target."""
    which = torch.tensor(target, device=heads.target_weights.device)
    only = functional.one_hot(which, len(TARGETS)).expand_as(heads.target_weights)
    return Parameters(*(values.detach() for values in heads))._replace(
        target_weights=only, target_intensity=heads.target_intensity
    )


def log10_condition(estimate: Estimate) -> Tensor:
    """log10 of the condition number of the matrix, shape (B,); in float64."""
    mean = estimate.log_volatility.mean(dim=1, keepdim=True)
    volatility = torch.exp(estimate.log_volatility - mean).double()
    common = (estimate.common_variance * torch.exp(-2.0 * mean[:, 0])).double()
    matrix = estimate.correlation.double() * volatility[:, :, None] * volatility[:, None, :]
    eigenvalues = torch.linalg.eigvalsh(matrix + common[:, None, None])
    return (eigenvalues[:, -1] / eigenvalues[:, 0].clamp_min(1e-12)).log10().float()


_columns = split_parameters(torch.arange(N_PARAMETERS))
_DECISION = torch.cat([getattr(_columns, name) for name in DECISION_HEADS])


class _SolveSpd(torch.autograd.Function):
    """x = A^-1 b for a stack of positive definite A; its gradient costs one more solve, not a second factorisation.

    dL/db = A^-1 dL/dx and dL/dA = -(dL/db) x'.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, right: Tensor) -> Tensor:
        # A singular estimate (no shrinkage and N > T) must cost much, not stop the run: hence the small ridge.
        ridge = _RIDGE * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        factor = torch.linalg.cholesky(matrix + ridge)
        solution = torch.cholesky_solve(right[..., None], factor)
        ctx.save_for_backward(factor, solution)
        return solution[..., 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        factor, solution = ctx.saved_tensors
        right = torch.cholesky_solve(gradient[..., None], factor)
        return -right @ solution.transpose(-1, -2), right[..., 0]
