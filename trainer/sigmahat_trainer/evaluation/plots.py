# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation, as PNG files; drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from scipy.stats import norm

from sigmahat_kernels.parameters import REGIMES, TARGETS
from sigmahat_trainer.evaluation.calibration import reliability
from sigmahat_trainer.evaluation.designs import INDEPENDENT
from sigmahat_trainer.evaluation.results import REFERENCE, SHOWN, Figures, shape_name

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {name: f"C{k}" for k, name in enumerate(SHOWN)} | {"tilted_constants": "gold", REFERENCE: "black"}
"""Pipelines take those that are left."""

FORESTS = {"volatility": "gmv", "long-only": "long_only", "tracking": "tracking"}
"""Picture -> kind of portfolio."""

TITLES = {"gmv": "volatility", "long_only": "long-only volatility", "tracking": "tracking error"}

TWO_SIDED = norm.ppf(0.975)


def draw_plots(scores: pd.DataFrame, heads: pd.DataFrame, figures: Figures, folder: Path) -> list[Path]:
    """Draw everything that there are rows for; returns the files."""
    pipelines = [] if heads.empty else list(heads["method"].unique())
    drawings: dict[str, Callable[[], Figure]] = {}
    if not scores.empty:
        for name, kind in FORESTS.items():
            drawings[name] = partial(differences, figures, pipelines, kind)
        if pipelines and figures.pooled.get("all"):
            drawings["gain"] = partial(gain, figures, pipelines)
        drawings["cumulative"] = partial(cumulative, scores, pipelines)
        drawings["bias"] = partial(bias, figures, pipelines)
    for name in pipelines:
        if figures.every_cell.get(name):
            drawings[f"cells-{name}"] = partial(every_cell, figures, name)
        drawings[f"calibration-{name}"] = partial(calibration, heads[heads["method"] == name], name)
    if figures.simulated:
        drawings["simulated"] = partial(simulated, figures, pipelines)
    for name in pipelines:
        if figures.every_shape.get(name):
            drawings[f"prial-{name}"] = partial(every_shape, figures, name)
    files = []
    for name, draw in drawings.items():
        files.append(folder / f"{name}.png")
        figure = draw()
        figure.savefig(files[-1], dpi=110)
        plt.close(figure)
    return files


def differences(figures: Figures, pipelines: Sequence[str], kind: str) -> Figure:
    """Volatility of one kind of portfolio against the reference, a row a cell, with 95 % intervals."""
    figure, axes = _panels(len(figures.panels), width=5.0, height=6.0)
    for axis, (panel, cells) in zip(axes, figures.panels.items(), strict=True):
        names = [name for name in (*SHOWN, *pipelines) if any(name in cell.methods for cell in cells)]
        for k, name in enumerate(names):
            colour = _colour(name, pipelines)
            for row, cell in enumerate(cells):
                if name not in cell.methods or REFERENCE not in cell.methods[name].versus:
                    continue
                value, t, *_ = getattr(cell.methods[name].versus[REFERENCE], kind)
                interval = TWO_SIDED * abs(value / t) if t else 0.0
                y = row + 0.8 * (k - (len(names) - 1) / 2) / len(names)
                axis.errorbar(value, y, xerr=interval, fmt=_marker(name, pipelines), ms=4, color=colour, label=name)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(len(cells)), [shape_name(cell) for cell in cells])
        axis.invert_yaxis()
        axis.set(title=panel, xlabel=f"{TITLES[kind]} against QIS (correlation), %")
    return _with_legend(figure, axes)


def every_cell(figures: Figures, name: str) -> Figure:
    """Volatility of a pipeline against each reference in every cell, as a colour; figures are difference and t."""
    answers = figures.every_cell[name]
    cells = [(panel, cell) for panel, cells in figures.panels.items() for cell in cells]
    rows = list(dict.fromkeys((panel, cell.n_assets) for panel, cell in cells))
    columns = sorted({cell.n_obs for _, cell in cells})
    figure, axes = _tables(len(answers), len(rows), len(columns))
    for axis, (reference, answer) in zip(axes, answers.items(), strict=True):
        entries = {
            (rows.index((found.panel, found.n_assets)), columns.index(found.n_obs)): (
                found.difference,
                f"{found.difference:+.1f} ({found.t:+.1f})",
            )
            for found in answer.table
        }
        row_names = [f"{panel}, N={n_assets}" for panel, n_assets in rows]
        _table(axis, entries, row_names, [f"T={n_obs}" for n_obs in columns], limit=8)
        axis.set_title(f"against {reference}:\nbetter in {answer.better} of {answer.cells}", fontsize="small")
    figure.suptitle(f"{name}: volatility, % (t)")
    return figure


def gain(figures: Figures, pipelines: Sequence[str]) -> Figure:
    """Volatility of pipelines against the reference by N, by T and by market: mean, lowest and highest of pipelines."""
    cells = [(panel, cell) for panel, cells in figures.panels.items() for cell in cells]
    figure, axes = plt.subplots(1, 3, figsize=(14, 5), layout="constrained", sharey=True)
    keys = {
        "assets of a universe, N": lambda panel, cell: cell.n_assets,
        "rows, T": lambda panel, cell: cell.n_obs,
        "market": lambda panel, cell: panel,
    }
    for axis, (title, key) in zip(axes, keys.items(), strict=True):
        places = sorted({key(*at) for at in cells})
        names = [pipeline for pipeline in pipelines if any(pipeline in cell.methods for _, cell in cells)]
        means = np.full((len(names), len(places)), np.nan)
        for row, name in enumerate(names):
            for column, place in enumerate(places):
                of = [cell.methods.get(name) for panel, cell in cells if key(panel, cell) == place]
                found = [one.versus[REFERENCE].gmv.difference for one in of if one and REFERENCE in one.versus]
                means[row, column] = np.mean(found) if found else np.nan
        middle = means.mean(axis=0)
        axis.bar(range(len(places)), middle, color="lightsteelblue")
        if len(names) > 1:
            spread = np.stack([middle - means.min(axis=0), means.max(axis=0) - middle])
            axis.errorbar(range(len(places)), middle, yerr=spread, fmt="none", color="black", capsize=3)
        axis.set_xticks(range(len(places)), [str(place) for place in places], rotation=90 if title == "market" else 0)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(xlabel=title)
        axis.tick_params(labelsize="small")
    axes[0].set_ylabel("volatility against QIS (correlation), %")
    figure.suptitle(
        f"{', '.join(pipelines)}: mean over cells" + ("; bars: lowest and highest" if len(pipelines) > 1 else "")
    )
    return figure


def cumulative(scores: pd.DataFrame, pipelines: Sequence[str]) -> Figure:
    """Sum over time of ln volatility against the reference, cells of a panel averaged."""
    panels = list(scores["panel"].unique())
    figure, axes = _panels(len(panels), width=5.0, height=4.0)
    for axis, panel in zip(axes, panels, strict=True):
        rows = scores[scores["panel"] == panel]
        key = ["n_assets", "n_obs", "horizon", "date"]
        wide = rows.pivot(index=key, columns="method", values="gmv_log_variance")
        for name in (n for n in (*SHOWN, *pipelines) if n in wide):
            difference = 50 * (wide[name] - wide[REFERENCE]).groupby("date").mean().sort_index()
            # Cells differ in their dates by a few days, so a day counts by the number of dates that a cell has.
            weight = wide.groupby(level=["n_assets", "n_obs"]).size().mean() / len(difference)
            style = "-" if name in pipelines else "--"
            axis.plot(
                difference.index,
                weight * difference.cumsum(),
                style,
                color=_colour(name, pipelines),
                lw=1.2,
                label=name,
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=panel, ylabel="sum of ln volatility differences, %")
        axis.tick_params(axis="x", rotation=30)
    return _with_legend(figure, axes)


def bias(figures: Figures, pipelines: Sequence[str]) -> Figure:
    """Bias statistics, realised over forecast volatility, of three kinds of portfolios; a dot a cell."""
    kinds = {
        "gmv": "minimum-variance",
        "equal_weight": "1/N",
        "random_long_only": "random long-only",
        "random_long_short": "random long-short",
    }
    cells = [cell for panel in figures.panels.values() for cell in panel]
    names = [name for name in (REFERENCE, *SHOWN, *pipelines) if any(name in cell.methods for cell in cells)]
    figure, axes = _panels(len(kinds), width=4.5, height=4.5)
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        for row, name in enumerate(names):
            values = [getattr(cell.methods[name].bias, kind).value for cell in cells if name in cell.methods]
            axis.plot(values, [row] * len(values), "o", ms=4, alpha=0.5, color=_colour(name, pipelines))
        axis.axvspan(0.95, 1.05, color="grey", alpha=0.2)
        axis.axvline(1, color="black", lw=0.8)
        axis.set_yticks(range(len(names)), names, fontsize="x-small")
        axis.set(title=title, xlabel="realised / forecast volatility")
    return figure


def simulated(figures: Figures, pipelines: Sequence[str]) -> Figure:
    """PRIAL of the Frobenius loss, which all shapes have."""
    figure, axes = _panels(len(figures.simulated), width=5.0, height=5.0)
    for axis, (design, shapes) in zip(axes, figures.simulated.items(), strict=True):
        for name in (REFERENCE, *SHOWN, *pipelines):
            prials = [shape.methods[name].prial_frobenius if name in shape.methods else None for shape in shapes]
            if not any(prials):
                continue
            values = [np.nan if prial is None else prial.mean for prial in prials]
            colour = _colour(name, pipelines)
            axis.plot(values, range(len(shapes)), _marker(name, pipelines), ms=5, color=colour, label=name)
        axis.axvline(100, color="black", lw=0.8)
        axis.set_xlim(-50, 150)
        axis.set_yticks(range(len(shapes)), [shape_name(shape) for shape in shapes], fontsize="x-small")
        axis.set(title=design, xlabel="PRIAL (Frobenius), %; 100 = oracle")
    return _with_legend(figure, axes)


def every_shape(figures: Figures, name: str) -> Figure:
    """PRIAL of a pipeline less that of multi-target Ledoit-Wolf, by shape and design, with its standard error."""
    losses = figures.every_shape[name]
    designs = list(figures.simulated)
    rows = list(dict.fromkeys(shape_name(shape) for shapes in figures.simulated.values() for shape in shapes))
    figure, axes = _tables(len(losses), len(rows), len(designs))
    for axis, (loss, answers) in zip(axes, losses.items(), strict=True):
        entries = {
            (rows.index(shape_name(found)), designs.index(design)): (
                -found.difference,
                f"{found.difference:+.1f} ± {found.difference_error:.1f}",
            )
            for design, answer in answers.items()
            for found in answer.table
        }
        columns = [f"{design}{'*' if design in INDEPENDENT else ''}" for design in designs]
        _table(axis, entries, rows, columns, limit=40)
        axis.set_title(f"{loss.replace('_', ' ')} loss", fontsize="small")
    figure.suptitle(f"{name}: PRIAL less that of multi-target Ledoit-Wolf (* independent rows)", fontsize="medium")
    return figure


def calibration(rows: pd.DataFrame, name: str) -> Figure:
    """Six pictures of one pipeline's auxiliary answers."""
    rows = rows.dropna()
    figure, grid = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    axes: Iterator[Axes] = iter(grid.ravel())
    figure.suptitle(f"{name}: auxiliary answers of {len(rows):,} universes")

    axis = next(axes)
    axis.plot(rows["condition"], rows["condition_measured"], ".", ms=2, alpha=0.4)
    _diagonal(axis)
    axis.set(title="condition number", xlabel="answered, log10", ylabel="measured, log10")

    axis = next(axes)
    _reliability(axis, rows["expected_error"], rows["error"])
    axis.set(title="expected error, by decile", xlabel="expected ln(realised / forecast)", ylabel="realised")

    axis = next(axes)
    deviation = np.sqrt(rows["aleatoric"] ** 2 + rows["epistemic"] ** 2)
    score = np.abs(rows["error"] - rows["expected_error"]) / deviation
    wanted = np.linspace(0.02, 0.98, 49)
    axis.plot(wanted, [(score < norm.ppf(0.5 + p / 2)).mean() for p in wanted])
    _diagonal(axis)
    axis.set(title="uncertainty: interval coverage", xlabel="of a Gaussian interval", ylabel="found")

    axis = next(axes)
    for k, regime in enumerate(REGIMES):
        _reliability(axis, rows[f"regime_{regime}"], (rows["regime"] == k).astype(float), label=regime, color=f"C{k}")
    axis.set(title="regime probabilities, by decile", xlabel="answered", ylabel="came")
    axis.legend(fontsize="x-small")

    axis = next(axes)
    for k, target in enumerate(TARGETS):
        good = (rows[f"alone_{target}"] <= 0).astype(float)
        _reliability(axis, rows[f"confidence_{target}"], good, label=target, color=f"C{k}")
    axis.set(title="confidences, by decile", xlabel="answered", ylabel="alone at least as good")
    axis.legend(fontsize="x-small")

    axis = next(axes)
    _reliability(axis, pd.Series(deviation), (rows["error"] - rows["expected_error"]).abs() / np.sqrt(2 / np.pi))
    axis.set(title="size of the error, by decile", xlabel="answered standard deviation", ylabel="found (Gaussian)")
    return figure


def _reliability(
    axis: Axes, expected: pd.Series, realised: Any, *, label: str | None = None, color: str = "C0"
) -> None:
    bins = reliability(expected.to_numpy(float), np.asarray(realised, float))
    interval = TWO_SIDED * bins["standard_error"]
    axis.errorbar(bins["expected"], bins["realised"], yerr=interval, fmt="o-", ms=4, lw=1, label=label, color=color)
    _diagonal(axis)


def _diagonal(axis: Axes) -> None:
    axis.axline((0, 0), slope=1, color="black", lw=0.6)


def _tables(n: int, n_rows: int, n_columns: int) -> tuple[Figure, list[Axes]]:
    size = 2.5 + 1.3 * n_columns * n, 1.5 + 0.35 * n_rows
    figure, axes = plt.subplots(1, n, figsize=size, layout="constrained", squeeze=False, sharey=True)
    return figure, list(axes.ravel())


def _table(
    axis: Axes,
    entries: Mapping[tuple[int, int], tuple[float, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limit: float,
) -> None:
    """(row, column) -> (value, text); values from -limit, deep green, to limit, deep red."""
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), (value, text) in entries.items():
        values[row, column] = value
        colour = "white" if abs(value) > 0.7 * limit else "black"
        axis.text(column, row, text, ha="center", va="center", fontsize="x-small", color=colour)
    axis.imshow(values, cmap="RdYlGn_r", vmin=-limit, vmax=limit, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, fontsize="small")
    axis.set_yticks(range(len(rows)), rows, fontsize="x-small")


def _colour(name: str, pipelines: Sequence[str]) -> str:
    return COLOURS.get(name) or ("red", "blue", "darkgreen", "purple")[list(pipelines).index(name) % 4]


def _marker(name: str, pipelines: Sequence[str]) -> str:
    return "D" if name in pipelines else "o"


def _with_legend(figure: Figure, axes: Sequence[Axes]) -> Figure:
    """One legend below all axes, of what any of them shows."""
    shown = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    ncols = max(int(figure.get_figwidth() // 2.5), 1)
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=ncols, fontsize="small")
    return figure


def _panels(n: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    n_columns = 2 if n == 4 else min(n, 3)
    n_rows = -(-n // n_columns)
    size = width * n_columns, height * n_rows
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.ravel()[n:]:
        unused.remove()
    return figure, list(axes.ravel()[:n])
