# SPDX-License-Identifier: Apache-2.0
"""Everything at once, and the same thing again and again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import tritonclient.grpc as triton

from benchmarks.figures import Figures
from benchmarks.reliability.load import Load, inputs, probe, reference, right, tensors
from benchmarks.reliability.scenarios import callers
from benchmarks.reliability.service import Service, wait_for


def everything(service: Service, n_rounds: int = 12, first: int = 0) -> Figures:
    """Callers who retry, while others are killed, give up or are too many, releases are swapped and steps die.

    Two of these at a time, the next two in the next round, from the `first` pair on.
    """
    load = Load(service.url, 60.0, right(reference(service.url)), n_callers=3)
    steps: list[Callable[[], object]] = [
        lambda: callers.abandoned(service, 12),
        lambda: callers.overflow(service, 100),
        lambda: callers.killed_callers(service, 2),
        lambda: _swap(service),
        lambda: _kill(service, "estimate"),
    ]
    begin = time.monotonic()
    with load.running():
        wait_for(lambda: len(load.order) == load.n_callers and all(load.order.values()))  # who has met a server waits
        for k in range(first, first + n_rounds):
            together = [threading.Thread(target=steps[(k + j) % len(steps)]) for j in (0, 1)]
            for thread in together:
                thread.start()
            for thread in together:
                thread.join()
    return {
        "rounds": n_rounds,
        **load.figures(),
        "errors": dict(Counter(load.failures).most_common(3)),
        "well_afterwards": bool(wait_for(lambda: not probe(service.url))),
        "deaths": len(service.events("died")),
        "seconds": round(time.monotonic() - begin, 1),
    }


def memory_of_swaps(service: Service, n_swaps: int = 20) -> Figures:
    """The same release again and again: memory after the second, with each step asked, and what came since."""

    def memory() -> dict[str, float]:
        with triton.InferenceServerClient(service.url) as client:
            for _ in range(5):
                client.infer("covariance", inputs(tensors(20, 60, 0)))
        return service.memory_mb()

    found = []
    for k in range(n_swaps):
        _swap(service)
        if k in (1, n_swaps - 1):
            time.sleep(3.0)  # Triton lets the old processes end in their own time
            found.append(memory())
    return {
        "swaps": n_swaps,
        "mb_after_two": {name: round(mb, 1) for name, mb in found[0].items()},
        "mb_grown_since": {name: round(found[-1][name] - found[0][name], 1) for name in found[0]},
    }


def _swap(service: Service) -> None:
    """A release like the one that is served; a server that dies meanwhile takes none."""
    before = len(service.events("swapped")) + len(service.events("swap_failed"))
    service.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(service.events("swapped")) + len(service.events("swap_failed")) > before, 120)


def _kill(service: Service, victim: str) -> None:
    found = [pid for name, pid in service.processes().items() if name.startswith(victim)]
    if found:  # else it is being started again
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
    wait_for(lambda: not probe(service.url, 1.0))
