# SPDX-License-Identifier: Apache-2.0
"""Which assets were shrunk most, and which of their statistics asked for it."""

from __future__ import annotations

from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from sigmahat_deploy.report.charts import COLOURS, WIDTH, Spec, plain, rows, significant
from sigmahat_deploy.report.compared import OURS
from sigmahat_deploy.report.study import Floats, Universe
from sigmahat_kernels.asset_statistics import ASSET_STATISTICS, asset_statistics
from sigmahat_kernels.covariance import tilt_intensity
from sigmahat_kernels.parameters import LAYOUT
from sigmahat_kernels.scratch import Scratch
from sigmahat_kernels.shared_window import share_window

_SHOWN = 8
_BARS = 60
_WORDS = {  # statistic -> what it is to have more of it, and less
    "mean_correlation": ("it goes with the others", "it goes its own way"),
    "mean_correlation_change": ("its correlations rose lately", "its correlations fell lately"),
    "log_unshared": ("no other asset is close to it", "another asset almost copies it"),
    "log_volatility": ("it is volatile", "it is calm"),
    "log_volatility_63": ("its volatility rose over the last months", "its volatility fell over the last months"),
    "log_volatility_21": ("its volatility rose over the last weeks", "its volatility fell over the last weeks"),
    "log_kurtosis": ("its returns have fat tails", "its returns have thin tails"),
    "root_mean_square_correlation": ("its correlations are strong", "its correlations are weak"),
    "log_volatility_126": (
        "its volatility rose over the last half year",
        "its volatility fell over the last half year",
    ),
    "log_cut_21": ("its usual moves grew over the last weeks", "its usual moves shrank over the last weeks"),
    "log_absolute": ("its moves are of one size", "a few large moves make its volatility"),
    "log_absolute_21": ("its average move grew over the last weeks", "its average move shrank over the last weeks"),
}


class AssetIntensity(NamedTuple):
    """An asset and why it was shrunk as much."""

    asset: str
    intensity: float
    why: list[str]  # the two statistics that moved it most that way, in words


class Intensities(NamedTuple):
    """Numbers of the section."""

    universe: float  # intensity that all assets start from
    by_asset: pd.Series  # descending
    most: list[AssetIntensity]
    least: list[AssetIntensity]


def intensities(universe: Universe) -> Intensities:
    """Intensity of each asset: sigma(logit delta + theta . a_i), as `covariance.tilt_intensity` has it.

    Blocks of the request, which give assets other intensities to start from, are not known here.
    """
    moments = share_window(universe.cleaned.to_numpy(np.float64)).moments
    n_assets = len(universe.assets)
    statistics = asset_statistics(*moments.gather(np.arange(n_assets)[None], Scratch(np)))
    tilt = universe.numbers(LAYOUT["intensity_tilt"].columns)
    start = float(universe.row["intensity"])
    values = tilt_intensity(np.full((1, n_assets), start), tilt[None], statistics)[0]
    by_asset = pd.Series(values, universe.assets).sort_values(ascending=False, kind="stable")
    of_asset = dict(zip(universe.assets, statistics[0], strict=True))
    shown = min(_SHOWN, n_assets // 2)

    def named(assets: list[str], direction: float) -> list[AssetIntensity]:
        return [
            AssetIntensity(asset, float(by_asset[asset]), _why(of_asset[asset], direction * tilt * of_asset[asset]))
            for asset in assets
        ]

    ordered = by_asset.index.tolist()
    return Intensities(start, by_asset, named(ordered[:shown], 1.0), named(ordered[::-1][:shown], -1.0))


def chart(found: Intensities) -> Spec:
    """Intensity of every asset, the most shrunk first, beside the universe's."""
    values = [
        {"asset": a, "rank": k, "intensity": significant(v)} for k, (a, v) in enumerate(found.by_asset.items(), 1)
    ]
    named = len(values) <= _BARS
    bars = (
        alt.Chart(rows(values))
        .mark_bar(color=COLOURS[OURS])
        .encode(
            x=alt.X("asset:N", sort=None, title=None, axis=alt.Axis(labelAngle=-60))
            if named
            else alt.X("rank:O", title="assets, the most shrunk first", axis=None),
            y=alt.Y("intensity:Q", title="shrinkage intensity", scale=alt.Scale(domain=[0, 1])),
            tooltip=["asset:N", alt.Tooltip("intensity:Q", format=".2f")],
        )
    )
    rule = (
        alt.Chart(rows([{"universe": significant(found.universe)}]))
        .mark_rule(strokeDash=[5, 3], color="currentColor")
        .encode(y="universe:Q", tooltip=[alt.Tooltip("universe:Q", format=".2f")])
    )
    return plain((bars + rule).properties(width=WIDTH - 60, height=180))


def _why(statistics: Floats, pushes: Floats) -> list[str]:
    """The two largest pushes, in words; a push is tilt times statistic."""
    words = [_WORDS[name] for name in ASSET_STATISTICS]
    largest = np.argsort(-pushes, kind="stable")[:2]
    return [words[k][0 if statistics[k] > 0 else 1] for k in largest if pushes[k] > 0]
