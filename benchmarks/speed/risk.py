# SPDX-License-Identifier: Apache-2.0
"""The risk of three portfolios against the matrices to compute it from, through gRPC, into ``results/risk.json``.

Bytes are those of all tensors that a client sends and receives; ratios are of one run, in turn, against one server.
``python -m benchmarks.speed.risk`` needs sigmahat[serve].
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.figures import RESULTS, ROOT, four_digits, print_figures, write_figures
from benchmarks.speed.service import N_ASSETS, N_COLUMNS, draw, in_turn
from sigmahat_client import ShrinkageClient
from sigmahat_client.backend import Backend, Deliver, Read, Send, Tensors
from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import local_server

RESULT = RESULTS / "risk.json"
N_UNIVERSES, N_PORTFOLIOS = 5_000, 3


class Counting:
    """A backend that counts what passes through it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.n_endpoints = backend.n_endpoints
        self.n_bytes = 0

    def sender(self, model: str, shared: Tensors, **arguments: Any) -> Send:
        """See `Backend.sender`."""
        send = self._backend.sender(model, shared, **arguments)

        def counted(tensors: Tensors, read: Read, deliver: Deliver) -> None:
            self._count(shared.values())
            self._count(tensors.values())

            def reading(answer: Tensors) -> Any:
                self._count(answer.values())
                return read(answer)

            send(tensors, reading, deliver)

        return counted

    def is_live(self, timeout_s: float) -> bool:
        """See `Backend.is_live`."""
        return self._backend.is_live(timeout_s)

    def close(self) -> None:
        """See `Backend.close`."""
        self._backend.close()

    def _count(self, arrays: Iterable[np.ndarray]) -> None:
        self.n_bytes += sum(array.nbytes for array in arrays)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--universes", type=int, default=N_UNIVERSES)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    panel, universes = draw(arguments.universes)
    books = np.random.default_rng(1).standard_normal((N_PORTFOLIOS, N_COLUMNS))
    with (
        local_server(
            ROOT / "model_repository", grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage
        ) as server,
        ShrinkageClient(server.grpc_url, deadline_s=3600, shared_memory=False) as client,
    ):
        counting = client._backend = Counting(client._backend)

        def covariance() -> None:
            for part in client.stream(panel, universes, covariance=True):
                assert not part.failures

        def risk(contributions: bool) -> None:
            for part in client.stream_risk(panel, universes, books, contributions=contributions):
                assert not part.failures

        work = {
            "covariance": covariance,
            "risk": lambda: risk(False),
            "risk_with_contributions": lambda: risk(True),
        }
        n_bytes = {}
        for name, ask in work.items():
            counting.n_bytes = 0
            ask()
            n_bytes[name] = counting.n_bytes / len(universes)
        seconds = in_turn(arguments.rounds, **work)
    figures = {
        "risk_bytes_over_covariance_n100_p3": n_bytes["risk"] / n_bytes["covariance"],
        "risk_throughput_over_covariance_n100_p3": seconds["covariance"] / seconds["risk"],
        "risk_with_contributions_bytes_over_covariance": n_bytes["risk_with_contributions"] / n_bytes["covariance"],
        "risk_with_contributions_throughput_over_covariance": (
            seconds["covariance"] / seconds["risk_with_contributions"]
        ),
        **{f"{name}_bytes_per_universe": value for name, value in n_bytes.items()},
        **{f"{name}_universes_per_s": len(universes) / value for name, value in seconds.items()},
    }
    assert universes.shape[1] == N_ASSETS
    rounded = {name: four_digits(value) for name, value in figures.items()}
    # A smaller job is a try-out, and no figure.
    if arguments.universes == N_UNIVERSES:
        write_figures(RESULT, rounded)
    print_figures(rounded)


if __name__ == "__main__":
    main()
