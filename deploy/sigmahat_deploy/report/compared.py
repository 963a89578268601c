# SPDX-License-Identifier: Apache-2.0
"""The covariances that a report shows beside ours: sample, Ledoit-Wolf and QIS, each by its closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sigmahat_deploy.report.study import Floats
from sigmahat_trainer.baselines.closed_form import ledoit_wolf_identity, qis_correlation, sample

OURS, SAMPLE, LEDOIT_WOLF, QIS = "sigmahat", "sample", "Ledoit-Wolf", "QIS"
"""Ledoit-Wolf shrinks toward the identity; QIS shrinks the spectrum of the correlation."""

CLOSED_FORMS: dict[str, Callable[[Floats], Floats]] = {
    SAMPLE: sample,
    LEDOIT_WOLF: ledoit_wolf_identity,
    QIS: qis_correlation,
}
ESTIMATORS = (OURS, *CLOSED_FORMS)


def filled(returns: pd.DataFrame) -> Floats:
    """Returns as closed forms take them, which have no rule for missing cells; shape (T, N).

    A missing return becomes the asset's mean, and what is there is stretched about it, so that the sample variance is
    that of the returns that there are. Complete columns stay the same.

    >>> filled(pd.DataFrame({"A": [0.01, np.nan, 0.03]})).var(axis=0, ddof=1).round(8).tolist()
    [0.0002]
    """
    values = returns.to_numpy(np.float64)
    there = np.isfinite(values)
    n = there.sum(axis=0)
    mean = np.where(there, values, 0.0).sum(axis=0) / n
    stretch = np.sqrt((len(values) - 1) / (n - 1))
    return mean + np.where(there, values - mean, 0.0) * stretch


def sample_covariance(returns: pd.DataFrame) -> Floats:
    """The sample covariance of a window of returns, which always exists; singular with more assets than rows."""
    return sample(filled(returns))


def closed_forms(returns: pd.DataFrame) -> dict[str, Floats | None]:
    """Each closed form of a window of returns; None where it does not exist, as QIS of assets with the same returns."""
    values = filled(returns)
    found: dict[str, Floats | None] = {}
    for name, estimator in CLOSED_FORMS.items():
        try:
            found[name] = estimator(values)
        except np.linalg.LinAlgError:
            found[name] = None
    return found


def to_correlation(covariance: Floats) -> Floats:
    """The correlation matrix of a covariance matrix."""
    volatility = np.sqrt(covariance.diagonal())
    return covariance / np.outer(volatility, volatility)
