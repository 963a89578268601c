# SPDX-License-Identifier: Apache-2.0
"""A step's signs of life arrive in another process's hands, and cost nothing where nobody asked for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sigmahat_kernels import heartbeat
from sigmahat_kernels.parallel import for_each


@pytest.fixture(autouse=True)
def none_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_own", [])
    monkeypatch.delenv(heartbeat.FOLDER, raising=False)


def test_work_and_beats_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(heartbeat.FOLDER, str(tmp_path))
    heartbeat.start("features-r2")
    assert [path.name for path in tmp_path.iterdir()] == [f"features-r2.{os.getpid()}"]
    assert heartbeat.read(tmp_path) == {"features-r2": [heartbeat.Sign(0, False)]}
    with heartbeat.working():
        (sign,) = heartbeat.read(tmp_path)["features-r2"]
        assert sign.working
        for_each(lambda item: None, range(3), threads=1)
        (later,) = heartbeat.read(tmp_path)["features-r2"]
        assert later.beats == sign.beats + 3
    (idle,) = heartbeat.read(tmp_path)["features-r2"]
    assert not idle.working
    assert idle.beats > later.beats


def test_a_failure_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(heartbeat.FOLDER, str(tmp_path))
    heartbeat.start("combine")
    with pytest.raises(ZeroDivisionError), heartbeat.working():
        raise ZeroDivisionError
    assert not heartbeat.read(tmp_path)["combine"][0].working


def test_without_a_folder_nothing_happens(tmp_path: Path) -> None:
    heartbeat.start("features")
    with heartbeat.working():
        heartbeat.beat()
    assert heartbeat.read(tmp_path) == {}


def test_a_file_that_is_not_whole_yet_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "features.1").touch()
    assert heartbeat.read(tmp_path) == {}
