# SPDX-License-Identifier: Apache-2.0
"""Memory that is used again: it holds what is put in, and is not asked for anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import numpy as np
import pytest

from sigmahat_kernels.scratch import Scratch, take, take_blocks


def test_blocks_equal_a_loop():
    rng = np.random.default_rng(0)
    source = rng.standard_normal((9, 9))
    index = rng.integers(0, 9, (4, 5))
    blocks = take_blocks(source, index, Scratch(np), "blocks")
    for block, universe in zip(blocks, index, strict=True):
        np.testing.assert_array_equal(block, [[source[i, j] for j in universe] for i in universe])


def test_take_along_an_axis():
    source = np.arange(12.0).reshape(3, 4)
    out = take(source, np.array([3, 0, 0]), np.empty((3, 3)), axis=1)
    np.testing.assert_array_equal(out, [[3, 0, 0], [7, 4, 4], [11, 8, 8]])


def test_memory_is_shared_by_name_and_grows():
    scratch = Scratch(np)
    large, small = scratch.array("a", (4, 6)), scratch.array("a", (2, 5))
    assert large.shape == (4, 6)
    assert small.shape == (2, 5)
    assert np.shares_memory(large, small)
    assert scratch.array("a", (100, 3)).size == 300
    assert not np.shares_memory(scratch.array("b", (2, 5)), scratch.array("a", (2, 5)))


def test_memory_has_the_type_that_is_asked_for_each_time():
    scratch = Scratch(np)
    for dtype in (np.int64, float, np.int32, np.float32):
        assert scratch.array("a", (3,), dtype).dtype == dtype
    narrow = take_blocks(np.eye(4), np.array([[0, 1]], np.int32), scratch, "blocks")
    wide = take_blocks(np.eye(4), np.array([[2, 3]], np.int64), scratch, "blocks")
    assert np.shares_memory(narrow, wide)
    np.testing.assert_array_equal(wide, [np.eye(2)])


PROGRAM = """
import resource, sys
import numpy as np
from sigmahat_kernels.scratch import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def work():
    arrays = [np.ones(2**17) for _ in range(4)]  # 1 MB, 256 pages each
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_memory_is_not_given_back():
    faults = {}
    for mode in ("kept", "default"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["kept"] < 2_000 < faults["default"]
