# SPDX-License-Identifier: Apache-2.0
"""The served matrix once more, differentiable: what `sigmahat_kernels.covariance` computes, as torch tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sigmahat_kernels.parameters import Parameters

_SMALLEST_INTENSITY = 1e-5


class EstimateInputs(NamedTuple):
    """What an estimate reads of `B` windows of `N` assets each; `dataset.estimate_inputs` measures them."""

    slow: Tensor  # (B, N, N) slow correlation
    fast: Tensor  # (B, N, N) exponentially weighted
    loadings: Tensor  # (B, N, 3) on the leading factors of `fast`
    log_volatility: Tensor  # (B, 3, N) in the order of `parameters.VOLATILITY_BASES`
    asset_statistics: Tensor  # (B, N, N_ASSET_STATISTICS)


class Estimate(NamedTuple):
    """An estimate in parts: Sigma = e^2s (D R D + c 11'), with D R D as the minimum-variance portfolio sees it."""

    correlation: Tensor  # (B, N, N) R
    log_volatility: Tensor  # (B, N) ln D
    log_factor: Tensor  # (B,) s
    common_variance: Tensor  # (B,) c, in squared returns per period


def estimate(inputs: EstimateInputs, heads: Parameters) -> Estimate:
    """What `sigmahat_kernels.covariance.estimate_covariance` computes for these heads, differentiable."""
    log_volatility = blend_log_volatility(inputs, heads)
    harmonic_mean = 1.0 / torch.exp(-2.0 * log_volatility).mean(dim=1)
    log_factor, share = heads.level.unbind(dim=1)
    return Estimate(shrink_correlation(inputs, heads), log_volatility, log_factor, share * harmonic_mean)


def blend_log_volatility(inputs: EstimateInputs, heads: Parameters) -> Tensor:
    """Logarithms of `sigmahat_kernels.covariance.blend_volatility` and what the tilt adds, differentiable; (B, N)."""
    blend = heads.volatility
    logs = torch.einsum("bkn,bk->bn", inputs.log_volatility, blend[:, :-1])
    pulled = logs + blend[:, -1:] * (logs.mean(dim=1, keepdim=True) - logs)
    return pulled + torch.einsum("bnk,bk->bn", inputs.asset_statistics, heads.volatility_tilt)


def shrink_correlation(inputs: EstimateInputs, heads: Parameters) -> Tensor:
    """As `sigmahat_kernels.covariance.shrink_correlation` with tilted intensities, differentiable.

    Returns
    -------
    tensor of shape (B, N, N), unit diagonal.
    """
    slow = inputs.slow
    n_assets = slow.shape[-1]
    row_sum = slow.sum(dim=-1)
    total = row_sum.sum(dim=-1)
    average = (total - n_assets) / (n_assets * (n_assets - 1))
    loadings = row_sum / total.clamp_min(1e-6).sqrt()[:, None]
    weights = heads.target_weights * heads.target_intensity
    intensity = weights.sum(dim=1).clamp(_SMALLEST_INTENSITY, 1.0 - _SMALLEST_INTENSITY)
    shares = weights / intensity[:, None]
    log_odds = intensity.logit()[:, None] + torch.einsum("bnk,bk->bn", inputs.asset_statistics, heads.intensity_tilt)

    def cell(coefficient: Tensor) -> Tensor:
        return coefficient[:, None, None]

    # Roots of 1 - delta and delta. In float32 delta may be 1, where the root of 1 - delta has no slope.
    keep, pull = (torch.exp(0.5 * functional.logsigmoid(sign * log_odds)) for sign in (-1.0, 1.0))
    mixed = cell(1.0 - heads.memory[:, 0]) * slow + cell(heads.memory[:, 0]) * inputs.fast
    factors = inputs.loadings @ inputs.loadings.transpose(1, 2)  # off its diagonal, which is not read
    mixed = cell(1.0 - heads.factor_memory[:, 0]) * mixed + cell(heads.factor_memory[:, 0]) * factors
    target = cell(shares[:, 1] * average) + (cell(shares[:, 2]) * loadings[:, :, None]) * loadings[:, None, :]
    shrunk = (keep[:, :, None] * mixed) * keep[:, None, :] + (pull[:, :, None] * target) * pull[:, None, :]
    # Every target has a unit diagonal, and so has their mix.
    identity = torch.eye(n_assets, dtype=slow.dtype, device=slow.device)
    return shrunk * (1.0 - identity) + identity
