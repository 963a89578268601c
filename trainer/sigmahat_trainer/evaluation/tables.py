# SPDX-License-Identifier: Apache-2.0
"""What an evaluation prints: tables cut to the width of the console, so that no number is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from sigmahat_trainer.evaluation.results import (
    REFERENCE,
    REFERENCES,
    CellDifference,
    Difference,
    Figures,
    Pooled,
    WithError,
    cell_name,
    shape_name,
)

RISK = {"equal_weight": "1/N", "random_long_only": "random long-only", "random_long_short": "random long-short"}
"""Field of Biases -> what it is called, of portfolios that no estimate had a hand in."""

BORDER = 3
"""Characters between two columns of a table."""


def show(figures: Figures, console: Console) -> None:
    """Print who is better than whom.

    Minimum-variance volatility of all methods against the reference; of each pipeline a scorecard, in how many cells
    it is better than its references, and how it does where the truth is known.
    """
    for table in volatilities(figures, console.width):
        console.print(table)
    for pipeline, others in (figures.against_all or {}).items():
        for table in against_all(pipeline, others, console.width):
            console.print(table)
    for pipeline, answers in figures.every_cell.items():
        for table in scorecard(figures, pipeline, console.width):
            console.print(table)
        for reference, answer in answers.items():
            console.print(
                f"{pipeline} against {reference}: better in {answer.better} of {answer.cells} cells; worst "
                f"{_worst(answer.worst)}"
            )
    for pipeline in figures.heads:
        for loss, designs in figures.every_shape.get(pipeline, {}).items():
            for design, found in designs.items():
                worst = found.worst
                console.print(
                    f"{pipeline}, PRIAL ({loss}) of {design}: not below multi-target Ledoit-Wolf in "
                    f"{found.not_below} of {found.shapes} shapes; worst {worst.difference:+.1f} "
                    f"(± {worst.difference_error:.1f}) at {shape_name(worst)}"
                )


def volatilities(figures: Figures, width: int) -> list[Table]:
    """A row a method, a column a scope: minimum-variance volatility against the reference over all its cells."""
    methods = list(figures.pooled.get("all", {}))
    rows = []
    for method in methods:
        of = [pooled.get(method, {}).get(REFERENCE) for pooled in figures.pooled.values()]
        if any(of):
            rows.append([method, *(_gmv(one) for one in of)])
    title = "volatility against QIS (correlation), % (t)"
    return cut_to_width(["estimator", *figures.pooled], rows, width=width, title=title) if rows else []


def scorecard(figures: Figures, pipeline: str, width: int) -> list[Table]:
    """A row a question, a column a scope: differences with their t, then bias statistics with their errors."""
    scopes = list(figures.pooled)
    against = [figures.pooled[scope].get(pipeline, {}) for scope in scopes]
    biases = [figures.bias[scope].get(pipeline) for scope in scopes]
    outside = [(figures.bias_outside_crash or {}).get(scope, {}).get(pipeline) for scope in scopes]
    heads = [figures.heads.get(pipeline, {}).get(scope) for scope in scopes]
    found = [of.get(REFERENCE) for of in against]
    rows = [[f"volatility, % (t), vs {name}", *(_gmv(of.get(name)) for of in against)] for name in REFERENCES]
    rows += [
        ["long-only volatility, % (t), vs QIS", *(_percent(one and one.differences.long_only) for one in found)],
        ["tracking error, % (t), vs QIS", *(_percent(one and one.differences.tracking) for one in found)],
        ["QLIKE, long-only (t), vs QIS", *(_qlike(one and one.differences.random_long_only_qlike) for one in found)],
        ["QLIKE, long-short (t), vs QIS", *(_qlike(one and one.differences.random_long_short_qlike) for one in found)],
        [
            "likelihood, millinats (t), vs QIS",
            *(_nats(one and one.differences.negative_log_likelihood) for one in found),
        ],
        *(
            [f"bias, {title}{where} (± error)", *(_bias(one and getattr(one, kind)) for one in of)]
            for where, of in (("", biases), (", no spring 2020", outside))
            for kind, title in RISK.items()
        ),
        ["held by 90 % intervals", *(f"{one.uncertainty.coverage_90:.1%}" if one else "" for one in heads)],
    ]
    rows = [row for row in rows if any(row[1:])]
    return cut_to_width(
        [pipeline, *scopes], rows, width=width, title=f"{pipeline}: who is better, and is its risk right"
    )


def against_all(pipeline: str, others: Mapping[str, Pooled], width: int) -> list[Table]:
    """A row a method: what the pipeline is less it over all panels, wherever both have a portfolio."""
    header = ["less", "steps", "volatility, % (t)", "likelihood, millinats (t)", "QLIKE, long-only (t)"]
    rows = [
        [
            name,
            str(n_steps),
            _percent(of.gmv),
            _nats(of.negative_log_likelihood),
            _qlike(of.random_long_only_qlike),
        ]
        for name, (of, n_steps, _) in others.items()
    ]
    return cut_to_width(header, rows, width=width, title=f"{pipeline} over all panels") if rows else []


def cut_to_width(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, title: str) -> list[Table]:
    """Tables of as many columns as fit, each with the first column again; a long heading goes over several lines.

    A table has one column beside the first at least.
    """
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    tables, first = [], 1
    while first < len(header):
        last, room = first + 1, width - widths[0] - widths[first] - 2 * BORDER - 1
        while last < len(header) and room >= widths[last] + BORDER:
            room -= widths[last] + BORDER
            last += 1
        chosen = [0, *range(first, last)]
        spare = max(room, 0) // len(chosen)  # for headings
        fixed = {k: widths[k] + min(spare, max(len(header[k]) - widths[k], 0)) for k in chosen}
        columns = [Column(header[k], overflow="fold", width=fixed[k]) for k in chosen]
        table = Table(*columns, title=title if first == 1 else None)
        for row in rows:
            table.add_row(*(row[k] for k in chosen))
        tables.append(table)
        first = last
    return tables


def _gmv(pooled: Pooled | None) -> str:
    return _percent(pooled and pooled.differences.gmv)


def _percent(found: Difference | None) -> str:
    return f"{found.difference:+.2f} ({found.t:+.1f})" if found else ""


def _qlike(found: Difference | None) -> str:
    return f"{found.difference:+.3f} ({found.t:+.1f})" if found else ""


def _nats(found: Difference | None) -> str:
    """Thousandths of a nat, an asset and day; below zero: the method is better."""
    return f"{1e3 * found.difference:+.1f} ({found.t:+.1f})" if found else ""


def _bias(found: WithError | None) -> str:
    return f"{found.value:.3f} (± {found.standard_error:.3f})" if found else ""


def _worst(found: CellDifference) -> str:
    return f"{found.difference:+.2f} % ({found.t:+.1f}) in {found.panel}, {cell_name(found)}"
