# SPDX-License-Identifier: Apache-2.0
"""`sigmahat loadtest` of one and two replicas, one and two instances of `features`, into ``results/loadtest.json``.

The servers share this machine with what loads them. ``python -m benchmarks.speed.loadtest`` takes less than ten minutes
and needs sigmahat[serve,loadtest] and, once, ``sigmahat loadtest --install-perf-analyzer``. Pages: ``out/loadtest``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format
from rich.console import Console
from rich.status import Status
from tritonclient.grpc.model_config_pb2 import ModelConfig

from benchmarks.figures import RESULTS, Figures, four_digits, print_figures, write_figures
from sigmahat_deploy.loadtest import report
from sigmahat_deploy.loadtest.run import Settings, run
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import local_server

ROOT = Path(__file__).parents[2]
RESULT = RESULTS / "loadtest.json"
COMMAND = "python -m benchmarks.speed.loadtest"
SECONDS = 8.0


class Setup(NamedTuple):
    """How the models are served."""

    replicas: int
    instances: int  # of `features`, in each replica

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"replicas_{self.replicas}_instances_{self.instances}"


SETUPS = (Setup(1, 1), Setup(2, 1), Setup(1, 2))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each level")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "loadtest", help="folder of the pages")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    figures: Figures = {}
    for setup in SETUPS:
        with served(setup) as urls, console.status(setup.name) as status:
            settings = Settings(
                urls=urls,
                out=arguments.out / setup.name,
                returns=ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz",
                in_flight=(1, 2, 4),
                poisson=(0.3, 0.6, 0.85),
                open_loop=(0.3, 1, 2),
                seconds=arguments.seconds,
                process_pool=setup == SETUPS[0],  # it does not depend on the servers
            )
            test = run(settings, COMMAND, partial(_say, status, setup.name))
        report.write(test, settings.out)
        figures[setup.name] = _rounded(test.figures())
    # Shorter levels are a try-out, and no figure.
    if arguments.seconds == SECONDS:
        write_figures(RESULT, figures)
    print_figures(_headline(figures))


def _say(status: Status, setup: str, what: str) -> None:
    status.update(f"{setup}: {what}")


@contextmanager
def served(setup: Setup) -> Iterator[tuple[str, ...]]:
    """host:port of each replica."""
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
            ).grpc_url
            for _ in range(setup.replicas)
        )


def _headline(figures: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, test in figures.items():
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
