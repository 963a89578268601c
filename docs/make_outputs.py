# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/outputs.md`` from the layout in the code: ``python docs/make_outputs.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sigmahat_client.columns import COLUMNS, RISK_COLUMNS
from sigmahat_kernels.parameters import LAYOUT, PUBLISHED
from sigmahat_kernels.status import PortfolioStatus, Status, WarningFlag

PAGE = Path(__file__).with_name("outputs.md")
INTRODUCTION = """\
# What each output means

`Estimates.to_frame()` and the files of `sigmahat estimate` have one row a universe and the columns below; Parquet and
Feather files keep `unit` and `meaning` in the metadata of each field. Over gRPC the same numbers are
[tensors](protocol.md#tensors), whose names stand first. A unit of 1 is a number without one. Everything is per
period of the input: of daily returns, daily. How the matrix is made of these numbers: [the estimate](estimate.md).
"""
READING = """\
## Reading them

**Intensity** near 0 leaves the sample correlation as it is, near 1 replaces it by the targets; 0.3 to 0.7 is usual for
a year of daily returns of 20 to 200 assets. It grows with assets and shrinks with rows.

**Memory** is what the estimate thinks of the last quarter: 0 treats all rows alike, 1 believes the fast correlation
only.

**Expected error** of 0.1 says: the minimum-variance portfolio of this matrix will be about 10 % more volatile than it
promises. Its **uncertainty** is a standard deviation in the same unit; the epistemic part grows where the networks
disagree, in universes unlike those that they learned from.

**Condition** is a power of ten: 3 is a largest eigenvalue a thousand times the smallest. It is the networks'
expectation; `numpy.linalg.cond` of the matrix is exact.

**Regime** is about the market's volatility in the month ahead, against that of the window.
"""
OF_PORTFOLIOS = """\
## Of portfolios

`Risks.to_frame()`, `to_arrow()` and the files of `sigmahat risk` have one row a universe and portfolio,
`contributions_frame()`, `contributions_arrow()` and `--contributions` one a universe, portfolio and asset that is held.
Formulas, and how far off each is: [risk](risk.md).
"""


def page() -> str:
    """The whole page."""
    of_heads = {name for head in PUBLISHED.values() for name in head.columns}
    lines = [INTRODUCTION, "## Of the universe", ""]
    lines += table(
        ("column", "unit", "what it is"),
        [(f"`{name}`", column.unit, column.meaning) for name, column in COLUMNS.items() if name not in of_heads],
    )
    lines += ["## Of the networks", "", "The matrix depends on those that are marked with Σ̂.", ""]
    lines += table(
        ("tensor", "", "what it is", "unit", "columns"),
        [
            (name.upper(), shapes(name), head.meaning, head.unit, ", ".join(f"`{column}`" for column in head.columns))
            for name, head in PUBLISHED.items()
        ],
    )
    lines += [READING, OF_PORTFOLIOS]
    lines += table(
        ("column", "unit", "what it is"),
        [(f"`{name}`", column.unit, column.meaning) for name, column in RISK_COLUMNS.items()],
    )
    lines += ["## STATUS", ""]
    lines += table(("code", "name", "what was wanted"), [(str(s.value), s.name, s.explanation) for s in Status])
    lines += ["## PORTFOLIO_STATUS", ""]
    lines += table(
        ("code", "name", "what was wanted"), [(str(s.value), s.name, s.explanation) for s in PortfolioStatus]
    )
    lines += ["## WARNINGS", ""]
    lines += table(("bit", "name", "what is odd"), [(str(f.value), f.name, f.explanation) for f in WarningFlag])
    return "\n".join(lines)


def shapes(name: str) -> str:
    """A mark for what the matrix depends on."""
    return "Σ̂" * (name == "intensity" or (name in LAYOUT and LAYOUT[name].shapes_matrix))


def table(head: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    return [f"| {' | '.join(cell or '' for cell in row)} |" for row in (head, ("---",) * len(head), *rows)] + [""]


if __name__ == "__main__":
    PAGE.write_text(page())
