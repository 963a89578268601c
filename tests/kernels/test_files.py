# SPDX-License-Identifier: Apache-2.0
"""A file is there whole or not at all."""

from __future__ import annotations

import pytest

from sigmahat_kernels.files import new_folder, write_whole


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


def test_a_folder_appears_once_it_is_filled(tmp_path):
    path = tmp_path / "deep" / "folder"
    with new_folder(path) as draft:
        (draft / "file").write_text("content")
        assert not path.exists()
    assert (path / "file").read_text() == "content"
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    def fill(folder):
        with new_folder(folder) as draft:
            (draft / "file").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_stays_as_it_is(tmp_path):
    with pytest.raises(FileExistsError, match="is there already"), new_folder(tmp_path):
        raise AssertionError("nothing may be begun")
    assert not list(tmp_path.iterdir())
