# SPDX-License-Identifier: Apache-2.0
"""Triton or a Python model's process is killed under load, or in the middle of a long job."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import tritonclient.grpc as triton

from benchmarks.figures import Figures
from benchmarks.reliability.load import Load, inputs, panel, probe, reference, right, same, tensors, universes
from benchmarks.reliability.service import Service, wait_for
from sigmahat_client import ShrinkageClient


def kill(service: Service, victim: str, before_s: float = 1.0, after_s: float = 2.0) -> Figures:
    """SIGKILL "triton" or a Python model's process under load, with callers that retry and callers that do not."""
    answers = right(reference(service.url))
    patient, hasty = Load(service.url, 30.0, answers), Load(service.url, 0.0, answers)
    with patient.running(), hasty.running():
        time.sleep(before_s)
        processes = service.processes()
        pid = next(pid for name, pid in processes.items() if name.partition("-r")[0] == victim)
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        wait_for(lambda: service.processes().get("triton") not in (None, processes["triton"]))
        wait_for(lambda: not probe(service.url, 1.0))
        recovery_s = time.monotonic() - begin
        time.sleep(after_s)
    return {
        "recovery_s": round(recovery_s, 2),
        "with_retries": patient.figures(),
        "without_retries": hasty.figures(),
    }


def kill_in_the_middle(service: Service, victim: str = "estimate", n_requests: int = 8) -> Figures:
    """SIGKILL a step's process while it computes what it has accepted: how soon each caller learns of it, and how.

    A step answers later, by a response sender: when it is gone, Triton has nobody to ask.
    """
    asked = inputs(tensors(400, 150, 0))
    outcomes: list[str] = []
    with triton.InferenceServerClient(service.url) as client:
        for _ in range(n_requests):
            client.async_infer(
                "covariance",
                asked,
                lambda result, error: outcomes.append("answered" if error is None else str(error.status())),
            )
        wait_for(lambda: service.at_work(victim))
        os.kill(next(pid for name, pid in service.processes().items() if name.startswith(victim)), signal.SIGKILL)
        begin = time.monotonic()
        wait_for(lambda: len(outcomes) == n_requests)
        told_s = time.monotonic() - begin
    wait_for(lambda: not probe(service.url, 1.0))
    return {
        "requests": n_requests,
        "outcomes": {code.removeprefix("StatusCode."): n for code, n in Counter(outcomes).items()},
        "told_after_s": round(told_s, 2),
        "recovery_s": round(time.monotonic() - begin, 2),
    }


def kill_during_job(service: Service, n_universes: int = 4_000) -> Figures:
    """SIGKILL Triton in the middle of one long job with matrices; the job's result must be the undisturbed one."""
    returns, asked = panel()[:252], universes(n_universes, 100, 0)
    with ShrinkageClient(service.url, deadline_s=300.0) as client:
        undisturbed = client.estimate(returns, asked, covariance=True)
        killed: list[int] = []

        def progress(done: int, total: int) -> None:
            if not killed:
                killed.append(done)
                os.kill(service.processes()["triton"], signal.SIGKILL)

        begin = time.monotonic()
        answer = client.estimate(returns, asked, covariance=True, progress=progress)
    return {
        "universes": n_universes,
        "killed_after": killed[0],
        "lost": len(answer.failures),
        "wrong": 0 if same(answer, undisturbed) else n_universes,
        "seconds": round(time.monotonic() - begin, 2),
    }
