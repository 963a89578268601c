# SPDX-License-Identifier: Apache-2.0
"""How long requests queued and computed in each step of the ensembles, from Triton's statistics.

perf_analyzer's own "Server Queue" is the ensemble's, which never queues: its steps do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.levels import StepTime

_TIMEOUT_S = 10.0

_RELEASE = re.compile(r"-r\d+$")
"""What `sigmahat serve` puts behind the name of a step, so that two releases can be loaded at once."""

ASKED = ("shrinkage", "covariance")
"""Models that a load test may ask: one request does for both."""

ENSEMBLES = (*ASKED, "risk")

_COUNTS_UNIVERSES = "member_1"
"""A step whose batch is a request's universes."""


class Counts(NamedTuple):
    """Of one model since its server started, times in nanoseconds."""

    requests: int
    failures: int
    rows: int
    executions: int
    queue_ns: int
    compute_ns: int

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """Add, or with `sign` -1 subtract, number by number."""
        return Counts(*(mine + sign * yours for mine, yours in zip(self, other, strict=True)))


Snapshot = dict[str, Counts]

_ZERO = Counts(0, 0, 0, 0, 0, 0)


def snapshot(urls: Sequence[str]) -> Snapshot:
    """Ask all servers for their statistics, and add them up by model; releases of one model count as one.

    Raises
    ------
    LoadTestError
        If a server does not say.
    """
    counts: Snapshot = {}
    for url in urls:
        try:
            with triton.InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)]) as client:
                statistics = client.get_inference_statistics(client_timeout=_TIMEOUT_S)
        except InferenceServerException as error:
            raise LoadTestError(f"{url} does not give its statistics: {error.message()}") from error
        for model in statistics.model_stats:
            name = step_name(model.name)
            counts[name] = counts.get(name, _ZERO).plus(_counts(model))
    return counts


def step_name(model: str) -> str:
    """The step, or ensemble, that a loaded model is a release of.

    >>> step_name("features-r2"), step_name("covariance")
    ('features', 'covariance')
    """
    return _RELEASE.sub("", model)


def between(before: Snapshot, after: Snapshot) -> Snapshot:
    """What happened between two snapshots; models that were not asked are left out."""
    changes = {name: counts.plus(before.get(name, _ZERO), -1) for name, counts in after.items()}
    return {name: change for name, change in changes.items() if change.requests or change.failures}


def step_times(change: Snapshot) -> tuple[StepTime, ...]:
    """Means of the steps, without the ensembles, whose times are those of their steps."""
    return tuple(
        StepTime(
            step=name,
            requests=counts.requests,
            batch=counts.rows / max(counts.executions, 1),
            queue_ms=counts.queue_ns / 1e6 / counts.requests,
            compute_ms=counts.compute_ns / 1e6 / counts.requests,
        )
        for name, counts in change.items()
        if name not in ENSEMBLES and counts.requests
    )


def universes_per_request(change: Snapshot) -> float:
    """Mean number of universes of the requests that the members answered."""
    asked = sum(change[name].requests for name in ENSEMBLES if name in change)
    return change.get(_COUNTS_UNIVERSES, _ZERO).rows / max(asked, 1)


def failures(change: Snapshot) -> int:
    """Requests that the servers did not answer well."""
    return sum(change[name].failures for name in ENSEMBLES if name in change)


def _counts(model: Any) -> Counts:
    statistics = model.inference_stats
    compute = (statistics.compute_input, statistics.compute_infer, statistics.compute_output)
    return Counts(
        requests=statistics.success.count,
        failures=statistics.fail.count,
        rows=model.inference_count,
        executions=model.execution_count,
        queue_ns=statistics.queue.ns,
        compute_ns=sum(duration.ns for duration in compute),
    )
