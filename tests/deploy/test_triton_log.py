# SPDX-License-Identifier: Apache-2.0
"""Triton's log is passed on in part, however much there is of it."""

from __future__ import annotations

import os

from sigmahat_deploy import triton_log
from sigmahat_deploy.triton_log import TritonLog


def read(content: bytes) -> TritonLog:
    source, sink = os.pipe()
    log = TritonLog(os.fdopen(source, "rb"))
    with os.fdopen(sink, "wb") as file:
        file.write(content)
    log.close()
    return log


def test_warnings_and_errors_are_passed_on_with_what_belongs_to_them() -> None:
    log = read(b"I1128 one\nE1128 two\nTraceback\n  three\nI1128 four\n+----+\nW1128 five\n\nW1128 NVML missing\n")
    assert log.new_messages() == ["E1128 two\nTraceback\n  three", "W1128 five"]
    assert log.new_messages() == []
    assert log.tail() == "I1128 one\nE1128 two\nTraceback\n  three\nI1128 four\nW1128 five"


def test_a_flood_is_counted_and_long_lines_are_cut() -> None:
    log = read(b"E1128 " + b"x" * 100_000 + b"\n" + b"E1128 accept4: Too many open files\n" * 20_000)
    messages = log.new_messages()
    seconds = 1 + (len(messages) - 2) // triton_log._LINES_A_SECOND  # the flood may last longer than one
    assert len(messages) <= seconds * triton_log._LINES_A_SECOND + 1
    assert len(messages[0]) == 2_000
    assert "more lines of Triton's were dropped" in messages[-1]
    assert len(log.tail()) < 100_000


def test_an_empty_log_says_so() -> None:
    assert read(b"").tail() == "(the log is empty)"
