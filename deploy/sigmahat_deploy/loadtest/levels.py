# SPDX-License-Identifier: Apache-2.0
"""What was measured at one level of load, and what follows of all levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

WINDOWS = 3
"""A level is measured in so many parts, whose throughputs are compared."""

STEADY = 0.1
"""Parts of one level whose throughputs differ by no more than this share, or no more than by chance, are steady."""

_BY_CHANCE = 3.3
"""Three normal draws lie within so many standard deviations, 19 times in 20."""

MAX_DELAYED = 0.01
"""A level at which the tool sent more than this share of its requests late says little about the server."""


@dataclass(frozen=True)
class Latency:
    """Of the answered requests for one model."""

    model: str
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class StepTime:
    """Mean of one step of the ensembles, all servers together, by Triton's own statistics."""

    step: str
    requests: int
    batch: float  # rows that one execution computed: universes for a member
    queue_ms: float
    compute_ms: float  # of a request, input and output included


@dataclass(frozen=True)
class Level:
    """One level of load. `asked` is in requests in flight (closed loop) or requests a second (Poisson)."""

    tool: Literal["perf_analyzer", "open loop"]
    load: Literal["closed", "poisson"]
    asked: float
    seconds: float  # counted
    latencies: tuple[Latency, ...] = ()  # a model each; none if nothing could be measured
    universes_per_s: float = 0.0
    refused: int = 0
    failed: int = 0
    delayed: float = 0.0  # share of the requests that the tool sent late
    spread: float = 0.0  # (largest - smallest) / mean throughput of the level's windows
    steps: tuple[StepTime, ...] = ()
    problem: str = ""  # why nothing was measured

    @property
    def requests_per_s(self) -> float:
        """Answered, of all models."""
        return sum(latency.requests_per_s for latency in self.latencies)

    @property
    def p99_ms(self) -> float:
        """Of the slowest model."""
        return max((latency.p99_ms for latency in self.latencies), default=float("inf"))

    @property
    def steady(self) -> bool:
        """Whether the level's windows agree, as far as the number of their requests lets them."""
        n_requests = self.requests_per_s * self.seconds / WINDOWS
        return self.spread <= max(STEADY, _BY_CHANCE / max(n_requests, 1) ** 0.5)

    def meets(self, objective_ms: float) -> bool:
        """Whether every request was answered, the slowest model's p99 is within the objective, and the tool on time."""
        answered = bool(self.latencies) and not self.refused and not self.failed
        return answered and self.delayed <= MAX_DELAYED and self.p99_ms <= objective_ms


def spread(windows: Sequence[float]) -> float:
    """How far the throughputs of a level's windows lie apart, as a share of their mean.

    >>> spread([90.0, 100.0, 110.0])
    0.2
    """
    mean = sum(windows) / len(windows) if windows else 0.0
    return (max(windows) - min(windows)) / mean if mean else 0.0


def knee(levels: Sequence[Level]) -> Level | None:
    """The first closed-loop level after which throughput grows by less than 5 % while p99 grows by more than half.

    >>> def at(in_flight, rate, p99):
    ...     return Level("perf_analyzer", "closed", in_flight, 6, (Latency("m", rate, 0, 0, p99),), rate)
    >>> knee([at(1, 50, 20), at(2, 95, 22), at(4, 98, 41), at(8, 99, 80)]).asked
    2
    """
    closed = sorted((level for level in levels if level.load == "closed" and level.latencies), key=lambda x: x.asked)
    for here, further in pairwise(closed):
        if further.universes_per_s < 1.05 * here.universes_per_s and further.p99_ms > 1.5 * here.p99_ms:
            return here
    return None


def capacity(levels: Sequence[Level], objective_ms: float) -> Level | None:
    """The Poisson level with the highest throughput among those that meet the objective."""
    good = [level for level in levels if level.load == "poisson" and level.meets(objective_ms)]
    return max(good, key=lambda level: level.universes_per_s, default=None)
