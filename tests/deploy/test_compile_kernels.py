# SPDX-License-Identifier: Apache-2.0
"""Before a server starts its kernels are compiled, and whoever waits is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigmahat_deploy.kernels import compile_kernels


def test_nothing_is_said_where_nothing_is_to_be_done() -> None:
    compile_kernels(lambda line: None)
    lines: list[str] = []
    compile_kernels(lines.append)
    assert lines == []


def test_a_compiler_that_cannot_work_stops_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    lines: list[str] = []
    compile_kernels(lines.append)
    assert lines == [
        "no kernels are compiled: numba, which sigmahat[lanes] brings, is not installed, switched off, or fails"
    ]


def test_a_signal_ends_the_compiler_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first line of a cold cache is where the waiting begins."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")

    def interrupt(line: str) -> None:
        assert line.startswith("compiling kernels for this CPU, once, some 15 s; they are kept in")
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        compile_kernels(interrupt)
    assert not list(tmp_path.glob("sigmahat/*/*_fill*"))
