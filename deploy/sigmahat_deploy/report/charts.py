# SPDX-License-Identifier: Apache-2.0
"""What all charts of a report share: colours that every eye tells apart, fonts, and how Altair's become plain data.

Text, axes and grids are drawn in the colour of the page's text, so that one chart serves a light page, a dark one and
paper; the colours of data have a contrast of 3 to 1 against all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from sigmahat_deploy.report.compared import LEDOIT_WOLF, OURS, QIS, SAMPLE

Spec = dict[str, Any]
"""A chart as Vega-Lite or Vega reads it."""

WIDTH = 940

COLOURS = {OURS: "#2b86c9", SAMPLE: "#d5620d", LEDOIT_WOLF: "#0f9a72", QIS: "#b9669b"}
"""After Okabe, Ito (2008), Color Universal Design; estimators differ in shape, too."""

SHAPES = {OURS: "circle", SAMPLE: "diamond", LEDOIT_WOLF: "square", QIS: "triangle-up"}
DASHES = {OURS: [1, 0], SAMPLE: [6, 3], LEDOIT_WOLF: [2, 2], QIS: [8, 2, 2, 2]}

_INK = "currentColor"
CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "text": {"fill": _INK, "color": _INK},
    "rule": {"stroke": _INK, "color": _INK},
    "title": {"color": _INK, "subtitleColor": _INK, "anchor": "start", "fontSize": 13, "fontWeight": 600, "offset": 8},
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "domainColor": _INK,
        "domainOpacity": 0.4,
        "tickColor": _INK,
        "tickOpacity": 0.4,
        "gridColor": _INK,
        "gridOpacity": 0.13,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 140,
    },
    "legend": {
        "labelColor": _INK,
        "titleColor": _INK,
        "orient": "top",
        "title": None,
        "symbolSize": 70,
        "labelFontSize": 12,
        "symbolStrokeWidth": 2,
    },
    "header": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": 12},
}
"""Of every chart of the page."""


def colour(names: Sequence[str], field: str = "estimator") -> alt.Color:
    """Estimators by colour, in this order."""
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names), range=[COLOURS[name] for name in names]))


def shape(names: Sequence[str], field: str = "estimator") -> alt.Shape:
    """Estimators by shape, in this order."""
    return alt.Shape(f"{field}:N", scale=alt.Scale(domain=list(names), range=[SHAPES[name] for name in names]))


def dash(names: Sequence[str], field: str = "estimator") -> alt.StrokeDash:
    """Estimators by dashes, in this order."""
    return alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=list(names), range=[DASHES[name] for name in names]))


def rows(values: Sequence[dict[str, Any]]) -> alt.Data:
    """Rows of data as a chart holds them."""
    return alt.Data(values=list(values))


def plain(chart: alt.Chart | alt.LayerChart | alt.FacetChart) -> Spec:
    """A chart as plain data; its looks are those of `CONFIG`."""
    spec: Spec = chart.to_dict()
    spec.pop("config", None)
    return spec


def significant(value: float, digits: int = 4) -> float:
    """A number with no more digits than a chart shows: they are what makes a page large."""
    return float(f"{value:.{digits}g}")
