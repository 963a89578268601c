# SPDX-License-Identifier: Apache-2.0
"""The server's pipeline in this process, behind the interface of a connection. Needs onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sigmahat_client.backend import Deliver, Read, Send, Tensors, outcome_of
from sigmahat_client.errors import DeadlineExceeded
from sigmahat_kernels.pipeline import Pipeline, published_outputs
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.released import released_repository
from sigmahat_kernels.request import read_request


class InProcess:
    """Answers requests one after the other; the kernels spread each over the cores."""

    n_endpoints = 1

    def __init__(self, model_repository: str | Path | None) -> None:
        self._pipeline = Pipeline(released_repository() if model_repository is None else model_repository)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sigmahat")

    def is_live(self, timeout_s: float) -> bool:
        """See `Backend.is_live`."""
        return True

    def close(self) -> None:
        """Finish what was begun, and drop the rest; does not wait for that."""
        self._worker.shutdown(wait=False)

    def sender(
        self,
        model: str,
        shared: Tensors,
        *,
        outputs: Sequence[str],
        parameters: Mapping[str, bool],
        headers: Mapping[str, str],
        deadline: float,
    ) -> Send:
        """See `Backend.sender`. Everything is answered, whatever `outputs` names; `headers` go nowhere."""

        def answer(tensors: Tensors) -> Tensors:
            if time.monotonic() >= deadline:
                raise DeadlineExceeded
            given = {name.lower(): tensor for name, tensor in {**shared, **tensors}.items()}
            positions = given.pop("weights", None), given.pop("portfolios", None)
            request = read_request(**given)
            portfolios = read_portfolios(request, *positions) if model == "risk" else None
            outputs = self._pipeline.estimate(
                request,
                covariance=model == "covariance",
                portfolios=portfolios,
                minimum_variance=parameters.get("minimum_variance", False),
                classic=parameters.get("classic", False),
            )
            return published_outputs(outputs, request.universes)

        def work(tensors: Tensors, read: Read, deliver: Deliver) -> None:
            deliver(outcome_of(lambda: read(answer(tensors))))

        def send(tensors: Tensors, read: Read, deliver: Deliver) -> None:
            self._worker.submit(work, tensors, read, deliver)

        return send
