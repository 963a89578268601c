# SPDX-License-Identifier: Apache-2.0
"""What the service does against an earlier commit, as ratios of one run, into ``results/before.json``.

Both real servers run at the same time and are asked in turn by the client of this tree.
``python -m benchmarks.speed.before COMMIT`` needs sigmahat[serve] and the repository's history.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
    print(server.grpc_url, flush=True)
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
        urls = {
            "before": stack.enter_context(served_before(arguments.commit)),
            "now": stack.enter_context(
                local_server(ROOT / "model_repository", grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage)
            ).grpc_url,
        }
        clients = {
            name: stack.enter_context(ShrinkageClient(url, deadline_s=3600, shared_memory=False))
            for name, url in urls.items()
        }
        figures = compare(clients, arguments)
    rounded = {name: four_digits(value) for name, value in figures.items()}
    write_figures(RESULT, rounded)
    print_figures(rounded)


@contextmanager
def served_before(commit: str) -> Iterator[str]:
    """host:port of the service of an earlier commit, from a checkout of its own."""
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
            yield process.stdout.readline().strip()
            process.communicate()  # the end of its input


def compare(clients: dict[str, ShrinkageClient], arguments: argparse.Namespace) -> dict[str, float]:
    """All figures: milliseconds of single calls, and ratios of throughput, of matrices and of parameters alone."""
    panel, universes = draw(arguments.universes)
    one = universes[:1]
    rng = np.random.default_rng(0)
    history = sector_design(rng, N_OBS + arguments.windows, N_COLUMNS).astype(np.float32)
    windows = np.arange(arguments.windows)[:, None] + [0, N_OBS]
    lists = np.stack([rng.choice(N_COLUMNS, N_ASSETS, replace=False) for _ in windows])

    def streamed(covariance: bool) -> Callable[[ShrinkageClient], object]:
        return lambda client: [len(part.failures) for part in client.stream(panel, universes, covariance=covariance)]

    calls = in_turn(clients, arguments.calls, lambda client: client.estimate(panel, one, covariance=True))
    backtest = in_turn(
        clients,
        arguments.rounds,
        lambda client: client.estimate(history, lists, windows=windows, covariance=True),
    )
    matrices = in_turn(clients, arguments.rounds, streamed(True))
    parameters = in_turn(clients, arguments.rounds, streamed(False))
    return {
        "one_universe_call_p50_over_before": ratio(calls, "now", "before"),
        "one_universe_call_p50_ms": 1e3 * float(np.median(calls["now"])),
        f"backtest_{arguments.windows}_windows_over_before": ratio(backtest, "before", "now"),
        f"backtest_{arguments.windows}_windows_s": float(np.median(backtest["now"])),
        "covariances_over_before": ratio(matrices, "before", "now"),
        "parameters_over_before": ratio(parameters, "before", "now"),
    }


def in_turn(
    clients: dict[str, ShrinkageClient], rounds: int, work: Callable[[ShrinkageClient], object]
) -> dict[str, list[float]]:
    """Seconds of each call, in turn, after a warm-up of each."""
    seconds: dict[str, list[float]] = {name: [] for name in clients}
    for turn in range(rounds + 1):
        for name, client in clients.items():
            started = time.perf_counter()
            work(client)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], first: str, second: str) -> float:
    """Median of the first over that of the second."""
    return float(np.median(seconds[first]) / np.median(seconds[second]))


if __name__ == "__main__":
    main()
