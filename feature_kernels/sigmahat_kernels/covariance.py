# SPDX-License-Identifier: Apache-2.0
"""From parameters to covariance matrices: the estimate itself."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.asset_statistics import asset_statistics
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.groups import (
    WindowGroup,
    chunks_by_size,
    gather_index,
    group_by_window,
    group_returns,
    parts_of,
)
from sigmahat_kernels.panel import FAST_HALFLIFE, correlation_factor, prepare_window
from sigmahat_kernels.parallel import available_threads, for_each, for_each_group
from sigmahat_kernels.parameters import VOLATILITY_BASES, Parameters, intensity_of
from sigmahat_kernels.request import MAX_COVARIANCE_CELLS, PADDING, Request, block_ids
from sigmahat_kernels.scratch import Scratch, take_blocks
from sigmahat_kernels.status import InvalidRequest, Status
from sigmahat_kernels.targets import mix_targets

_NOT_CLASSIC = ("memory", "intensity_tilt", "volatility_tilt", "level")
"""Heads that textbook shrinkage does without."""


def shrink_correlation(
    slow: Array, fast: Array, memory: Array, target_weights: Array, target_intensity: Array, intensity: Array
) -> Array:
    """Shrink a stack of correlation matrices toward the three targets.

    With w_k = pi_k alpha_k and a mix R = (1 - phi) R_slow + phi R_fast,

        R_hat = G R G + H (sum_k w_k F_k / sum_k w_k) H,   G = diag(sqrt(1 - delta_i)), H = diag(sqrt(delta_i)),

    which for equal intensities delta_i = sum_k w_k is plain multi-target linear shrinkage. Both terms are positive
    semi-definite, so their sum is, and the unit diagonal is kept.

    Parameters
    ----------
    slow, fast : arrays of shape (n, N, N)
        Equal-weighted and exponentially weighted correlation, both overwritten. The targets are those of `slow`.
    memory : array of shape (n,)
        phi, weight of the fast correlation.
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
    fast -= slow
    fast *= memory[:, None, None]
    slow += fast
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
    volatilities : array of shape (3, n, N)
        In the order of `parameters.VOLATILITY_BASES`.
    blend : array of shape (n, 4)
        Weights over these (sum 1), then the pull in [0, 1] toward the universe's mean log volatility.

    Returns
    -------
    array of shape (n, N)
        Volatilities in the unit of the input.
    """
    xp = array_namespace(volatilities)
    logs = xp.einsum("kni,nk->ni", xp.log(volatilities), blend[:, :-1])
    mean = logs.mean(axis=1, keepdims=True)
    return xp.exp(logs + blend[:, -1:] * (mean - logs))


def assemble(
    request: Request,
    parameters: Parameters,
    status: np.ndarray,
    *,
    block_intensity: np.ndarray | None = None,
    classic: bool = False,
    threads: int | None = None,
) -> np.ndarray:
    """Build the covariance matrix of every universe.

    Parameters
    ----------
    request : Request
        As given to `features.compute_features`.
    parameters : Parameters
        One row a universe.
    status : array of shape (n_universes,)
        Universes that are not GOOD are left NaN.
    block_intensity : array of shape (n_universes, n_blocks), optional
        Takes the place of the universe's own intensity for the assets of each block of `request.blocks`.
    classic : bool
        Textbook multi-target linear shrinkage (1 - delta) S + sum_k w_k F_k of the plain sample covariance S (n - 1),
        with targets that keep its diagonal: no winsorising, no exponential weights, tilts or levels. A pair
        with missing returns divides by sqrt((n_i - 1)(n_j - 1)).

    Returns
    -------
    float32 array of shape (n_universes, n_assets, n_assets)
        In squared returns per period, for the period after the window's last row; NaN in padding.

    Raises
    ------
    InvalidRequest
        If the matrices would be larger than `request.MAX_COVARIANCE_CELLS`.
    """
    n_assets = request.universes.shape[1]
    n_cells = len(request.universes) * n_assets**2
    if n_cells > MAX_COVARIANCE_CELLS:
        raise InvalidRequest(
            f"COVARIANCE would have {n_cells:,} cells, more than the limit of {MAX_COVARIANCE_CELLS:,}: "
            "send fewer universes at a time, or the wide ones apart"
        )
    covariance = np.full((len(request.universes), n_assets, n_assets), np.nan, np.float32)
    per_asset = np.broadcast_to(intensity_of(parameters)[:, None], request.universes.shape)
    if request.blocks is not None and block_intensity is not None and block_intensity.shape[1]:
        column = np.searchsorted(block_ids(request.universes, request.blocks), request.blocks)
        column = np.where(request.universes == PADDING, 0, column)
        per_asset = np.take_along_axis(block_intensity, column, axis=1)
    if classic:
        window_only = np.eye(len(VOLATILITY_BASES) + 1)[0]
        parameters = parameters._replace(
            **{name: np.zeros_like(getattr(parameters, name)) for name in _NOT_CLASSIC},
            volatility=np.broadcast_to(window_only, parameters.volatility.shape),
        )
    threads = threads or available_threads()
    groups = list(group_by_window(request, np.flatnonzero(status == Status.GOOD)))

    def fill_group(group: WindowGroup, threads: int) -> None:
        returns = group_returns(request, group)
        window = prepare_window(returns, winsor_limit=None) if classic else prepare_window(returns)
        xp = array_namespace(window.returns)
        slow_factor = correlation_factor(window)
        fast_factor = correlation_factor(window, halflife=FAST_HALFLIFE)
        slow_product, fast_product = slow_factor.T @ slow_factor, fast_factor.T @ fast_factor

        def fill_part(part: WindowGroup) -> None:
            scratch = Scratch(xp)
            for chunk in chunks_by_size(request, part):
                universes = part.universes[chunk]
                index = xp.asarray(gather_index(request, part, chunk))
                size = index.shape[1]
                answers = Parameters(*(xp.asarray(head[universes], xp.float64) for head in parameters))
                slow = take_blocks(slow_product, index, scratch, "slow")
                fast = take_blocks(fast_product, index, scratch, "fast")
                volatilities = window.volatilities[:, index]
                statistics = asset_statistics(slow, fast, volatilities, window.kurtosis[index])
                correlation = shrink_correlation(
                    slow,
                    fast,
                    answers.memory[:, 0],
                    answers.target_weights,
                    answers.target_intensity,
                    tilt_intensity(
                        xp.asarray(per_asset[universes, :size], xp.float64), answers.intensity_tilt, statistics
                    ),
                )
                log_factor, common_variance = answers.level.T
                volatility = blend_volatility(volatilities, answers.volatility)
                volatility *= xp.exp(xp.einsum("nik,nk->ni", statistics, answers.volatility_tilt) + log_factor[:, None])
                estimate = add_common_variance(_scale(correlation, volatility), common_variance)
                covariance[universes, :size, :size] = to_numpy(estimate.astype(xp.float32))

        for_each(fill_part, parts_of(request, group), threads)

    for_each_group(fill_group, groups, threads)
    return covariance
