# SPDX-License-Identifier: Apache-2.0
"""The published layout of a member's answer: one row of numbers a universe, cut into named heads."""

from __future__ import annotations

from typing import NamedTuple

from sigmahat_kernels.asset_statistics import N_ASSET_STATISTICS
from sigmahat_kernels.backend import AnyArray as Array
from sigmahat_kernels.panel import VOLATILITY_HALFLIVES

TARGETS = ("identity", "constant_correlation", "single_factor")
VOLATILITY_BASES = ("window", *(f"halflife_{halflife:g}" for halflife in VOLATILITY_HALFLIVES))
LEVELS = ("log_volatility", "common_variance")
REGIMES = ("calm", "normal", "elevated", "stressed")

HEADS: dict[str, int] = {
    "target_intensity": len(TARGETS),  # alpha_k in (0, 1): the intensity head k would use alone
    "target_weights": len(TARGETS),  # pi_k, sum 1: selection over the targets
    "target_confidence": len(TARGETS),  # probability that target k alone does at least as well as the mixture
    "memory": 1,  # phi in (0, 1): weight of the exponentially weighted correlation
    "volatility": len(VOLATILITY_BASES) + 1,  # blend over half-lives (sum 1), then the pull to the cross-section
    "intensity_tilt": N_ASSET_STATISTICS,  # theta: an asset's logit of delta is the universe's + theta . its statistics
    "volatility_tilt": N_ASSET_STATISTICS,  # eta: what its statistics add to an asset's ln volatility
    "level": len(LEVELS),  # ln of the factor on all volatilities; common variance, in harmonic mean variances
    "condition": 1,  # log10 condition number of the estimate
    "expected_error": 1,  # expected ln(realised / forecast volatility) of the minimum-variance portfolio
    "log_variance": 1,  # ln of the variance of that error: the member's own, aleatoric
    "regime": len(REGIMES),  # probabilities, sum 1
}
"""Head name -> columns, in the order in which they stand in a member's PARAMETERS tensor."""

N_PARAMETERS = sum(HEADS.values())


class Parameters(NamedTuple):
    """A member's (or the ensemble's) answer for `n` universes, one field a head, each of shape (n, columns)."""

    target_intensity: Array
    target_weights: Array
    target_confidence: Array
    memory: Array
    volatility: Array
    intensity_tilt: Array
    volatility_tilt: Array
    level: Array
    condition: Array
    expected_error: Array
    log_variance: Array
    regime: Array


def split_parameters(parameters: Array) -> Parameters:
    """Cut an array of shape (..., N_PARAMETERS) into its heads, as views.

    >>> import numpy as np
    >>> split_parameters(np.arange(N_PARAMETERS)[None]).memory
    array([[9]])
    """
    heads, start = [], 0
    for columns in HEADS.values():
        heads.append(parameters[..., start : start + columns])
        start += columns
    return Parameters(*heads)


def intensity_of(parameters: Parameters) -> Array:
    """Global shrinkage intensity delta = sum_k pi_k alpha_k; (..., columns) -> (...)."""
    return (parameters.target_weights * parameters.target_intensity).sum(axis=-1)
