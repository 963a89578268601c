# SPDX-License-Identifier: Apache-2.0
"""HAR: volatilities that are regressed on those of the last day, week and month; around them QIS's correlation.

Corsi (2009), J. Financial Econometrics 7(2), 174-196, of daily squared returns in the place of intraday ones. One
regression serves all assets, each divided by its own mean square, as in Bollerslev, Hood, Huss, Pedersen (2018), Review
of Financial Studies 31(7), 2729-2773, section 3: a window of one asset is too short for four coefficients.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sigmahat_trainer.baselines.closed_form import qis_correlation
from sigmahat_trainer.baselines.linear import demean

FloatArray: TypeAlias = npt.NDArray[np.float64]

SPANS = (1, 5, 21)
"""Rows that a regressor is a mean over: a day, a week, a month."""


def har_qis(returns: FloatArray, *, horizon: int) -> FloatArray:
    """The correlation of `qis_correlation` with volatilities forecast for the mean of the `horizon` periods ahead.

    Raises
    ------
    numpy.linalg.LinAlgError
        If there are fewer than `horizon` + 22 observations, or two assets have the same returns.
    """
    covariance = qis_correlation(returns)
    scale = np.sqrt(har_variances(returns, horizon=horizon) / covariance.diagonal())
    return covariance * np.outer(scale, scale)


def har_variances(returns: FloatArray, *, horizon: int) -> FloatArray:
    """Mean variance expected of each asset in the `horizon` periods ahead, shape (n_assets,).

    A forecast is kept within what the asset's own past has realised over as many periods: ibid., footnote on insanity
    filters, after Swanson, White (1997), Review of Economics and Statistics 79(4).
    """
    squares = demean(returns) ** 2
    n_obs, n_assets = squares.shape
    if n_obs <= horizon + SPANS[-1]:
        raise np.linalg.LinAlgError(f"HAR needs more than {horizon + SPANS[-1]} observations, got {n_obs}")
    level = squares.sum(axis=0) / (n_obs - 1)
    relative = squares / level
    # Row t: means over the last 1, 5 and 21 rows, t included; each is there from row 20 on.
    regressors = np.stack(
        [np.ones((n_obs - SPANS[-1] + 1, n_assets)), *(_means(relative, span) for span in SPANS)], axis=-1
    )
    ahead = _means(relative, horizon, first=SPANS[-1])  # of rows t + 1 ... t + horizon, for t from row 20 on
    known = regressors[: len(ahead)].reshape(-1, 1 + len(SPANS))
    coefficients = np.linalg.lstsq(known, ahead.ravel(), rcond=None)[0]
    forecast = regressors[-1] @ coefficients
    past = _means(relative, horizon, first=0)
    return np.asarray(level * np.clip(forecast, past.min(axis=0), past.max(axis=0)))


def _means(values: FloatArray, span: int, first: int | None = None) -> FloatArray:
    """Means over `span` rows: of stretches that begin at row `first` or later, or else that end at row 20 or later."""
    first = SPANS[-1] - span if first is None else first
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(axis=0)])
    return np.asarray((sums[first + span :] - sums[first : len(sums) - span]) / span)
