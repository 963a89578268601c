# SPDX-License-Identifier: Apache-2.0
"""Weights of least variance and of equal risk, by skfolio: ``python weights_skfolio.py returns.csv``.

skfolio estimates while it fits, so that its walk-forward tests, pipelines and searches estimate anew in each window.
"""

from __future__ import annotations

import sys

import pandas as pd
from skfolio import RiskMeasure
from skfolio.optimization import MeanRisk, RiskBudgeting
from skfolio.prior import EmpiricalPrior

from sigmahat_client.skfolio import ShrinkageCovariance


def minimum_variance(returns: pd.DataFrame) -> pd.Series:
    """Weights without short sales, sum 1."""
    prior = EmpiricalPrior(covariance_estimator=ShrinkageCovariance())
    model = MeanRisk(risk_measure=RiskMeasure.VARIANCE, prior_estimator=prior).fit(returns)
    return pd.Series(model.weights_, returns.columns)


def risk_parity(returns: pd.DataFrame) -> pd.Series:
    """Weights of which each contributes the same to the portfolio's variance."""
    prior = EmpiricalPrior(covariance_estimator=ShrinkageCovariance())
    model = RiskBudgeting(risk_measure=RiskMeasure.VARIANCE, prior_estimator=prior).fit(returns)
    return pd.Series(model.weights_, returns.columns)


if __name__ == "__main__":
    panel = pd.read_csv(sys.argv[1], index_col=0, parse_dates=True)
    print(pd.DataFrame({"minimum variance": minimum_variance(panel), "risk parity": risk_parity(panel)}))
