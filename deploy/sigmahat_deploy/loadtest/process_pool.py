# SPDX-License-Identifier: Apache-2.0
"""What a user has today: scikit-learn's LedoitWolf in a process pool, on the same requests."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from threadpoolctl import threadpool_limits

from sigmahat_deploy.loadtest.mix import Tensors


@dataclass(frozen=True)
class PoolFigures:
    """Of one run, on the machine of the load test."""

    processes: int
    universes_per_s: float
    requests_per_s: float


def measure(requests: Sequence[Tensors], seconds: float, processes: int) -> PoolFigures:
    """Fit every universe of the requests, round after round, for at least so many seconds after a round of warm-up.

    A process computes on one thread, has all panels beforehand, and sends the matrices of a request back.
    """
    # Not forked: gRPC's threads, which this process may have, do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_keep, initargs=(tuple(requests),)) as pool:
        list(pool.map(_fit, range(len(requests))))
        started, rounds, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds:
            n_universes = sum(map(len, pool.map(_fit, range(len(requests)))))
            rounds, elapsed = rounds + 1, time.perf_counter() - started
    return PoolFigures(processes, rounds * n_universes / elapsed, rounds * len(requests) / elapsed)


_requests: tuple[Tensors, ...] = ()


def _keep(requests: tuple[Tensors, ...]) -> None:
    global _requests
    _requests = requests
    import_module("sklearn.covariance")  # a library that is loaded later would not be limited
    threadpool_limits(1)


def _fit(k: int) -> np.ndarray:
    """Covariances (n_universes, n_assets, n_assets) of request `k`; a missing return counts as 0, the usual repair."""
    from sklearn.covariance import LedoitWolf

    panel = np.nan_to_num(_requests[k]["PANEL"])
    return np.stack([LedoitWolf().fit(panel[:, universe]).covariance_ for universe in _requests[k]["UNIVERSES"]])
