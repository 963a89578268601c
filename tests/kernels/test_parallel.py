# SPDX-License-Identifier: Apache-2.0
"""Threads over items and groups: every item once, errors reach the caller, BLAS is held to one thread and let go."""

from __future__ import annotations

import os
import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sigmahat_kernels import parallel
from sigmahat_kernels.parallel import available_threads, for_each, for_each_group


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_once(threads):
    seen = []
    for_each(seen.append, iter(range(50)), threads)
    assert sorted(seen) == list(range(50))


def test_one_thread_works_in_order_in_the_callers_thread():
    seen = []
    for_each(lambda item: seen.append((item, threading.get_ident())), range(5), 1)
    assert seen == [(item, threading.get_ident()) for item in range(5)]


def test_threads_run_side_by_side():
    meeting = threading.Barrier(2, timeout=20)  # broken, and an error here, if the items come one after the other
    for_each(lambda _: meeting.wait(), range(2), 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_error_reaches_the_caller(threads):
    with pytest.raises(ZeroDivisionError):
        for_each(lambda item: 1 // item, [1, 0, 2], threads)
    with pytest.raises(ZeroDivisionError):
        for_each_group(lambda item, _: 1 // item, [1, 0, 2], threads)


@pytest.mark.parametrize(("n_groups", "threads", "inside"), [(3, 2, 1), (2, 2, 1), (1, 2, 2), (2, 4, 4), (3, 1, 1)])
def test_threads_go_over_groups_if_there_are_enough_else_inside_each(n_groups, threads, inside):
    calls = []
    for_each_group(lambda group, n: calls.append((group, n)), list(range(n_groups)), threads)
    assert sorted(calls) == [(group, inside) for group in range(n_groups)]


def test_no_groups():
    for_each_group(lambda group, threads: pytest.fail("called"), [], 2)


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_is_held_to_one_thread_and_let_go_again():
    parallel._blas.cache_clear()  # it knows the libraries that were loaded when it was first asked
    seen = []
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        for_each_group(lambda group, threads: seen.append(blas_threads()), [0, 1], 1)
        assert blas_threads() == before
    assert seen == [{1}, {1}]


def test_available_threads_are_those_of_this_process():
    assert available_threads() == len(os.sched_getaffinity(0)) >= 1


def test_all_cores_count_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_threads() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1
