# SPDX-License-Identifier: Apache-2.0
"""How a command reaches the models, on servers or in this process: its options, and a client made of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import Event, Timer
from typing import Any, NamedTuple

import click

from sigmahat_client import AssetsDropped, EstimateWarning, ShrinkageClient, Tls
from sigmahat_deploy.command_files import INPUT

_DEFAULT_URL = "127.0.0.1:8001"
_SILENCE_S, _LOOK_S = 0.8, 0.3
"""After how long nobody may have answered, and how long that is asked: with the start of Python, less than 2 s."""


class Connection(NamedTuple):
    """What was asked for."""

    urls: tuple[str, ...]
    local: bool
    model_repository: Path | None
    deadline_s: float
    retry_s: float
    root_certificates: Path | None
    certificate_chain: Path | None
    private_key: Path | None

    @property
    def servers(self) -> str:
        """Their addresses, for a message."""
        return ", ".join(self.urls) or _DEFAULT_URL

    def check(self) -> None:
        """Refuse options that exclude each other."""
        if self.local and (self.urls or any(self._certificates)):
            raise click.UsageError("--local computes in this process: leave --url and certificates out")
        if self.model_repository is not None and not self.local:
            raise click.UsageError("--model-repository is for --local: a server has its own")

    @contextmanager
    def client(self) -> Iterator[ShrinkageClient]:
        """A client for the block, in which it does not warn: commands say at their end what is odd."""
        if self.local:
            client = ShrinkageClient.local(self.model_repository, deadline_s=self.deadline_s)
        else:
            tls = Tls(*self._certificates) if any(self._certificates) else None
            client = ShrinkageClient(
                self.urls or _DEFAULT_URL, deadline_s=self.deadline_s, retry_s=self.retry_s, tls=tls
            )
        with client, _hint_of(client, self.servers), warnings.catch_warnings():
            for said_at_the_end in (AssetsDropped, EstimateWarning):
                warnings.simplefilter("ignore", said_at_the_end)
            yield client

    @property
    def _certificates(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.root_certificates, self.certificate_chain, self.private_key


def connection_options(*, deadline_s: float = 600.0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a `Connection`, and as `connection` the one that they make.

    Parameters
    ----------
    deadline_s : float
        Unless the caller says otherwise.
    """
    options = (
        click.option(
            "--url",
            "urls",
            multiple=True,
            help=f"host:port of a server's gRPC; several share the work.  [default: {_DEFAULT_URL}]",
        ),
        click.option("--local", is_flag=True, help="Compute in this process, without a server."),
        click.option(
            "--model-repository",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder of the members for --local.  [default: those that come with this package]",
        ),
        click.option(
            "--deadline-s",
            default=deadline_s,
            show_default=True,
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds that all of it may take on the server.",
        ),
        click.option(
            "--retry-s",
            default=30.0,
            show_default=True,
            type=click.FloatRange(min=0),
            help="Seconds for which a server that is not available is tried again.",
        ),
        click.option(
            "--root-certificates", type=INPUT, help="PEM file: use TLS, and trust servers that these vouch for."
        ),
        click.option("--certificate-chain", type=INPUT, help="PEM file: the client's own certificate, for mutual TLS."),
        click.option("--private-key", type=INPUT, help="PEM file: the key of --certificate-chain."),
    )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def connected(**given: Any) -> None:
            connection = Connection(**{name: given.pop(name) for name in Connection._fields})
            connection.check()
            command(connection=connection, **given)

        for option in reversed(options):
            connected = option(connected)
        return connected

    return decorate


@contextmanager
def _hint_of(client: ShrinkageClient, servers: str) -> Iterator[None]:
    """Say what to type when nobody has answered for a second: the client itself goes on trying."""
    over = Event()

    def look() -> None:
        if client.is_live(_LOOK_S) or over.is_set():
            return
        what_to_type = "start one with `sigmahat serve`, name another with --url, or compute here with --local"
        click.echo(f"{servers}: no answer yet; if no server is there, {what_to_type}", err=True)

    timer = Timer(_SILENCE_S, look)
    timer.start()
    try:
        yield
    finally:
        over.set()
        timer.cancel()
        timer.join()
