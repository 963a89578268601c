# SPDX-License-Identifier: Apache-2.0
"""CM-IEWMA: iterated EWMAs of several half-lives, combined with the weights that would lately have forecast best.

Johansson, Ogut, Pelger, Schmelzer, Boyd (2023), A Simple Method for Predicting Covariance Matrices of Financial
Returns, Foundations and Trends in Econometrics 12(4), sections 3 and 4. Expert k forecasts Sigma_k for the next day;
L_k is the lower Cholesky factor of its inverse. The combination is inv(L L') with L = sum_k w_k L_k, and w, on the
unit simplex, maximises the Gaussian likelihood that it would have had over the last days, a concave function of w:

    sum over days of  sum_i ln (sum_k w_k L_k,ii) - |(sum_k w_k L_k)' r|^2 / 2.

The half-lives and the regularisation of the fastest expert are those of the paper's experiment on stocks. No first days
are left out of the averages, as there: a window is short, and here every average is divided by its weights.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import minimize

from sigmahat_trainer.baselines.closed_form import ewma_variances

FloatArray: TypeAlias = npt.NDArray[np.float64]

HALFLIVES = ((10.0, 21.0), (21.0, 63.0), (63.0, 125.0), (125.0, 250.0), (250.0, 500.0))
"""Of the volatilities and of the correlation, an expert each, the fastest first."""

FASTEST_DIAGONAL = 0.05
"""Share of its own diagonal that is added to the fastest expert's covariance."""

SCORED_DAYS = 10
"""Days over which experts are judged."""


class Record(NamedTuple):
    """What the likelihood of the combined forecasts is made of."""

    diagonals: FloatArray  # (days * n_assets, experts), of the factors L
    products: FloatArray  # (experts, experts), sum over days of (L_j' r)' (L_k' r)


def cm_iewma(returns: FloatArray, *, halflives: tuple[tuple[float, float], ...] = HALFLIVES) -> FloatArray:
    """Forecast of the day after the last row.

    Parameters
    ----------
    returns : array of shape (n_obs, n_assets)
        More than `SCORED_DAYS` observations. Means are taken as zero.

    Raises
    ------
    numpy.linalg.LinAlgError
        If an expert's covariance is singular, as when there are more assets than observations.
    """
    returns = np.asarray(returns, np.float64)
    roots = np.stack([_expert_roots(returns, pair, FASTEST_DIAGONAL * (k == 0)) for k, pair in enumerate(halflives)])
    weights = combination_weights(_record(roots[:, :-1], returns[-SCORED_DAYS:]))
    identity = np.eye(returns.shape[1])
    # U upper with U U' = Sigma gives L = inv(U)', so L' = inv(U).
    transposed = sum(w * solve_triangular(root, identity) for w, root in zip(weights, roots[:, -1], strict=True))
    factor = solve_triangular(np.asarray(transposed), identity)  # inv(L')
    return factor @ factor.T


def combination_weights(record: Record) -> FloatArray:
    """Weights, none negative, sum 1, that maximise the likelihood of a record; shape (experts,)."""
    n_experts = len(record.products)
    days = len(record.diagonals)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        level = record.diagonals @ weights
        moved = record.products @ weights
        value = -np.log(level).sum() + 0.5 * weights @ moved
        return value / days, (moved - record.diagonals.T @ (1 / level)) / days

    found = minimize(
        loss,
        np.full(n_experts, 1 / n_experts),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * n_experts,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    weights = np.clip(found.x, 0.0, 1.0)
    return np.asarray(weights / weights.sum())


def _record(roots: FloatArray, returns: FloatArray) -> Record:
    """Of forecasts, shape (experts, days, n_assets, n_assets), and the returns that they were for, (days, n_assets)."""
    diagonals = 1 / np.diagonal(roots, axis1=-2, axis2=-1)  # of L: (experts, days, n_assets)
    whitened = np.array([[solve_triangular(root, r) for root, r in zip(each, returns, strict=True)] for each in roots])
    flat = whitened.reshape(len(roots), -1)
    return Record(diagonals.reshape(len(roots), -1).T, flat @ flat.T)


def _expert_roots(returns: FloatArray, halflives: tuple[float, float], added: float) -> FloatArray:
    """U, upper, with U U' the forecast made after each of the last SCORED_DAYS + 1 rows, `added` diagonal included."""
    variances = ewma_variances(returns, halflives[0])
    standardised = returns / np.sqrt(np.where(variances > 0, variances, 1.0))
    decay = 0.5 ** (1 / halflives[1])
    first = len(returns) - SCORED_DAYS
    aged = decay ** (0.5 * np.arange(first)[::-1])[:, None] * standardised[:first]
    moment = aged.T @ aged  # of any scale: it becomes a correlation
    roots = []
    for t in range(first, len(returns) + 1):
        if t > first:
            moment = decay * moment + np.outer(standardised[t - 1], standardised[t - 1])
        scale = np.sqrt(variances[t - 1] / moment.diagonal())
        covariance = moment * np.outer(scale, scale)
        covariance[np.diag_indices_from(covariance)] *= 1 + added
        # Reversed in both axes, a lower factor becomes an upper one.
        roots.append(np.linalg.cholesky(covariance[::-1, ::-1])[::-1, ::-1])
    return np.stack(roots)
