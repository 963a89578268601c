# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/what_comes_in.md`` from the lists that the tests run: ``python docs/make_what_comes_in.py``."""

from __future__ import annotations

import runpy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("what_comes_in.md")
TESTS = Path(__file__).parents[1] / "tests"
INTRODUCTION = """\
# What comes in, what happens

Returns are simple returns of days (0.01 is 1 %), one row a date, oldest first, one column an asset; NaN is missing.
What can be meant in one way only is read; everything else is refused in one line that says where, what was found and
what was wanted. The same reader stands behind every door: the client and its asynchronous twin, a client in this
process, `score_batches`, and the scikit-learn and skfolio estimators; one reader of files behind every command:
`estimate`, `report`, `loadtest`, `train`, `draw`, `fit-baselines` and `evaluate`. The rules on values are the kernels'
own, so that they hold for whoever calls the server without our client; [protocol.md](protocol.md) lists them.

Each line below is a test. *Read* is held against the same panel sent plainly; what stands in this `type` is in the
message.
"""


def page() -> str:
    """The whole page."""
    sections: dict[str, Iterable[Any]] = dict(runpy.run_path(str(TESTS / "client" / "intake" / "cases.py"))["SECTIONS"])
    sections["Files of returns"] = runpy.run_path(str(TESTS / "client" / "intake" / "file_cases.py"))["FILES"]
    lines = [INTRODUCTION]
    for title, cases in sections.items():
        lines += [f"## {title}", "", "| what comes in | what happens |", "| --- | --- |"]
        # Markdown would read a bar inside a cell as the cell's end.
        cells = ([text.replace("|", "\\|") for text in (case.comes_in, case.happens)] for case in cases)
        lines += [f"| {comes_in} | {happens} |" for comes_in, happens in cells]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
