# SPDX-License-Identifier: Apache-2.0
"""What is measured of the running service, beside Triton's own metrics; ``docs/metrics.md`` is written from here."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A Prometheus metric."""

    name: str
    kind: str  # counter or gauge
    help: str
    labels: tuple[str, ...] = ()


READY = Metric("sigmahat_ready", "gauge", "1 while the service answers, 0 while it starts, restarts or stops.")
RELEASE = Metric("sigmahat_release", "gauge", "Release that is served; 1 at the start, one more after each swap.")
RESTARTS = Metric("sigmahat_restarts_total", "counter", "Times that the server was started again.")
DEATHS = Metric("sigmahat_deaths_total", "counter", "Times that the server died, or was ended because it was unwell.")
STUCK = Metric("sigmahat_stuck_total", "counter", "Times that a step had work and did not get on.")
BUSY = Metric("sigmahat_busy_total", "counter", "Times that a probe had to wait while the steps got on.")
SWAPS = Metric("sigmahat_swaps_total", "counter", "Releases that were to replace another.", ("result",))

SUPERVISOR = (READY, RELEASE, RESTARTS, DEATHS, STUCK, BUSY, SWAPS)
