# SPDX-License-Identifier: Apache-2.0
"""What the service does under load, into ``results/loadtest.json``: by replicas, instances, and shape of requests.

`sigmahat loadtest` of one and two replicas, one and two instances of the step that computes, and scikit-learn in a
process pool; then requests of one shape each. The servers share this machine with what loads them.
``python -m benchmarks.speed.loadtest`` takes about eight minutes and needs sigmahat[serve,loadtest] and, once,
``sigmahat loadtest --install-perf-analyzer``; then ``python docs/make_capacity.py``. Pages: ``out/loadtest``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from google.protobuf import text_format
from rich.console import Console
from rich.status import Status
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.figures import RESULTS, Figures, four_digits, print_figures, write_figures
from sigmahat_deploy.loadtest import report
from sigmahat_deploy.loadtest.open_loop import Channels, Question, questions
from sigmahat_deploy.loadtest.run import Settings, run
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import ENSEMBLES
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import LocalServer, local_server

ROOT = Path(__file__).parents[2]
RESULT = RESULTS / "loadtest.json"
COMMAND = "python -m benchmarks.speed.loadtest"
SECONDS = 6.0
OBJECTIVE_MS = 500.0
"""The largest requests of the mix take half of this on two cores with nobody else there."""


class Setup(NamedTuple):
    """How the models are served."""

    replicas: int
    instances: int  # of the step that computes, in each replica

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"replicas_{self.replicas}_instances_{self.instances}"


SETUPS = (Setup(1, 1), Setup(2, 1), Setup(1, 2))


class Shape(NamedTuple):
    """Of a request."""

    universes: int
    assets: int  # of each universe
    rows: int  # of the panel


SHAPES = tuple(Shape(u, n, t) for u in (1, 64) for n in (20, 100, 400) for t in (60, 252, 1000))
N_COLUMNS = 500


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each level")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "loadtest", help="folder of the pages")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    figures: Figures = {}
    for setup in SETUPS:
        with served(setup) as servers, console.status(setup.name) as status:
            settings = Settings(
                urls=tuple(server.grpc_url for server in servers),
                metrics=tuple(urlsplit(server.metrics_url).netloc for server in servers),
                out=arguments.out / setup.name,
                returns=ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz",
                in_flight=(1, 2, 4),
                poisson=(0.25, 0.5, 0.75),
                open_loop=(0.5, 1, 2),
                seconds=arguments.seconds,
                objective_ms=OBJECTIVE_MS,
                process_pool=setup == SETUPS[0],  # it does not depend on the servers
            )
            test = run(settings, COMMAND, partial(_say, status, setup.name))
            report.write(test, settings.out)
            figures[setup.name] = _rounded(test.figures())
            if setup == SETUPS[0]:
                figures["shapes"] = [
                    _rounded(by_shape(settings.servers, shape, arguments.seconds / 6, partial(_say, status, "shapes")))
                    for shape in SHAPES
                ]
    # Shorter levels are a try-out, and no figure.
    if arguments.seconds == SECONDS:
        write_figures(RESULT, figures)
    print_figures(_headline(figures))


def _say(status: Status, setup: str, what: str) -> None:
    status.update(f"{setup}: {what}")


@contextmanager
def served(setup: Setup) -> Iterator[tuple[LocalServer, ...]]:
    """All replicas."""
    with tempfile.TemporaryDirectory(prefix="sigmahat-loadtest-") as folder, ExitStack() as servers:
        repository = Path(folder, "models")
        shutil.copytree(ROOT / "model_repository", repository)
        path = repository / "estimate" / "config.pbtxt"
        config = text_format.Parse(path.read_text(), ModelConfig())
        config.instance_group[0].count = setup.instances
        path.write_text(text_format.MessageToString(config))
        yield tuple(
            servers.enter_context(
                local_server(repository, grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage)
            )
            for _ in range(setup.replicas)
        )


def by_shape(servers: Servers, shape: Shape, seconds: float, say: Callable[[str], object]) -> dict[str, Any]:
    """Universes a second of requests of one shape when two a core are in flight, and milliseconds of one alone."""
    say(f"{shape.universes} universes of {shape.assets} assets, {shape.rows} rows")
    rng = np.random.default_rng(0)
    request = {
        "PANEL": rng.normal(0.0, 0.01, (shape.rows, N_COLUMNS)).astype(np.float32),
        "UNIVERSES": np.stack(
            [rng.choice(N_COLUMNS, shape.assets, replace=False) for _ in range(shape.universes)]
        ).astype(np.int32),
    }
    figures: dict[str, Any] = shape._asdict()
    for question in questions([request], ENSEMBLES):
        alone = in_flight(servers, question, 1, seconds / 2)
        begin = time.perf_counter()
        busy = in_flight(servers, question, 2 * len(os.sched_getaffinity(0)), seconds)
        rate = len(busy) * shape.universes / (time.perf_counter() - begin)
        figures[question.model] = {"universes_per_s": rate, "alone_ms": 1e3 * float(np.median(alone))}
    return figures


def in_flight(servers: Servers, question: Question, callers: int, seconds: float) -> list[float]:
    """Seconds that each answer took when so many callers ask the same again and again."""
    times: list[float] = []

    async def call(channels: Channels) -> None:
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            answer = await channels.ask(question)
            if answer.refusal:
                raise RuntimeError(f"{question.model} refused with {answer.refusal}: {answer.message}")
            times.append(time.perf_counter() - begin)

    async def run_all() -> None:
        async with Channels(servers) as channels, asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call(channels))

    asyncio.run(run_all())
    return times


def _headline(figures: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name in (setup.name for setup in SETUPS):
        test = figures[name]
        found[f"{name}: most universes a second"] = max(level["universes_per_s"] for level in test["levels"])
        if test["capacity"]:
            found[f"{name}: capacity, universes a second"] = test["capacity"]["universes_per_s"]
        if test["pool"]:
            found["scikit-learn in a process pool, universes a second"] = test["pool"]["universes_per_s"]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return four_digits(value)
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


if __name__ == "__main__":
    main()
