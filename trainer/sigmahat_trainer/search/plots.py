# SPDX-License-Identifier: Apache-2.0
"""Pictures of a hyperparameter search, from its ``search.json``; drawn without a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

COLUMNS = 4
"""Slices side by side."""


def draw_search(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw everything that there are complete trials for; returns the files."""
    figures = result["figures"]
    complete = [trial for trial in figures["trials"] if trial["state"] == "complete"]
    drawings: dict[str, Callable[[], Figure]] = {}
    if complete:
        drawings["history"] = lambda: history(figures)
        drawings["slices"] = lambda: slices(complete, result["space"])
    if figures["importance"]:
        drawings["importance"] = lambda: importance(figures["importance"])
    files = []
    for name, draw in drawings.items():
        files.append(folder / f"{name}.png")
        figure = draw()
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return files


def history(figures: dict[str, Any]) -> Figure:
    """Loss of each trial in turn, the best so far, and the constants; beside it the course of each over its epochs."""
    figure, (by_trial, by_epoch) = plt.subplots(1, 2, figsize=(11.0, 4.5), layout="constrained")
    baseline = figures["constants"]["loss"]
    complete = [trial for trial in figures["trials"] if trial["state"] == "complete"]
    numbers, losses = [trial["trial"] for trial in complete], [trial["loss"] for trial in complete]
    by_trial.plot(numbers, losses, "o", ms=4, label="complete")
    pruned = [trial for trial in figures["trials"] if trial["state"] == "pruned"]
    by_trial.plot([t["trial"] for t in pruned], [t["epochs"][-1] for t in pruned], "x", color="grey", label="pruned")
    by_trial.step(numbers, np.minimum.accumulate(losses), where="post", color="C1", label="best so far")
    by_trial.axhline(baseline, color="black", lw=0.8, ls="--", label="learned constants")
    by_trial.set(xlabel="trial", ylabel="validation: ln realised variance")
    by_trial.legend()
    for trial in figures["trials"]:
        best = trial["trial"] == figures["best"]["trial"]
        style: dict[str, Any] = {"color": "C1", "lw": 2.0, "zorder": 3} if best else {"color": "grey", "lw": 0.7}
        by_epoch.plot(range(1, 1 + len(trial["epochs"])), trial["epochs"], **style)
    by_epoch.set(xlabel="epoch", title="course of each trial; the best in colour")
    for axis in (by_trial, by_epoch):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.ticklabel_format(axis="y", useOffset=False)
    return figure


def importance(shares: dict[str, float]) -> Figure:
    """A bar a setting."""
    names = sorted(shares, key=lambda name: shares[name])
    figure, axis = plt.subplots(figsize=(7.0, 1.0 + 0.28 * len(names)), layout="constrained")
    axis.barh(names, [shares[name] for name in names])
    axis.set(xlabel="importance for being among the best quarter of trials")
    return figure


def slices(complete: list[dict[str, Any]], space: dict[str, Any]) -> Figure:
    """Loss of the complete trials against each setting; later trials are darker."""
    names = list(complete[0]["settings"])
    n_rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(
        n_rows, COLUMNS, figsize=(3.0 * COLUMNS, 2.6 * n_rows), sharey=True, squeeze=False, layout="constrained"
    )
    losses, order = [trial["loss"] for trial in complete], [trial["trial"] for trial in complete]
    for axis, name in zip(axes.flat, names, strict=False):
        where = _place(axis, [trial["settings"][name] for trial in complete], space.get(name))
        axis.scatter(where, losses, c=order, cmap="Blues", edgecolors="grey", linewidths=0.5, s=22)
        axis.set(xlabel=name)
        axis.ticklabel_format(axis="y", useOffset=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    figure.supylabel("validation: ln realised variance")
    return figure


def _place(axis: Axes, values: list[Any], distribution: dict[str, Any] | None) -> list[float]:
    """Where values stand: numbers on their range, sizes, words and layers side by side."""
    if distribution is not None and distribution["name"] == "FloatDistribution":
        limits = distribution["attributes"]
        if limits["log"]:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlim(limits["low"], limits["high"])
        return values
    keys = [tuple(value) if isinstance(value, list | tuple) else (value,) for value in values]
    labels = sorted(set(keys))
    words = [",".join(map(str, label)) for label in labels]
    axis.set_xticks(range(len(labels)), words, rotation=60 if max(map(len, words)) > 4 else 0, fontsize=7)
    return [labels.index(key) for key in keys]
