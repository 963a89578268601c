# SPDX-License-Identifier: Apache-2.0
"""Where there is no terminal, progress is a line now and then."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from sigmahat_trainer.progress import Progress, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(0.0, 12.0)
    monkeypatch.setattr("sigmahat_trainer.progress.time.monotonic", lambda: next(times))


def test_a_log_gets_a_line_now_and_then(clock: None) -> None:
    text = io.StringIO()
    with Progress("{task.description}", console=Console(file=text), get_time=lambda: 7.0, transient=True) as progress:
        task = progress.add_task("member [1]", total=2_000, loss="")
        for done in range(100, 700, 100):
            progress.update(task, completed=done, loss="validation -11.3")
    wanted = [f"member [1]: {done} of 2,000, validation -11.3, 0 s" for done in (300, 600)]
    assert [line for line in text.getvalue().splitlines() if line.strip()] == wanted


def test_a_terminal_gets_none(clock: None) -> None:
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True)
    assert list(track(range(6), "samples", total=6, console=terminal)) == list(range(6))
    assert "samples: " not in text.getvalue()


def test_track_yields_and_counts(clock: None) -> None:
    text = io.StringIO()
    assert list(track(iter("abc"), "samples", total=5, completed=2, console=Console(file=text))) == ["a", "b", "c"]
    assert "samples: 5 of 5" in text.getvalue()
    assert list(track("ab", "samples", total=2, console=Console(file=text), shown=False)) == ["a", "b"]
