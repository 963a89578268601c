# SPDX-License-Identifier: Apache-2.0
"""Linear shrinkage in closed form: (1 - intensity) * sample + intensity * target, one target or several at once.

Conventions are those of `baselines`. Every function returns the intensity beside the covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


class SampleMoments(NamedTuple):
    """What all linear estimators of one universe share."""

    demeaned: FloatArray  # (n_obs, n_assets), returns less their column means
    sample: FloatArray  # (n_assets, n_assets), demeaned' demeaned / n_effective
    n_effective: int
    pi: float  # sum over i, j of the estimated asymptotic variance of sqrt(n) s_ij
    pi_diagonal: float  # its part i = j


class Target(NamedTuple):
    """A matrix to shrink toward."""

    matrix: FloatArray  # (n_assets, n_assets)
    rho: float  # sum over i, j of the estimated asymptotic covariance of sqrt(n) s_ij with sqrt(n) f_ij


class Shrinkage(NamedTuple):
    """Linear shrinkage to one target."""

    covariance: FloatArray  # (n_assets, n_assets)
    intensity: float  # in [0, 1]


class MultiTargetShrinkage(NamedTuple):
    """Linear shrinkage to several targets: sample + sum_k intensities[k] * (target_k - sample)."""

    covariance: FloatArray  # (n_assets, n_assets)
    intensities: FloatArray  # (n_targets,), each >= 0, sum <= 1


def measure(returns: FloatArray, *, n_effective: int | None = None) -> SampleMoments:
    """Measure once what the intensities of all targets share.

    Parameters
    ----------
    returns : array of shape (n_obs, n_assets)
    n_effective : int, optional
        n_obs - 1 unless given. Libraries that divide by n_obs after demeaning are matched by ``n_effective=n_obs``.

    Returns
    -------
    SampleMoments
        sample in squared returns per period, pi and pi_diagonal in their square.

    References
    ----------
    pi-hat: Ledoit, Wolf (2003), J. Empirical Finance 10(5), Lemma 1, with n_effective for their T.
    """
    x = demean(returns)
    n = len(x) - 1 if n_effective is None else n_effective
    S = sample_of(x, n)
    # pi_ij = sum_t x_ti^2 x_tj^2 / n - s_ij^2. The double sum over assets factors,
    # sum_ij x_i^2 x_j^2 = (sum_i x_i^2)^2, so it costs O(n_obs n_assets).
    squares = x**2
    pi = (squares.sum(axis=1) ** 2).sum() / n - (S**2).sum()
    pi_diagonal = (squares**2).sum() / n - (S.diagonal() ** 2).sum()
    return SampleMoments(x, S, n, float(pi), float(pi_diagonal))


def identity(moments: SampleMoments) -> Target:
    """Mean variance times identity: Ledoit, Wolf (2004), J. Multivariate Analysis 88(2), where rho is zero."""
    n_assets = len(moments.sample)
    return Target(np.trace(moments.sample) / n_assets * np.eye(n_assets), rho=0.0)


def diagonal(moments: SampleMoments) -> Target:
    """Return the sample variances, no correlation: Ledoit (1995), PhD thesis, MIT, appendix B.2."""
    return Target(np.diag(moments.sample.diagonal()), rho=moments.pi_diagonal)


def constant_correlation(moments: SampleMoments) -> Target:
    """Return the sample variances and, for all pairs, the mean sample correlation.

    References
    ----------
    Ledoit, Wolf (2004), J. Portfolio Management 30(4), appendix. As there, rho takes the mean correlation as known.
    """
    x, S, n, _, pi_diagonal = moments
    n_assets = len(S)
    variances = S.diagonal()
    sd = np.sqrt(variances)
    r_bar = ((1 / sd) @ S @ (1 / sd) - n_assets) / (n_assets * (n_assets - 1))
    F = r_bar * np.outer(sd, sd)
    np.fill_diagonal(F, variances)
    # theta_ij = sum_t x_ti^3 x_tj / n - s_ii s_ij, and rho = pi_diagonal + r_bar sum_{i != j} (sd_j / sd_i) theta_ij:
    # the paper's two terms of each pair are one another's transpose. The sum over i, j factors as that of pi does,
    # with s_ii / sd_i = sd_i; its part i = j is pi_diagonal.
    cubes = x**2 * x  # the power 3 itself costs more than all the rest
    theta = ((cubes @ (1 / sd)) * (x @ sd)).sum() / n - sd @ S @ sd
    return Target(F, rho=float(pi_diagonal + r_bar * (theta - pi_diagonal)))


def single_factor(moments: SampleMoments) -> Target:
    """Return the sample variances and the covariances of a one-factor model, its factor the mean return of all assets.

    References
    ----------
    Ledoit, Wolf (2003), J. Empirical Finance 10(5), Lemma 2.
    """
    x, S, n, _, pi_diagonal = moments
    variances = S.diagonal()
    market = x.mean(axis=1)
    c = x.T @ market / n  # covariances with the market
    v = market @ market / n  # variance of the market
    F = np.outer(c, c) / v
    np.fill_diagonal(F, variances)
    # rho_ij = (c_j V_i0,ij + c_i V_j0,ij) / v - c_i c_j V_00,ij / v^2 for i != j, where 0 is the market and
    # V_ab,ij = sum_t x_ta x_tb x_ti x_tj / n - s_ab s_ij. Each sum over i, j factors; its part i = j is taken off.
    squares, xc, cSc = x**2, x @ c, c @ S @ c
    first = (squares.sum(axis=1) * market * xc).sum() / n - cSc
    first -= c @ ((squares * x).T @ market) / n - c**2 @ variances
    third = (market**2 * xc**2).sum() / n - v * cSc
    third -= c**2 @ (squares.T @ market**2) / n - v * (c**2 @ variances)
    return Target(F, rho=float(pi_diagonal + 2 * first / v - third / v**2))


MULTI_TARGETS = (diagonal, constant_correlation, single_factor)
"""The targets of `multi_target_ledoit_wolf`, in the order of its intensities; all keep the sample variances."""


def shrink(moments: SampleMoments, target: Target) -> Shrinkage:
    """Shrink toward one target with the intensity clip((pi - rho) / (n gamma), 0, 1), gamma = ||sample - target||^2.

    References
    ----------
    Ledoit, Wolf (2003), J. Empirical Finance 10(5), Theorem 1; it holds for every target of this module.

    >>> moments = measure(np.array([[0.01, 0.02], [0.03, -0.02], [-0.01, 0.03], [0.02, 0.0]]))
    >>> round(shrink(moments, identity(moments)).intensity, 4)
    0.1775
    """
    gamma = ((moments.sample - target.matrix) ** 2).sum()
    # gamma = 0 means sample = target: every intensity gives the same matrix.
    raw = (moments.pi - target.rho) / (moments.n_effective * gamma) if gamma > 0 else 1.0
    return _mix(moments.sample, target.matrix, raw)


def shrink_oas(moments: SampleMoments) -> Shrinkage:
    """Shrink toward the identity target by oracle approximating shrinkage, derived for Gaussian returns.

    The intensity is min(1, (tr(S^2) + tr(S)^2) / ((n + 1) (tr(S^2) - tr(S)^2 / n_assets))): the form of the authors'
    own program and of scikit-learn, which drops the two terms in 2 / n_assets of the paper's equation 23.

    References
    ----------
    Chen, Wiesel, Eldar, Hero (2010), IEEE Trans. Signal Processing 58(10), 5016-5029.
    """
    S, n = moments.sample, moments.n_effective
    trace_of_square, square_of_trace = (S**2).sum(), np.trace(S) ** 2
    spread = trace_of_square - square_of_trace / len(S)
    # spread = 0 means sample = target, and rounding may leave it below zero.
    raw = (trace_of_square + square_of_trace) / ((n + 1) * spread) if spread > 0 else 1.0
    return _mix(S, identity(moments).matrix, raw)


def shrink_multi_target(moments: SampleMoments, targets: Sequence[Target]) -> MultiTargetShrinkage:
    """Shrink toward several targets at once, with the intensities that jointly minimise the expected Frobenius loss.

    The loss of S + sum_k delta_k (F_k - S) is delta' A delta - 2 b' delta + constant, with A_kl = <F_k - S, F_l - S>
    and b_k = <Sigma - S, F_k - S>. The true Sigma is unknown, but E b_k = (pi - rho_k) / n: with one target this is
    `shrink`, with more it is the same estimate made jointly.

    References
    ----------
    The single-target step for each b_k: Ledoit, Wolf (2003), J. Empirical Finance 10(5). Joint intensities: Lancewicki,
    Aladjem (2014), IEEE Trans. Signal Processing 62(24), 6380-6390; Oriol (2024), arXiv:2405.20086.
    """
    S = moments.sample
    differences = np.stack([target.matrix - S for target in targets]).reshape(len(targets), -1)
    A = differences @ differences.T
    b = np.array([moments.pi - target.rho for target in targets]) / moments.n_effective
    # b_k is zero when F_k = S whatever Sigma is (constant correlation of two assets). The estimate of b_k does not know
    # that, and a target of no effect would use up the budget of the others.
    b = np.where(A.diagonal() > 1e-24 * (S**2).sum(), b, 0.0)
    intensities = minimise_over_simplex(A, b)
    return MultiTargetShrinkage(S + (intensities @ differences).reshape(S.shape), intensities)


def minimise_over_simplex(A: FloatArray, b: FloatArray) -> FloatArray:
    """Minimise delta' A delta / 2 - b' delta over delta >= 0, sum(delta) <= 1, exactly.

    Parameters
    ----------
    A : array of shape (n_targets, n_targets)
        Symmetric positive semidefinite, possibly singular.
    b : array of shape (n_targets,)

    Returns
    -------
    array of shape (n_targets,)
        Of all candidates, 2^(n_targets + 1) of them, the best: meant for a handful of targets.

    >>> minimise_over_simplex(np.eye(2), np.array([0.5, -1.0])).tolist()
    [0.5, 0.0]
    """
    n_targets = len(b)
    scale = np.trace(A)
    if scale <= 0:  # every target is the sample
        return np.zeros(n_targets)
    A, b = A / scale, b / scale  # entries are about 1e-8 for daily returns
    ones = np.ones((n_targets, 1))
    kkt = np.block([[A, ones], [ones.T, np.zeros((1, 1))]])
    # One stationary point for each set of non-zero delta_k, the empty one too, with and without sum = 1. The
    # pseudo-inverse sets to zero what the mask leaves out, and finds a solution where targets coincide.
    active = np.array(list(product((0.0, 1.0), repeat=n_targets + 1)))
    masked = kkt * active[:, :, None] * active[:, None, :]
    right_side = np.append(b, 1.0) * active
    candidates = (np.linalg.pinv(masked, 1e-12, hermitian=True) @ right_side[:, :, None])[:, :n_targets, 0]
    # The optimum is among them and stays what it is; what was not feasible becomes some feasible point, no better.
    candidates = np.maximum(candidates, 0.0)
    candidates /= np.maximum(candidates.sum(axis=1, keepdims=True), 1.0)
    objective = ((candidates @ A) * candidates).sum(axis=1) / 2 - candidates @ b
    return candidates[objective.argmin()]


def demean(returns: FloatArray) -> FloatArray:
    """Remove the column means."""
    returns = np.asarray(returns, dtype=np.float64)
    return returns - returns.mean(axis=0)


def sample_of(demeaned: FloatArray, n_effective: int) -> FloatArray:
    """Sample covariance of demeaned returns."""
    return demeaned.T @ demeaned / n_effective


def _mix(sample: FloatArray, target: FloatArray, raw: float) -> Shrinkage:
    intensity = min(max(float(raw), 0.0), 1.0)
    return Shrinkage((1 - intensity) * sample + intensity * target, intensity)
