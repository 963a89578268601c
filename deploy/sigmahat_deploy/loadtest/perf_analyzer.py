# SPDX-License-Identifier: Apache-2.0
"""One level of load by NVIDIA's perf_analyzer, and what it wrote.

What 2.51 does on its own, and how it is kept from it: on a shared machine its rule of stability drops a level without a
word, so three windows are always taken (``-s 999 -r 3``) and judged here; it sends late from threads that wait, so it
sends asynchronously; its own Poisson times gave another rate than was asked, and seem to be the same in every
process, so it gets times that were drawn here; the first refusal ends it, so beyond saturation the
open loop takes over.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sigmahat_deploy.loadtest.arrivals import poisson
from sigmahat_deploy.loadtest.binary import PerfAnalyzer
from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.levels import WINDOWS, Latency, Level, spread
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import between, failures, snapshot, step_times

DATA = "mix.json"
"""File of the requests, in the folder that perf_analyzer runs in."""

_ARRIVALS = 20.0
"""Arrivals are drawn for so many times the seconds of a level; perf_analyzer would repeat them after that."""

_EXPECTED = 8.0
"""Requests of a window at least, on average: perf_analyzer gives up when it sees none, by chance 1 in 3,000."""

_PASS = re.compile(r"Pass \[\d+\] throughput: ([\d.]+) infer/sec")
_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")
_CAUSE = re.compile(r"^(?:Thread \[\d+\] had error|error): (.+)", re.MULTILINE)


class Stream(NamedTuple):
    """Requests for one model to one server, by one process."""

    url: str  # host:port
    model: str


def streams_of(servers: Servers, models: Sequence[str]) -> list[Stream]:
    """One for each model at each server."""
    return [Stream(url, model) for url in servers.urls for model in models]


class Output(NamedTuple):
    """What one process measured."""

    latency: Latency
    delayed: float  # share of the requests
    spread: float


def measure(
    tool: PerfAnalyzer,
    servers: Servers,
    models: Sequence[str],
    load: Literal["closed", "poisson"],
    asked: float,
    seconds: float,
    seed: int,
    folder: Path,
) -> Level:
    """Load the servers for about so many seconds, all streams at once, each with its equal part of what is asked.

    The files that perf_analyzer writes stay in `folder`, which holds `DATA`. The latency of a model at several servers
    is the largest of theirs: of percentiles no exact one can be made. Universes are not counted: it knows requests.
    """
    streams = streams_of(servers, models)
    commands = level_commands(tool, servers, models, load, asked, seconds)
    if load == "poisson":
        for k, command in enumerate(commands):
            times = poisson(asked / len(streams), _ARRIVALS * seconds, [seed, k])
            gaps = np.diff(1e6 * times, prepend=0.0).round().astype(int)  # in microseconds
            (folder / report_name(command)).with_suffix(".gaps").write_text("".join(f"{gap}\n" for gap in gaps))
    before = snapshot(servers)
    with ThreadPoolExecutor(len(streams)) as pool:
        timeout_s = 10 * seconds + 60
        problems = list(pool.map(lambda command: _run(tool, command, folder, timeout_s), commands))
    change = between(before, snapshot(servers))
    level = Level("perf_analyzer", load, asked, seconds, steps=step_times(change))
    # A failure ends it. Triton may count others: requests of a backlog that it leaves behind when it is done.
    if any(problems):
        return replace(level, failed=failures(change), problem=next(filter(None, problems)))
    outputs = [
        read_output(folder / report_name(command), stream.model)
        for command, stream in zip(commands, streams, strict=True)
    ]
    latencies = _by_model([output.latency for output in outputs])
    return replace(
        level,
        latencies=latencies,
        delayed=max(output.delayed for output in outputs),
        spread=max(output.spread for output in outputs),
    )


def long_enough(seconds: float, rate: float) -> float:
    """Seconds of a Poisson level of which a stream sends `rate` requests a second: those asked for, or more.

    >>> long_enough(6.0, 20.0), long_enough(6.0, 2.0)
    (6.0, 12.0)
    """
    return max(seconds, WINDOWS * _EXPECTED / rate)


def level_commands(
    tool: PerfAnalyzer,
    servers: Servers,
    models: Sequence[str],
    load: Literal["closed", "poisson"],
    asked: float,
    seconds: float,
) -> list[list[str]]:
    """One command a stream, to be run at the same time in the folder of `DATA`."""
    commands = []
    streams = streams_of(servers, models)
    for k, stream in enumerate(streams):
        name = f"{load}-{asked:g}-{k}-{stream.model}"
        demand = f"--concurrency-range={asked / len(streams):.0f}"
        commands.append(
            [
                str(tool.binary),
                *("-m", stream.model, "-u", stream.url, "-i", "grpc", "--async", f"--input-data={DATA}"),
                *servers.perf_analyzer_options(),
                demand if load == "closed" else f"--request-intervals={name}.gaps",
                *("--measurement-mode=time_windows", f"--measurement-interval={1000 * seconds / WINDOWS:.0f}"),
                *("-s", "999", "-r", f"{WINDOWS}", "--percentile=99", "--verbose-csv", "-v"),
                *("-f", f"{name}.csv"),  # without a folder: then the steps' own files appear beside it
            ]
        )
    return commands


def script(tool: PerfAnalyzer, levels: Sequence[Sequence[Sequence[str]]]) -> str:
    """The same run by perf_analyzer alone, as a shell script for the folder of `DATA`."""
    lines = ["#!/bin/sh", '# The same run by perf_analyzer alone. Several "&" are several streams at the same time.']
    lines += ['cd "$(dirname "$0")" || exit 1']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in tool.environment.items()]
    lines += [" & ".join(map(shlex.join, commands)) + " & wait" for commands in levels]
    return "\n".join(lines) + "\n"


def report_name(command: Sequence[str]) -> str:
    """The CSV file that a command writes."""
    return command[-1]


def read_output(report: Path, model: str) -> Output:
    """Read the CSV file of one level, and what was said beside it, ``.txt``.

    Raises
    ------
    LoadTestError
        If there is no row in it, or a column is missing.
    """
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise LoadTestError(f"{report} should hold one row, perf_analyzer wrote {len(rows)}: see {report.stem}.txt")
    try:
        rate = float(rows[0]["Inferences/Second"])
        p50, p95, p99 = (float(rows[0][f"p{q} latency"]) / 1e3 for q in (50, 95, 99))
    except KeyError as error:
        raise LoadTestError(f"{report} has no column {error}: is this perf_analyzer 2.51?") from error
    said = report.with_suffix(".txt").read_text()
    delayed = [float(percent) / 100 for percent in _DELAYED.findall(said)]
    windows = [float(throughput) for throughput in _PASS.findall(said)]
    return Output(Latency(model, rate, p50, p95, p99), max(delayed, default=0.0), spread(windows))


def _run(tool: PerfAnalyzer, command: Sequence[str], folder: Path, timeout_s: float) -> str:
    """Run one process; return why it measured nothing, if so."""
    report = folder / report_name(command)
    report.unlink(missing_ok=True)
    log = report.with_suffix(".txt")
    try:
        with log.open("wb") as file:
            done = subprocess.run(
                command,
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | tool.environment,
                timeout=timeout_s,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return f"perf_analyzer did not end within {timeout_s:g} s"
    if done.returncode == 0 and report.exists():
        return ""
    said = log.read_text(errors="replace")
    cause = _CAUSE.search(said)
    reason = cause[1] if cause else (said.strip().splitlines() or ["it said nothing"])[-1]
    return f"perf_analyzer ended with code {done.returncode}: {reason}"


def _by_model(latencies: Sequence[Latency]) -> tuple[Latency, ...]:
    models = {latency.model: [other for other in latencies if other.model == latency.model] for latency in latencies}
    return tuple(
        Latency(
            model,
            sum(latency.requests_per_s for latency in found),
            max(latency.p50_ms for latency in found),
            max(latency.p95_ms for latency in found),
            max(latency.p99_ms for latency in found),
        )
        for model, found in models.items()
    )
