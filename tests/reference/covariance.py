# SPDX-License-Identifier: Apache-2.0
"""The project's estimate and classical multi-target shrinkage, from their definitions with a loop for every sum.

Nothing of the product is imported, nor any of its rearrangements. `returns` has shape (n_obs, n_assets), NaN = missing.
Products that need a missing return are replaced by what one factor makes of them, see `expected_correlation`.
"""

from __future__ import annotations

import math

import numpy as np

WINSOR_LIMIT = 3.0
VOLATILITY_FLOOR = 0.1
FAST_HALFLIFE = 63.0
RECENT_ROWS = 252
WINDOW = "window"  # in the place of a half-life: rows of the last year alike, older ones by the square of 252 / age
HALFLIVES = (WINDOW, 63.0, 21.0)  # of the volatilities that are blended
ALIKE = None  # in the place of a half-life: textbook moments, all rows alike


def observed(returns, i):
    """Rows in which asset i has a return."""
    return [t for t in range(len(returns)) if not math.isnan(returns[t, i])]


def weight(n_obs, t, halflife):
    """One half to the power of the row's age in half-lives, the last row's being 0; or see `WINDOW` and `ALIKE`."""
    if halflife is ALIKE:
        return 1.0
    if halflife == WINDOW:
        age = n_obs - t
        return 1.0 if age <= RECENT_ROWS else (RECENT_ROWS / age) ** 2
    return 0.5 ** ((n_obs - 1 - t) / halflife)


def deviations(returns):
    """Each return less its asset's mean; NaN where missing."""
    x = np.full(returns.shape, np.nan)
    for i in range(returns.shape[1]):
        rows = observed(returns, i)
        mean = sum(float(returns[t, i]) for t in rows) / len(rows)
        for t in rows:
            x[t, i] = float(returns[t, i]) - mean
    return x


def effective(returns, i, halflife=WINDOW):
    """As many rows of equal weight know as much as those of asset i with theirs."""
    weights = [weight(len(returns), t, halflife) for t in observed(returns, i)]
    return sum(weights) ** 2 / sum(w**2 for w in weights)


def window_volatility(returns, i, halflife=WINDOW):
    """Unbiased if the rows are independent: the sum of weights loses what the mean takes, n - 1 where all are 1."""
    x = deviations(returns[:, [i]])[:, 0]
    rows = observed(returns, i)
    w = {t: weight(len(returns), t, halflife) for t in rows}
    lost = sum(v**2 for v in w.values()) / sum(w.values())
    return math.sqrt(sum(w[t] * x[t] ** 2 for t in rows) / (sum(w.values()) - lost))


def volatility(returns, i, halflife=WINDOW, cut=None, power=2):
    """Per period. But for the window's, the weighted mean of a power of deviations from the mean, to one over it.

    `cut` limits deviations to so many of the window's volatilities. None is below a tenth of the window's.
    """
    window = window_volatility(returns, i)
    if halflife in (WINDOW, ALIKE) and power == 2:
        return window if halflife == WINDOW else window_volatility(returns, i, ALIKE)
    x = deviations(returns[:, [i]])[:, 0]
    rows = observed(returns, i)
    weights = {t: weight(len(returns), t, halflife) for t in rows}
    sizes = {t: abs(x[t]) if cut is None else min(abs(x[t]), cut * window) for t in rows}
    weighted = (sum(weights[t] * sizes[t] ** power for t in rows) / sum(weights.values())) ** (1 / power)
    return max(weighted, VOLATILITY_FLOOR * window)


def standardised(returns, winsor_limit=WINSOR_LIMIT):
    """Returns in units of their asset's volatility, cut at the limit, and demeaned once more; NaN where missing."""
    x = deviations(returns)
    z = np.full(returns.shape, np.nan)
    for i in range(returns.shape[1]):
        sd = volatility(returns, i, ALIKE if winsor_limit is None else WINDOW)
        for t in observed(returns, i):
            z[t, i] = x[t, i] / sd
            if winsor_limit is not None:
                z[t, i] = max(-winsor_limit, min(winsor_limit, z[t, i]))
    return deviations(z)


def correlation(z, halflife=WINDOW):
    """Correlation of standardised returns, weighted by age if a half-life is given; a missing return counts as zero.

    An entry is a sum over the rows that both assets have, divided by the root of the product of their own sums.
    """
    n_obs, n_assets = z.shape
    w = [weight(n_obs, t, halflife) for t in range(n_obs)]
    own = [sum(w[t] * z[t, i] ** 2 for t in observed(z, i)) for i in range(n_assets)]
    R = np.empty((n_assets, n_assets))
    for i in range(n_assets):
        rows = observed(z, i)
        for j in range(n_assets):
            both = [t for t in rows if not math.isnan(z[t, j])]
            R[i, j] = sum(w[t] * z[t, i] * z[t, j] for t in both) / math.sqrt(own[i] * own[j])
    return R


PRIOR_ROWS = 20


def factor_given(values, rho):
    """Mean and variance of a factor of variance rho, given assets that load 1 on it and have variance 1 themselves."""
    n = len(values)
    if n == 0:
        return 0.0, rho
    known = np.full((n, n), rho) + (1 - rho) * np.eye(n)
    weights = np.linalg.solve(known, np.full(n, rho))
    return float(weights @ values), float(rho - weights.sum() * rho)


def expected_correlation(z, halflife=WINDOW):
    """Correlation with each product that needs a missing return replaced by its mean given the rest of its row.

    The model is one factor that all assets load on alike, of the average correlation's variance; then each asset gets
    its own slope on the factor as seen without it, drawn toward the universe's by 20 average rows, and no larger than
    its variance allows. What the slope leaves of the asset's variance is its own.
    """
    n_obs, n_assets = z.shape
    if not np.isnan(z).any():
        return correlation(z, halflife)
    scaled = np.full(z.shape, np.nan)
    rows = [observed(z, i) for i in range(n_assets)]
    for i in range(n_assets):
        scale = math.sqrt(len(rows[i]) / sum(z[t, i] ** 2 for t in rows[i]))
        for t in rows[i]:
            scaled[t, i] = scale * z[t, i]
    there = [[i for i in range(n_assets) if not math.isnan(z[t, i])] for t in range(n_obs)]
    products = [scaled[t, i] * scaled[t, j] for t in range(n_obs) for i in there[t] for j in there[t] if i != j]
    rho = min(max(sum(products) / max(len(products), 1), 0.01), 0.99)

    shared, square, unsure = np.zeros((3, n_assets))
    for i in range(n_assets):
        for t in rows[i]:
            mean, variance = factor_given([scaled[t, j] for j in there[t] if j != i], rho)
            shared[i] += scaled[t, i] * mean
            square[i] += mean**2
            unsure[i] += variance / len(rows[i])
    prior = PRIOR_ROWS * sum(square) / sum(len(r) for r in rows)
    slope, own = np.zeros((2, n_assets))
    for i in range(n_assets):
        if prior > 0:
            slope[i] = (shared[i] + prior * sum(shared) / sum(square)) / (square[i] + prior)
        slope[i] = min(max(slope[i], -1 / math.sqrt(rho)), 1 / math.sqrt(rho))
        residual = 1 - (2 * slope[i] * shared[i] - slope[i] ** 2 * square[i]) / len(rows[i])
        own[i] = max(residual - slope[i] ** 2 * unsure[i], 0.0)

    S = np.zeros((n_assets, n_assets))
    for t in range(n_obs):
        mean, variance = factor_given([scaled[t, j] for j in there[t]], rho)
        for i in range(n_assets):
            for j in range(n_assets):
                x, y = (scaled[t, k] if k in there[t] else slope[k] * mean for k in (i, j))
                product = x * y
                if i not in there[t] and j not in there[t]:
                    product += slope[i] * slope[j] * variance + (own[i] if i == j else 0.0)
                S[i, j] += weight(n_obs, t, halflife) * product
    return np.array([[S[i, j] / math.sqrt(S[i, i] * S[j, j]) for j in range(n_assets)] for i in range(n_assets)])


def unit_columns(z):
    """Each row by the root of its weight, each column divided by the root of its sum of squares, missing cells zero."""
    columns = np.zeros(z.shape)
    w = [weight(len(z), t, WINDOW) for t in range(len(z))]
    for i in range(z.shape[1]):
        rows = observed(z, i)
        length = math.sqrt(sum(w[t] * z[t, i] ** 2 for t in rows))
        for t in rows:
            columns[t, i] = math.sqrt(w[t]) * z[t, i] / length
    return columns


def average_correlation(R):
    n_assets = len(R)
    pairs = [R[i, j] for i in range(n_assets) for j in range(n_assets) if i != j]
    return sum(pairs) / len(pairs)


def factor_loadings(z):
    """Correlation of each asset with the series that is the mean of all standardised assets (each of unit length)."""
    columns = unit_columns(z)
    n_obs, n_assets = columns.shape
    factor = [sum(columns[t, i] for i in range(n_assets)) / n_assets for t in range(n_obs)]
    variance = sum(f**2 for f in factor)
    if variance < 1e-12:  # the assets hedge each other exactly
        return [0.0] * n_assets
    return [sum(columns[t, i] * factor[t] for t in range(n_obs)) / math.sqrt(variance) for i in range(n_assets)]


def correlation_targets(z):
    """Identity, constant correlation and single factor, each with a unit diagonal."""
    n_assets = z.shape[1]
    r_bar = average_correlation(correlation(z))
    loadings = factor_loadings(z)
    identity, constant, factor = np.zeros((3, n_assets, n_assets))
    for i in range(n_assets):
        for j in range(n_assets):
            identity[i, j] = 1.0 if i == j else 0.0
            constant[i, j] = 1.0 if i == j else r_bar
            factor[i, j] = 1.0 if i == j else loadings[i] * loadings[j]
    return identity, constant, factor


def targets_of(R):
    """The same three from a correlation matrix alone: a loading is a row's sum over the root of all entries' sum."""
    n_assets = len(R)
    total = sum(R[i, j] for i in range(n_assets) for j in range(n_assets))
    loadings = [sum(R[i]) / math.sqrt(total) if total > 1e-12 else 0.0 for i in range(n_assets)]
    identity, constant, factor = np.eye(n_assets), np.eye(n_assets), np.eye(n_assets)
    for i in range(n_assets):
        for j in range(n_assets):
            if i != j:
                constant[i, j] = average_correlation(R)
                factor[i, j] = loadings[i] * loadings[j]
    return identity, constant, factor


def leading_factors(R):
    """What three factors say of R: sections of the matrix whose columns span R's action on 1, R 1 and its square.

    The sixth of the spaces V, R V, R R V ... through R: R B (B'R B)^-1 B'R with an orthonormal basis B of the fifth.
    """
    n_assets = len(R)
    mean = [sum(R[i]) / n_assets for i in range(n_assets)]
    space = np.array([[1.0, m, m**2] for m in mean])
    for _ in range(5):
        # Scaled as it goes, so that no column drowns: only the space that the columns span matters.
        space = orthonormal(R @ space)
    image = R @ space
    return image @ np.linalg.pinv(space.T @ image, rcond=1e-9) @ image.T


def orthonormal(columns):
    """A basis of the space of some columns, those left out which the ones before nearly make up."""
    basis = []
    for column in columns.T:
        length = math.sqrt(column @ column)
        rest = column.copy()
        for _ in range(2):
            for known in basis:
                rest = rest - known * (known @ rest)
        if math.sqrt(rest @ rest) > 1e-5 * length:
            basis.append(rest / math.sqrt(rest @ rest))
    return np.array(basis).T


def shrunk_correlation(returns, weights, memory, factor_memory, intensities):
    """(1 - d) R + sum_k w_k F_k for equal intensities d = sum_k w_k; the congruence of `estimate` for others."""
    z = standardised(returns)
    slow, fast = expected_correlation(z), expected_correlation(z, FAST_HALFLIFE)
    F = targets_of(slow) if np.isnan(z).any() else correlation_targets(z)
    factors = leading_factors(fast)
    total = sum(weights)
    R = np.empty(slow.shape)
    for i in range(len(R)):
        for j in range(len(R)):
            mixed = (1 - memory) * slow[i, j] + memory * fast[i, j]
            mixed = (1 - factor_memory) * mixed + factor_memory * (1.0 if i == j else factors[i, j])
            if total > 0:
                target = sum(weights[k] / total * F[k][i, j] for k in range(len(F)))
            else:
                target = sum(F[k][i, j] for k in range(len(F))) / len(F)
            keep = math.sqrt((1 - intensities[i]) * (1 - intensities[j]))
            pull = math.sqrt(intensities[i] * intensities[j])
            R[i, j] = keep * mixed + pull * target
    return R


def blended_volatilities(returns, blend, pull):
    """Weighted geometric mean over `HALFLIVES`, pulled toward the geometric mean of the assets."""
    n_assets = returns.shape[1]
    logs = [0.0] * n_assets
    for i in range(n_assets):
        for share, halflife in zip(blend, HALFLIVES, strict=True):
            logs[i] += share * math.log(volatility(returns, i, halflife))
    mean = sum(logs) / n_assets
    return [math.exp((1 - pull) * log + pull * mean) for log in logs]


def asset_statistics(returns):
    """Of each asset: twelve statistics less their mean over the universe, over a usual difference, at most 4 away."""
    z = standardised(returns)
    slow, fast = expected_correlation(z), expected_correlation(z, FAST_HALFLIFE)
    n_assets = len(slow)
    rows = []
    for i in range(n_assets):
        others = [j for j in range(n_assets) if j != i]
        mean = sum(slow[i, j] for j in others) / len(others)
        recent = sum(fast[i, j] for j in others) / len(others)
        nearest = max(abs(slow[i, j]) for j in others)
        window, medium, short = (volatility(returns, i, halflife) for halflife in HALFLIVES)
        x = deviations(returns[:, [i]])[:, 0]
        known = observed(returns, i)
        kurtosis = sum((x[t] / window) ** 4 for t in known) / len(known)
        rows.append(
            [
                mean / 0.15,
                (recent - mean) / 0.1,
                math.log(max(1 - nearest**2, 1e-6)),
                math.log(window) / 0.5,
                math.log(medium / window) / 0.25,
                math.log(short / window) / 0.35,
                math.log(kurtosis) / 0.7,
                math.sqrt(sum(slow[i, j] ** 2 for j in others) / len(others)) / 0.15,
                math.log(volatility(returns, i, 126.0) / window) / 0.1,
                math.log(volatility(returns, i, 21.0, cut=2.0) / window) / 0.3,
                math.log(volatility(returns, i, WINDOW, power=1) / window) / 0.1,
                math.log(volatility(returns, i, 21.0, power=1) / window) / 0.3,
            ]
        )
    centre = [sum(row[k] for row in rows) / n_assets for k in range(12)]
    return [[max(-4.0, min(4.0, row[k] - centre[k])) for k in range(12)] for row in rows]


def estimate(
    returns,
    *,
    target_weights,
    target_intensity,
    memory,
    factor_memory,
    volatility,
    intensity_tilt,
    volatility_tilt,
    level,
    asset_intensity=None,
):
    """The project's covariance of one universe, from the heads of its parameters.

    `volatility` holds the blend, then the pull; `level` what is added to all ln volatilities, then the common variance
    in harmonic means of the variances. `asset_intensity` replaces the universe's intensity, asset by asset.
    """
    n_assets = returns.shape[1]
    statistics = asset_statistics(returns)
    weights = [p * a for p, a in zip(target_weights, target_intensity, strict=True)]
    if asset_intensity is None:
        asset_intensity = [sum(weights)] * n_assets
    tilted, lean = [], []
    for i in range(n_assets):
        shift = sum(intensity_tilt[k] * statistics[i][k] for k in range(12))
        if 0 < asset_intensity[i] < 1:
            logit = math.log(asset_intensity[i] / (1 - asset_intensity[i])) + shift
            tilted.append(1 / (1 + math.exp(-logit)))
        else:
            tilted.append(asset_intensity[i])
        lean.append(sum(volatility_tilt[k] * statistics[i][k] for k in range(12)))
    R = shrunk_correlation(returns, weights, memory, factor_memory, tilted)
    sd = blended_volatilities(returns, volatility[:-1], volatility[-1])
    sd = [sd[i] * math.exp(lean[i] + level[0]) for i in range(n_assets)]
    common = level[1] * n_assets / sum(1 / sd[i] ** 2 for i in range(n_assets))
    covariance = np.empty(R.shape)
    for i in range(n_assets):
        for j in range(n_assets):
            covariance[i, j] = R[i, j] * sd[i] * sd[j] + common
    return covariance


def sample(returns):
    """Sample covariance (n - 1); with missing returns, own variances and the correlations that are expected."""
    x = deviations(returns)
    n_obs, n_assets = x.shape
    if np.isnan(x).any():
        R = expected_correlation(standardised(returns, None), ALIKE)
        sd = [volatility(returns, i, ALIKE) for i in range(n_assets)]
        return np.array([[R[i, j] * sd[i] * sd[j] for j in range(n_assets)] for i in range(n_assets)])
    S = np.empty((n_assets, n_assets))
    for i in range(n_assets):
        for j in range(n_assets):
            S[i, j] = sum(x[t, i] * x[t, j] for t in range(n_obs)) / (n_obs - 1)
    return S


def covariance_targets(returns):
    """Three targets that keep the sample variances: no correlation, one correlation, and a single factor.

    The factor is the mean of the assets' demeaned returns, each divided by its standard deviation.
    """
    x, S = deviations(returns), sample(returns)
    n_obs, n_assets = x.shape
    sd = [math.sqrt(S[i, i]) for i in range(n_assets)]
    R = np.array([[S[i, j] / sd[i] / sd[j] for j in range(n_assets)] for i in range(n_assets)])
    if np.isnan(x).any():
        return [
            np.array([[F[i, j] * sd[i] * sd[j] for j in range(n_assets)] for i in range(n_assets)])
            for F in targets_of(R)
        ]
    r_bar = average_correlation(R)
    factor = [sum(x[t, i] / sd[i] for i in range(n_assets)) / n_assets for t in range(n_obs)]
    v = sum(f**2 for f in factor)
    beta = [sum(x[t, i] * factor[t] for t in range(n_obs)) / v for i in range(n_assets)]

    diagonal, constant, single = np.zeros((3, n_assets, n_assets))
    for i in range(n_assets):
        diagonal[i, i] = S[i, i]
        for j in range(n_assets):
            constant[i, j] = S[i, i] if i == j else r_bar * sd[i] * sd[j]
            single[i, j] = S[i, i] if i == j else beta[i] * beta[j] * v / (n_obs - 1)
    return diagonal, constant, single


def classic(returns, weights):
    """(1 - sum_k w_k) S + sum_k w_k F_k over `covariance_targets`."""
    S, F = sample(returns), covariance_targets(returns)
    covariance = np.empty(S.shape)
    for i in range(len(S)):
        for j in range(len(S)):
            covariance[i, j] = (1 - sum(weights)) * S[i, j] + sum(
                w * target[i, j] for w, target in zip(weights, F, strict=True)
            )
    return covariance
