# SPDX-License-Identifier: Apache-2.0
"""Tell a step that has much to do from one that is stuck.

A step gets on when its heartbeat does, or Triton's count of its executions. One that has work, and does not get on for
a while, is stuck, however many requests wait: a stopped process, a loop without an end. So is a server that neither
answers a probe nor gets on anywhere.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

from sigmahat_deploy.server import LocalServer
from sigmahat_kernels import heartbeat

_TIMEOUT_S = 2.0

_SAMPLE = re.compile(r'^(nv_inference_exec_count|nv_inference_pending_request_count)\{model="([^"]+)".*\} (\S+)$', re.M)


class State(NamedTuple):
    """What a step has done and has to do."""

    done: tuple[float, ...]  # changes while it gets on
    has_work: bool


def read_states(server: LocalServer) -> dict[str, State]:
    """Model -> its state.

    Raises
    ------
    OSError, HTTPException
        If Triton does not tell.
    """
    where = urlsplit(server.metrics_url)
    connection = HTTPConnection(where.netloc, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", where.path)
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for metric, model, value in _SAMPLE.findall(text):
        counts[model][metric] += float(value)
    signs = heartbeat.read(server.heartbeats)
    return {
        model: State(
            (counts[model]["nv_inference_exec_count"], *(sign.beats for sign in signs.get(model, ()))),
            counts[model]["nv_inference_pending_request_count"] > 0
            or any(sign.working for sign in signs.get(model, ())),
        )
        for model in counts.keys() | signs.keys()
    }


class Progress:
    """Looks at the steps again and again, and remembers since when each has not got on.

    Parameters
    ----------
    stuck_after_s : float
        Longer than any step works between two beats.
    """

    def __init__(self, stuck_after_s: float) -> None:
        self._stuck_after_s = stuck_after_s
        self._states: dict[str, State] = {}
        self._moved: dict[str, float] = {}  # when a step was last seen to get on, or to have nothing to do
        self._any_moved = time.monotonic()

    def look(self, states: dict[str, State], serving: Iterable[str], unanswered_s: float) -> str:
        """Say what is stuck, if something is.

        Parameters
        ----------
        states : mapping
            As `read_states` gives them; empty if Triton told nothing.
        serving : iterable of str
            Names of the steps that count.
        unanswered_s : float
            For how long a probe has waited for its answer.
        """
        now = time.monotonic()
        for model, state in states.items():
            moved = model not in self._states or state.done != self._states[model].done
            if moved or not state.has_work:
                self._moved[model] = now
            if moved:
                self._any_moved = now
        self._states = states
        counted = set(serving)
        stuck = [m for m in states if m in counted and now - self._moved[m] > self._stuck_after_s]
        if stuck:
            return f"{' and '.join(sorted(stuck))} has work and has not got on for {self._stuck_after_s:g} s"
        if min(unanswered_s, now - self._any_moved) > self._stuck_after_s:
            return f"a probe has waited for {unanswered_s:.0f} s, and no step has got on for {self._stuck_after_s:g} s"
        return ""

    def busy(self, serving: Iterable[str]) -> list[str]:
        """Names of the steps that have work."""
        counted = set(serving)
        return sorted(model for model, state in self._states.items() if model in counted and state.has_work)


Unreachable = (OSError, HTTPException)
"""What `read_states` raises if Triton does not tell."""
