# SPDX-License-Identifier: Apache-2.0
"""Pages that are written from the code say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("features.md", "make_features.py"),
        ("metrics.md", "make_metrics.py"),
        ("capacity.md", "make_capacity.py"),
        ("what_comes_in.md", "make_what_comes_in.py"),
        ("grpc_service.proto", "make_proto.py"),
    ],
)
def test_pages_made_from_code_are_current(name: str, script: str) -> None:
    assert (DOCS / name).read_text() == runpy.run_path(str(DOCS / script))["page"]()
