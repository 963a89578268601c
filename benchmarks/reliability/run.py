# SPDX-License-Identifier: Apache-2.0
"""Every scenario at full size on a real `sigmahat serve`, into ``results/reliability.json``.

``python -m benchmarks.reliability.run`` needs sigmahat[serve]. Two scenarios need more, hypothesis and onnx, of
sigmahat[dev]: without it they are left out, which is said.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.figures import RESULTS, Figures, write_figures
from benchmarks.reliability import scenarios
from benchmarks.reliability.service import Service, served

RESULT = RESULTS / "reliability.json"


class Scenario(NamedTuple):
    """A function of a module of `scenarios`, and its size."""

    name: str
    function: str  # module.function, imported when it is run
    sizes: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default is never changed
    needs: str = ""  # a package beyond sigmahat[serve]

    def load(self) -> Callable[..., Figures]:
        """Import it."""
        module, _, function = self.function.partition(".")
        found: Callable[..., Figures] = getattr(import_module(f"{scenarios.__name__}.{module}"), function)
        return found


def on_one_service(n_malformed: int, n_soak: int) -> list[Scenario]:
    """In this order: the last one ends the service."""
    return [
        Scenario("malformed_requests", "malformed.bad_requests", {"n_requests": n_malformed}, needs="hypothesis"),
        Scenario("shape_overflow", "malformed.shape_overflow", needs="hypothesis"),
        Scenario("soak", "memory.soak", {"n_requests": n_soak}),
        Scenario("endpoints", "endpoints.endpoints"),
        Scenario("backend_process_killed", "kills.kill", {"victim": "estimate"}),
        Scenario("server_killed", "kills.kill", {"victim": "triton"}),
        Scenario("killed_in_the_middle", "kills.kill_in_the_middle"),
        Scenario("server_killed_during_job", "kills.kill_during_job"),
        Scenario("backend_process_stopped", "stuck.stopped", {"victim": "estimate"}),
        Scenario("server_stopped", "stuck.stopped", {"victim": "triton"}),
        Scenario("callers_killed", "callers.killed_callers"),
        Scenario("callers_that_stop_waiting", "callers.abandoned"),
        Scenario("queue_overflow", "callers.overflow"),
        Scenario("fairness", "fairness.fairness"),
        Scenario("shared_memory", "regions.shared_memory"),
        Scenario("memory_of_swaps", "stress.memory_of_swaps"),
        Scenario("everything_at_once", "stress.everything"),
        Scenario("hot_swap", "releases.hot_swap", {"n_swaps": 3}, needs="onnx"),
        Scenario("drain", "releases.drain"),
    ]


ON_THEIR_OWN = [
    Scenario("shared_memory_full", "memory.full_shared_memory"),
    Scenario("hung_release", "stuck.hung_release"),
    Scenario("disk_full", "stuck.full_disk"),
]


def main() -> None:
    """Run, print, write what there is after each scenario."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", type=int, default=20_000, help="requests of the soak")
    parser.add_argument("--malformed", type=int, default=10_000, help="generated requests")
    names = [scenario.name for scenario in (*on_one_service(0, 0), *ON_THEIR_OWN)]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help="measure these again and keep the other figures"
    )
    arguments = parser.parse_args()
    console = Console(stderr=True)
    figures: Figures = json.loads(RESULT.read_text())["figures"] if arguments.only else {}

    def run(several: Sequence[Scenario], *service: Service) -> None:
        for scenario in several:
            if arguments.only and scenario.name not in arguments.only:
                continue
            if scenario.needs and not find_spec(scenario.needs):
                console.print(f"{scenario.name} is left out, {scenario.needs} is not installed: sigmahat\\[dev] has it")
                continue
            with console.status(scenario.name):
                figures[scenario.name] = {
                    **scenario.load()(*service, **scenario.sizes),
                    "load_average": round(os.getloadavg()[0], 1),
                }
            console.print(scenario.name, figures[scenario.name])
            write_figures(RESULT, figures)

    with served() as service:
        run(on_one_service(arguments.malformed, arguments.soak), service)
    run(ON_THEIR_OWN)


if __name__ == "__main__":
    main()
