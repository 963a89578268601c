# SPDX-License-Identifier: Apache-2.0
"""Every published feature of one universe, written from its definition with a loop for every sum.

Nothing of the product is imported, nor any of its rearrangements. `returns` has shape (n_obs, n_assets), NaN = missing.
"""

from __future__ import annotations

import math

import numpy as np
from reference import covariance


def features(returns, *, market=None, dates=None):
    """Name -> value of all features.

    `market` and `dates` hold all rows up to and including the window's last one, and no later ones.
    """
    returns = np.asarray(returns, float)
    return {
        **spectrum(returns),
        **correlations(returns),
        **regime(returns),
        **temporal(returns),
        **season(dates),
        **indicators(market),
        **missing(returns),
    }


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def deviation(values):
    """Standard deviation of a whole population."""
    values = list(values)
    centre = mean(values)
    return math.sqrt(mean((value - centre) ** 2 for value in values))


def average_observations(returns):
    """Average number of returns of equal weight that know as much as those that an asset has, less one."""
    return mean(covariance.effective(returns, i) for i in range(returns.shape[1])) - 1


# ---------------------------------------------------------------------------------------------------- the spectrum


def spectrum(returns):
    n_obs, n_assets = returns.shape
    z = covariance.unit_columns(covariance.standardised(returns))
    # Columns that sum to zero have rank n_obs - 1 at most: as many singular values as can differ from zero.
    rank = min(n_assets, n_obs - 1)
    eigenvalues = sorted((s**2 for s in np.linalg.svd(z, compute_uv=False)), reverse=True)[:rank]
    first, second = eigenvalues[0], max(eigenvalues[1], 1e-6)
    n = average_observations(returns)
    q = n_assets / n
    edge = (1 + math.sqrt(q)) ** 2
    shares = [value / n_assets for value in eigenvalues]
    above = [value for value in eigenvalues if value > edge]
    square_sum = sum(value**2 for value in eigenvalues)

    best, best_k = -math.inf, None
    for k in range(1, max(1, min(10, n_assets // 2, rank - 1)) + 1):
        ratio = math.log(max(eigenvalues[k - 1], 1e-6) / max(eigenvalues[k], 1e-6))
        if ratio > best:
            best, best_k = ratio, k

    bulk = sorted(value for value in eigenvalues if value <= edge)

    def nearest_rank(values, level):
        # The nearest of the ordered values, the even one of two that are equally near.
        return values[round(level * (len(values) - 1))]

    def bulk_quantile(level):
        return math.log(max(nearest_rank(bulk, level), 1e-6) / max(mean(bulk), 1e-6))

    ascending = eigenvalues[::-1]
    lower_edge = (1 - math.sqrt(q)) ** 2

    def on_marchenko_pastur_scale(level):
        return (nearest_rank(ascending, level) - lower_edge) / (edge - lower_edge)

    # The digits of pi behind the point, in hexadecimal.
    pi_digits = "243F6A8885A308D313198A2E03707344A4093822299F31D0082EFA98EC4E6C89"
    sketch = []
    for k in range(8):
        word = int(pi_digits[8 * k : 8 * k + 8], 16)
        total = 0.0
        for i in range(32):
            value = math.log(max(1e-6, nearest_rank(ascending, (2 * i + 1) / 64)))
            total += value if (word // 2**i) % 2 == 1 else -value
        sketch.append(total / math.sqrt(32))

    return {
        "log_assets": math.log(n_assets),
        "log_observations": math.log(n),
        "log_concentration": math.log(q),
        "null_share": (n_assets - rank) / n_assets,
        "top_share": first / n_assets,
        "top3_share": sum(eigenvalues[:3]) / n_assets,
        "top10_share": sum(eigenvalues[:10]) / n_assets,
        "effective_rank": math.exp(-sum(share * math.log(share) for share in shares if share > 0)) / n_assets,
        "participation": sum(eigenvalues) ** 2 / square_sum / n_assets,
        "stable_rank": math.log(square_sum / first**2),
        "numerical_rank": mean(
            [1.0 if value > first * max(n_assets, n_obs) * 2.0**-52 else 0.0 for value in eigenvalues]
            + [0.0] * (n_assets - rank)
        ),
        "log_condition": min(10.0, math.log10(first / max(eigenvalues[-1], 1e-300))),
        "log_determinant": mean(math.log(max(value, 1e-6)) for value in eigenvalues),
        "log_gap": math.log(first / second),
        "edge_ratio": math.log(first / edge),
        "second_edge_ratio": math.log(second / edge),
        "factors": math.log(1 + len(above)),
        "factor_share": sum(above) / n_assets,
        "eigenvalue_ratio": best,
        "eigenvalue_ratio_k": math.log(best_k),
        "bulk_q10": bulk_quantile(0.1),
        "bulk_q50": bulk_quantile(0.5),
        "bulk_q90": bulk_quantile(0.9),
        "mp_q10": on_marchenko_pastur_scale(0.1),
        "mp_q50": on_marchenko_pastur_scale(0.5),
        "mp_q90": on_marchenko_pastur_scale(0.9),
        **{f"sketch_{k + 1}": value for k, value in enumerate(sketch)},
    }


# ------------------------------------------------------------------------------------------------ the correlations


def correlations(returns):
    n_assets = returns.shape[1]
    z = covariance.standardised(returns)
    R, fast = covariance.correlation(z), covariance.correlation(z, 63.0)
    pairs = [(i, j) for i in range(n_assets) for j in range(n_assets) if i != j]
    values = [R[i, j] for i, j in pairs]
    average, spread = mean(values), deviation(values)
    skewness = 0.0
    if spread**2 > 1e-7:
        skewness = mean(((value - average) / spread) ** 3 for value in values)

    loadings = covariance.factor_loadings(z)
    n = average_observations(returns)
    columns = covariance.unit_columns(z)
    noise = 0.0  # Ledoit and Wolf's pi-hat over pairs, of returns with unit variance
    for i, j in pairs:
        fourth = sum((n * columns[t, i] ** 2) * (n * columns[t, j] ** 2) for t in range(len(z))) / n
        noise += fourth - R[i, j] ** 2

    half = len(z) // 2
    early, late = {}, {}
    for i, j in pairs:
        early[i, j] = sum(columns[t, i] * columns[t, j] for t in range(half))
        late[i, j] = sum(columns[t, i] * columns[t, j] for t in range(half, len(z)))

    norms = [math.sqrt(sum(part[pair] ** 2 for pair in pairs)) for part in (early, late, R)]
    stability = 0.0
    if min(norms[:2]) > 1e-4 * norms[2]:
        stability = sum(early[pair] * late[pair] for pair in pairs) / norms[0] / norms[1]

    from_identity = sum(R[i, j] ** 2 for i, j in pairs)
    return {
        "mean_correlation": average,
        "correlation_std": spread,
        "correlation_skewness": skewness,
        "correlation_q10": histogram_quantile(values, 0.1),
        "correlation_q50": histogram_quantile(values, 0.5),
        "correlation_q90": histogram_quantile(values, 0.9),
        "negative_share": mean(1.0 if value < 0 else 0.0 for value in values),
        "asset_correlation_std": deviation(mean(R[i, j] for j in range(n_assets) if j != i) for i in range(n_assets)),
        "nearest_correlation": mean(max(R[i, j] for j in range(n_assets) if j != i) for i in range(n_assets)),
        "factor_r2": mean(loading**2 for loading in loadings),
        "single_factor_misfit": sum((R[i, j] - loadings[i] * loadings[j]) ** 2 for i, j in pairs) / from_identity,
        "constant_misfit": sum((R[i, j] - average) ** 2 for i, j in pairs) / from_identity,
        "ledoit_wolf_identity": max(0.0, min(1.0, noise / (n * from_identity))),
        "correlation_drift": sum((fast[i, j] - R[i, j]) ** 2 for i, j in pairs) / from_identity,
        "correlation_stability": stability,
    }


def histogram_quantile(values, level):
    """Where the share of values below reaches the level, if those in one of 32 bins of [-1, 1] lie evenly in it."""
    width = 2 / 32
    bins = [0] * 32
    for value in values:
        bins[max(0, min(31, math.floor((value + 1) / width)))] += 1
    below = 0
    for k, count in enumerate(bins):
        if below + count >= level * len(values):
            return -1 + width * (k + (level * len(values) - below) / count)
        below += count
    raise AssertionError


# ------------------------------------------------------------------------------------------------------ the regime


def present(returns, t):
    """The returns of one row that are not missing."""
    return [value for value in returns[t] if not math.isnan(value)]


def market_returns(returns):
    """Average over the assets that have a return on that row; 0 where none has."""
    return [mean(present(returns, t)) if present(returns, t) else 0.0 for t in range(len(returns))]


def dispersions(returns):
    """Cross-sectional variance of each row, over the assets that have a return."""
    return [deviation(present(returns, t)) ** 2 if present(returns, t) else 0.0 for t in range(len(returns))]


def fast_ratio(values, halflife):
    """ln of the root of the weighted over the plain mean of `values`, no lower than ln 0.01."""
    weights = [covariance.weight(len(values), t, halflife) for t in range(len(values))]
    recent = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    usual = mean(values)
    return math.log(max(0.01, math.sqrt(recent / usual))) if usual > 0 else math.log(0.01)


def regime(returns):
    n_obs, n_assets = returns.shape
    series = market_returns(returns)
    average = mean(series)
    squares = [(value - average) ** 2 for value in series]
    variance = max(mean(squares), 1e-300)
    dispersion = dispersions(returns)

    log_volatility = [math.log(covariance.volatility(returns, i)) for i in range(n_assets)]
    ratio = {
        halflife: [math.log(covariance.volatility(returns, i, halflife)) - log_volatility[i] for i in range(n_assets)]
        for halflife in (63.0, 21.0)
    }

    n_blocks = n_obs // 21
    log_volatilities = []
    for block in range(n_blocks):  # counted back from the last row
        rows = range(n_obs - 21 * (block + 1), n_obs - 21 * block)
        log_volatilities.append(0.5 * math.log(max(1e-4, mean(squares[t] for t in rows) / variance)))

    wealth = peak = 0.0
    for value in series:
        wealth += value
        peak = max(peak, wealth)

    kurtosis, tail_share = [], []
    for i in range(n_assets):
        x, sd = covariance.deviations(returns[:, [i]])[:, 0], covariance.volatility(returns, i)
        scaled = [x[t] / sd for t in covariance.observed(returns, i)]
        kurtosis.append(mean(value**4 for value in scaled))
        tail_share.append(mean(1.0 if abs(value) > 3 else 0.0 for value in scaled))

    return {
        "market_volatility_share": math.log(math.sqrt(variance)) - mean(log_volatility),
        "volatility_dispersion": deviation(log_volatility),
        "market_volatility_ratio_63": fast_ratio(squares, 63.0),
        "market_volatility_ratio_21": fast_ratio(squares, 21.0),
        "market_volatility_ratio_5": fast_ratio(squares, 5.0),
        "asset_volatility_ratio_63": mean(ratio[63.0]),
        "asset_volatility_ratio_21": mean(ratio[21.0]),
        "volatility_ratio_dispersion": deviation(ratio[21.0]),
        "volatility_of_volatility": deviation(log_volatilities) if n_blocks >= 2 else 0.0,
        "dispersion_share": mean(dispersion) / (mean(dispersion) + variance),
        "dispersion_ratio_21": fast_ratio(dispersion, 21.0),
        "market_kurtosis": math.log(max(1.0, mean((square / variance) ** 2 for square in squares)) / 3),
        "asset_kurtosis": mean(math.log(value / 3) for value in kurtosis),
        "tail_share": mean(tail_share),
        "drawdown": (peak - wealth) / math.sqrt(variance) / math.sqrt(n_obs),
        "stress_share": mean(1.0 if math.exp(value) > 1.5 else 0.0 for value in ratio[21.0]),
    }


# -------------------------------------------------------------------------------------------------- time and season


def temporal(returns):
    n_obs, n_assets = returns.shape
    series = market_returns(returns)
    volatility = max(deviation(series), 1e-150)
    recent = series[-63:]
    columns = covariance.unit_columns(covariance.standardised(returns))

    def average_correlation(weights):
        """Weighted sum of z_i z_j over all pairs and rows, over that of z_i z_i, both per pair and per asset."""
        products = own = 0.0
        for t in range(n_obs):
            for i in range(n_assets):
                own += weights[t] * columns[t, i] ** 2 / n_assets
                for j in range(n_assets):
                    if i != j:
                        products += weights[t] * columns[t, i] * columns[t, j] / (n_assets * (n_assets - 1))
        return products / own

    own_memory = []
    z = covariance.standardised(returns)
    for i in range(n_assets):
        rows = covariance.observed(returns, i)
        centre = mean(z[t, i] ** 2 for t in rows)
        squares = [z[t, i] ** 2 if t in rows else centre for t in range(n_obs)]
        own_memory.append(autocorrelation_around(squares, centre))

    fast = [covariance.weight(n_obs, t, 63.0) for t in range(n_obs)]
    second_half = [1.0 if t >= n_obs // 2 else 0.0 for t in range(n_obs)]
    first_half = [1.0 - weight for weight in second_half]
    average = mean(series)
    return {
        "trend": average / volatility * math.sqrt(n_obs),
        "trend_63": mean(recent) / volatility * math.sqrt(len(recent)),
        "market_autocorrelation": autocorrelation(series),
        "volatility_clustering": autocorrelation([abs(value - average) for value in series]),
        "squared_autocorrelation": mean(own_memory),
        "mean_correlation_fast": average_correlation(fast) - average_correlation([1.0] * n_obs),
        "mean_correlation_change": average_correlation(second_half) - average_correlation(first_half),
    }


def autocorrelation(values):
    return autocorrelation_around(values, mean(values))


def autocorrelation_around(values, centre):
    total = sum((value - centre) ** 2 for value in values)
    if total < 1e-300:
        return 0.0
    return sum((values[t] - centre) * (values[t - 1] - centre) for t in range(1, len(values))) / total


def season(dates):
    if dates is None:
        return {"has_dates": 0.0, "season_sin": 0.0, "season_cos": 0.0}
    years = dates[-1] / 365.2425
    phase = years - math.floor(years)
    return {"has_dates": 1.0, "season_sin": math.sin(2 * math.pi * phase), "season_cos": math.cos(2 * math.pi * phase)}


# -------------------------------------------------------------------------------------- indicators, missing returns


def known(market, column):
    """The values of an indicator that are there and positive, oldest first."""
    if market is None or market.shape[1] <= column:
        return []
    return [float(value) for value in market[:, column] if math.isfinite(value) and value > 0]


def share_at_most_the_last(values):
    return mean(1.0 if value <= values[-1] else 0.0 for value in values)


def indicators(market):
    answer = {"has_vix": 0.0, "log_vix": 0.0, "vix_percentile": 0.0, "vix_change": 0.0}
    vix = known(market, 0)
    if vix:
        answer["has_vix"] = 1.0
        answer["log_vix"] = math.log(vix[-1] / 20)
        answer["vix_percentile"] = share_at_most_the_last(vix)
        answer["vix_change"] = math.log(vix[-1] / mean(vix[-21:]))
    for column, name in ((1, "turnover"), (2, "illiquidity")):
        values = known(market, column)
        answer[f"has_{name}"] = 1.0 if values else 0.0
        answer[f"{name}_change"] = math.log(mean(values[-21:]) / mean(values[-252:])) if values else 0.0
        answer[f"{name}_percentile"] = share_at_most_the_last(values) if values else 0.0
        if name == "turnover":
            answer["turnover_volatility"] = deviation(math.log(v) for v in values[-63:]) if values else 0.0
    answer["has_event"] = answer["event_proximity"] = 0.0
    if market is not None and market.shape[1] > 3 and math.isfinite(market[-1, 3]):
        answer["has_event"] = 1.0
        answer["event_proximity"] = math.exp(-max(0.0, float(market[-1, 3])) / 5)
    return answer


def missing(returns):
    n_obs, n_assets = returns.shape
    counts = [len(covariance.observed(returns, i)) for i in range(n_assets)]
    zeros = [sum(1 for t in range(n_obs) if returns[t, i] == 0) for i in range(n_assets)]
    return {
        "missing_share": 1 - sum(counts) / (n_obs * n_assets),
        "short_history_share": mean(1.0 if count / n_obs < 0.9 else 0.0 for count in counts),
        "recent_missing_share": mean(
            1.0 if math.isnan(returns[t, i]) else 0.0
            for t in range(n_obs - min(21, n_obs), n_obs)
            for i in range(n_assets)
        ),
        "zero_share": sum(zeros) / (n_obs * n_assets),
    }
