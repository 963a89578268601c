# SPDX-License-Identifier: Apache-2.0
"""Every fault of `faults.py` at full size on a real `sigmahat serve`, into ``results/reliability.json``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import faults
from rich.console import Console

from sigmahat_trainer.provenance import provenance

RESULT = Path(__file__).parents[1] / "results" / "reliability.json"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=20_000, help="requests of the soak")
    parser.add_argument("--malformed", type=int, default=10_000, help="generated requests")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure these again and keep the other figures")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    figures: faults.Figures = json.loads(RESULT.read_text())["figures"] if arguments.only else {}

    def run(name: str, scenario: Callable[[], faults.Figures]) -> None:
        if arguments.only and name not in arguments.only:
            return
        with console.status(name):
            figures[name] = {**scenario(), "load_average": round(os.getloadavg()[0], 1)}
        console.print(name, figures[name])

    with faults.served() as service:
        run("malformed_requests", lambda: faults.bad_requests(service, arguments.malformed))
        run("shape_overflow", lambda: faults.shape_overflow(service))
        run("soak", lambda: faults.soak(service, arguments.soak))
        run("endpoints", lambda: faults.endpoints(service))
        run("backend_process_killed", lambda: faults.kill(service, "combine"))
        run("server_killed", lambda: faults.kill(service, "triton"))
        run("server_killed_during_job", lambda: faults.kill_during_job(service))
        run("callers_killed", lambda: faults.killed_callers(service))
        run("callers_that_stop_waiting", lambda: faults.abandoned(service))
        run("queue_overflow", lambda: faults.overflow(service))
        run("hot_swap", lambda: faults.hot_swap(service, n_swaps=3))
        run("drain", lambda: faults.drain(service))
    run("shared_memory_full", faults.full_shared_memory)
    RESULT.write_text(json.dumps({**provenance(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
