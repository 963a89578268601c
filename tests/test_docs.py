# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("features.md", "make_features.py"),
        ("metrics.md", "make_metrics.py"),
        ("what_comes_in.md", "make_what_comes_in.py"),
        ("grpc_service.proto", "make_proto.py"),
    ],
)
def test_pages_made_from_code_are_current(name: str, script: str) -> None:
    assert (DOCS / name).read_text() == runpy.run_path(str(DOCS / script))["page"]()


def test_the_risk_page_repeats_the_bias_of_the_accuracy_page() -> None:
    accuracy, risk = (DOCS / "accuracy.md").read_text(), (DOCS / "risk.md").read_text()
    bias = re.findall(
        r"^\| (\w+) \|(?:.*\|){3} ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|.*\|.*\|$", accuracy, flags=re.MULTILINE
    )
    assert bias == re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", risk, flags=re.MULTILINE)
    assert len(bias) == 6
    levels = re.search(
        r"([\d.]+) on the S&P 500\s+and ([\d.]+) on UK stocks.*?([\d.]+)\s+on the broad.*?([\d.]+) on the ETFs",
        accuracy,
        re.DOTALL,
    )
    assert levels is not None
    optimised = risk.split("*Optimised portfolios*")[1]
    assert [number for number in levels.groups() if number not in optimised] == []
    for number in ("Spearman 0.32", "too low by 0.06"):
        assert number in accuracy
        assert number in optimised
