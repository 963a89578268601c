# SPDX-License-Identifier: Apache-2.0
"""What says which version this is says the same one."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def cited(key: str) -> str:
    (value,) = re.findall(rf"(?m)^{key}: (.+)$", (ROOT / "CITATION.cff").read_text())
    return value


def test_the_citation_is_of_this_version() -> None:
    assert cited("version") == PROJECT["version"]
    assert cited("license") == PROJECT["license"]
    assert cited("abstract") == PROJECT["description"]


def test_the_changelog_ends_with_this_version() -> None:
    headings = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text())
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in headings[1:]]
    found = [(tuple(map(int, match.groups()[:3])), date.fromisoformat(match[4])) for match in released if match]
    assert len(found) == len(released), headings
    assert found == sorted(found, reverse=True)
    assert found[0][0] == tuple(map(int, PROJECT["version"].split(".")))


def test_the_changelog_sorts_changes_by_their_kind() -> None:
    kinds = set(re.findall(r"(?m)^### (.+)$", (ROOT / "CHANGELOG.md").read_text()))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
