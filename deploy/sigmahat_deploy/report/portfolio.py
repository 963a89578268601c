# SPDX-License-Identifier: Apache-2.0
"""My portfolio: its volatility and where it comes from, by every estimator."""

from __future__ import annotations

from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from sigmahat_deploy.report.charts import WIDTH, Spec, plain, rows, significant
from sigmahat_deploy.report.charts import colour as colour_of
from sigmahat_deploy.report.charts import shape as shape_of
from sigmahat_deploy.report.compared import OURS, SAMPLE, closed_forms
from sigmahat_deploy.report.study import Floats, Universe

_SHOWN = 25


class Portfolio(NamedTuple):
    """Numbers of the section."""

    net: float  # sum of the weights
    gross: float  # of their absolute values
    n_held: int
    volatility: dict[str, float | None]  # by estimator, annualised; None where there is no estimate
    contributions: pd.DataFrame  # of the assets held, the largest first: weight, volatility, sigmahat, sample

    @property
    def shown(self) -> pd.DataFrame:
        """The largest of them."""
        return self.contributions.head(_SHOWN)


def portfolio(universe: Universe, weights: pd.Series) -> Portfolio | None:
    """Measure a portfolio; None if the universe lacks one of its assets."""
    if not set(weights.index) <= set(universe.assets):
        return None
    w = weights.reindex(universe.assets, fill_value=0.0).to_numpy(np.float64)
    matrices: dict[str, Floats | None] = {OURS: universe.covariance, **closed_forms(universe.cleaned)}
    sample = matrices[SAMPLE]
    table = pd.DataFrame(
        {
            "weight": w,
            "volatility": np.sqrt(universe.covariance.diagonal()) * universe.annual,
            OURS: risk_contributions(universe.covariance, w),
            SAMPLE: np.nan if sample is None else risk_contributions(sample, w),
        },
        index=universe.assets,
    )[w != 0]
    order = table[OURS].abs().sort_values(ascending=False, kind="stable").index
    return Portfolio(
        net=float(w.sum()),
        gross=float(np.abs(w).sum()),
        n_held=int((w != 0).sum()),
        volatility={
            name: None if matrix is None else float(np.sqrt(w @ matrix @ w)) * universe.annual
            for name, matrix in matrices.items()
        },
        contributions=table.loc[order],
    )


def risk_contributions(covariance: Floats, weights: Floats) -> Floats:
    """Share of each asset in the portfolio's volatility (and in its variance): w_i (S w)_i / w'S w; they sum to one.

    Tasche (1999), Risk contributions and performance measurement: Euler's rule for a volatility, which is homogeneous
    of degree one in the weights. A hedge has a negative share. NaN if the portfolio has no risk.

    >>> risk_contributions(np.diag([0.04, 0.01]), np.array([0.5, 0.5])).round(3).tolist()
    [0.8, 0.2]
    """
    products = covariance @ weights
    variance = float(weights @ products)
    return weights * products / variance if variance > 0 else np.full(len(weights), np.nan)


def chart(found: Portfolio) -> Spec:
    """Shares of the risk, ours and the sample's, beside the weights."""
    kinds, shown = [OURS, SAMPLE], found.shown
    assets, weights = list(map(str, shown.index)), shown["weight"].tolist()
    values = [
        {"asset": asset, "estimator": kind, "share": significant(share), "weight": significant(weight)}
        for kind in kinds
        for asset, weight, share in zip(assets, weights, shown[kind].tolist(), strict=True)
        if np.isfinite(share)
    ]
    gross = [
        {"asset": asset, "share": significant(weight / found.gross)}
        for asset, weight in zip(assets, weights, strict=True)
    ]
    y = alt.Y("asset:N", title=None, sort=assets)
    x = alt.X("share:Q", title="share of risk (marks) and of gross weight (bars)", axis=alt.Axis(format=".0%"))
    bars = alt.Chart(rows(gross)).mark_bar(color="currentColor", opacity=0.16, height=9).encode(x=x, y=y)
    points = (
        alt.Chart(rows(values))
        .mark_point(filled=True, size=60, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour_of(kinds),
            shape=shape_of(kinds),
            tooltip=[
                "asset:N",
                "estimator:N",
                alt.Tooltip("share:Q", format=".1%", title="share of risk"),
                alt.Tooltip("weight:Q", format=".1%"),
            ],
        )
    )
    return plain((bars + points).properties(width=WIDTH - 120, height=alt.Step(17)))
