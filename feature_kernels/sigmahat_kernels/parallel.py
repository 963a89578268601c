# SPDX-License-Identifier: Apache-2.0
"""Python threads over independent pieces of work, with BLAS held to one thread inside each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from sigmahat_kernels import heartbeat
from sigmahat_kernels.backend import Array, array_namespace

T = TypeVar("T")

Pause = Callable[[], None]
"""Called between slices of work, by every thread that computes: it may wait for others, or raise to stop the work."""


def go_on() -> None:
    """Make no pause: what is alone in its process waits for nobody."""


def available_threads() -> int:
    """Cores that this process may use; all of the machine where the system (macOS, Windows) does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(panel: Array, threads: int | None) -> int:
    """Python threads for what is computed where a panel lies: as many as asked for, by default one a core.

    On a GPU always that of the caller: the work is not on this side, and another thread would begin on another device.
    """
    return threads or available_threads() if array_namespace(panel) is np else 1


def for_each(work: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call `work` on every item; NumPy's stacked solvers release the GIL, so threads really run side by side."""
    items = list(items)
    if min(threads, len(items)) <= 1:  # a pool costs as much as a small universe
        for item in items:
            work(item)
            heartbeat.beat()
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            heartbeat.beat()


def for_each_group(work: Callable[[T, int], None], groups: Sequence[T], threads: int) -> None:
    """Call `work(group, threads)` on every group: threads go over the groups if there are enough, else inside each.

    BLAS threads inside one small matrix cost up to twenty times the matrix itself, so BLAS is held to one.
    """
    with _blas().limit(limits=1):
        if len(groups) >= threads:
            for_each(lambda group: work(group, 1), groups, threads)
        else:
            for group in groups:
                work(group, threads)


@cache
def _blas() -> ThreadpoolController:
    """Finding the loaded libraries takes milliseconds, so it is done once."""
    return ThreadpoolController()
