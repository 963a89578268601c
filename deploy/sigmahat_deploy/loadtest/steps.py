# SPDX-License-Identifier: Apache-2.0
"""How long requests queued and computed in each step, from Triton's statistics and the engine's metrics.

perf_analyzer's own "Server Queue" is the ensemble's, which never queues: its steps do. Triton knows its own steps; what
the engine does inside of one is in the metrics, if they can be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple

from tritonclient.utils import InferenceServerException

from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.levels import StepTime
from sigmahat_deploy.loadtest.servers import Servers

_TIMEOUT_S = 10.0

_RELEASE = re.compile(r"-r\d+$")
"""What `sigmahat serve` puts behind the name of a step, so that two releases can be loaded at once."""

ASKED = ("shrinkage", "covariance")
"""Models that a load test may ask: one request does for both."""

ENSEMBLES = (*ASKED, "risk")

_PART = re.compile(r'^sigmahat_step_(seconds|requests)_total\{step="([^"]+)"\} (\S+)$', re.MULTILINE)


class Counts(NamedTuple):
    """Of one model since its server started, times in nanoseconds."""

    requests: int = 0
    failures: int = 0
    rows: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """Add, or with `sign` -1 subtract, number by number."""
        return Counts(*(mine + sign * yours for mine, yours in zip(self, other, strict=True)))


Models = dict[str, Counts]


class Snapshot(NamedTuple):
    """All servers together."""

    models: Models  # by Triton
    parts: Models  # requests and time, by the engine; where it does not say, empty


_ZERO = Counts()


def snapshot(servers: Servers) -> Snapshot:
    """Ask all servers for their statistics, and add them up by model; releases of one model count as one.

    Raises
    ------
    LoadTestError
        If a server does not say.
    """
    counts: Models = {}
    for url in servers.urls:
        try:
            with servers.client(url) as client:
                statistics = client.get_inference_statistics(client_timeout=_TIMEOUT_S)
        except InferenceServerException as error:
            raise LoadTestError(f"{url} does not give its statistics: {error.message()}") from error
        for model in statistics.model_stats:
            name = step_name(model.name)
            counts[name] = counts.get(name, _ZERO).plus(_counts(model))
    return Snapshot(counts, _parts(servers.metrics))


def _parts(addresses: Sequence[str]) -> Models:
    parts: Models = {}
    for address in addresses:
        for what, step, value in _PART.findall(_metrics(address)):
            counted = (
                Counts(requests=int(float(value))) if what == "requests" else Counts(compute_ns=int(1e9 * float(value)))
            )
            parts[step] = parts.get(step, _ZERO).plus(counted)
    return parts


def _metrics(address: str) -> str:
    """What Prometheus would read; nothing where that cannot be reached, such as from outside of a server with TLS."""
    connection = HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()


def step_name(model: str) -> str:
    """The step, or ensemble, that a loaded model is a release of.

    >>> step_name("features-r2"), step_name("covariance")
    ('features', 'covariance')
    """
    return _RELEASE.sub("", model)


def between(before: Snapshot, after: Snapshot) -> Snapshot:
    """What happened between two snapshots; models that were not asked are left out."""
    return Snapshot(*map(_between, before, after))


def _between(before: Models, after: Models) -> Models:
    changes = {name: counts.plus(before.get(name, _ZERO), -1) for name, counts in after.items()}
    return {name: change for name, change in changes.items() if change.requests or change.failures}


def step_times(change: Snapshot) -> tuple[StepTime, ...]:
    """Means of the steps, without the ensembles, whose times are those of their steps.

    Where one step does all, its time is that of its parts; what they do not explain, it waited for its turn.
    """
    steps = {name: counts for name, counts in change.models.items() if name not in ENSEMBLES and counts.requests}
    times = [_step_time(name, counts) for name, counts in steps.items()]
    parts = {name: counts for name, counts in change.parts.items() if name not in steps and counts.requests}
    if len(times) != 1 or not parts:
        return tuple(times)
    (whole,) = times
    computed_ms = sum(counts.compute_ns for counts in parts.values()) / 1e6
    computed_ms /= max(counts.requests for counts in parts.values())
    waited_ms = max(whole.queue_ms + whole.compute_ms - computed_ms, 0.0)
    return (
        replace(whole, queue_ms=waited_ms, compute_ms=0.0),
        *(replace(_step_time(name, counts), batch=whole.batch) for name, counts in parts.items()),
    )


def _step_time(name: str, counts: Counts) -> StepTime:
    return StepTime(
        step=name,
        requests=counts.requests,
        batch=counts.rows / max(counts.executions, 1),
        queue_ms=counts.queue_ns / 1e6 / counts.requests,
        compute_ms=counts.compute_ns / 1e6 / counts.requests,
    )


def failures(change: Snapshot) -> int:
    """Requests that the servers did not answer well."""
    return sum(change.models[name].failures for name in ENSEMBLES if name in change.models)


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
