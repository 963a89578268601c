# SPDX-License-Identifier: Apache-2.0
"""The data: what was used, what is missing, stale or far out, and what is odd about it."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from sigmahat_client.errors import warning_text
from sigmahat_deploy.report.charts import WIDTH, Spec, plain, rows
from sigmahat_deploy.report.study import Universe

OUTLIER = 6.0
"""Robust standard deviations: a normal return is beyond that once in half a billion."""

_SHOWN_OUTLIERS = 10
_MAP_ASSETS, _MAP_SPANS = 60, 60
_MAD_TO_SD = 1.4826  # of a normal distribution


class Outlier(NamedTuple):
    """A return far out among those of its asset."""

    date: str
    asset: str
    value: float  # simple return
    deviations: float  # from the median, in robust standard deviations


class Oddity(NamedTuple):
    """A warning of the estimate."""

    flag: str
    words: str
    assets: str  # empty if it is of the universe as a whole


class DataFacts(NamedTuple):
    """Numbers of the section."""

    first: str
    last: str
    n_rows: int
    n_assets: int
    n_missing: int  # cells without a return, stale ones aside
    missing: list[tuple[str, int]]  # assets and their missing cells, most first
    stale: list[tuple[str, int]]  # assets and their stale cells, most first
    n_outliers: int
    outliers: list[Outlier]  # the largest, in robust standard deviations
    warnings: list[Oddity]

    @property
    def missing_share(self) -> float:
        """Of all cells."""
        return self.n_missing / (self.n_rows * self.n_assets)


def describe(universe: Universe) -> DataFacts:
    """Look at the returns of a universe's window."""
    raw, cleaned = universe.returns, universe.cleaned
    n_missing = raw.isna().sum()
    stale = cleaned.isna().sum() - n_missing
    n_outliers, outliers = _outliers(cleaned)
    return DataFacts(
        first=day(raw.index[0]),
        last=day(raw.index[-1]),
        n_rows=len(raw),
        n_assets=raw.shape[1],
        n_missing=int(n_missing.sum()),
        missing=_most(n_missing),
        stale=_most(stale),
        n_outliers=n_outliers,
        outliers=outliers,
        warnings=_oddities(str(universe.row["warnings"])),
    )


def robust_deviations(returns: pd.DataFrame) -> pd.DataFrame:
    """Distance of each return from its asset's median, in units of 1.4826 median absolute deviations.

    Where half of the returns are the same, in standard deviations.
    """
    centred = returns - returns.median()
    scale = _MAD_TO_SD * centred.abs().median()
    return centred / scale.where(scale > 0, returns.std())


def missing_map(universe: Universe) -> Spec | None:
    """Where returns are missing or stale: assets by time; None if none is."""
    absent = universe.cleaned.isna()
    worst = absent.sum().sort_values(ascending=False, kind="stable")
    assets = worst.index[worst > 0][:_MAP_ASSETS].tolist()
    if not assets:
        return None
    edges = np.unique(np.linspace(0, len(absent), min(len(absent), _MAP_SPANS) + 1).astype(int))
    cells = [
        {"asset": asset, "from": day(absent.index[low]), "to": day(absent.index[high - 1]), "share": round(share, 3)}
        for asset in assets
        for low, high in pairwise(edges.tolist())
        if (share := float(absent[asset].iloc[low:high].mean())) > 0
    ]
    spans = [day(absent.index[low]) for low in edges[:-1]]
    shown = spans[:: max(1, len(spans) // 8)]
    chart = (
        alt.Chart(rows(cells))
        .mark_rect()
        .encode(
            x=alt.X("from:O", title=None, scale=alt.Scale(domain=spans), axis=alt.Axis(values=shown, labelAngle=0)),
            y=alt.Y("asset:N", title=None, scale=alt.Scale(domain=assets)),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(domain=[0, 1], range=["#9cc7e8", "#2b86c9"]),
                legend=alt.Legend(title="share of rows missing", format=".0%", gradientLength=160),
            ),
            tooltip=["asset:N", "from:N", "to:N", alt.Tooltip("share:Q", format=".0%", title="missing")],
        )
        .properties(width=WIDTH - 120, height=alt.Step(13 if len(assets) <= 30 else 10))
    )
    return plain(chart)


def day(moment: pd.Timestamp) -> str:
    """A date, with its time where it has one.

    >>> day(pd.Timestamp("2020-01-31")), day(pd.Timestamp("2020-01-31 15:30"))
    ('2020-01-31', '2020-01-31 15:30')
    """
    return moment.strftime("%Y-%m-%d" if moment == moment.normalize() else "%Y-%m-%d %H:%M")


def _most(counts: pd.Series) -> list[tuple[str, int]]:
    ordered = counts[counts > 0].sort_values(ascending=False, kind="stable")
    return [(str(asset), int(n)) for asset, n in ordered.items()]


def _outliers(returns: pd.DataFrame) -> tuple[int, list[Outlier]]:
    values, deviations = returns.to_numpy(), robust_deviations(returns).to_numpy()
    size = np.nan_to_num(np.abs(deviations), nan=0.0)
    t, i = np.unravel_index(np.argsort(-size, axis=None, kind="stable")[:_SHOWN_OUTLIERS], size.shape)
    found = [
        Outlier(day(returns.index[row]), str(returns.columns[column]), values[row, column], deviations[row, column])
        for row, column in zip(t.tolist(), i.tolist(), strict=True)
        if size[row, column] > OUTLIER
    ]
    return int((size > OUTLIER).sum()), found


def _oddities(text: str) -> list[Oddity]:
    """Read the column of warnings: names of flags, each with assets or without."""
    parts = [part.partition(": ") for part in text.split("; ") if part]
    return [Oddity(flag, warning_text(flag), assets) for flag, _, assets in parts]
