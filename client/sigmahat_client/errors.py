# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, grouped by who has to act.

The caller
    mends the request (`InvalidRequest`), starts a server or names another (`NoServer`), or asks for less or allows more
    time (`DeadlineExceeded`);
whoever supplies the data
    mends one universe (`UniverseError`);
nobody
    if it passes: calls later (`ServerUnavailable`);
the server's operator
    looks into its log, or gives it more memory (`ServerError`, `RequestTooLarge`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from sigmahat_kernels.status import InvalidRequest, Status, WarningFlag

if TYPE_CHECKING:
    from sigmahat_client.estimates import Estimates

__all__ = [
    "UNANSWERED",
    "DeadlineExceeded",
    "InvalidRequest",
    "NoServer",
    "RequestTooLarge",
    "ServerError",
    "ServerUnavailable",
    "SigmahatError",
    "UniverseError",
    "error_from_grpc",
    "no_server",
]

# In gRPC's words: a closed port, or a name without an address.
_NOBODY = re.compile(r"connection refused|actively refused|errors? resolving|DNS resolution failed", re.IGNORECASE)

UNANSWERED = -1
"""Status of a universe to which no answer came; the client's own, no server sends it."""


class SigmahatError(Exception):
    """Base of what goes wrong with a request that can be read. One that cannot is an `InvalidRequest`, a ValueError.

    Attributes
    ----------
    estimates : Estimates or None
        What `estimate` had when it gave up; the universes without an answer have the status `UNANSWERED`.
    """

    estimates: Estimates | None = None


class UniverseError(SigmahatError):
    """One universe could not be estimated; its neighbours in the same call were. Its data or assets are to be mended.

    Attributes
    ----------
    universe : Hashable
        Its name.
    status : int
        A `sigmahat_kernels.status.Status`, or the bare number of one that this version does not know.
    asset : Hashable or None
        The offending asset, where the status names one.
    """

    def __init__(self, universe: Hashable, status: int, asset: Hashable | None = None) -> None:
        super().__init__(universe, status, asset)  # these are the args that pickle needs
        self.universe, self.status, self.asset = universe, status, asset

    def __str__(self) -> str:
        culprit = "" if self.asset is None else f", asset {self.asset!r}"
        return f"universe {self.universe!r}{culprit}: {explanation(self.status)}"


class EstimateWarning(UserWarning):
    """Universes were estimated, but something is odd about their assets; `Estimates.warnings` has all of it."""


class ServerUnavailable(SigmahatError, ConnectionError):
    """No server answers there, or it is starting, stopping or full: the same call may succeed later."""


class NoServer(ServerUnavailable):
    """Nothing has ever listened there: the caller starts a server or names another."""


class DeadlineExceeded(SigmahatError, TimeoutError):
    """The answer did not arrive in time: the caller asks for less, or allows more seconds with `deadline_s`."""


class ServerError(SigmahatError):
    """The server failed, which its operator's log explains, or its answer is not what this client's version expects."""


class RequestTooLarge(ServerError):
    """A message or the server's memory had no room for one request.

    The client splits it, so that a caller sees this of one universe only; the operator has to give more room.
    """


def explanation(status: int) -> str:
    """What was wanted where a universe has this status."""
    if status == UNANSWERED:
        return "no answer came"
    try:
        return Status(status).explanation
    except ValueError:
        return f"status {status}, which this version of the client does not know"


def no_server(addresses: Iterable[str]) -> NoServer:
    """Say what to type."""
    where = ", ".join(addresses)
    return NoServer(f"{where}: no server is there: start one with `sigmahat serve`, or name another with url (--url)")


def warning_text(name: str) -> str:
    """What a flag of `Estimates.warnings` says; a newer server may know flags that this version does not."""
    flag = WarningFlag.__members__.get(name)
    return f"warning {name}" if flag is None else flag.explanation


def error_from_grpc(code: str, message: str, url: str) -> Exception:
    """Turn a gRPC status code such as ``StatusCode.UNAVAILABLE`` into the exception class of its meaning.

    >>> error_from_grpc("StatusCode.INVALID_ARGUMENT", "in ensemble 'shrinkage', PANEL is empty", "127.0.0.1:8001")
    InvalidRequest('PANEL is empty')
    """
    message = re.sub(r"^in ensemble '[^']*',\s*", "", message)
    match code.removeprefix("StatusCode."):
        case "INVALID_ARGUMENT":
            return InvalidRequest(message)
        case "DEADLINE_EXCEEDED":
            return DeadlineExceeded(message)
        case "UNAVAILABLE" if _NOBODY.search(message):
            return no_server([url])
        case "UNAVAILABLE" if "protocol is restricted" not in message:
            return ServerUnavailable(f"{url}: {message}")
        # A server that is shutting down unloads its models before it closes its port.
        case "NOT_FOUND" if "no available versions" in message:
            return ServerUnavailable(f"{url}: {message}")
        # A model's process died; a supervised server gets a new one.
        case "INTERNAL" if "Stub process" in message:
            return ServerUnavailable(f"{url}: {message}")
        case "RESOURCE_EXHAUSTED" as name:
            return RequestTooLarge(f"{url}: {name}: {message}")
        case "INTERNAL" as name if "shared memory" in message:
            return RequestTooLarge(f"{url}: {name}: {message}")
        case name:
            return ServerError(f"{url}: {name}: {message}")
