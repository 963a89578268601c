# SPDX-License-Identifier: Apache-2.0
"""A file is there whole or not at all."""

from __future__ import annotations

import pytest

from sigmahat_trainer.files import write_whole


def test_a_file_replaces_the_one_before_it(tmp_path):
    path = tmp_path / "file"
    for content in (b"old", b"new"):
        write_whole(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        assert path.read_bytes() == b"old"  # never seen half-written
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
