# SPDX-License-Identifier: Apache-2.0
"""Callers are killed, stop waiting, or are too many."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tritonclient.grpc as triton

from benchmarks.figures import ROOT, Figures
from benchmarks.reliability.load import inputs, probe, tensors
from benchmarks.reliability.service import Service, wait_for


def killed_callers(service: Service, n_callers: int = 30) -> Figures:
    """SIGKILL clients while they wait for an answer; count how often that took the server down."""
    before = len(service.events("died"))
    rng = np.random.default_rng(0)
    for _ in range(n_callers):
        with subprocess.Popen([sys.executable, "-c", _CALLER, service.url], stdout=subprocess.PIPE, cwd=ROOT) as caller:
            assert caller.stdout is not None
            caller.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.3))
            caller.kill()
    wait_for(lambda: not probe(service.url))
    return {"killed": n_callers, "server_deaths": len(service.events("died")) - before}


def abandoned(service: Service, n_requests: int = 40_000, n_callers: int = 6) -> Figures:
    """Requests with a deadline that passes while they are computed, which gRPC then cancels.

    They are computed to their end all the same, so that further ones are refused for a while; these do not count among
    the `n_requests`.
    """
    before = len(service.events("died"))

    def ask(caller: int) -> Counter[str]:
        rng, outcomes = np.random.default_rng(caller), Counter[str]()
        # A connection of its own: callers in one process share one otherwise.
        with triton.InferenceServerClient(service.url, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            while outcomes["deadline_exceeded"] < n_requests // n_callers:
                asked = inputs(tensors(int(rng.integers(1, 10)), int(rng.integers(10, 40)), 0))
                try:
                    client.infer("covariance", asked, client_timeout=rng.uniform(0.002, 0.02))
                    outcomes["answered"] += 1
                except triton.InferenceServerException as error:
                    outcome = str(error.status()).removeprefix("StatusCode.").lower()
                    outcomes[outcome] += 1
                    if outcome == "unavailable":
                        time.sleep(0.05)
        return outcomes

    with ThreadPoolExecutor(n_callers) as pool:
        outcomes = sum(pool.map(ask, range(n_callers)), Counter[str]())
    wait_for(lambda: not probe(service.url))
    return {**outcomes, "server_deaths": len(service.events("died")) - before}


def overflow(service: Service, n_requests: int = 400) -> Figures:
    """Many requests at once: those beyond the queue are refused at once, the others answered, and then all is well."""
    asked = inputs(tensors(20, 100, 0))
    done: list[tuple[float, str]] = []
    with triton.InferenceServerClient(service.url) as client:
        for _ in range(n_requests):
            begin = time.monotonic()
            client.async_infer(
                "shrinkage",
                asked,
                lambda result, error, begin=begin: done.append((time.monotonic() - begin, str(error or ""))),
            )
        wait_for(lambda: len(done) == n_requests, 180)
    refused = [seconds for seconds, error in done if "maximum queue size" in error]
    answered = [seconds for seconds, error in done if not error]
    return {
        "requests": n_requests,
        "answered": len(answered),
        "refused": len(refused),
        "other": n_requests - len(answered) - len(refused),
        "refused_after_s": round(float(np.median(refused)), 3) if refused else None,
        "answered_after_s": round(max(answered), 2),
        "well_afterwards": wait_for(lambda: not probe(service.url), 30) is not None and not probe(service.url),
    }


_CALLER = """
import sys, tritonclient.grpc as triton
from benchmarks.reliability.load import inputs, tensors
client = triton.InferenceServerClient(sys.argv[1])
asked = inputs(tensors(100, 60, 0))
client.infer("shrinkage", asked)
print("asking", flush=True)
while True:
    client.infer("covariance", asked)
"""
