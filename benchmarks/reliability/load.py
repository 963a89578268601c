# SPDX-License-Identifier: Apache-2.0
"""What callers send, and callers that send it again and again and judge each answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from benchmarks.figures import ROOT, Figures
from sigmahat_client import Estimates, ShrinkageClient, SigmahatError

EXTRACT = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"

N_QUESTIONS = 6
"""That a `Load` asks in turn, so that the right answers can be known beforehand."""


def panel() -> np.ndarray:
    """Simple returns of 200 US stocks, (504, 200) float32."""
    with np.load(EXTRACT, allow_pickle=False) as file:
        return np.ascontiguousarray(file["ret"][:504], np.float32)


def universes(n: int, size: int, seed: int) -> np.ndarray:
    """Lists of distinct columns of `panel`, (n, size) int32."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(200, size, replace=False) for _ in range(n)]).astype(np.int32)


def tensors(n: int, size: int, seed: int) -> dict[str, np.ndarray]:
    """One request, as the server reads it."""
    return {"PANEL": panel()[:252], "UNIVERSES": universes(n, size, seed)}


def inputs(arrays: dict[str, np.ndarray]) -> list[triton.InferInput]:
    """For tritonclient."""
    kinds = {"f": "FP32", "i": "INT32"}
    found = [triton.InferInput(name, list(array.shape), kinds[array.dtype.kind]) for name, array in arrays.items()]
    for tensor, array in zip(found, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return found


def probe(url: str, timeout_s: float = 5.0) -> str:
    """Ask for one universe; return what was wrong."""
    try:
        with triton.InferenceServerClient(url) as client:
            answer = client.infer("shrinkage", inputs(tensors(1, 20, 0)), client_timeout=timeout_s)
        return "" if answer.as_numpy("STATUS").tolist() == [0] else "a bad status"
    except triton.InferenceServerException as error:
        return str(error)


@dataclass
class Load:
    """Callers that ask again and again, each its own questions, and hold the answers against the right ones."""

    url: str
    retry_s: float
    expected: Callable[[Estimates, int], str]  # what is wrong with the answer to question k, or which release it is of
    n_callers: int = 2
    size: int = 30
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    order: dict[int, list[str]] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Ask while the block runs; every question that was begun is finished."""
        stop = threading.Event()
        callers = [threading.Thread(target=self._call, args=(k, stop)) for k in range(self.n_callers)]
        for caller in callers:
            caller.start()
        try:
            yield self
        finally:
            stop.set()
            for caller in callers:
                caller.join()

    def _call(self, caller: int, stop: threading.Event) -> None:
        returns = panel()[:252]
        seen = self.order.setdefault(caller, [])
        with ShrinkageClient(self.url, retry_s=self.retry_s, deadline_s=60.0, shared_memory=False) as client:
            k = caller
            while not stop.is_set():
                begin = time.monotonic()
                question = k % N_QUESTIONS
                try:
                    answer = client.estimate(returns, universes(4, self.size, question), covariance=True)
                except SigmahatError as error:
                    self.failures.append(f"{type(error).__name__}: {error}"[:200])
                    time.sleep(0.02)
                else:
                    said = self.expected(answer, question)
                    self.answers[said] += 1
                    seen.append(said)
                    self.seconds.append(time.monotonic() - begin)
                k += 1

    def figures(self) -> Figures:
        """Counts, and the longest wait for an answer."""
        return {
            "answered": self.answers["right"],
            "wrong": sum(self.answers.values()) - self.answers["right"],
            "lost": len(self.failures),
            "longest_s": round(max(self.seconds, default=0.0), 2),
        }


def reference(url: str, size: int = 30) -> list[Estimates]:
    """The answers to all questions, undisturbed."""
    returns = panel()[:252]
    with ShrinkageClient(url, shared_memory=False) as client:
        return [client.estimate(returns, universes(4, size, k), covariance=True) for k in range(N_QUESTIONS)]


def in_process(repository: Path, size: int = 30) -> list[Estimates]:
    """The answers to all questions by a repository's own members, without a server."""
    returns = panel()[:252]
    with ShrinkageClient.local(repository) as client:
        return [client.estimate(returns, universes(4, size, k), covariance=True) for k in range(N_QUESTIONS)]


def right(answers: list[Estimates]) -> Callable[[Estimates, int], str]:
    """Hold answers against undisturbed ones."""
    return lambda answer, question: "right" if same(answer, answers[question]) else "wrong"


def same(a: Estimates, b: Estimates, atol: float = 0.01) -> bool:
    """Whether two answers agree as far as int8 does when Triton joins requests to batches of another size."""
    if a.failures or b.failures or a.covariance is None or b.covariance is None:
        return False
    close = np.allclose(a.intensity, b.intensity, atol=atol) and np.allclose(
        a.target_weights, b.target_weights, atol=0.03
    )
    scale = max(np.abs(matrix).max() for matrix in b.covariance)
    return close and all(
        np.allclose(x / scale, y / scale, atol=0.03) for x, y in zip(a.covariance, b.covariance, strict=True)
    )
