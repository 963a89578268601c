# SPDX-License-Identifier: Apache-2.0
"""The estimate itself: from moments and parameters to covariance matrices, for a stack of universes of one size."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.asset_statistics import asset_statistics
from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.fast_factors import blend_factors, leading_factors
from sigmahat_kernels.parameters import VOLATILITY_BASES, Parameters
from sigmahat_kernels.shared_window import Moments
from sigmahat_kernels.targets import mix_targets

_NOT_CLASSIC = ("memory", "factor_memory", "intensity_tilt", "volatility_tilt", "level")
"""Heads that textbook shrinkage does without."""


def shrink_correlation(
    slow: Array,
    fast: Array,
    memory: Array,
    factor_memory: Array,
    target_weights: Array,
    target_intensity: Array,
    intensity: Array,
) -> Array:
    """Shrink a stack of correlation matrices toward the three targets.

    With w_k = pi_k alpha_k and a mix R = (1 - psi) ((1 - phi) R_slow + phi R_fast) + psi F_fast, F_fast the correlation
    by the leading factors of R_fast alone (`fast_factors.blend_factors`),

        R_hat = G R G + H (sum_k w_k F_k / sum_k w_k) H,   G = diag(sqrt(1 - delta_i)), H = diag(sqrt(delta_i)),

    which for equal intensities delta_i = sum_k w_k is plain multi-target linear shrinkage. Both terms are positive
    semi-definite, so their sum is, and the unit diagonal is kept.

    Parameters
    ----------
    slow, fast : arrays of shape (n, N, N)
        Slow and exponentially weighted correlation, both overwritten. The targets are those of `slow`.
    memory, factor_memory : arrays of shape (n,)
        phi, weight of the fast correlation, and psi, weight of its leading factors.
    target_weights, target_intensity : arrays of shape (n, 3)
        pi and alpha.
    intensity : array of shape (n, N)
        delta_i of each asset.

    Returns
    -------
    array of shape (n, N, N)
        In the memory of `slow`.
    """
    xp = array_namespace(slow)
    weights = target_weights * target_intensity
    # All weights zero: nothing is shrunk (intensity is zero too), and any mix of targets does.
    total = weights.sum(axis=1, keepdims=True)
    weights = xp.where(total > 0, weights / xp.where(total > 0, total, 1.0), 1.0 / weights.shape[1])
    target = mix_targets(slow, weights)
    loadings = leading_factors(fast)
    fast -= slow
    fast *= memory[:, None, None]
    slow += fast
    slow = blend_factors(slow, loadings, factor_memory)
    # In float32 the weights may sum to a little more than 1.
    slow = _scale(slow, xp.sqrt(xp.maximum(1.0 - intensity, 0.0)))
    slow += _scale(target, xp.sqrt(intensity))
    return slow


def _scale(matrices: Array, scale: Array) -> Array:
    """D A D of each matrix A of shape (n, N, N) and diagonal of D, shape (n, N); in place."""
    matrices *= scale[:, :, None]
    matrices *= scale[:, None, :]
    return matrices


def tilt_intensity(intensity: Array, tilt: Array, statistics: Array) -> Array:
    """Lean each asset's intensity on its statistics: logit(delta_i) + theta . a_i, back in (0, 1).

    Parameters
    ----------
    intensity : array of shape (n, N)
        In [0, 1]; 0 and 1 stay what they are.
    tilt : array of shape (n, N_ASSET_STATISTICS)
        theta of each universe.
    statistics : array of shape (n, N, N_ASSET_STATISTICS)
        a_i of each asset, from `asset_statistics.asset_statistics`.

    Returns
    -------
    array of shape (n, N)
    """
    xp = array_namespace(statistics)
    odds = xp.exp(xp.einsum("nik,nk->ni", statistics, tilt))  # sigma(logit(d) + x) = d e^x / (d e^x + 1 - d)
    raised = intensity * odds
    return raised / (raised + xp.maximum(1.0 - intensity, 0.0))


def add_common_variance(covariance: Array, share: Array) -> Array:
    """Add the same number to all entries of each matrix: `share` times the harmonic mean of its variances.

    It raises the forecast risk of portfolios with a net investment and leaves that of the others. The fully invested
    minimum-variance portfolio stays the same, with bounds on its weights or without: w'(S + c 11')w = w'Sw + c.

    Parameters
    ----------
    covariance : array of shape (n, N, N)
        Overwritten.
    share : array of shape (n,)
        At least 0.

    Returns
    -------
    array of shape (n, N, N)
        In the memory of `covariance`.
    """
    xp = array_namespace(covariance)
    variances = xp.einsum("nii->ni", covariance)
    covariance += (share / (1.0 / variances).mean(axis=1))[:, None, None]
    return covariance


def blend_volatility(volatilities: Array, blend: Array) -> Array:
    """Mix volatilities over half-lives and pull them toward their cross-section, in logarithms.

    Parameters
    ----------
    volatilities : array of shape (3 or more, n, N)
        The first three in the order of `parameters.VOLATILITY_BASES`.
    blend : array of shape (n, 4)
        Weights over these (sum 1), then the pull in [0, 1] toward the universe's mean log volatility.

    Returns
    -------
    array of shape (n, N)
        Volatilities in the unit of the input.
    """
    xp = array_namespace(volatilities)
    logs = xp.einsum("kni,nk->ni", xp.log(volatilities[: len(VOLATILITY_BASES)]), blend[:, :-1])
    mean = logs.mean(axis=1, keepdims=True)
    return xp.exp(logs + blend[:, -1:] * (mean - logs))


def estimate_covariance(moments: Moments, parameters: Parameters, intensity: Array) -> Array:
    """Estimate the covariance matrices of a stack of universes: statistics, tilt, shrink, blend, scale.

    Parameters
    ----------
    moments : Moments
        Of n universes of N assets; the correlations are overwritten.
    parameters : Parameters
        One row a universe, float64.
    intensity : float64 array of shape (n, N)
        What each asset's intensity is tilted from.

    Returns
    -------
    float64 array of shape (n, N, N)
        In squared returns per period, in the memory of `moments.slow`.
    """
    xp = array_namespace(moments.slow)
    statistics = asset_statistics(*moments)
    correlation = shrink_correlation(
        moments.slow,
        moments.fast,
        parameters.memory[:, 0],
        parameters.factor_memory[:, 0],
        parameters.target_weights,
        parameters.target_intensity,
        tilt_intensity(intensity, parameters.intensity_tilt, statistics),
    )
    log_factor, common_variance = parameters.level.T
    volatility = blend_volatility(moments.volatilities, parameters.volatility)
    volatility *= xp.exp(xp.einsum("nik,nk->ni", statistics, parameters.volatility_tilt) + log_factor[:, None])
    return add_common_variance(_scale(correlation, volatility), common_variance)


def classic_parameters(parameters: Parameters) -> Parameters:
    """The same intensity and targets with nothing that textbook shrinkage does without: the window's volatility alone.

    With these, and moments of returns that were not winsorised, `estimate_covariance` is plain multi-target linear
    shrinkage of the sample covariance.
    """
    window_only = np.eye(len(VOLATILITY_BASES) + 1)[0]
    return parameters._replace(
        **{name: np.zeros_like(getattr(parameters, name)) for name in _NOT_CLASSIC},
        volatility=np.broadcast_to(window_only, parameters.volatility.shape),
    )
