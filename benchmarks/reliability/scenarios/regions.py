# SPDX-License-Identifier: Apache-2.0
"""Tensors in system shared memory, by a caller with the key: as they should be, and not."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from benchmarks.figures import Figures
from benchmarks.reliability.load import inputs, tensors
from benchmarks.reliability.service import Service
from sigmahat_client.shared_memory import key_headers

_NBYTES = 1 << 20


def shared_memory(service: Service) -> Figures:
    """Inputs and outputs in a region; then regions that do not exist, are too small, or begin beyond their end."""
    deaths = len(service.events("died"))
    asked, headers = tensors(2, 20, 0), key_headers(service.url)
    with triton.InferenceServerClient(service.url) as client, _region() as (name, memory):
        plain = client.infer("covariance", inputs(asked)).as_numpy("COVARIANCE")
        client.register_system_shared_memory(name, f"/{name}", _NBYTES, headers=headers)

        def ask(region: str, size: int, offset: int = 0, *, output: bool = False) -> str:
            given = inputs(asked)
            wanted = triton.InferRequestedOutput("COVARIANCE")
            (wanted if output else given[0]).set_shared_memory(region, size, offset)
            try:
                client.infer("covariance", given, outputs=[wanted], client_timeout=30)
            except triton.InferenceServerException as error:
                return str(error.status()).removeprefix("StatusCode.")
            return "answered"

        panel = asked["PANEL"]
        memory[: panel.nbytes] = panel.tobytes()
        good = [ask(name, panel.nbytes), ask(name, plain.nbytes, output=True)]
        same = memory[: plain.nbytes] == plain.tobytes()
        bad = {
            "unknown": ask("nowhere", panel.nbytes),
            "short": ask(name, panel.nbytes - 4),
            "long": ask(name, panel.nbytes + 4),
            "beyond": ask(name, panel.nbytes, _NBYTES),
            "offset": ask(name, panel.nbytes, 2**62),
            "unknown_output": ask("nowhere", plain.nbytes, output=True),
            "short_output": ask(name, plain.nbytes - 4, output=True),
            "beyond_output": ask(name, plain.nbytes, _NBYTES - 4, output=True),
        }
        client.unregister_system_shared_memory(name, headers=headers)
        bad["unregistered"] = ask(name, panel.nbytes)
        again = client.infer("covariance", inputs(asked)).as_numpy("COVARIANCE")
    return {
        "good": good,
        "same": bool(same and np.array_equal(again, plain)),
        "bad": bad,
        "server_deaths": len(service.events("died")) - deaths,
    }


@contextmanager
def _region() -> Iterator[tuple[str, mmap.mmap]]:
    name = f"sigmahat_scenario_{secrets.token_hex(4)}"
    path = Path("/dev/shm", name)
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.ftruncate(file, _NBYTES)
        with mmap.mmap(file, _NBYTES) as memory:
            yield name, memory
    finally:
        os.close(file)
        path.unlink()
