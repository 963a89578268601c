# SPDX-License-Identifier: Apache-2.0
"""Correlations: sample, ours and their difference, assets in the order of a hierarchical clustering of ours."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import squareform

from sigmahat_deploy.report.charts import Spec
from sigmahat_deploy.report.compared import OURS, SAMPLE, sample_covariance, to_correlation
from sigmahat_deploy.report.study import Floats, Universe

_SIDES = {True: 248, False: 300}  # of a map, with names beside it and without
_NAMED_ASSETS = 45
_CODES = 127  # correlations are sent as bytes, in steps of 1 / 127
DIFFERENCE = f"{OURS} less {SAMPLE}"


class Pair(NamedTuple):
    """Two assets whose correlation was changed."""

    first: str
    second: str
    sample: float
    ours: float


class Correlations(NamedTuple):
    """Numbers of the section; assets in their clustered order."""

    assets: list[str]
    sample: Floats  # (N, N)
    ours: Floats  # (N, N)
    tree: Floats  # (N - 1, 4), scipy's linkage of the assets in the universe's order
    most_changed: list[Pair]

    def mean(self, matrix: Floats) -> float:
        """Mean correlation of two different assets."""
        n = len(matrix)
        return float((matrix.sum() - n) / (n * (n - 1)))


def correlations(universe: Universe, most: int = 10) -> Correlations:
    """Cluster a universe's assets by our correlations, and put both matrices in that order.

    References
    ----------
    Mantegna (1999), European Physical Journal B 11: the distance sqrt((1 - r) / 2), here halved so that it ends at 1;
    average linkage; leaves ordered so that neighbours are close (Bar-Joseph, Gifford, Jaakkola 2001).
    """
    sample = to_correlation(sample_covariance(universe.cleaned))
    ours = to_correlation(universe.covariance)
    distance = np.sqrt(np.clip((1 - ours) / 2, 0.0, 1.0))
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=len(ours) <= 200)
    order = leaves_list(tree)
    names = [universe.assets[i] for i in order]
    sample, ours = sample[np.ix_(order, order)], ours[np.ix_(order, order)]
    i, j = np.triu_indices(len(ours), 1)
    largest = np.argsort(-np.abs(ours - sample)[i, j], kind="stable")[:most]
    pairs = [Pair(names[i[k]], names[j[k]], sample[i[k], j[k]], ours[i[k], j[k]]) for k in largest]
    return Correlations(names, sample, ours, tree, pairs)


def charts(found: Correlations) -> list[tuple[str, Spec]]:
    """Three heat maps under one dendrogram each, as Vega draws them: Vega-Lite has no images of data."""
    limit = max(0.1, np.ceil(np.abs(found.ours - found.sample).max() * 10) / 10)
    branches = _branches(found.tree)
    return [
        (title, _heat_map(title, matrix, bound, found.assets, branches))
        for title, matrix, bound in (
            (SAMPLE, found.sample, 1.0),
            (OURS, found.ours, 1.0),
            (DIFFERENCE, found.ours - found.sample, float(limit)),
        )
    ]


def encode(matrix: Floats, bound: float) -> str:
    """The upper triangle, row by row with the diagonal, as signed bytes in base64: 127 stands for `bound`.

    >>> list(base64.b64decode(encode(np.array([[1.0, -0.5], [-0.5, 1.0]]), 1.0)))  # -64 as a byte is 192
    [127, 192, 127]
    """
    codes = np.rint(np.clip(matrix / bound, -1, 1) * _CODES).astype(np.int8)
    return base64.b64encode(codes[np.triu_indices(len(matrix))].tobytes()).decode()


def _branches(tree: Floats) -> list[dict[str, Any]]:
    """Corners of the dendrogram's brackets: x in assets, y in distance."""
    drawn = dendrogram(tree, no_plot=True)
    return [
        {"k": k, "x": round((x - 5.0) / 10.0 + 0.5, 2), "y": round(y, 3)}
        for k, (xs, ys) in enumerate(zip(drawn["icoord"], drawn["dcoord"], strict=True))
        for x, y in zip(xs, ys, strict=True)
    ]


def _heat_map(title: str, matrix: Floats, bound: float, assets: list[str], branches: list[dict[str, Any]]) -> Spec:
    n, top = len(matrix), 46
    heights = [corner["y"] for corner in branches]
    named = n <= _NAMED_ASSETS
    side = _SIDES[named]
    size = max(6, min(10, int(0.8 * side / n)))
    label = {"font": {"value": "system-ui, sans-serif"}, "fontSize": {"value": size}, "fill": {"value": "#222"}}
    names: list[Spec] = [
        {
            "type": "text",
            "from": {"data": "names"},
            "encode": {
                "enter": {
                    **label,
                    "text": {"field": "name"},
                    "align": {"value": "right"},
                    "baseline": {"value": "middle"},
                    "limit": {"value": 64},
                    "x": {"value": -4},
                    "y": {"signal": f"{top} + (datum.i + 0.5) * {side / n}"},
                }
            },
        }
    ]
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json",
        "description": f"correlations, {title}",
        "width": side,
        "height": side + top,
        "padding": 4,
        "title": {
            "text": {"signal": f"'{title}' + at"},
            "anchor": "start",
            "color": "#222",
            "fontSize": 12,
            "frame": "group",
        },
        "signals": [
            {"name": "root", "value": max(heights)},
            {"name": "low", "value": 0.9 * min(height for height in heights if height) if any(heights) else -1},
            {
                "name": "cell",
                "value": None,
                "on": [
                    {
                        "events": "@map:mousemove",
                        "update": f"[floor((y() - {top}) * {n / side}), floor(x() * {n / side})]",
                    },
                    {"events": "@map:mouseout", "update": "null"},
                ],
            },
            {
                "name": "at",
                "update": "cell && cell[0] >= 0 && cell[1] >= 0 && data('names')[cell[0]] && data('names')[cell[1]] ? "
                "': ' + data('names')[cell[0]].name + ', ' + data('names')[cell[1]].name + ' ' + "
                f"format(data('cells')[0].values[cell[0] * {n} + cell[1]] * {bound / _CODES}, '.2f') : ''",
            },
        ],
        "scales": [
            {
                "name": "colour",
                "type": "linear",
                "domain": [-_CODES, 0, _CODES],
                "range": ["#2166ac", "#f7f7f7", "#b2182b"],
                "interpolate": "lab",
            },
            {
                "name": "legend",
                "type": "linear",
                "domain": [-bound, 0, bound],
                "range": ["#2166ac", "#f7f7f7", "#b2182b"],
                "interpolate": "lab",
            },
        ],
        "data": [
            {"name": "cells", "values": [{"width": n, "height": n, "triangle": encode(matrix, bound)}]},
            {
                "name": "image",
                "source": "cells",
                "transform": [{"type": "heatmap", "color": {"expr": "scale('colour', datum.$value)"}, "opacity": 1}],
            },
            {"name": "names", "values": [{"i": i, "name": name} for i, name in enumerate(assets)]},
            {"name": "branches", "values": branches},
        ],
        "marks": [
            {
                "type": "group",
                "from": {"facet": {"name": "bracket", "data": "branches", "groupby": "k"}},
                "marks": [
                    {
                        "type": "line",
                        "from": {"data": "bracket"},
                        "encode": {
                            "enter": {
                                "stroke": {"value": "#666"},
                                "strokeWidth": {"value": 1 if named else 0.6},
                                "x": {"signal": f"datum.x * {side / n}"},
                                "y": {"signal": f"{top - 3} * clamp((root - datum.y) / (root - low), 0, 1)"},
                            }
                        },
                    }
                ],
            },
            {
                "type": "image",
                "name": "map",
                "from": {"data": "image"},
                "encode": {
                    "update": {
                        "image": {"field": "image"},
                        "x": {"value": 0},
                        "y": {"value": top},
                        "width": {"value": side},
                        "height": {"value": side},
                        "aspect": {"value": False},
                        "smooth": {"value": False},
                    }
                },
            },
            *(names if named else []),
        ],
        "legends": [
            {
                "fill": "legend",
                "orient": "bottom",
                "direction": "horizontal",
                "gradientLength": side - 20,
                "gradientThickness": 8,
                "format": ".1f",
                "labelColor": "#222",
            }
        ],
    }
