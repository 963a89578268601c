# SPDX-License-Identifier: Apache-2.0
"""No number of a table is lost, however narrow the console."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sigmahat_trainer.evaluation.results import Difference, Differences, Pooled
from sigmahat_trainer.evaluation.tables import against_all, cut_to_width

PANELS = ["us_sp500_1999_2021", "us_broad_2005_2017", "uk_ftse64_2000_2023", "us_etf_2005_2017", "us_factors_1963"]


def printed(tables, width):
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    for table in tables:
        console.print(table)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 132, 250])
def test_every_cell_is_there_whole_at_every_width(width):
    header = ["estimator", "all", *PANELS]
    methods = ["sample", "ledoit_wolf_constant_correlation"]
    rows = [
        [name, *(f"{10 * i + k:+.2f} (-{k}{i}.5)" for k in range(len(header) - 1))] for i, name in enumerate(methods)
    ]
    tables = cut_to_width(header, rows, width=width, title="a title")
    text = printed(tables, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for row in rows:
        for cell in row:
            assert f" {cell} " in text
    for line in (line for line in text.splitlines() if "ledoit" in line):
        assert line.count("(") == line.count(")") > 0
    assert len(tables) == 1 or width < 200


def test_the_first_column_is_in_every_part_and_columns_keep_their_order():
    header, rows = ["", *"abcdef"], [["first", *("x" * 20 for _ in "abcdef")]]
    tables = cut_to_width(header, rows, width=60, title="t")
    assert [[column.header for column in table.columns] for table in tables] == [["", *"ab"], ["", *"cd"], ["", *"ef"]]
    assert [table.title for table in tables] == ["t", None, None]


def test_the_table_against_all_has_volatility_likelihood_and_qlike_of_each():
    of = Differences(
        *[Difference(-1.25, -3.0)] * 3, Difference(-0.5, -2.5), negative_log_likelihood=Difference(0.0123, 1.5)
    )
    text = printed(against_all("ours", {"slow": Pooled(of, 11)}, width=100), 100)
    (line,) = (line for line in text.splitlines() if "slow" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["slow", "11", "-1.25 (-3.0)", "+12.3 (+1.5)", "-0.500 (-2.5)"]
    assert against_all("ours", {}, width=100) == []
