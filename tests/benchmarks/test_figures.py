# SPDX-License-Identifier: Apache-2.0
"""What a benchmark writes says where it comes from, and is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    known: dict[str, Any] = {"machine": {"cores": 2}, "versions": {"numpy": "1.26.4"}, "commit": "abc"}
    monkeypatch.setattr(figures, "provenance", lambda: {**known})
    return known


def test_figures_stand_beside_their_provenance(tmp_path: Path, origin: dict[str, Any]) -> None:
    figures.write_figures(tmp_path / "results" / "a.json", {"ratio": 0.5})
    assert json.loads((tmp_path / "results" / "a.json").read_text()) == {**origin, "figures": {"ratio": 0.5}}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a.json"]


def test_facts_add_to_the_provenance_or_take_its_place(tmp_path: Path, origin: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    figures.write_figures(path, {}, machine={"gpu": "H200"}, settings={"rounds": 3}, commit="def")
    content = json.loads(path.read_text())
    assert content["machine"] == {"cores": 2, "gpu": "H200"}
    assert content["settings"] == {"rounds": 3}
    assert content["commit"] == "def"
    assert content["versions"] == origin["versions"]


def test_a_figure_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path, origin: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    figures.write_figures(path, {"ratio": 0.5})
    before = path.read_text()
    with pytest.raises(TypeError, match="not JSON serializable"):
        figures.write_figures(path, {"ratio": object()})
    assert path.read_text() == before


@pytest.mark.parametrize(("value", "rounded"), [(0.123456, 0.1235), (12345.678, 12350.0), (-0.0, 0.0), (1e-9, 1e-9)])
def test_four_digits(value: float, rounded: float) -> None:
    assert figures.four_digits(value) == rounded
