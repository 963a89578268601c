# SPDX-License-Identifier: Apache-2.0
"""Volatility by asset: ours beside the sample's, and beside an earlier result."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from sigmahat_deploy.report.charts import WIDTH, Spec, colour, plain, rows, shape, significant
from sigmahat_deploy.report.compared import OURS, SAMPLE
from sigmahat_deploy.report.study import Floats, Universe

_NAMED_ASSETS = 60
EARLIER = "earlier"


def volatilities(universe: Universe, earlier: tuple[list[str], Floats] | None = None) -> pd.DataFrame:
    """Volatilities of a universe's assets, annualised: 0.2 is 20 % a year.

    Parameters
    ----------
    earlier : assets and covariance per period, optional
        Of an earlier result, which may have other assets.

    Returns
    -------
    DataFrame
        Assets in rows; columns sigmahat, sample and, if asked for, earlier (NaN where it has not the asset).
    """
    frame = pd.DataFrame(
        {
            OURS: np.sqrt(universe.covariance.diagonal()) * universe.annual,
            SAMPLE: universe.cleaned.std().to_numpy() * universe.annual,
        },
        index=universe.assets,
    )
    if earlier is not None:
        assets, covariance = earlier
        then = pd.Series(np.sqrt(covariance.diagonal()) * universe.annual, assets)
        frame[EARLIER] = then.reindex(universe.assets)
    return frame


def changes(frame: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """The largest changes since the earlier result, relative to it; with a column change, 0.1 is 10 %."""
    known = frame.dropna()
    change = known[OURS] / known[EARLIER] - 1
    order = change.abs().sort_values(ascending=False, kind="stable").index[:most]
    return known.assign(change=change).loc[order]


def chart(frame: pd.DataFrame) -> Spec:
    """Assets from the most to the least volatile, by the sample."""
    ordered = frame.sort_values(SAMPLE, ascending=False, kind="stable")
    kinds = [OURS, SAMPLE]
    values = [
        {"asset": asset, "rank": rank, "estimator": kind, "volatility": significant(value)}
        for kind in kinds
        for rank, (asset, value) in enumerate(zip(ordered.index, ordered[kind].tolist(), strict=True), 1)
    ]
    x = alt.X("volatility:Q", title="volatility, % a year", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    tooltip = ["asset:N", "estimator:N", alt.Tooltip("volatility:Q", format=".1%")]
    base = alt.Chart(rows(values))
    if len(ordered) > _NAMED_ASSETS:
        points = base.mark_point(filled=True, size=22, opacity=0.85).encode(
            x=alt.X("rank:Q", title="assets, from the most to the least volatile by the sample"),
            y=alt.Y("volatility:Q", title="volatility, % a year", axis=alt.Axis(format="%")),
            color=colour(kinds),
            shape=shape(kinds),
            tooltip=tooltip,
        )
        return plain(points.properties(width=WIDTH - 60, height=300))
    y = alt.Y("asset:N", title=None, sort=ordered.index.tolist())
    lines = base.mark_line(color="currentColor", opacity=0.35, strokeWidth=1).encode(x=x, y=y, detail="asset:N")
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x, y=y, color=colour(kinds), shape=shape(kinds), tooltip=tooltip
    )
    step = 17 if len(ordered) <= 30 else 13
    return plain((lines + points).properties(width=WIDTH - 120, height=alt.Step(step)))
