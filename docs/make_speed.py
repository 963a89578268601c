# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/speed.md`` from ``benchmarks/results``: ``python -m docs.make_speed``, from the root of the project."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.accuracy import tables

PAGE = Path(__file__).with_name("speed.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
INTRODUCTION = """\
# Speed

Ratios of throughput unless a unit is named, each of one run on one machine, so that they travel further than seconds
do. Measure them on yours: `make bench` for the kernels, `python -m benchmarks.speed.service`
and `.risk` for the service,
`sigmahat loadtest` for a server under load ([how](loadtest.md)).
"""


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION, tables.speed(), "", "| results | machine | versions | commit |", "| --- | --- | --- | --- |"]
    for name in ("cpu", "service", "risk"):
        found = json.loads((RESULTS / f"{name}.json").read_text())
        machine, versions = found["machine"], found["versions"]
        lines.append(
            f"| {name}.json | {machine['cores']} cores of an {machine['processor']} "
            f"| {', '.join(f'{package} {number}' for package, number in versions.items())} | {found['commit']} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
