# SPDX-License-Identifier: Apache-2.0
"""One load test from its settings: every request once, then level after level, then what a user has today."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sigmahat_client import Tls
from sigmahat_deploy.loadtest import binary, open_loop, perf_analyzer, process_pool
from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.facts import machine_facts, server_facts
from sigmahat_deploy.loadtest.levels import Level
from sigmahat_deploy.loadtest.mix import Sizes, Tensors, draw_mix, perf_analyzer_data
from sigmahat_deploy.loadtest.report import LoadTest
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import ASKED
from sigmahat_deploy.returns_file import read_returns
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.status import Status


@dataclass(frozen=True)
class Settings:
    """What `sigmahat loadtest` takes."""

    out: Path = Path("out/loadtest")
    returns: Path = Path("benchmarks/data/us_sp500_2016_2019.npz")
    urls: tuple[str, ...] = ("127.0.0.1:8001",)
    metrics: tuple[str, ...] = ()  # host:port of each server's; default: port 8002 of the same hosts
    models: tuple[str, ...] = ASKED  # asked at the same time, each as often as the other
    requests: int = Sizes().n_requests
    assets: tuple[int, int] = Sizes().assets  # of a universe
    universes: tuple[int, int] = Sizes().universes  # of a request
    seed: int = 0
    in_flight: tuple[float, ...] = (1, 2, 4, 8)  # closed loop, of each model at each server
    poisson: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)  # shares of the closed loop's best, by perf_analyzer
    open_loop: tuple[float, ...] = (0.5, 1, 1.5, 2)  # the same by our own caller
    seconds: float = 6.0  # counted at each level
    objective_ms: float = 250.0  # of p99
    process_pool: bool = True
    perf_analyzer: Path | None = None
    root_certificates: Path | None = None  # TLS, as `sigmahat_client.Tls` has it
    certificate_chain: Path | None = None
    private_key: Path | None = None

    @property
    def servers(self) -> Servers:
        """What is asked."""
        files = self.root_certificates, self.certificate_chain, self.private_key
        metrics = self.metrics or {f"{url.rpartition(':')[0]}:8002" for url in self.urls}
        return Servers(self.urls, Tls(*files) if any(files) else None, tuple(metrics))

    @property
    def n_levels(self) -> int:
        """How many levels of load there will be."""
        return len(self.in_flight) + len(self.poisson) + len(self.open_loop)


def run(settings: Settings, command: str, announce: Callable[[str], object] = lambda what: None) -> LoadTest:
    """Load the servers.

    Parameters
    ----------
    settings : Settings
        `out` gets a folder with perf_analyzer's input, its output and a script of its commands.
    command : str
        What gives this run again, for the page.
    announce : callable
        Hears what begins: one check, `n_levels` levels, one comparison.

    Raises
    ------
    LoadTestError
        If something that it needs is missing, or a server does not answer.
    UnreadableFile
        If the returns cannot be read.
    InvalidRequest
        If a certificate's file is missing.
    """
    tool = binary.find(settings.perf_analyzer)
    sizes = Sizes(settings.requests, assets=settings.assets, universes=settings.universes)
    requests = draw_mix(read_returns(settings.returns), sizes, settings.seed)
    folder = settings.out / "perf_analyzer"
    folder.mkdir(parents=True, exist_ok=True)
    data = perf_analyzer_data(requests).encode()
    write_whole(folder / perf_analyzer.DATA, lambda file: file.write(data))
    machine, servers = machine_facts(), server_facts(settings.servers)
    questions = open_loop.questions(requests, settings.models)

    announce("every request once")
    status = _status_of_all(settings.servers, questions)
    universes_per_request = float(np.mean([len(request["UNIVERSES"]) for request in requests]))
    levels, commands = _perf_analyzer_levels(settings, tool, folder, universes_per_request, announce)
    best = _best(levels)
    for share in settings.open_loop:
        rate = round(share * best, 1)
        announce(f"open loop, {rate:.0f} requests a second")
        levels.append(open_loop.measure(settings.servers, questions, rate, settings.seconds, settings.seed))
    script = folder / "again.sh"
    write_whole(script, lambda file: file.write(perf_analyzer.script(tool, commands).encode()))
    pool = None
    if settings.process_pool:
        announce("scikit-learn in a process pool")
        pool = process_pool.measure(requests, settings.seconds, len(os.sched_getaffinity(0)))
    return LoadTest(
        levels=tuple(levels),
        objective_ms=settings.objective_ms,
        mix=_describe(requests, settings, hashlib.sha256(data).hexdigest()),
        status={code.name: n for code, n in sorted(status.items())},
        pool=pool,
        machine={**machine, "perf_analyzer": tool.version},
        servers=servers,
        command=command,
        bare=shlex.join(["sh", str(script)]),
    )


def _status_of_all(servers: Servers, questions: Sequence[open_loop.Question]) -> Counter[Status]:
    """Warm up, and count what no later figure shows: a universe that is refused at once makes a server look fast."""
    answers = open_loop.ask_in_turn(servers, questions)
    refused = [answer for answer in answers if answer.refusal]
    if refused:
        raise LoadTestError(
            f"{len(refused)} of {len(answers)} requests were refused without any load, the first with "
            f"{refused[0].refusal}: {refused[0].message}"
        )
    return sum((answer.status for answer in answers), Counter[Status]())


def _perf_analyzer_levels(
    settings: Settings,
    tool: binary.PerfAnalyzer,
    folder: Path,
    universes_per_request: float,
    announce: Callable[[str], object],
) -> tuple[list[Level], list[list[list[str]]]]:
    """Closed loop, then Poisson at shares of its best; also the commands of each level."""
    asked_of = settings.servers, settings.models
    n_streams = len(perf_analyzer.streams_of(*asked_of))
    levels: list[Level] = []
    commands: list[list[list[str]]] = []

    def measure(load: Literal["closed", "poisson"], asked: float) -> None:
        announce(f"{asked:.0f} requests in flight" if load == "closed" else f"Poisson, {asked:.0f} requests a second")
        seconds = settings.seconds
        if load == "poisson":
            seconds = perf_analyzer.long_enough(seconds, asked / n_streams)
        commands.append(perf_analyzer.level_commands(tool, *asked_of, load, asked, seconds))
        level = perf_analyzer.measure(tool, *asked_of, load, asked, seconds, settings.seed, folder)
        levels.append(replace(level, universes_per_s=universes_per_request * level.requests_per_s))

    for each in settings.in_flight:
        measure("closed", each * n_streams)
    best = _best(levels)
    for share in settings.poisson:
        measure("poisson", round(share * best, 1))
    return levels, commands


def _best(levels: Sequence[Level]) -> float:
    """Requests a second that the servers answered at most."""
    best = max((level.requests_per_s for level in levels if level.load == "closed"), default=0.0)
    if not best:
        raise LoadTestError(f"perf_analyzer measured no closed-loop level: {levels[0].problem}")
    return best


def _describe(requests: Sequence[Tensors], settings: Settings, digest: str) -> dict[str, Any]:
    shapes = np.array([request["UNIVERSES"].shape for request in requests])
    return {
        "returns": settings.returns.name,
        "models": ", ".join(settings.models),
        "requests": len(requests),
        "rows and columns of a panel": " x ".join(map(str, requests[0]["PANEL"].shape)),
        "universes of a request: least, mean, most": _spread(shapes[:, 0]),
        "assets of a universe: least, mean, most": _spread(shapes[:, 1]),
        "seed": settings.seed,
        "sha256 of the requests": digest[:16],
        "seconds of a level": settings.seconds,
    }


def _spread(values: np.ndarray) -> str:
    return f"{values.min()}, {values.mean():.0f}, {values.max()}"
