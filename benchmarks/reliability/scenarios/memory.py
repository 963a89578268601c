# SPDX-License-Identifier: Apache-2.0
"""Memory: that of a long run, and a /dev/shm that is too small."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import tritonclient.grpc as triton

from benchmarks.figures import Figures
from benchmarks.reliability.load import inputs, panel, universes
from benchmarks.reliability.service import Service, served
from sigmahat_client import InvalidRequest, ShrinkageClient, SigmahatError


def soak(service: Service, n_requests: int = 20_000, n_callers: int = 4) -> Figures:
    """Requests of all kinds and sizes, good and bad; memory when a tenth is done, and at the end."""
    returns = panel()
    counts: Counter[str] = Counter()
    memory: list[dict[str, float]] = []
    todo = iter(range(n_requests))
    lock = threading.Lock()

    def call(caller: int) -> None:
        rng = np.random.default_rng(caller)
        with ShrinkageClient(service.url, deadline_s=120.0) as client:
            while True:
                with lock:
                    k = next(todo, None)
                if k is None:
                    return
                if k in (n_requests // 10, n_requests // 2):
                    memory.append(service.memory_mb())
                n, size, rows = int(rng.integers(1, 9)), int(rng.integers(1, 120)), int(rng.integers(5, 504))
                asked = universes(n, size, k)
                if rng.random() < 0.1:
                    asked[0, 0] = 9_999
                try:
                    answer = client.estimate(returns[:rows], asked, covariance=bool(rng.random() < 0.3))
                    counts["bad_universes"] += len(answer.failures)
                    counts["answered"] += 1
                except InvalidRequest:
                    counts["refused"] += 1
                except SigmahatError:
                    counts["lost"] += 1

    begin = time.monotonic()
    callers = [threading.Thread(target=call, args=(k,)) for k in range(n_callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    memory.append(service.memory_mb())
    growth = {name: round(memory[-1][name] - memory[0][name], 1) for name in memory[0]}
    return {
        "requests": n_requests,
        "lost": counts["lost"],
        **{name: counts[name] for name in ("answered", "refused", "bad_universes")},
        "mb_after_a_tenth": {name: round(mb, 1) for name, mb in memory[0].items()},
        "mb_grown_since": growth,
        "seconds": round(time.monotonic() - begin, 1),
    }


_OWN_SHARED_MEMORY = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh")


def can_mount() -> bool:
    """Whether this user may give a process a /dev/shm of its own."""
    with suppress(FileNotFoundError):
        return subprocess.run([*_OWN_SHARED_MEMORY, "true"], stderr=subprocess.DEVNULL).returncode == 0
    return False


def full_shared_memory() -> Figures:
    """A server whose /dev/shm holds 64 MB: what does not fit is refused, and the rest goes on."""
    outcomes = []
    with served(prefix=_OWN_SHARED_MEMORY) as service:
        large = np.tile(panel(), (1, 240))  # 97 MB
        for returns in (panel()[:252], large, panel()[:252]):
            asked = inputs({"PANEL": np.ascontiguousarray(returns), "UNIVERSES": universes(2, 30, 0)})
            with triton.InferenceServerClient(service.url) as client:
                try:
                    client.infer("shrinkage", asked, client_timeout=30)
                    outcomes.append("answered")
                except triton.InferenceServerException as error:
                    outcomes.append(str(error)[:160])
        deaths = len(service.events("died"))
    return {"small": outcomes[0], "large": outcomes[1], "small_again": outcomes[2], "server_deaths": deaths}
