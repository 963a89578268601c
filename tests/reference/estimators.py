# SPDX-License-Identifier: Apache-2.0
"""Slow covariance estimators, written from their definitions with a loop for every sum: oracles for tests.

Nothing of the product is imported, nor any of its rearrangements. `returns` has shape (n_obs, n_assets).
"""

from __future__ import annotations

import cmath

import mpmath
import numpy as np
import pandas as pd
from scipy.optimize import brentq, nnls


def demeaned(returns):
    n_obs, n_assets = returns.shape
    x = np.empty((n_obs, n_assets))
    for i in range(n_assets):
        mean = sum(returns[t, i] for t in range(n_obs)) / n_obs
        for t in range(n_obs):
            x[t, i] = returns[t, i] - mean
    return x


def sample(returns):
    x = demeaned(returns)
    n_obs, n_assets = x.shape
    S = np.empty((n_assets, n_assets))
    for i in range(n_assets):
        for j in range(n_assets):
            S[i, j] = sum(x[t, i] * x[t, j] for t in range(n_obs)) / (n_obs - 1)
    return S


class AsymptoticCovariances:
    """Estimated asymptotic covariances of entries of sqrt(n) S; the series `MARKET` is the mean of all assets.

    The covariance of s_ab with s_ij is mean(x_a x_b x_i x_j) - s_ab s_ij, every mean with divisor n_obs - 1.
    """

    MARKET = -1

    def __init__(self, returns):
        x = demeaned(returns)
        n_obs, n_assets = x.shape
        market = [sum(x[t, i] for i in range(n_assets)) / n_assets for t in range(n_obs)]
        self._series = [*x.T, np.array(market)]
        self._n = n_obs - 1

    def moment(self, *series):
        total = 0.0
        for t in range(self._n + 1):
            value = 1.0
            for a in series:
                value *= self._series[a][t]
            total += value
        return total / self._n

    def __call__(self, a, b, i, j):
        return self.moment(a, b, i, j) - self.moment(a, b) * self.moment(i, j)


def pi(returns):
    """Sum of the asymptotic variances of all s_ij: Ledoit, Wolf (2003), section 3."""
    n_assets = returns.shape[1]
    asymptotic = AsymptoticCovariances(returns)
    total = 0.0
    for i in range(n_assets):
        for j in range(n_assets):
            total += asymptotic(i, j, i, j)
    return total


def identity(returns):
    """Target and rho, which is zero: Ledoit, Wolf (2004), J. Multivariate Analysis."""
    S = sample(returns)
    n_assets = len(S)
    mean_variance = sum(S[i, i] for i in range(n_assets)) / n_assets
    F = np.zeros_like(S)
    for i in range(n_assets):
        F[i, i] = mean_variance
    return F, 0.0


def diagonal(returns):
    """Target and rho, from the covariance of s_ii with f_ii = s_ii; f_ij = 0 varies with nothing."""
    S = sample(returns)
    asymptotic = AsymptoticCovariances(returns)
    F, rho = np.zeros_like(S), 0.0
    for i in range(len(S)):
        F[i, i] = S[i, i]
        rho += asymptotic(i, i, i, i)
    return F, rho


def constant_correlation(returns):
    """Target and rho: f_ij = r_bar sqrt(s_ii s_jj), with r_bar held fixed in the delta method.

    d f_ij / d s_ii = r_bar sqrt(s_jj / s_ii) / 2: Ledoit, Wolf (2004), J. Portfolio Management, appendix.
    """
    S = sample(returns)
    n_assets = len(S)
    asymptotic = AsymptoticCovariances(returns)
    correlations = [S[i, j] / np.sqrt(S[i, i] * S[j, j]) for i in range(n_assets) for j in range(i + 1, n_assets)]
    r_bar = sum(correlations) / len(correlations)
    F, rho = np.empty_like(S), 0.0
    for i in range(n_assets):
        for j in range(n_assets):
            if i == j:
                F[i, i] = S[i, i]
                rho += asymptotic(i, i, i, i)
                continue
            F[i, j] = r_bar * np.sqrt(S[i, i] * S[j, j])
            rho += r_bar / 2 * np.sqrt(S[j, j] / S[i, i]) * asymptotic(i, i, i, j)
            rho += r_bar / 2 * np.sqrt(S[i, i] / S[j, j]) * asymptotic(j, j, i, j)
    return F, rho


def single_factor(returns):
    """Target and rho: f_ij = s_i0 s_j0 / s_00 with 0 the market, by the delta method in its three arguments.

    Ledoit, Wolf (2003), J. Empirical Finance, Lemma 2.
    """
    S = sample(returns)
    n_assets = len(S)
    asymptotic = AsymptoticCovariances(returns)
    m = asymptotic.MARKET
    v = asymptotic.moment(m, m)
    F, rho = np.empty_like(S), 0.0
    for i in range(n_assets):
        for j in range(n_assets):
            if i == j:
                F[i, i] = S[i, i]
                rho += asymptotic(i, i, i, i)
                continue
            c_i, c_j = asymptotic.moment(i, m), asymptotic.moment(j, m)
            F[i, j] = c_i * c_j / v
            rho += c_j / v * asymptotic(i, m, i, j)
            rho += c_i / v * asymptotic(j, m, i, j)
            rho -= c_i * c_j / v**2 * asymptotic(m, m, i, j)
    return F, rho


TARGETS = {
    "identity": identity,
    "diagonal": diagonal,
    "constant_correlation": constant_correlation,
    "single_factor": single_factor,
}


def linear_shrinkage(returns, target):
    """(covariance, intensity) of Ledoit, Wolf (2003) for one of `TARGETS`."""
    S = sample(returns)
    F, rho = TARGETS[target](returns)
    n_obs, n_assets = returns.shape
    gamma = 0.0
    for i in range(n_assets):
        for j in range(n_assets):
            gamma += (S[i, j] - F[i, j]) ** 2
    kappa = (pi(returns) - rho) / gamma
    intensity = max(0.0, min(1.0, kappa / (n_obs - 1)))
    covariance = np.empty_like(S)
    for i in range(n_assets):
        for j in range(n_assets):
            covariance[i, j] = intensity * F[i, j] + (1 - intensity) * S[i, j]
    return covariance, intensity


def oas(returns):
    """(covariance, intensity) of Chen et al. (2010), equation 23 without its terms in 2 / n_assets."""
    S = sample(returns)
    n_obs, n_assets = returns.shape
    n = n_obs - 1
    trace = sum(S[i, i] for i in range(n_assets))
    trace_of_square = sum((S @ S)[i, i] for i in range(n_assets))
    intensity = min(1.0, (trace_of_square + trace**2) / ((n + 1) * (trace_of_square - trace**2 / n_assets)))
    F, _ = identity(returns)
    return intensity * F + (1 - intensity) * S, intensity


def multi_target_problem(returns, targets):
    """A and b of the quadratic programme delta' A delta / 2 - b' delta, with the estimate (pi - rho_k) / n for b."""
    S = sample(returns)
    pairs = [TARGETS[target](returns) for target in targets]
    n_targets, n_assets = len(targets), len(S)
    A, b = np.zeros((n_targets, n_targets)), np.empty(n_targets)
    for k in range(n_targets):
        b[k] = (pi(returns) - pairs[k][1]) / (len(returns) - 1)
        for m in range(n_targets):
            for i in range(n_assets):
                for j in range(n_assets):
                    A[k, m] += (pairs[k][0][i, j] - S[i, j]) * (pairs[m][0][i, j] - S[i, j])
    return A, b


def multi_target_shrinkage(returns, targets):
    """(covariance, intensities) toward several of `TARGETS`."""
    S = sample(returns)
    intensities = minimise_over_simplex(*multi_target_problem(returns, targets))
    covariance = S.copy()
    for target, intensity in zip(targets, intensities, strict=True):
        covariance += intensity * (TARGETS[target](returns)[0] - S)
    return covariance, intensities


def minimise_over_simplex(A, b):
    """Minimise delta' A delta / 2 - b' delta over delta >= 0, sum(delta) <= 1, for A positive definite.

    By duality: at a price mu of the budget, non-negative least squares; the price is found where the budget is spent.
    """
    scale = np.trace(A)
    lower = np.linalg.cholesky(A / scale)

    def at_price(mu):
        # ||lower' delta - y||^2 / 2 with lower y = b - mu is the objective plus mu sum(delta), up to a constant.
        return nnls(lower.T, np.linalg.solve(lower, b / scale - mu))[0]

    if at_price(0.0).sum() <= 1:
        return at_price(0.0)
    mu = brentq(lambda mu: at_price(mu).sum() - 1, 0.0, (b / scale).max(), xtol=1e-16, rtol=1e-15)
    return at_price(mu)


def qis(returns):
    """Quadratic-inverse shrinkage: Ledoit, Wolf (2022), Bernoulli 28(3), section 4.5.

    From the singular values of the data, which are min(n_obs - 1, n_assets) without any null one to tell apart:
    d_0 (I - V V') + V diag(d) V'.
    """
    x = demeaned(returns)
    n_obs, p = x.shape
    n = n_obs - 1
    rank = min(p, n)
    _, singular, vectors = np.linalg.svd(x / np.sqrt(n))
    eigenvalues, vectors = singular[:rank] ** 2, vectors[:rank].T
    c = p / n
    h = min(c**2, 1 / c**2) ** 0.35 / p**0.35

    delta = np.empty(rank)
    for i in range(rank):
        theta = conjugate = 0.0
        inverse_i = 1 / eigenvalues[i]
        for j in range(rank):
            inverse_j = 1 / eigenvalues[j]
            denominator = (inverse_j - inverse_i) ** 2 + h**2 * inverse_j**2
            theta += inverse_j * (inverse_j - inverse_i) / denominator / rank
            conjugate += inverse_j * h * inverse_j / denominator / rank
        amplitude = theta**2 + conjugate**2
        if p <= n:
            inverse_delta = (
                (1 - c) ** 2 * inverse_i + 2 * c * (1 - c) * inverse_i * theta + c**2 * inverse_i * amplitude
            )
        else:
            inverse_delta = inverse_i * amplitude
        delta[i] = 1 / inverse_delta

    covariance = np.zeros((p, p))
    if p > n:
        null = 1 / ((c - 1) * sum(1 / eigenvalue for eigenvalue in eigenvalues) / rank)
        covariance += null * (np.eye(p) - vectors @ vectors.T)
    for i in range(rank):
        covariance += delta[i] * np.outer(vectors[:, i], vectors[:, i])
    return covariance * sum(eigenvalues) / np.trace(covariance)


def qis_correlation(returns):
    return on_correlations(qis, returns)


def equal_weight(returns):
    """Mean variance times identity."""
    return identity(returns)[0]


def inverse_variance(returns):
    return diagonal(returns)[0]


def ewma(returns, halflife=63.0):
    """What pandas says, on the last day: weights 2^(-age / halflife), their mean removed, unbiased."""
    frame = pd.DataFrame(returns)
    return frame.ewm(halflife=halflife).cov().loc[len(frame) - 1].to_numpy()


def iterated_ewma(returns, halflives=(21.0, 63.0)):
    """Johansson et al. (2023), section 2.5, with sums from the start for every day."""
    n_obs, n_assets = returns.shape

    def weights(t, halflife):
        raw = [0.5 ** ((t - s) / halflife) for s in range(t + 1)]
        return [w / sum(raw) for w in raw]

    standardised, volatility = np.empty_like(returns), np.empty_like(returns)
    for t in range(n_obs):
        w = weights(t, halflives[0])
        for i in range(n_assets):
            volatility[t, i] = np.sqrt(sum(w[s] * returns[s, i] ** 2 for s in range(t + 1)))
            standardised[t, i] = returns[t, i] / volatility[t, i]
    w = weights(n_obs - 1, halflives[1])
    moment = np.empty((n_assets, n_assets))
    for i in range(n_assets):
        for j in range(n_assets):
            moment[i, j] = sum(w[t] * standardised[t, i] * standardised[t, j] for t in range(n_obs))
    covariance = np.empty_like(moment)
    for i in range(n_assets):
        for j in range(n_assets):
            correlation = moment[i, j] / np.sqrt(moment[i, i] * moment[j, j])
            covariance[i, j] = correlation * volatility[-1, i] * volatility[-1, j]
    return covariance


def spectrum(returns):
    """(eigenvalues, eigenvectors in columns, n) of the sample covariance, the null ones left out."""
    x = demeaned(returns)
    n = len(x) - 1
    _, singular, vectors = np.linalg.svd(x / np.sqrt(n))
    rank = min(x.shape[1], n)
    return singular[:rank] ** 2, vectors[:rank].T, n


def assembled(vectors, values, null):
    p = len(vectors)
    covariance = null * (np.eye(p) - vectors @ vectors.T)
    for i in range(vectors.shape[1]):
        covariance += values[i] * np.outer(vectors[:, i], vectors[:, i])
    return covariance


def lis(returns):
    """Linear-inverse shrinkage: Ledoit, Wolf (2022), Bernoulli 28(3), section 4.2, for no more assets than n."""
    eigenvalues, vectors, n = spectrum(returns)
    p = len(vectors)
    c = p / n
    h = min(c**2, 1 / c**2) ** 0.35 / p**0.35
    delta = []
    for i in range(p):
        theta = 0.0
        for j in range(p):
            difference = 1 / eigenvalues[j] - 1 / eigenvalues[i]
            theta += difference / eigenvalues[j] / (difference**2 + h**2 / eigenvalues[j] ** 2) / p
        inverse = (1 - c) / eigenvalues[i] + 2 * c * theta / eigenvalues[i]
        delta.append(1 / max(inverse, 1 / max(eigenvalues)))
    return assembled(vectors, delta, 0.0)


def analytical(returns):
    """Ledoit, Wolf (2020), Annals of Statistics 48(5), equations 4.2 to 4.5 and C.3, in 50 digits."""
    eigenvalues, vectors, n = spectrum(returns)
    p = len(vectors)
    with mpmath.workdps(50):
        root, pi, c = mpmath.sqrt(5), mpmath.pi, mpmath.mpf(p) / n
        h = mpmath.mpf(n) ** (-mpmath.mpf(1) / 3)
        lambdas = [mpmath.mpf(float(value)) for value in eigenvalues]
        m = len(lambdas)
        delta = []
        for own in lambdas:
            density = transform = mpmath.mpf(0)
            for other in lambdas:
                z = (own - other) / (h * other)
                density += 3 / (4 * root * h * other) * max(0, 1 - z**2 / 5) / m
                logarithm = mpmath.log(abs((root - z) / (root + z)))
                transform += (-3 * z / 10 / pi + 3 / (4 * root * pi) * (1 - z**2 / 5) * logarithm) / (h * other) / m
            if p <= n:
                bottom = (pi * c * own * density) ** 2 + (1 - c - pi * c * own * transform) ** 2
                delta.append(float(own / bottom))
            else:
                delta.append(float(1 / (pi**2 * own * (density**2 + transform**2))))
        null = 0.0
        if p > n:
            logarithm = mpmath.log((1 + root * h) / (1 - root * h))
            transform = 3 / (10 * h**2) + 3 / (4 * root * h) * (1 - 1 / (5 * h**2)) * logarithm
            transform *= sum(1 / value for value in lambdas) / m / pi
            null = float(1 / (pi * (mpmath.mpf(p - n) / n) * transform))
    return assembled(vectors, delta, null)


def rie_of_correlation(eigenvalues, q):
    """Shrunk eigenvalues: Bun, Bouchaud, Potters (2017), Physics Reports 666, section 8.1, one by one."""
    p = len(eigenvalues)
    low = min(eigenvalues)
    shrunk = []
    for k in range(p):
        z = complex(eigenvalues[k], -1 / np.sqrt(p))
        s = sum(1 / (z - eigenvalues[j]) for j in range(p) if j != k) / p
        value = eigenvalues[k] / abs(1 - q + q * z * s) ** 2
        if q < 1:
            sigma = low / (1 - np.sqrt(q)) ** 2
            high = low * ((1 + np.sqrt(q)) / (1 - np.sqrt(q))) ** 2
            g = (z + sigma * (q - 1) - cmath.sqrt(z - low) * cmath.sqrt(z - high)) / (2 * q * z * sigma)
            value *= max(1.0, sigma * abs(1 - q + q * z * g) ** 2 / eigenvalues[k])
        shrunk.append(value)
    return [value * sum(eigenvalues) / sum(shrunk) for value in shrunk]


def rie(returns):
    def shrink(standardised):
        eigenvalues, vectors, n = spectrum(standardised)
        return assembled(vectors, rie_of_correlation(eigenvalues, len(vectors) / n), 0.0)

    return on_correlations(shrink, returns)


def on_correlations(shrink, returns):
    """`shrink` of the standardised returns, its diagonal reset to one, the volatilities put back."""
    S = sample(returns)
    n_assets = len(S)
    volatility = [np.sqrt(S[i, i]) for i in range(n_assets)]
    correlation = shrink(returns / volatility)
    covariance = np.empty_like(S)
    for i in range(n_assets):
        for j in range(n_assets):
            normalised = correlation[i, j] / np.sqrt(correlation[i, i] * correlation[j, j])
            covariance[i, j] = normalised * volatility[i] * volatility[j]
    return covariance
