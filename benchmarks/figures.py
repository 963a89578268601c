# SPDX-License-Identifier: Apache-2.0
"""Figures of a benchmark: rounded, printed, and written with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sigmahat_kernels.files import write_whole
from sigmahat_trainer.evaluation.results import in_few_lines
from sigmahat_trainer.provenance import provenance

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

Figures = dict[str, Any]


def four_digits(value: float) -> float:
    """As many as a measurement is worth.

    >>> four_digits(12345.678)
    12350.0
    """
    return float(f"{value:.4g}")


def write_figures(path: Path, figures: Mapping[str, Any], **facts: Any) -> None:
    """Write `figures` beside the provenance of this run; what is there so far, if it is called again and again.

    Parameters
    ----------
    path : Path
        The file appears whole, or the old one stays.
    figures : mapping
        What was measured, as JSON can hold it.
    **facts
        More of what the figures depend on; a mapping adds to the provenance's own entry of that name.
    """
    content = provenance()
    for name, fact in facts.items():
        content[name] = {**content.get(name, {}), **fact} if isinstance(fact, Mapping) else fact
    content["figures"] = figures
    text = in_few_lines(content) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(text.encode()))


def print_figures(figures: Mapping[str, float]) -> None:
    """Print one figure a line."""
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)
