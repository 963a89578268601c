# SPDX-License-Identifier: Apache-2.0
"""A job over two endpoints, of which one is black-holed, slow, or falls silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from benchmarks.figures import Figures
from benchmarks.reliability.load import panel, universes
from benchmarks.reliability.service import Service
from sigmahat_client import ShrinkageClient


def endpoints(service: Service, n_universes: int = 1_000) -> Figures:
    """A job over two endpoints, of which one is black-holed, slow, or falls silent in the middle."""
    figures = {"alone": job_over([service.url], n_universes)}
    with black_hole() as hole:
        figures["one_black_holed"] = job_over([hole, service.url], n_universes)
    with relay(service.url, delay_s=0.02) as (slow, _):
        figures["one_slow"] = job_over([slow, service.url], n_universes)
    with relay(service.url) as (near, frozen):

        def progress(done: int, total: int) -> None:
            frozen.set()

        figures["one_falls_silent"] = job_over([near, service.url], n_universes, progress)
    return figures


def job_over(
    urls: Sequence[str], n_universes: int = 1_000, progress: Callable[[int, int], object] | None = None
) -> Figures:
    """One job over several endpoints."""
    begin = time.monotonic()
    with ShrinkageClient(urls, deadline_s=120.0, retry_s=60.0) as client:
        answer = client.estimate(panel()[:252], universes(n_universes, 180, 0), covariance=True, progress=progress)
    return {"universes": n_universes, "lost": len(answer.failures), "seconds": round(time.monotonic() - begin, 2)}


@contextmanager
def black_hole() -> Iterator[str]:
    """host:port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def relay(url: str, delay_s: float = 0.0) -> Iterator[tuple[str, threading.Event]]:
    """host:port that passes bytes on to `url`, each piece `delay_s` later; once the event is set, nothing more."""
    frozen, closed = threading.Event(), threading.Event()
    host, _, port = url.rpartition(":")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if delay_s:
                    time.sleep(delay_s)
                while frozen.is_set() and not closed.is_set():
                    time.sleep(0.1)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", frozen
        closed.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
