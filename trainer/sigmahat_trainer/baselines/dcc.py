# SPDX-License-Identifier: Apache-2.0
"""DCC-NL: volatilities and correlations that move from day to day, around a correlation by non-linear shrinkage.

Engle, Ledoit, Wolf (2019), J. Business & Economic Statistics 37(2), 363-375. A univariate GARCH(1,1) of each asset
takes the volatility out of its returns; what is left, s, of shape (n_obs, n_assets), has the pseudo-correlation

    Q_t = (1 - alpha - beta) C + alpha s_{t-1} s_{t-1}' + beta Q_{t-1},    Q_1 = C,

that gives the correlation R_t when its diagonal is reset to one. C is the correlation of s by quadratic-inverse
shrinkage; alpha and beta maximise the composite likelihood of neighbouring pairs of assets (2MSCLE: Pakel, Shephard,
Sheppard, Engle 2021, J. Business & Economic Statistics 39(3)).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.signal import lfilter

from sigmahat_kernels.request import PADDING, Request
from sigmahat_trainer.baselines.adapters import Estimator
from sigmahat_trainer.baselines.closed_form import qis_correlation
from sigmahat_trainer.baselines.linear import demean
from sigmahat_trainer.data.panels import fill_missing

FloatArray: TypeAlias = npt.NDArray[np.float64]

PERCENT = 100.0
"""The scale at which `arch` fits well."""

LARGEST_PERSISTENCE = 0.999
"""Bound on alpha + beta."""

STARTS = [(alpha, beta) for alpha in (0.01, 0.03, 0.08) for beta in (0.0, 0.5, 0.8, 0.9)]
"""The best of them is where the search for (alpha, beta) begins."""


class Garch(NamedTuple):
    """One asset's GARCH(1,1): variance_t = omega + alpha return_{t-1}^2 + beta variance_{t-1}."""

    parameters: FloatArray  # omega (squared returns per period), alpha, beta
    standardised: FloatArray  # (n_obs,), return over volatility
    forecast: FloatArray  # (horizon,), expected variances of the periods ahead


class Dcc(NamedTuple):
    """The two parameters of the correlation's movement."""

    alpha: float
    beta: float


def dcc_nl(horizon: int) -> Estimator:
    """The estimator; its covariance is the mean of those expected for the `horizon` periods ahead.

    An asset is fitted once, however many universes of a request hold it.
    """

    def estimate(request: Request) -> list[FloatArray]:
        fits: dict[tuple[int, int, int], Garch] = {}
        covariances = []
        for universe, (start, stop) in zip(request.universes, request.windows.tolist(), strict=True):
            assets = universe[universe != PADDING].tolist()
            for asset in assets:
                if (start, stop, asset) not in fits:
                    returns = demean(fill_missing(request.panel[start:stop, [asset]].astype(np.float64)))
                    fits[start, stop, asset] = fit_garch(returns[:, 0], horizon)
            try:
                covariances.append(forecast_covariance([fits[start, stop, asset] for asset in assets]))
            except np.linalg.LinAlgError:
                covariances.append(np.full((len(assets),) * 2, np.nan))
        return covariances

    return estimate


def fit_garch(returns: FloatArray, horizon: int) -> Garch:
    """Fit one asset by Gaussian likelihood, mean zero, as `arch` does it; shape (n_obs,)."""
    from arch.univariate import GARCH, ZeroMean

    model = ZeroMean(PERCENT * returns, volatility=GARCH(), rescale=False)
    fit = model.fit(disp="off", show_warning=False)
    omega, alpha, beta = np.asarray(fit.params, np.float64)
    variance = (np.asarray(fit.conditional_volatility) / PERCENT) ** 2
    omega /= PERCENT**2
    ahead = np.empty(horizon)
    ahead[0] = omega + alpha * returns[-1] ** 2 + beta * variance[-1]
    for k in range(1, horizon):
        ahead[k] = omega + (alpha + beta) * ahead[k - 1]
    return Garch(np.array([omega, alpha, beta]), returns / np.sqrt(variance), ahead)


def forecast_covariance(fits: list[Garch]) -> FloatArray:
    """Mean expected covariance of the periods ahead, shape (n_assets, n_assets).

    The correlation of period l + 1 ahead is taken as C + (alpha + beta)^l (R - C), R that of the next period: Engle,
    Sheppard (2001), NBER working paper 8554. The mean over the holding period: De Nard, Ledoit, Wolf (2021),
    J. Financial Econometrics 19(2), 236-257.

    Raises
    ------
    numpy.linalg.LinAlgError
        If two assets have the same returns.
    """
    standardised = np.column_stack([fit.standardised for fit in fits])
    volatility = np.sqrt(np.column_stack([fit.forecast for fit in fits]))  # (horizon, n_assets)
    target = _correlation(qis_correlation(standardised))
    dcc = fit_dcc(standardised, target)
    departure = next_correlation(standardised, target, dcc) - target
    fade = (dcc.alpha + dcc.beta) ** np.arange(len(volatility))
    # sum_l D_l (C + fade_l (R - C)) D_l, with D_l A D_l = A o (d_l d_l') for diagonal D_l
    covariance = target * (volatility.T @ volatility) + departure * ((volatility.T * fade) @ volatility)
    return np.asarray(covariance + covariance.T) / (2 * len(volatility))


def fit_dcc(standardised: FloatArray, target: FloatArray) -> Dcc:
    """Maximise `composite_likelihood` over alpha, beta >= 0, alpha + beta <= `LARGEST_PERSISTENCE`."""

    def loss(parameters: FloatArray) -> float:
        return -composite_likelihood(standardised, target, Dcc(*parameters))

    start = min(STARTS, key=lambda pair: loss(np.array(pair)))
    found = minimize(
        loss,
        start,
        method="SLSQP",
        bounds=[(0.0, LARGEST_PERSISTENCE)] * 2,
        constraints={"type": "ineq", "fun": lambda parameters: LARGEST_PERSISTENCE - parameters.sum()},
        options={"ftol": 1e-7},
    )
    best = found.x if found.fun <= loss(np.array(start)) else start
    return Dcc(float(best[0]), float(best[1]))


def composite_likelihood(standardised: FloatArray, target: FloatArray, dcc: Dcc) -> float:
    """Gaussian log likelihood of pairs (i, i + 1), a sum over time and a mean over pairs; ln(2 pi) is left out."""
    squares, products = standardised**2, standardised[:, :-1] * standardised[:, 1:]
    variance = _pseudo(squares, target.diagonal(), dcc)
    covariance = _pseudo(products, target.diagonal(1), dcc)
    rho = covariance / np.sqrt(variance[:, :-1] * variance[:, 1:])
    rest = 1 - rho**2
    distance = (squares[:, :-1] + squares[:, 1:] - 2 * rho * products) / rest
    return float(-0.5 * (np.log(rest) + distance).sum() / rho.shape[1])


def next_correlation(standardised: FloatArray, target: FloatArray, dcc: Dcc) -> FloatArray:
    """R of the period after the last row, shape (n_assets, n_assets)."""
    n_obs = len(standardised)
    # The recursion unrolled: Q_{T+1} - C = alpha sum_k beta^k (s_{T-k} s_{T-k}' - C).
    weights = dcc.alpha * dcc.beta ** np.arange(n_obs)[::-1]
    pseudo = (1 - weights.sum()) * target + (standardised.T * weights) @ standardised
    return _correlation(pseudo)


def _pseudo(products: FloatArray, level: FloatArray, dcc: Dcc) -> FloatArray:
    """Entries of Q_1 ... Q_T from products of s, shape (n_obs, entries), and the same entries of C."""
    departure = lfilter([0.0, dcc.alpha], [1.0, -dcc.beta], products - level, axis=0)
    return np.asarray(level + departure)


def _correlation(covariance: FloatArray) -> FloatArray:
    scale = 1 / np.sqrt(covariance.diagonal())
    correlation: FloatArray = covariance * np.outer(scale, scale)
    np.fill_diagonal(correlation, 1.0)
    return correlation
