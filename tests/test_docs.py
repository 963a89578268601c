# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", ["features", "what_comes_in"])
def test_pages_made_from_code_are_current(name: str) -> None:
    assert (DOCS / f"{name}.md").read_text() == runpy.run_path(str(DOCS / f"make_{name}.py"))["page"]()
