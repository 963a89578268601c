# SPDX-License-Identifier: Apache-2.0
"""Small calls beside one large request."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from benchmarks.figures import Figures, four_digits
from benchmarks.reliability.load import inputs, tensors
from benchmarks.reliability.service import Service

LARGE = {  # model, universes, assets, columns of the panel
    "covariance_u400_n100": ("covariance", 400, 100, 200),
    "shrinkage_u4096_n200": ("shrinkage", 4096, 200, 500),
    "covariance_u1000_n500": ("covariance", 1000, 500, 500),
}


def fairness(service: Service, n_calls: int = 400) -> Figures:
    """Milliseconds of calls of one universe, idle and beside each request, and what these lose by it.

    Each request is sent again until there are `n_calls` beside it: of fewer the 99th percentile is the worst but one.
    """
    asked = inputs(tensors(1, 20, 0))
    with triton.InferenceServerClient(service.url) as client:

        def small(n: int) -> list[float]:
            found: list[float] = []
            while len(found) < n:
                begin = time.monotonic()
                client.infer("shrinkage", asked)
                found.append(1e3 * (time.monotonic() - begin))
                time.sleep(0.01)
            return found

        def large(model: str, given: list[Any], seconds: list[float]) -> None:
            begin = time.monotonic()
            client.infer(model, given)
            seconds.append(time.monotonic() - begin)

        def again(model: str, given: list[Any], seconds: list[float], enough: threading.Event) -> None:
            while not enough.is_set():
                large(model, given, seconds)

        small(20)
        idle = small(n_calls)
        figures: Figures = {"idle_p50_ms": _at(idle, 0.5), "idle_p99_ms": _at(idle, 0.99)}
        for name, (model, *shape) in LARGE.items():
            given, seconds = inputs(draw(*shape)), list[float]()
            large(model, given, seconds)
            enough = threading.Event()
            thread = threading.Thread(target=again, args=(model, given, seconds, enough))
            thread.start()
            beside = small(n_calls)
            enough.set()
            thread.join()
            figures[name] = {
                "worst_ms": _at(beside, 1.0),
                "p50_ms": _at(beside, 0.5),
                "p99_ms": _at(beside, 0.99),
                "within_bound": bool(np.quantile(beside, 0.99) <= 3 * np.quantile(idle, 0.99) + 100.0),
                "large_alone_s": four_digits(seconds[0]),
                "large_beside_s": four_digits(float(np.median(seconds[1:]))),
            }
    return figures


def draw(n_universes: int, n_assets: int, n_columns: int) -> dict[str, np.ndarray]:
    """A request of normal returns over 252 rows."""
    rng = np.random.default_rng(0)
    lists = [rng.choice(n_columns, n_assets, replace=False) for _ in range(n_universes)]
    panel = rng.normal(0.0, 0.01, (252, n_columns)).astype(np.float32)
    return {"PANEL": panel, "UNIVERSES": np.array(lists, np.int32)}


def _at(values: list[float], level: float) -> float:
    return four_digits(float(np.quantile(values, level)))
