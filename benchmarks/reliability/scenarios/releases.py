# SPDX-License-Identifier: Apache-2.0
"""The release is replaced under load, and the server ends while it has work."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton

from benchmarks.figures import Figures
from benchmarks.reliability.load import Load, in_process, inputs, panel, probe, same, universes
from benchmarks.reliability.service import Service, wait_for
from sigmahat_client import Estimates
from sigmahat_kernels.manifest import write_manifest


def hot_swap(service: Service, n_swaps: int = 1) -> Figures:
    """Replace the release under load, without client retries; each answer must be of one release, never back again."""
    known = [in_process(service.repository)]
    first = len(service.events("swapped"))

    def have_swapped(n: int) -> bool:
        return len(service.events("swapped")) == n

    def which(answer: Estimates, question: int) -> str:
        found = [str(k) for k, answers in enumerate(known) if same(answer, answers[question])]
        return found[0] if len(found) == 1 else "unknown" if not found else "several"

    answers: list[tuple[Estimates, int]] = []
    lock = threading.Lock()

    def keep(answer: Estimates, question: int) -> str:
        with lock:
            answers.append((answer, question))  # the new release's own answers are known only later
            return str(len(answers) - 1)

    load = Load(service.url, 0.0, keep, n_callers=3)
    seconds = []
    with load.running():
        for k in range(n_swaps):
            time.sleep(1.0)
            write_other_release(service.repository, seed=first + k)
            known.append(in_process(service.repository))
            service.process.send_signal(signal.SIGHUP)
            wait_for(partial(have_swapped, first + k + 1))
            seconds.append(service.events("swapped")[-1]["seconds"])
            time.sleep(1.0)
    kinds = [which(answer, question) for answer, question in answers]
    backwards = 0
    for indices in load.order.values():
        seen = [int(kinds[int(k)]) for k in indices if kinds[int(k)].isdigit()]
        backwards += sum(after < before for before, after in pairwise(seen))
    counts = Counter(kinds)
    return {
        "swaps": n_swaps,
        "answered": len(kinds),
        "lost": len(load.failures),
        "mixed": counts["unknown"],
        "told_apart": counts["several"] == 0,
        "old_after_new": backwards,
        "of_each_release": [counts[str(k)] for k in range(n_swaps + 1)],
        "swap_s": seconds,
        "longest_s": round(max(load.seconds), 2),
    }


def write_other_release(repository: Path, seed: int) -> None:
    """Change every member a little, each differently, so that the answers of two releases, and any mix, differ."""
    rng = np.random.default_rng(seed)
    members = sorted(repository.glob("member_*/1/model.onnx"))
    for path in members:
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.ndim == 1 and tensor.name.endswith("output.bias"):
                moved = (values + rng.uniform(0.5, 1.0) * rng.choice([-1.0, 1.0], values.shape)).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        onnx.save(model, path)
    write_manifest(repository, sorted(repository.glob("member_*/1/*.onnx")))


def drain(service: Service) -> Figures:
    """SIGTERM while long requests are under way: they are answered, new ones refused, and the server ends with 0."""
    asked = inputs({"PANEL": panel()[:252], "UNIVERSES": universes(300, 150, 0)})
    outcomes: list[str] = []
    with triton.InferenceServerClient(service.url) as client:

        def note(result: Any, error: Any) -> None:
            outcomes.append("answered" if error is None else str(error))

        for _ in range(6):
            client.async_infer("covariance", asked, note)
        time.sleep(0.7)
        answered_before = len(outcomes)
        begin = time.monotonic()
        service.process.terminate()
        time.sleep(0.3)
        late = probe(service.url)
        wait_for(lambda: len(outcomes) == 6, 90)
        code = service.process.wait(timeout=90)
    return {
        "under_way": 6 - answered_before,
        "lost": sum(outcome != "answered" for outcome in outcomes),
        "outcomes": dict(Counter(outcomes)),
        "late_request": late,
        "exit_code": code,
        "seconds": round(time.monotonic() - begin, 2),
        "left_in_shared_memory": len(list(Path("/dev/shm").glob(f"sigmahat_{service.process.pid}_*"))),
    }
