# SPDX-License-Identifier: Apache-2.0
"""Portfolios that an estimate is judged by: of minimum variance, with and without short sales, and random ones."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

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
    covariance = np.asarray(covariance, dtype=np.float64)
    if not np.isfinite(covariance).all():
        raise np.linalg.LinAlgError("long-only weights need a finite covariance")
    volatility = np.sqrt(covariance.diagonal())
    lower = np.linalg.cholesky(covariance / np.outer(volatility, volatility))  # on the scale of correlations
    right = solve_triangular(lower, volatility.min() / volatility, lower=True)
    solution, _ = nnls(lower.T, right)
    weights = solution / volatility
    return weights / weights.sum()


def random_long_only(rng: np.random.Generator, n: int, n_assets: int) -> FloatArray:
    """Draw portfolios uniformly from the simplex of weights >= 0, sum 1; shape (n, n_assets)."""
    return rng.dirichlet(np.ones(n_assets), n)


def random_long_short(rng: np.random.Generator, n: int, n_assets: int) -> FloatArray:
    """Draw portfolios of uniform direction among those of net exposure 0, gross exposure 1; shape (n, n_assets)."""
    weights = rng.standard_normal((n, n_assets))
    weights -= weights.mean(axis=1, keepdims=True)
    return weights / np.abs(weights).sum(axis=1, keepdims=True)
