# SPDX-License-Identifier: Apache-2.0
"""`sigmahat serve`: run the local server until a signal ends it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sigmahat_deploy.certificates import Tls
from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.kernels import compile_kernels
from sigmahat_deploy.server import CONNECTION_AGE_S, LocalServer, check_repository, on_signals
from sigmahat_deploy.supervisor import Address, Endurance, GaveUp, supervise, urls
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.released import released_repository

GAVE_UP = 3
"""Exit code when the server had been ready but died again and again."""

_PORT = click.IntRange(0, 65535)
_PEM = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)


@click.command()
@click.option("--grpc-port", default=8001, show_default=True, type=_PORT, help="Port for gRPC; 0 picks a free one.")
@click.option("--http-port", default=8000, show_default=True, type=_PORT, help="Port for HTTP; 0 picks a free one.")
@click.option("--metrics-port", default=8002, show_default=True, type=_PORT, help="Port for Prometheus metrics.")
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path),
    help="Folder of the models.  [default: those that come with this package]",
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
@click.option(
    "--connection-age-s",
    default=CONNECTION_AGE_S,
    show_default=True,
    type=click.FloatRange(min=1, max=86_400),
    help="Seconds after which clients connect anew, and find new servers behind a name.",
)
@click.option("--tls-certificate", type=_PEM, help="PEM file that encrypts gRPC; HTTP and metrics stay on loopback.")
@click.option("--tls-key", type=_PEM, help="PEM file of the certificate's key.")
@click.option("--tls-client-ca", type=_PEM, help="PEM file; callers must have a certificate that this CA signed.")
@click.option(
    "--max-restarts",
    default=Endurance.max_restarts,
    show_default=True,
    type=click.IntRange(min=0),
    help=f"Restarts within {Endurance.within_s:g} s before giving up.",
)
def serve(
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    model_repository: Path | None,
    host: str,
    ready_file: Path | None,
    startup_timeout_s: float,
    connection_age_s: float,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    max_restarts: int,
) -> None:
    """Serve the models with Triton on this machine until SIGTERM or Ctrl-C.

    A server that dies is started again. SIGHUP takes the files of the model repository anew, without a gap. What
    happens is written to standard error, one JSON object a line.
    """
    if ready_file is not None:
        _remove_stale(ready_file)
    model_repository = model_repository or released_repository()
    tls = _tls(tls_certificate, tls_key, tls_client_ca)

    @contextmanager
    def published(server: LocalServer) -> Iterator[None]:
        with _published(server, ready_file):
            click.echo(f"ready: gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}")
            yield

    _log("starting", pid=os.getpid(), model_repository=str(model_repository.absolute()))
    try:
        with on_signals(lambda signum: sys.exit(0)):
            check_repository(model_repository)
            compile_kernels(lambda line: _log("kernels", reason=line))
            supervise(
                model_repository,
                Address(host, grpc_port, http_port, metrics_port, tls, connection_age_s),
                log=_log,
                published=published,
                startup_timeout_s=startup_timeout_s,
                endurance=Endurance(max_restarts=max_restarts),
            )
    except SystemExit:
        _log("stopped")
        raise
    except ServerError as error:
        _log("gave_up" if isinstance(error, GaveUp) else "not_started", level="error", reason=str(error))
        failure = _TooManyDeaths if isinstance(error, GaveUp) else click.ClickException
        raise failure(str(error)) from error


class _TooManyDeaths(click.ClickException):
    exit_code = GAVE_UP


def _log(event: str, /, level: str = "info", **fields: Any) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    click.echo(json.dumps({"time": time, "level": level, "event": event, **fields}), err=True)


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("TLS needs both --tls-certificate and --tls-key")
    return Tls(certificate, key, client_ca)


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
    content = json.dumps({"pid": os.getpid(), **urls(server)}) + "\n"
    try:
        write_whole(ready_file, lambda file: file.write(content.encode()))
        yield
    finally:
        ready_file.unlink(missing_ok=True)
