# SPDX-License-Identifier: Apache-2.0
"""DCC-GARCH written as its definition says, a loop for every day, entry and pair: oracles for tests.

Nothing of the product is imported. `returns` and `s` have shape (n_obs, n_assets).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import multivariate_normal, norm


def garch_variances(returns, omega, alpha, beta, first):
    """Variances of the days of one asset and of the day after, from the variance of the first day."""
    variances = [first]
    for r in returns:
        variances.append(omega + alpha * r**2 + beta * variances[-1])
    return np.array(variances)


def garch_log_likelihood(returns, omega, alpha, beta, first):
    variances = garch_variances(returns, omega, alpha, beta, first)
    return sum(norm.logpdf(r, scale=np.sqrt(v)) for r, v in zip(returns, variances, strict=False))


def pseudo_correlations(s, C, alpha, beta):
    """Q_1 ... Q_{T+1}."""
    Q = [C.copy()]
    for row in s:
        Q.append((1 - alpha - beta) * C + alpha * np.outer(row, row) + beta * Q[-1])
    return Q


def correlation(Q):
    n_assets = len(Q)
    R = np.empty_like(Q)
    for i in range(n_assets):
        for j in range(n_assets):
            R[i, j] = Q[i, j] / np.sqrt(Q[i, i] * Q[j, j])
    return R


def composite_log_likelihood(s, C, alpha, beta):
    """Mean over neighbouring pairs of the log likelihood of each, with all its constants."""
    n_obs, n_assets = s.shape
    total = 0.0
    for i in range(n_assets - 1):
        pair = [i, i + 1]
        Q = pseudo_correlations(s[:, pair], C[np.ix_(pair, pair)], alpha, beta)
        total += sum(multivariate_normal(cov=correlation(Q[t])).logpdf(s[t, pair]) for t in range(n_obs))
    return total / (n_assets - 1)


def mean_forecast(returns, garch, s, C, alpha, beta, horizon):
    """Mean of the covariances expected for the days ahead; `garch` holds (omega, alpha, beta, variance of today)."""
    n_assets = len(C)
    R = correlation(pseudo_correlations(s, C, alpha, beta)[-1])
    variances = [w + a * r**2 + b * v for r, (w, a, b, v) in zip(returns[-1], garch, strict=True)]
    total = np.zeros_like(C)
    for _ in range(horizon):
        for i in range(n_assets):
            for j in range(n_assets):
                total[i, j] += R[i, j] * np.sqrt(variances[i] * variances[j]) / horizon
        R = (1 - alpha - beta) * C + (alpha + beta) * R
        variances = [w + (a + b) * v for v, (w, a, b, _) in zip(variances, garch, strict=True)]
    return total


def simulate(rng, C, alpha, beta, garch, n_obs):
    """Gaussian returns of a DCC-GARCH: `garch` holds (omega, alpha, beta) of each asset."""
    n_assets = len(C)
    Q = C.copy()
    variances = [w / (1 - a - b) for w, a, b in garch]
    returns = np.empty((n_obs, n_assets))
    for t in range(n_obs):
        s = np.linalg.cholesky(correlation(Q)) @ rng.standard_normal(n_assets)
        returns[t] = s * np.sqrt(variances)
        Q = (1 - alpha - beta) * C + alpha * np.outer(s, s) + beta * Q
        variances = [w + a * r**2 + b * v for r, v, (w, a, b) in zip(returns[t], variances, garch, strict=True)]
    return returns
