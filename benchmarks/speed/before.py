# SPDX-License-Identifier: Apache-2.0
"""What the service does against an earlier commit, as ratios of one run, into ``results/before.json``.

Both real servers run at the same time and are asked in turn by the client of this tree. Seconds are wall time, and of
all processes of the server those of the CPU, which say more where others work on the same machine.
``python -m benchmarks.speed.before COMMIT`` needs sigmahat[serve] and the repository's history.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.figures import RESULTS, ROOT, four_digits, print_figures, write_figures
from benchmarks.speed.service import N_ASSETS, N_COLUMNS, N_OBS, draw
from sigmahat_client import ShrinkageClient
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import local_server
from sigmahat_trainer.data.simulate import sector_design

RESULT = RESULTS / "before.json"
SOURCES = ("client", "feature_kernels", "trainer", "deploy")
SERVE = """
import sys, time
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import local_server
with local_server(sys.argv[1], grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage) as server:
    print(server.grpc_url, server.process.pid, flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the earlier one")
    parser.add_argument("--universes", type=int, default=1_600, help="of each throughput run")
    parser.add_argument("--windows", type=int, default=1_000, help="of the backtest, a universe each")
    parser.add_argument("--calls", type=int, default=300, help="of one universe")
    parser.add_argument("--rounds", type=int, default=5, help="of throughput and backtest")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        before = stack.enter_context(served_before(arguments.commit))
        server = stack.enter_context(
            local_server(ROOT / "model_repository", grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage)
        )
        servers = {
            name: Server(stack.enter_context(ShrinkageClient(url, deadline_s=3600, shared_memory=False)), session)
            for name, (url, session) in {"before": before, "now": (server.grpc_url, server.process.pid)}.items()
        }
        figures = compare(servers, arguments)
    rounded = {name: four_digits(value) for name, value in figures.items()}
    write_figures(RESULT, rounded)
    print_figures(rounded)


class Server(NamedTuple):
    """One of the two that are compared."""

    client: ShrinkageClient
    session: int  # of its processes

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have taken."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = path.read_text().rpartition(") ")[2].split()
                ticks += (int(fields[11]) + int(fields[12])) * (int(fields[3]) == self.session)  # proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def served_before(commit: str) -> Iterator[tuple[str, int]]:
    """host:port and session of the service of an earlier commit, from a checkout of its own."""
    with tempfile.TemporaryDirectory(prefix="sigmahat-before-") as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        python = Path(folder, ".venv", "bin", "python")
        venv.create(python.parents[1])
        # Its packages of this project, and all others of ours.
        paths = [*(str(Path(folder, source)) for source in SOURCES), *filter(re.compile("-packages$").search, sys.path)]
        (site_packages,) = python.parents[1].glob("lib/python*/site-packages")
        (site_packages / "before.pth").write_text("\n".join(paths))
        process = subprocess.Popen(
            [python, "-c", SERVE, str(Path(folder, "model_repository"))],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None  # it is a pipe
            url, pid = process.stdout.readline().split()
            yield url, int(pid)
            process.communicate()  # the end of its input


def compare(servers: dict[str, Server], arguments: argparse.Namespace) -> dict[str, float]:
    """All figures: milliseconds of single calls, and ratios of throughput, of matrices and of parameters alone."""
    panel, universes = draw(arguments.universes)
    one = universes[:1]
    rng = np.random.default_rng(0)
    history = sector_design(rng, N_OBS + arguments.windows, N_COLUMNS).returns.astype(np.float32)
    windows = np.arange(arguments.windows)[:, None] + [0, N_OBS]
    lists = np.stack([rng.choice(N_COLUMNS, N_ASSETS, replace=False) for _ in windows])

    def streamed(covariance: bool) -> Callable[[ShrinkageClient], object]:
        return lambda client: [len(part.failures) for part in client.stream(panel, universes, covariance=covariance)]

    calls = in_turn(servers, arguments.calls, lambda client: client.estimate(panel, one, covariance=True))
    backtest = in_turn(
        servers, arguments.rounds, lambda client: client.estimate(history, lists, windows=windows, covariance=True)
    )
    matrices = in_turn(servers, arguments.rounds, streamed(True))
    parameters = in_turn(servers, arguments.rounds, streamed(False))
    name = f"backtest_{arguments.windows}_windows"
    return {
        "one_universe_call_p50_over_before": calls.wall["now"] / calls.wall["before"],
        "one_universe_call_cpu_over_before": calls.cpu["now"] / calls.cpu["before"],
        "one_universe_call_p50_ms": 1e3 * calls.wall["now"],
        "one_universe_call_server_cpu_ms": 1e3 * calls.cpu["now"],
        f"{name}_over_before": backtest.wall["before"] / backtest.wall["now"],
        f"{name}_over_before_by_cpu": backtest.cpu["before"] / backtest.cpu["now"],
        f"{name}_s": backtest.wall["now"],
        "covariances_over_before": matrices.wall["before"] / matrices.wall["now"],
        "covariances_over_before_by_cpu": matrices.cpu["before"] / matrices.cpu["now"],
        "parameters_over_before": parameters.wall["before"] / parameters.wall["now"],
        "parameters_over_before_by_cpu": parameters.cpu["before"] / parameters.cpu["now"],
    }


class Seconds(NamedTuple):
    """Of a call to each server: the median of the wall's, the mean of the server's CPU."""

    wall: dict[str, float]
    cpu: dict[str, float]


def in_turn(servers: dict[str, Server], rounds: int, work: Callable[[ShrinkageClient], object]) -> Seconds:
    """Ask the servers in turn, after a warm-up of each."""
    wall: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        work(server.client)
    cpu = {name: -server.cpu_s() for name, server in servers.items()}
    for _ in range(rounds):
        for name, server in servers.items():
            started = time.perf_counter()
            work(server.client)
            wall[name].append(time.perf_counter() - started)
    return Seconds(
        {name: float(np.median(seconds)) for name, seconds in wall.items()},
        {name: (cpu[name] + server.cpu_s()) / rounds for name, server in servers.items()},
    )


if __name__ == "__main__":
    main()
