# SPDX-License-Identifier: Apache-2.0
"""`sigmahat probe`: ask the server on this machine whether it is well, cheaply enough to be asked every few seconds.

It speaks HTTP with the standard library: importing NumPy and gRPC takes several times as long as the rest, and Triton's
HTTP port is there on loopback even where gRPC wants certificates.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import click

from sigmahat_kernels.heartbeat import FOLDER as HEARTBEATS

_TIMEOUT_S = 5.0

_DRAWS = random.Random(0)
_PANEL = [[_DRAWS.gauss(0.0, 0.01) for asset in range(5)] for row in range(64)]
_UNIVERSES = [[0, 1, 2, 3], [1, 2, 4, -1]]  # the second is smaller, so padded
_REQUEST = {
    "parameters": {"timeout": int(_TIMEOUT_S * 1e6)},  # microseconds; then it leaves the queue
    "inputs": [
        {"name": "PANEL", "datatype": "FP32", "shape": [64, 5], "data": _PANEL},
        {"name": "UNIVERSES", "datatype": "INT32", "shape": [2, 4], "data": _UNIVERSES},
    ],
    "outputs": [{"name": "STATUS"}, {"name": "INTENSITY"}],
}

_BUSY = re.compile(r"maximum queue size|timeout expired", re.IGNORECASE)

_WORK_DONE = re.compile(r"^(?:nv_inference_exec_count|nv_inference_request_success)\b.*", re.MULTILINE)
"""Counters that move only when something was computed. Those of failures move by refused probes alone."""


class _Busy(Exception):
    """The server has no time for the probe, which says nothing about its health."""


@click.command()
@click.option("--http", default="127.0.0.1:8000", show_default=True, help="host:port of Triton's HTTP.")
@click.option("--metrics", default="127.0.0.1:8002", show_default=True, help="host:port of Triton's metrics.")
@click.option(
    "--heartbeats",
    envvar=HEARTBEATS,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder in which the steps of the server leave signs of life; a change there is progress too.",
)
@click.option(
    "--or-progress-within-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Pass also a server too busy to answer, as long as it got on with any work in so many seconds.",
)
@click.option(
    "--state",
    default=Path("/tmp/sigmahat-progress.json"),
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that remembers the last progress between two probes.",
)
def probe(http: str, metrics: str, heartbeats: Path | None, or_progress_within_s: float | None, state: Path) -> None:
    """Exit with 0 if the server on this machine is well, with 1 and the reason if not.

    It is well if two small universes are answered rightly within 5 s. A real inference behind long work can be late:
    with --or-progress-within-s a late answer passes while counters of finished work or heartbeats move. An answer that
    is wrong, an error and a refused connection never pass.
    """
    try:
        _check(_infer(http))
        state.unlink(missing_ok=True)
    except _Busy as busy:
        if or_progress_within_s is None:
            raise click.ClickException(str(busy)) from busy
        try:
            signs = _signs_of_progress(_ask(metrics, "GET", "/metrics").decode(), heartbeats)
        except _Busy as silent:
            raise click.ClickException(f"{busy}, and its metrics: {silent}") from silent
        stood_s = _seconds_unchanged(signs, state)
        if stood_s > or_progress_within_s:
            raise click.ClickException(f"{busy}, and it got on with nothing for {stood_s:.0f} s") from busy


def _infer(http: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_ask(http, "POST", "/v2/models/shrinkage/infer", json.dumps(_REQUEST)))
    return {output["name"]: output["data"] for output in answer["outputs"]}


def _check(answer: dict[str, Any]) -> None:
    n_universes = len(_UNIVERSES)
    if answer["STATUS"] != [0] * n_universes:
        raise click.ClickException(f"wanted STATUS {[0] * n_universes}, got {answer['STATUS']}")
    intensity = answer["INTENSITY"]
    if len(intensity) != n_universes or not all(0 <= value <= 1 for value in intensity):
        raise click.ClickException(f"wanted {n_universes} INTENSITY in [0, 1], got {intensity}")


def _ask(address: str, method: str, path: str, body: str | None = None) -> bytes:
    """Return the body of a good answer; raise `_Busy` if none comes in time, ClickException for everything else."""
    connection = HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read()
    except TimeoutError as error:
        raise _Busy(f"{address} did not answer in {_TIMEOUT_S:g} s") from error
    except (OSError, HTTPException) as error:
        raise click.ClickException(f"{address} cannot be asked: {error}") from error
    finally:
        connection.close()
    if response.status == HTTPStatus.OK:
        return content
    reason = content.decode(errors="replace").strip()
    failure = _Busy if _BUSY.search(reason) else click.ClickException
    raise failure(f"{address} answered {response.status}: {reason}")


def _signs_of_progress(metrics: str, heartbeats: Path | None) -> list[str]:
    """What differs between two calls if the server has done anything in between."""
    beats = [] if heartbeats is None else [f"{file.name} {file.read_bytes().hex()}" for file in heartbeats.iterdir()]
    return sorted(_WORK_DONE.findall(metrics) + beats)


def _seconds_unchanged(signs: list[str], state: Path) -> float:
    """How long the signs have been as they are, as far as earlier probes saw.

    CLOCK_MONOTONIC is one for all processes of the machine.
    """
    now = time.monotonic()
    try:
        seen = json.loads(state.read_text())
        if seen["signs"] == signs and seen["since"] <= now:
            return float(now - seen["since"])
    except (FileNotFoundError, ValueError, KeyError):
        pass  # the first look
    draft = state.with_name(f"{state.name}.{os.getpid()}")
    draft.write_text(json.dumps({"signs": signs, "since": now}))
    draft.replace(state)
    return 0.0
