# SPDX-License-Identifier: Apache-2.0
"""Closed-form covariance estimators of one universe: what a learned estimator is compared with.

Every estimator of `BASELINES` maps returns to a covariance under one convention:

- ``returns``, shape (n_obs, n_assets): simple returns per period, oldest first, without NaN, at least three
  observations of at least two assets, each of which varies. Whoever reads the data checks that; nothing here does;
- the column means are removed, which costs a degree of freedom: ``n_effective = n_obs - 1`` stands wherever a paper
  that assumes known means writes its sample size;
- the answer, shape (n_assets, n_assets), is float64, exactly symmetric, in squared returns per period.

Linear shrinkage is covariance = (1 - intensity) * sample + intensity * target. `shrink`, `shrink_oas` and
`shrink_multi_target` return the intensity beside the covariance; `BASELINES` holds the covariance alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


class Moments(NamedTuple):
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


# ------------------------------------------------------------------------------------------------ the estimators


def sample(returns: FloatArray) -> FloatArray:
    """Return the unbiased sample covariance; it is singular when n_assets > n_obs - 1.

    >>> sample(np.array([[0.01, 0.02], [0.03, -0.02], [-0.01, 0.03]])).round(6).tolist()
    [[0.0004, -0.0005], [-0.0005, 0.0007]]
    """
    return _sample(_demean(returns), len(returns) - 1)


def ledoit_wolf_identity(returns: FloatArray) -> FloatArray:
    """Shrink toward mean variance times identity: Ledoit, Wolf (2004), J. Multivariate Analysis 88(2), 365-411."""
    moments = measure(returns)
    return shrink(moments, identity(moments)).covariance


def ledoit_wolf_constant_correlation(returns: FloatArray) -> FloatArray:
    """Shrink toward one correlation for all pairs: Ledoit, Wolf (2004), J. Portfolio Management 30(4), 110-119."""
    moments = measure(returns)
    return shrink(moments, constant_correlation(moments)).covariance


def ledoit_wolf_single_factor(returns: FloatArray) -> FloatArray:
    """Shrink toward an equal-weighted market model: Ledoit, Wolf (2003), J. Empirical Finance 10(5), 603-621."""
    moments = measure(returns)
    return shrink(moments, single_factor(moments)).covariance


def oas(returns: FloatArray) -> FloatArray:
    """Shrink toward mean variance times identity with the intensity of `shrink_oas`, made for Gaussian returns."""
    return shrink_oas(measure(returns)).covariance


def multi_target_ledoit_wolf(returns: FloatArray) -> FloatArray:
    """Shrink toward diagonal, constant correlation and single factor at once, as in `shrink_multi_target`."""
    moments = measure(returns)
    return shrink_multi_target(moments, [target(moments) for target in MULTI_TARGETS]).covariance


def qis(returns: FloatArray) -> FloatArray:
    """Shrink the eigenvalues of the sample covariance as in `shrink_quadratic_inverse`."""
    return shrink_quadratic_inverse(sample(returns), len(returns) - 1)


def qis_correlation(returns: FloatArray) -> FloatArray:
    """Shrink the sample correlation by `shrink_quadratic_inverse`, reset its diagonal, put the volatilities back.

    An asset of large variance then no longer sets the scale of the spectrum; the sample variances are kept.
    """
    covariance = sample(returns)
    volatility = np.sqrt(covariance.diagonal())
    shrunk = shrink_quadratic_inverse(covariance / np.outer(volatility, volatility), len(returns) - 1)
    scale = volatility / np.sqrt(shrunk.diagonal())
    return shrunk * np.outer(scale, scale)


BASELINES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "sample": sample,
    "ledoit_wolf_identity": ledoit_wolf_identity,
    "ledoit_wolf_constant_correlation": ledoit_wolf_constant_correlation,
    "ledoit_wolf_single_factor": ledoit_wolf_single_factor,
    "oas": oas,
    "multi_target_ledoit_wolf": multi_target_ledoit_wolf,
    "qis": qis,
    "qis_correlation": qis_correlation,
}
"""Name -> estimator, in the order in which tables list them."""


def gmv_weights(covariance: FloatArray) -> FloatArray:
    """Return the weights, sum 1, of the portfolio of minimum variance: inv(covariance) 1 / (1' inv(covariance) 1).

    Parameters
    ----------
    covariance : array of shape (n_assets, n_assets)
        Symmetric positive definite.

    Returns
    -------
    array of shape (n_assets,)

    Raises
    ------
    numpy.linalg.LinAlgError
        If the covariance is not positive definite to working precision, or not finite.

    References
    ----------
    Markowitz (1952), J. Finance 7(1), 77-91; Merton (1972), J. Financial and Quantitative Analysis 7(4), 1851-1872.

    >>> gmv_weights(np.diag([1.0, 4.0])).tolist()
    [0.8, 0.2]
    """
    covariance = np.asarray(covariance, dtype=np.float64)
    n_assets = len(covariance)
    variances = covariance.diagonal()
    problem = np.linalg.LinAlgError(
        f"minimum-variance weights need a positive definite covariance, this one of {n_assets} assets is singular or "
        "indefinite to working precision: a sample covariance is, if n_assets > n_obs - 1"
    )
    if not (variances > 0).all():
        raise problem
    volatility = np.sqrt(variances)
    try:
        lower = np.linalg.cholesky(covariance / np.outer(volatility, volatility))
    except np.linalg.LinAlgError:
        raise problem from None
    # Rounding lets half of the singular matrices through, so a factorisation that ends proves nothing. The sum of
    # squares is the trace of the inverse correlation, at least 1 / (its smallest eigenvalue). In units of n_assets eps
    # its inverse was below 0.25 for singular samples, above 7e4 for samples of just enough observations.
    inverse_lower = np.linalg.inv(lower)
    if not (inverse_lower**2).sum() * 10 * n_assets * np.finfo(np.float64).eps < 1:
        raise problem
    weights = inverse_lower.T @ (inverse_lower @ (1 / volatility)) / volatility
    return weights / weights.sum()


# ------------------------------------------------------------------------------------------------ linear shrinkage


def measure(returns: FloatArray, *, n_effective: int | None = None) -> Moments:
    """Measure once what the intensities of all targets share.

    Parameters
    ----------
    returns : array of shape (n_obs, n_assets)
    n_effective : int, optional
        n_obs - 1 unless given. Libraries that divide by n_obs after demeaning are matched by ``n_effective=n_obs``.

    Returns
    -------
    Moments
        sample in squared returns per period, pi and pi_diagonal in their square.

    References
    ----------
    pi-hat: Ledoit, Wolf (2003), J. Empirical Finance 10(5), Lemma 1, with n_effective for their T.
    """
    x = _demean(returns)
    n = len(x) - 1 if n_effective is None else n_effective
    S = _sample(x, n)
    # pi_ij = sum_t x_ti^2 x_tj^2 / n - s_ij^2. The double sum over assets factors,
    # sum_ij x_i^2 x_j^2 = (sum_i x_i^2)^2, so it costs O(n_obs n_assets).
    squares = x**2
    pi = (squares.sum(axis=1) ** 2).sum() / n - (S**2).sum()
    pi_diagonal = (squares**2).sum() / n - (S.diagonal() ** 2).sum()
    return Moments(x, S, n, float(pi), float(pi_diagonal))


def identity(moments: Moments) -> Target:
    """Mean variance times identity: Ledoit, Wolf (2004), J. Multivariate Analysis 88(2), where rho is zero."""
    n_assets = len(moments.sample)
    return Target(np.trace(moments.sample) / n_assets * np.eye(n_assets), rho=0.0)


def diagonal(moments: Moments) -> Target:
    """Return the sample variances, no correlation: Ledoit (1995), PhD thesis, MIT, appendix B.2."""
    return Target(np.diag(moments.sample.diagonal()), rho=moments.pi_diagonal)


def constant_correlation(moments: Moments) -> Target:
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


def single_factor(moments: Moments) -> Target:
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


def shrink(moments: Moments, target: Target) -> Shrinkage:
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


def shrink_oas(moments: Moments) -> Shrinkage:
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


def shrink_multi_target(moments: Moments, targets: Sequence[Target]) -> MultiTargetShrinkage:
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


# -------------------------------------------------------------------------------------------- non-linear shrinkage


def shrink_quadratic_inverse(sample: FloatArray, n_effective: int) -> FloatArray:
    """Keep the eigenvectors of a sample covariance or correlation, shrink its eigenvalues, keep its trace.

    Parameters
    ----------
    sample : array of shape (n_assets, n_assets)
        Symmetric, of rank min(n_assets, n_effective): the null eigenvalues are told by their count.
    n_effective : int
        n_obs, or n_obs - 1 if the returns were demeaned.

    Returns
    -------
    array of shape (n_assets, n_assets)
        Positive definite.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the rank is lower, as when two assets have the same returns.

    References
    ----------
    QIS: Ledoit, Wolf (2022), Bernoulli 28(3), 1519-1547, section 4.5.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(sample)  # ascending; a general eigensolver would not be orthogonal
    shrunk = _quadratic_inverse(eigenvalues, n_effective)
    half = eigenvectors * np.sqrt(shrunk * (np.trace(sample) / shrunk.sum()))
    return half @ half.T  # a product with its own transpose is symmetric to the last bit


def _quadratic_inverse(eigenvalues: FloatArray, n_effective: int) -> FloatArray:
    """Shrink ascending eigenvalues; the trace is left to the caller."""
    n_assets = len(eigenvalues)
    n_null = max(n_assets - n_effective, 0)
    if eigenvalues[n_null] <= n_assets * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise np.linalg.LinAlgError(
            f"the sample matrix of {n_assets} assets must have rank {n_assets - n_null}, its eigenvalue number "
            f"{n_null + 1} is {eigenvalues[n_null]:.3g}: are the returns of some assets the same?"
        )
    inverse = 1 / eigenvalues[n_null:]
    c = n_assets / n_effective
    h = min(c**2, 1 / c**2) ** 0.35 / n_assets**0.35
    difference = inverse - inverse[:, None]  # l_j - l_i in row i, column j
    kernel = inverse / (difference**2 + h**2 * inverse**2)
    theta = (kernel * difference).mean(axis=1)
    conjugate = (kernel * h * inverse).mean(axis=1)
    if n_null == 0:
        # The paper's (1-c)^2 + 2 c (1-c) theta + c^2 (theta^2 + conjugate^2), as a sum of squares: never negative.
        return 1 / (inverse * ((1 - c + c * theta) ** 2 + (c * conjugate) ** 2))
    null = np.full(n_null, 1 / ((c - 1) * inverse.mean()))
    return np.concatenate([null, 1 / (inverse * (theta**2 + conjugate**2))])


# ----------------------------------------------------------------------------------------------------------- parts


def _demean(returns: FloatArray) -> FloatArray:
    returns = np.asarray(returns, dtype=np.float64)
    return returns - returns.mean(axis=0)


def _sample(demeaned: FloatArray, n_effective: int) -> FloatArray:
    return demeaned.T @ demeaned / n_effective


def _mix(sample: FloatArray, target: FloatArray, raw: float) -> Shrinkage:
    intensity = min(max(float(raw), 0.0), 1.0)
    return Shrinkage((1 - intensity) * sample + intensity * target, intensity)
