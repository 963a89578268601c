# SPDX-License-Identifier: Apache-2.0
"""One address for Prometheus: the supervisor's metrics, and Triton's under labels that a new release does not change.

In the supervisor, because it is there while Triton is not: restarts and swaps are what it knows. On Triton's usual
port, because one service is one target.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.swap import Log
from sigmahat_kernels import metrics
from sigmahat_kernels.metrics import Metric

_COUNTED: dict[str, tuple[Metric, tuple[str, ...]]] = {
    "died": (metrics.DEATHS, ()),
    "restarting": (metrics.RESTARTS, ()),
    "stuck": (metrics.STUCK, ()),
    "busy": (metrics.BUSY, ()),
    "swapped": (metrics.SWAPS, ("ok",)),
    "swap_failed": (metrics.SWAPS, ("failed",)),
}

_MODEL = re.compile(r'\{model="([^"]+?)(?:-r(\d+)",version="\d+|",version="(\d+))"')
"""A step has its release in its name, an ensemble as its version."""


class Metrics:
    """Counts events, and tells them and Triton's metrics as text.

    Seven counters and gauges: prometheus_client would save the ten lines that write them, and nothing of the rest. Its
    server answers for a registry alone, and its parser and writer would rename Triton's counters, which lack "_total".

    Parameters
    ----------
    log : callable
        Gets every event that is counted here.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._values: Counter[tuple[Metric, tuple[str, ...]]] = Counter()
        self._lock = threading.Lock()
        self._triton_url: str | None = None  # while there is a server

    @contextmanager
    def of_triton(self, url: str) -> Iterator[None]:
        """Pass on Triton's metrics, and be ready, inside the block."""
        self._triton_url = url
        try:
            yield
        finally:
            self._triton_url = None

    def log(self, event: str, /, level: str = "info", **fields: Any) -> None:
        """Count an event and pass it on."""
        with self._lock:
            if event in _COUNTED:
                self._values[_COUNTED[event]] += 1
            if event in ("ready", "swapped"):
                self._values[metrics.RELEASE, ()] = fields["release"]
        self._log(event, level, **fields)

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        with self._lock:
            values = Counter(self._values)
        values[metrics.READY, ()] = int(self._triton_url is not None)
        lines = []
        for metric in metrics.SUPERVISOR:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            combinations = [("ok",), ("failed",)] if metric.labels else [()]
            for labels in combinations:
                named = ",".join(f'{name}="{value}"' for name, value in zip(metric.labels, labels, strict=True))
                lines.append(f"{metric.name}{f'{{{named}}}' if named else ''} {values[metric, labels]}")
        return "\n".join(lines) + "\n" + self._tritons()

    def _tritons(self) -> str:
        if self._triton_url is None:
            return ""
        where = urlsplit(self._triton_url)
        connection = HTTPConnection(where.netloc, timeout=5.0)
        try:
            connection.request("GET", where.path)
            text = connection.getresponse().read().decode()
        except (OSError, HTTPException):  # it is about to be noticed
            return ""
        finally:
            connection.close()
        return _MODEL.sub(lambda found: f'{{model="{found[1]}",release="{found[2] or found[3]}"', text)


@contextmanager
def exported(values: Metrics, host: str, port: int) -> Iterator[str]:
    """Answer ``/metrics`` at `host`, with the port of the address that this gives.

    Raises
    ------
    ServerError
        If the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            content = values.text().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: standard error is for events."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ServerError(
            f"cannot listen on {host}:{port} for metrics: {error.strerror}; choose another port with --metrics-port "
            "(0 picks a free one)"
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{socket.gethostbyname(host)}:{server.server_port}/metrics"
        finally:
            server.shutdown()
