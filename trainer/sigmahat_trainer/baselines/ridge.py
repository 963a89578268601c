# SPDX-License-Identifier: Apache-2.0
"""Ridge: relative volatilities regressed on statistics of each asset's own returns; around them QIS's correlation.

One regression serves all assets of all markets and dates (Bollerslev, Hood, Huss, Pedersen 2018, Review of Financial
Studies 31(7), section 3, of HAR regressors), and forecasts how an asset's ln volatility over the next rows differs from
the universe's mean, which minimum-variance weights depend on. The mean itself is that of the window.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sigmahat_kernels.panel import VOLATILITY_FLOOR, exponential_weights
from sigmahat_trainer.baselines.closed_form import Baseline, qis_correlation
from sigmahat_trainer.baselines.linear import demean
from sigmahat_trainer.data.episodes import Episode

FloatArray: TypeAlias = npt.NDArray[np.float64]

HALFLIVES = (5.0, 10.0, 21.0, 42.0, 63.0, 126.0)
CUT = 2.0
"""Standard deviations of the window at which a return is cut for volatilities in which jumps count little."""

PENALTIES = np.logspace(-2, 5, 15)
"""Of which leave-one-out error chooses one; statistics have unit variance."""


class Ridge(NamedTuple):
    """A fitted regression."""

    coefficients: FloatArray  # (n_statistics,) ln volatility per unit of each statistic
    penalty: float

    def save(self, path: Path) -> None:
        """Write to one file."""
        content = {"coefficients": dict(zip(STATISTICS, self.coefficients.tolist(), strict=True))}
        path.write_text(json.dumps({**content, "penalty": self.penalty}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Ridge:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If it is of other statistics.
        """
        content = json.loads(path.read_text())
        if tuple(content["coefficients"]) != STATISTICS:
            raise ValueError(f"{path} has other statistics than this version: run sigmahat fit-baselines again")
        return cls(np.array(list(content["coefficients"].values())), content["penalty"])


def _measures(returns: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Name and values (n_assets,) of each statistic."""
    x = demean(returns)
    n_obs = len(x)
    window = x.std(axis=0, ddof=1)
    market = x.mean(axis=1, keepdims=True)
    slope = (market * x).sum(axis=0) / (market**2).sum()
    series = {
        "volatility": x,
        "cut": np.clip(x, -CUT * window, CUT * window),
        "absolute": np.sqrt(np.abs(x)),  # whose mean square is the mean absolute deviation
        "residual": x - market * slope,
        "downside": np.minimum(x, 0.0),
    }
    yield "ln_window", np.log(window)
    for name, values in series.items():
        power = 2.0 if name == "absolute" else 1.0  # back to the unit of returns
        floor = VOLATILITY_FLOOR * window
        for halflife in HALFLIVES if name in {"volatility", "cut", "absolute"} else (21.0, 63.0):
            weights = exponential_weights(np, n_obs, halflife)
            found = np.sqrt(weights @ values**2 / weights.sum()) ** power
            yield f"ln_{name}_{halflife:g}", np.log(np.maximum(found, floor))
        if name != "volatility":
            found = np.sqrt((values**2).mean(axis=0)) ** power
            yield f"ln_{name}", np.log(np.maximum(found, floor))
    yield "ln_largest", np.log(np.abs(x).max(axis=0))
    yield "ln_largest_21", np.log(np.maximum(np.abs(x[-21:]).max(axis=0), VOLATILITY_FLOOR * window))
    yield "ln_kurtosis", np.log(((x / window) ** 4).mean(axis=0))
    yield "market_correlation", slope * market.std(ddof=1) / window
    yield "still_share", (returns == 0).mean(axis=0)


STATISTICS = tuple(name for name, _ in _measures(np.random.default_rng(0).standard_normal((30, 3))))


def statistics(returns: FloatArray) -> FloatArray:
    """Of each asset, less their mean over the universe; shape (n_assets, n_statistics)."""
    found = np.stack([values for _, values in _measures(returns)], axis=1)
    return np.asarray(found - found.mean(axis=0))


def fit_ridge(episodes: Sequence[Episode], *, horizon: int) -> Ridge:
    """Regress what came, ln root mean square of the next `horizon` returns less its mean over the universe.

    Assets that did not move in all that time are left out.
    """
    from sklearn.linear_model import RidgeCV

    known, came = [], []
    for episode in episodes:
        squares = (episode.forward(horizon) ** 2).mean(axis=0)
        past = episode.past()
        moves = (squares > 0) & (past.std(axis=0) > 0)
        if moves.sum() < 2:
            continue
        logs = 0.5 * np.log(squares[moves])
        known.append(statistics(past[:, moves]))
        came.append(logs - logs.mean())
    rows = np.concatenate(known)
    scale = rows.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    model = RidgeCV(PENALTIES, fit_intercept=False).fit(rows / scale, np.concatenate(came))
    return Ridge(model.coef_ / scale, float(model.alpha_))


def ridge_volatilities(returns: FloatArray, ridge: Ridge) -> FloatArray:
    """Volatilities expected of the assets, shape (n_assets,).

    A forecast is kept within what the asset's own volatilities have been over the half-lives, see `har.har_variances`.
    """
    measured = dict(_measures(returns))
    logs = measured["ln_window"]
    own = np.stack([logs, *(measured[f"ln_volatility_{halflife:g}"] for halflife in HALFLIVES)])
    forecast = logs.mean() + statistics(returns) @ ridge.coefficients
    return np.asarray(np.exp(np.clip(forecast, own.min(axis=0), own.max(axis=0))))


def ridge_qis(ridge: Ridge) -> Baseline:
    """The estimator: the correlation of `qis_correlation` with `ridge_volatilities`."""

    def estimate(returns: FloatArray) -> FloatArray:
        covariance = qis_correlation(returns)
        scale = ridge_volatilities(returns, ridge) / np.sqrt(covariance.diagonal())
        return covariance * np.outer(scale, scale)

    return estimate
