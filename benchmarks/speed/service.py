# SPDX-License-Identifier: Apache-2.0
"""What the service costs over the same pipeline in one process, as ratios of one run, into ``results/service.json``.

In-process figures are `Pipeline.estimate` on the same requests and cores; served ones the client against a real Triton.
``python -m benchmarks.speed.service`` needs sigmahat[serve].
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.figures import RESULTS, ROOT, four_digits, print_figures, write_figures
from sigmahat_client import ShrinkageClient
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import local_server
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request
from sigmahat_trainer.data.simulate import sector_design

RESULT = RESULTS / "service.json"
N_OBS, N_COLUMNS, N_ASSETS = 252, 500, 100
REQUEST = 400
"""Universes of one request of the in-process run; about what the client puts into one of its own."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--universes", type=int, default=3_200, help="of each throughput run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", type=int, default=100_000, help="universes of the memory run")
    parser.add_argument("--stream", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        print_peak_memory(arguments.stream, arguments.job)
        return
    pipeline = Pipeline(ROOT / "model_repository")
    panel, universes = draw(arguments.universes)
    with (
        local_server(
            ROOT / "model_repository", grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage
        ) as server,
        ShrinkageClient(server.grpc_url, deadline_s=3600) as shm,
        ShrinkageClient(server.grpc_url, deadline_s=3600, shared_memory=False) as grpc,
    ):
        figures = throughput(pipeline, grpc, shm, panel, universes, arguments.rounds)
        figures |= single_call(pipeline, grpc, panel, universes)
        command = [sys.executable, "-m", "benchmarks.speed.service"]
        command += ["--stream", server.grpc_url, "--job", str(arguments.job)]
        figures["client_peak_mb_100k"] = float(
            subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
        )
    rounded = {name: four_digits(value) for name, value in figures.items()}
    # A smaller job is a try-out, and no figure.
    if arguments.job == 100_000:
        write_figures(RESULT, rounded)
    print_figures(rounded)


def draw(n_universes: int) -> tuple[np.ndarray, np.ndarray]:
    """A panel of sectors with fat tails, and random universes of it."""
    rng = np.random.default_rng(0)
    panel = sector_design(rng, N_OBS, N_COLUMNS).returns.astype(np.float32)
    return panel, rng.permuted(np.tile(np.arange(N_COLUMNS, dtype=np.int32), (n_universes, 1)), axis=1)[
        :, :N_ASSETS
    ].copy()


def throughput(
    pipeline: Pipeline,
    grpc: ShrinkageClient,
    shm: ShrinkageClient,
    panel: np.ndarray,
    universes: np.ndarray,
    rounds: int,
) -> dict[str, float]:
    """Universes a second, served over in process."""

    def in_process(covariance: bool) -> None:
        for start in range(0, len(universes), REQUEST):
            pipeline.estimate(read_request(panel, universes[start : start + REQUEST]), covariance=covariance)

    def served(client: ShrinkageClient, covariance: bool) -> None:
        for part in client.stream(panel, universes, covariance=covariance):
            assert not part.failures

    seconds = in_turn(
        rounds,
        parameters_in_process=lambda: in_process(False),
        parameters_grpc=lambda: served(grpc, False),
        covariance_in_process=lambda: in_process(True),
        covariance_grpc=lambda: served(grpc, True),
        covariance_shm=lambda: served(shm, True),
    )
    figures = {f"{name}_universes_per_s": len(universes) / s for name, s in seconds.items()}
    return {
        "service_over_inprocess_n100": seconds["parameters_in_process"] / seconds["parameters_grpc"],
        "covariance_over_inprocess_n100": seconds["covariance_in_process"] / seconds["covariance_grpc"],
        "covariance_shm_over_inprocess_n100": seconds["covariance_in_process"] / seconds["covariance_shm"],
        "shm_over_grpc": seconds["covariance_grpc"] / seconds["covariance_shm"],
        **figures,
    }


def in_turn(rounds: int, **work: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each, run in turn, after a warm-up of each."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in track(range(rounds + 1), "throughput", console=Console(stderr=True)):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def single_call(
    pipeline: Pipeline, client: ShrinkageClient, panel: np.ndarray, universes: np.ndarray
) -> dict[str, float]:
    """Median milliseconds that a call for one universe with its matrix takes longer than in process."""
    one = universes[:1]
    seconds = in_turn(
        200,
        in_process=lambda: pipeline.estimate(read_request(panel, one)),
        served=lambda: client.estimate(panel, one, covariance=True),
    )
    return {
        "single_universe_extra_ms": 1e3 * (seconds["served"] - seconds["in_process"]),
        "single_universe_in_process_ms": 1e3 * seconds["in_process"],
    }


def print_peak_memory(url: str, n_universes: int) -> None:
    """Megabytes of resident memory, at their peak, of a process that streams the matrices of a large job."""
    panel, universes = draw(n_universes)
    n_done = 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, after the random numbers are drawn
    with ShrinkageClient(url, deadline_s=24 * 3600) as client:
        for part in client.stream(panel, universes, covariance=True):
            assert not part.failures
            assert part.covariance is not None
            n_done += len(part.covariance)
    assert n_done == n_universes
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3)


if __name__ == "__main__":
    main()
