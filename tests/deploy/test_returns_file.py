# SPDX-License-Identifier: Apache-2.0
"""Files of universes are read as they are meant, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sigmahat_deploy.returns_file import UnreadableFile, read_universes

DATES = pd.DatetimeIndex(["2020-01-01", "2020-01-02", "2020-01-06", "2020-01-07"])


def universes(tmp_path: Path, content: Any, *, encoding: str = "utf-8") -> Any:
    path = tmp_path / "universes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding=encoding)
    return read_universes(path, DATES)


def test_universes_with_and_without_windows(tmp_path: Path):
    read = universes(
        tmp_path,
        {
            "plain": ["BRK.B", "AAPL"],
            "whole": {"assets": ["AAPL"]},
            "rows": {"assets": ["AAPL"], "start": 1, "stop": 3},
            "dates": {"assets": ["AAPL"], "start": "2020-01-02", "stop": "2020-01-07"},
            "weekend": {"assets": ["AAPL"], "start": "2020-01-04", "stop": "2020-01-05"},
            "open": {"assets": ["AAPL"], "stop": "2020-01-06"},
            "rest": {"assets": ["AAPL"], "start": "2020-01-06"},
        },
    )
    assert list(read.assets) == ["plain", "whole", "rows", "dates", "weekend", "open", "rest"]
    assert read.assets["plain"] == ["BRK.B", "AAPL"]
    assert read.windows == {"rows": (1, 3), "dates": (1, 3), "weekend": (2, 2), "open": (0, 2), "rest": (2, 4)}


def test_universes_may_begin_with_a_byte_order_mark(tmp_path: Path):
    assert universes(tmp_path, {"one": ["AAPL"]}, encoding="utf-8-sig").assets == {"one": ["AAPL"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no readable JSON"),
        ([["AAPL"]], r'should hold {"name": \["AAPL", ...\], ...}, got a list'),
        ({"tech": "AAPL"}, "universe 'tech' cannot be read: its assets should be a list of strings, got \"AAPL\""),
        ({"tech": ["AAPL", 3]}, r'should be a list of strings, got \["AAPL", 3\]'),
        ({"tech": {"start": 3}}, "should be a list of strings, got null"),
        ({"tech": {"assets": ["AAPL"], "end": 3}}, "it may hold assets, start and stop only"),
        ({"tech": {"assets": ["AAPL"], "start": "yesterday"}}, "date or a row number, got 'yesterday'"),
        ({"tech": {"assets": ["AAPL"], "start": True}}, "date or a row number, got True"),
        ({"tech": {"assets": ["AAPL"], "start": None}}, "date or a row number, got None"),
        ({"tech": {"assets": ["AAPL"], "start": "2020-01-01T00:00+09:00"}}, "date or a row number"),
        ('{"tech": ["AAPL"], "tech": ["MSFT"]}', r"\['tech'\] occur more than once"),
    ],
)
def test_bad_universes_are_refused_by_name(tmp_path: Path, content: Any, words: str):
    with pytest.raises(UnreadableFile, match=words) as raised:
        universes(tmp_path, content)
    assert str(raised.value).startswith(str(tmp_path))
