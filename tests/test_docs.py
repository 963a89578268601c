# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_features_page_is_current() -> None:
    assert (DOCS / "features.md").read_text() == runpy.run_path(str(DOCS / "make_features.py"))["page"]()


def test_metrics_page_is_current() -> None:
    assert (DOCS / "metrics.md").read_text() == runpy.run_path(str(DOCS / "make_metrics.py"))["page"]()
