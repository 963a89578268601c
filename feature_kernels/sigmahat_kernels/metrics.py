# SPDX-License-Identifier: Apache-2.0
"""The engine's own metrics: what there is, as data, and the counting of it inside a model's process.

They go out through the custom metrics of Triton's Python backend, so they stand beside Triton's own on its one port and
live as long as the server, whatever release its models are of. A call of that interface takes 20 us, and its histograms
take one value a call: here counts are kept in the process, sent once a second, and a histogram is the counters that
Prometheus makes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.combine import Combined
from sigmahat_kernels.status import Status, WarningFlag

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Metric(NamedTuple):
    """What is published under one name."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds of a histogram, without infinity


UNIVERSES = Metric("sigmahat_universes_total", COUNTER, "Universes answered, by the name of their STATUS", ("status",))
WARNED = Metric(
    "sigmahat_warnings_total",
    COUNTER,
    "Universes answered with a flag in WARNINGS, by the name of the flag; one with several counts under each",
    ("warning",),
)
REFUSED = Metric(
    "sigmahat_requests_refused_total",
    COUNTER,
    "Requests refused: queue (full), limit (cost), invalid (cannot be read), deadline (time is over)",
    ("step", "reason"),
)
SECONDS = Metric(
    "sigmahat_step_seconds_total",
    COUNTER,
    "Seconds from the arrival of a request at a step to its answer, waiting for others included",
    ("step",),
)
REQUESTS = Metric("sigmahat_step_requests_total", COUNTER, "Requests that a step has answered", ("step",))
COST = Metric(
    "sigmahat_cost_ms_total", COUNTER, "Estimated cost of what a step has answered, in ms of one core", ("step",)
)
QUEUED_COST = Metric(
    "sigmahat_queued_cost_ms", GAUGE, "Estimated cost of what waits or is computed, in ms of one core", ("step",)
)
QUEUED = Metric("sigmahat_queued_requests", GAUGE, "Requests that wait or are computed", ("step",))
INTENSITY = Metric(
    "sigmahat_intensity",
    HISTOGRAM,
    "Shrinkage intensity of good universes",
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
)
UNCERTAINTY = Metric(
    "sigmahat_uncertainty",
    HISTOGRAM,
    "Standard deviation of EXPECTED_ERROR of good universes, aleatoric and epistemic",
    ("kind",),
    (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
)
STEPS = (UNIVERSES, WARNED, REFUSED, SECONDS, REQUESTS, COST, QUEUED_COST, QUEUED, INTENSITY, UNCERTAINTY)

READY = Metric("sigmahat_ready", GAUGE, "1 while the service answers, 0 while it starts, restarts or stops")
RELEASE = Metric("sigmahat_release", GAUGE, "Release that is served; 1 at the start, one more after each swap")
RESTARTS = Metric("sigmahat_restarts_total", COUNTER, "Times that the server was started again")
DEATHS = Metric("sigmahat_deaths_total", COUNTER, "Times that the server died, or was ended because it was unwell")
STUCK = Metric("sigmahat_stuck_total", COUNTER, "Times that a step had work and did not get on")
BUSY = Metric("sigmahat_busy_total", COUNTER, "Times that a probe had to wait while the steps got on")
SWAPS = Metric("sigmahat_swaps_total", COUNTER, "Releases that were to replace another", ("result",))
SUPERVISOR = (READY, RELEASE, RESTARTS, DEATHS, STUCK, BUSY, SWAPS)

Labels = tuple[tuple[str, str], ...]


class Series(NamedTuple):
    """One line that Prometheus reads."""

    name: str
    kind: str  # COUNTER or GAUGE
    help: str
    labels: Labels


class Meters:
    """Counts of this process, sent once a second by a thread of its own.

    Parameters
    ----------
    send : callable
        Given a series and what to add to it, or for a gauge what it is now.
    """

    def __init__(self, send: Callable[[Series, float], None]) -> None:
        self._send = send
        self._lock = Lock()
        self._waiting: dict[Series, float] = {}
        self._ended = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Count."""
        self._add([(Series(metric.name, COUNTER, metric.help, tuple(labels.items())), value)])

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Say what a gauge is."""
        with self._lock:
            self._waiting[Series(metric.name, GAUGE, metric.help, tuple(labels.items()))] = value

    def observe(self, metric: Metric, values: np.ndarray, **labels: str) -> None:
        """Count values into the buckets of a histogram, each of which holds those below it too."""
        given = tuple(labels.items())
        bounds = np.array([*metric.buckets, np.inf])
        counts = np.searchsorted(np.sort(values), bounds, side="right").tolist()
        self._add(
            [
                *(
                    (Series(f"{metric.name}_bucket", COUNTER, metric.help, (*given, ("le", _bound(bound)))), count)
                    for bound, count in zip(bounds.tolist(), counts, strict=True)
                ),
                (Series(f"{metric.name}_sum", COUNTER, metric.help, given), float(values.sum())),
                (Series(f"{metric.name}_count", COUNTER, metric.help, given), len(values)),
            ]
        )

    def _add(self, counted: Iterable[tuple[Series, float]]) -> None:
        with self._lock:
            for series, value in counted:
                self._waiting[series] = self._waiting.get(series, 0.0) + value

    def flush(self) -> None:
        """Send what was counted since the last time."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for series, value in waiting.items():
            self._send(series, value)

    def close(self) -> None:
        """Send the rest."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(1.0):
            self.flush()
        self.flush()


def observe_answers(meters: Meters, combined: Combined, status: np.ndarray) -> None:
    """Count the universes that were answered, and what good ones were told."""
    for code, n in zip(*np.unique(status, return_counts=True), strict=True):
        meters.add(UNIVERSES, n, status=Status(code).name)
    good = status == Status.GOOD
    meters.observe(INTENSITY, combined.intensity[good])
    for kind, values in zip(("aleatoric", "epistemic"), combined.uncertainty[good].T, strict=True):
        meters.observe(UNCERTAINTY, values, kind=kind)


def observe_warnings(meters: Meters, warnings: np.ndarray) -> None:
    """Count the universes that were answered with each flag; `warnings` are WARNINGS, of shape (n,)."""
    for flag in WarningFlag if warnings.any() else ():
        meters.add(WARNED, np.count_nonzero(warnings & flag), warning=flag.name or "")


def triton_sender(pb_utils: Any) -> Callable[[Series, float], None]:
    """Send into Triton's custom metrics; families and series are made when they are first sent."""
    families: dict[str, Any] = {}
    made: dict[Series, Any] = {}

    def send(series: Series, value: float) -> None:
        if series not in made:
            kinds = {COUNTER: pb_utils.MetricFamily.COUNTER, GAUGE: pb_utils.MetricFamily.GAUGE}
            if series.name not in families:
                families[series.name] = pb_utils.MetricFamily(
                    name=series.name, description=series.help, kind=kinds[series.kind]
                )
            made[series] = families[series.name].Metric(labels=dict(series.labels))
        if series.kind == GAUGE:
            made[series].set(value)
        else:
            made[series].increment(value)

    return send


def _bound(value: float) -> str:
    return "+Inf" if np.isinf(value) else f"{value:g}"
