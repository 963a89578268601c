# SPDX-License-Identifier: Apache-2.0
"""Portfolios that an estimate is judged by: of minimum variance, long-only too, a tracker, and random ones."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


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


def long_only_weights(covariance: FloatArray) -> FloatArray:
    """Return the weights, none negative, sum 1, of the long-only portfolio of minimum variance.

    Up to scale it is the solution of min x' covariance x / 2 - 1'x over x >= 0: the same Karush-Kuhn-Tucker conditions.
    With covariance = L L' that is the non-negative least-squares problem min ||L' x - L^-1 1||, solved exactly by the
    active set of Lawson, Hanson (1974), Solving Least Squares Problems, chapter 23.

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
        If the covariance is not positive definite.

    >>> long_only_weights(np.array([[1.0, 1.5], [1.5, 4.0]])).tolist()
    [1.0, 0.0]
    """
    from scipy.linalg import solve_triangular  # here: the demo, which needs no SciPy, reads this module
    from scipy.optimize import nnls

    covariance = np.asarray(covariance, dtype=np.float64)
    if not np.isfinite(covariance).all():
        raise np.linalg.LinAlgError("long-only weights need a finite covariance")
    volatility = np.sqrt(covariance.diagonal())
    lower = np.linalg.cholesky(covariance / np.outer(volatility, volatility))  # on the scale of correlations
    right = solve_triangular(lower, volatility.min() / volatility, lower=True)
    solution, _ = nnls(lower.T, right)
    weights = solution / volatility
    return weights / weights.sum()


def tracking_weights(covariance: FloatArray, benchmark: FloatArray, held: npt.NDArray[np.int64]) -> FloatArray:
    """Return the weights, sum 1, that track a benchmark with some of its assets only.

    They minimise (w - b)' covariance (w - b) over w with sum 1 that is zero but for the assets held. With S their
    covariance and c that of each with the benchmark, w = inv(S) (c + lambda 1), lambda such that the sum is 1.

    Parameters
    ----------
    covariance : array of shape (n_assets, n_assets)
        Symmetric positive definite.
    benchmark : array of shape (n_assets,)
        Weights b, sum 1.
    held : array of shape (n_held,)
        Indices of the assets that may be held.

    Returns
    -------
    array of shape (n_assets,)

    Raises
    ------
    numpy.linalg.LinAlgError
        If the covariance of the assets held is not positive definite, or not finite.

    References
    ----------
    Roll (1992), J. Portfolio Management 18(4), 13-22, for the minimum of the tracking error.

    >>> tracking_weights(np.diag([1.0, 1.0, 4.0]), np.full(3, 1 / 3), np.array([0, 2])).round(3).tolist()
    [0.6, 0.0, 0.4]
    """
    from scipy.linalg import cho_factor, cho_solve

    covariance = np.asarray(covariance, dtype=np.float64)
    if not np.isfinite(covariance).all():
        raise np.linalg.LinAlgError("tracking weights need a finite covariance")
    volatility = np.sqrt(covariance.diagonal()[held])
    factor = cho_factor(covariance[np.ix_(held, held)] / np.outer(volatility, volatility))  # scale of correlations
    right = np.column_stack([covariance[held] @ benchmark, np.ones(len(held))]) / volatility[:, None]
    hedge, minimum = cho_solve(factor, right).T / volatility  # inv(S) c, inv(S) 1
    weights = np.zeros(len(covariance))
    weights[held] = hedge + (1 - hedge.sum()) / minimum.sum() * minimum
    return weights


def random_half(rng: np.random.Generator, n_assets: int) -> npt.NDArray[np.int64]:
    """Draw half of the assets, rounded down; indices ascending, shape (n_assets // 2,)."""
    return np.sort(rng.choice(n_assets, n_assets // 2, replace=False))


def random_long_only(rng: np.random.Generator, n: int, n_assets: int) -> FloatArray:
    """Draw portfolios uniformly from the simplex of weights >= 0, sum 1; shape (n, n_assets)."""
    return rng.dirichlet(np.ones(n_assets), n)


def random_long_short(rng: np.random.Generator, n: int, n_assets: int) -> FloatArray:
    """Draw portfolios of uniform direction among those of net exposure 0, gross exposure 1; shape (n, n_assets)."""
    weights = rng.standard_normal((n, n_assets))
    weights -= weights.mean(axis=1, keepdims=True)
    return weights / np.abs(weights).sum(axis=1, keepdims=True)
