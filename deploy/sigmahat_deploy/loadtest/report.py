# SPDX-License-Identifier: Apache-2.0
"""One load test as files: ``loadtest.json``, ``loadtest.csv`` and ``loadtest.html``, a page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigmahat_deploy.loadtest.levels import MAX_DELAYED, STEADY, Level, capacity, knee
from sigmahat_deploy.loadtest.process_pool import PoolFigures
from sigmahat_kernels.files import write_whole

_CSV_COLUMNS = (
    "tool", "load", "asked", "model", "requests_per_s", "p50_ms", "p95_ms", "p99_ms", "universes_per_s_of_level",
    "refused", "failed", "delayed", "spread", "problem",
)  # fmt: skip
_PERCENTILES = {"p50_ms": "C0", "p95_ms": "C1", "p99_ms": "C3"}
_MARKERS = {("perf_analyzer", "closed"): "o-", ("perf_analyzer", "poisson"): "s--", ("open loop", "poisson"): "^:"}


@dataclass(frozen=True)
class LoadTest:
    """All that one run found."""

    levels: tuple[Level, ...]
    objective_ms: float
    mix: dict[str, Any]  # what was asked
    status: dict[str, int]  # universes by STATUS, all requests asked once
    pool: PoolFigures | None
    machine: dict[str, Any]
    servers: tuple[dict[str, Any], ...]
    command: str
    bare: str  # where the same run by perf_analyzer alone is

    def figures(self) -> dict[str, Any]:
        """As JSON can hold them, with what follows of the levels."""
        found = {"knee": knee(self.levels), "capacity": capacity(self.levels, self.objective_ms)}
        return asdict(self) | {
            name: level and {"asked": level.asked, "tool": level.tool, **_summary(level)}
            for name, level in found.items()
        }


def write(test: LoadTest, folder: Path) -> None:
    """Write the three files, each whole."""
    # An infinite p99 of nothing answered stays out: JSON knows none.
    _write(folder / "loadtest.json", json.dumps(test.figures(), indent=1, allow_nan=False) + "\n")
    _write(folder / "loadtest.csv", _csv(test.levels))
    _write(folder / "loadtest.html", page(test))


def page(test: LoadTest) -> str:
    """The page, its pictures inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sigmahat_deploy.loadtest", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measured = [level for level in test.levels if level.latencies]
    return environment.get_template("report.html.jinja").render(
        test=test,
        knee=knee(test.levels),
        capacity=capacity(test.levels, test.objective_ms),
        most=max(measured, key=lambda level: level.universes_per_s),
        steady=STEADY,
        max_delayed=MAX_DELAYED,
        latency=_picture(lambda axes: _draw_latency(axes, test)),
        steps=_picture(lambda axes: _draw_steps(axes, [level for level in measured if level.tool == "perf_analyzer"])),
        refusals=_picture(lambda axes: _draw_refusals(axes, test)),
    )


def _summary(level: Level) -> dict[str, float]:
    return {
        "requests_per_s": level.requests_per_s,
        "universes_per_s": level.universes_per_s,
        "p99_ms": level.p99_ms,
    }


def _csv(levels: tuple[Level, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for level in levels:
        of_level = (level.universes_per_s, level.refused, level.failed, level.delayed, level.spread, level.problem)
        for latency in [astuple(latency) for latency in level.latencies] or [("",) * 5]:
            writer.writerow([level.tool, level.load, level.asked, *latency, *of_level])
    return text.getvalue()


def _draw_latency(axes: Axes, test: LoadTest) -> None:
    for (tool, load), marker in _MARKERS.items():
        levels = [level for level in test.levels if (level.tool, level.load) == (tool, load) and level.latencies]
        for name, colour in _PERCENTILES.items():
            axes.plot(
                [level.universes_per_s for level in levels],
                [max(getattr(latency, name) for latency in level.latencies) for level in levels],
                marker,
                color=colour,
                markersize=4,
                label=f"{name.removesuffix('_ms')}, {load}, {tool}" if levels else None,
            )
    axes.axhline(test.objective_ms, color="black", linewidth=0.8, label=f"objective {test.objective_ms:g} ms")
    if bend := knee(test.levels):
        axes.axvline(bend.universes_per_s, color="grey", linestyle=":", label="knee")
    if best := capacity(test.levels, test.objective_ms):
        axes.axvline(best.universes_per_s, color="green", label="capacity at the objective")
    if test.pool:
        axes.axvline(test.pool.universes_per_s, color="C4", linestyle="-.", label="scikit-learn in a process pool")
    axes.set(yscale="log", xlabel="universes a second", ylabel="milliseconds, of the slowest model")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_steps(axes: Axes, levels: list[Level]) -> None:
    names = list(dict.fromkeys(step.step for level in levels for step in level.steps))
    positions = range(len(levels))
    bottom = [0.0] * len(levels)
    for k, name in enumerate(names):
        for part, hatch in (("queue_ms", "///"), ("compute_ms", "")):
            heights = [
                next((getattr(step, part) for step in level.steps if step.step == name), 0.0) for level in levels
            ]
            axes.bar(
                positions, heights, bottom=bottom, color=f"C{k % 10}", hatch=hatch, edgecolor="white", linewidth=0,
                label=f"{name}, {part.removesuffix('_ms')}",
            )  # fmt: skip
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    labels = [f"{level.asked:g} {'in flight' if level.load == 'closed' else 'requests / s'}" for level in levels]
    axes.set_xticks(positions, labels, rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("mean milliseconds a request")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _draw_refusals(axes: Axes, test: LoadTest) -> None:
    levels = sorted((level for level in test.levels if level.tool == "open loop"), key=lambda level: level.asked)
    asked = [level.asked for level in levels]
    axes.plot(asked, [level.requests_per_s for level in levels], "o-", label="answered")
    axes.plot(asked, asked, color="grey", linewidth=0.8, linestyle=":", label="asked")
    axes.set(xlabel="requests asked a second", ylabel="requests answered a second")
    other = axes.twinx()
    other.plot(asked, [level.refused + level.failed for level in levels], "x-", color="C3", label="refused or failed")
    other.set_ylabel("refused or failed, in all")
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], fontsize=7)


def _picture(draw: Callable[[Axes], None]) -> str:
    """A PNG, as a page holds it."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    draw(figure.subplots())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return base64.b64encode(content.getvalue()).decode()


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
