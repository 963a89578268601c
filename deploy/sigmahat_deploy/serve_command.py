# SPDX-License-Identifier: Apache-2.0
"""`sigmahat serve`: run the local server until a signal ends it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sigmahat_deploy.probe import probe_shrinkage
from sigmahat_deploy.server import LocalServer, ServerError, describe_exit, local_server, on_signals

_PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--grpc-port", default=8001, show_default=True, type=_PORT, help="Port for gRPC; 0 picks a free one.")
@click.option("--http-port", default=8000, show_default=True, type=_PORT, help="Port for HTTP; 0 picks a free one.")
@click.option("--metrics-port", default=8002, show_default=True, type=_PORT, help="Port for Prometheus metrics.")
@click.option(
    "--model-repository",
    default=Path("model_repository"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the models.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON with pid and addresses, there only while the server answers.",
)
@click.option(
    "--startup-timeout-s",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds until the first inference must have passed.",
)
def serve(
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    model_repository: Path,
    host: str,
    ready_file: Path | None,
    startup_timeout_s: float,
) -> None:
    """Serve the models with Triton on this machine until SIGTERM or Ctrl-C."""
    if ready_file is not None:
        _remove_stale(ready_file)
    try:
        with (
            on_signals(lambda signum: sys.exit(0)),
            local_server(
                model_repository,
                grpc_port=grpc_port,
                http_port=http_port,
                metrics_port=metrics_port,
                host=host,
                probe=probe_shrinkage,
                startup_timeout_s=startup_timeout_s,
            ) as server,
            _published(server, ready_file),
        ):
            click.echo(f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}")
            # Not process.wait(), which a signal does not always end: see local_server.
            while (code := server.process.poll()) is None:
                time.sleep(0.2)
            raise ServerError(
                f"Triton ended by itself with {describe_exit(code)}; its log ends with:\n{server.log_tail()}"
            )
    except ServerError as error:
        raise click.ClickException(str(error)) from error


def _remove_stale(ready_file: Path) -> None:
    if not ready_file.parent.is_dir():
        raise click.BadParameter(f"{ready_file.parent} is not a folder: create it first", param_hint="--ready-file")
    ready_file.unlink(missing_ok=True)


@contextmanager
def _published(server: LocalServer, ready_file: Path | None) -> Iterator[None]:
    """Keep the ready file in place inside the block; it appears whole, so that a reader never sees half of it."""
    if ready_file is None:
        yield
        return
    draft = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    addresses = {"grpc_url": server.grpc_url, "http_url": server.http_url, "metrics_url": server.metrics_url}
    try:
        draft.write_text(json.dumps({"pid": os.getpid(), **addresses}) + "\n")
        draft.replace(ready_file)
        yield
    finally:
        draft.unlink(missing_ok=True)
        ready_file.unlink(missing_ok=True)
