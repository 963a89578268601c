# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, grouped by who has to act.

The caller
    mends the request (`InvalidRequest`), starts a server or names another (`NoServer`), or asks for less or allows more
    time (`DeadlineExceeded`);
whoever supplies the data
    mends one universe (`UniverseError`) or one portfolio in it (`PortfolioError`);
nobody
    if it passes: calls later (`ServerUnavailable`);
the server's operator
    looks into its log, or gives it more memory (`ServerError`, `RequestTooLarge`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from sigmahat_kernels.status import InvalidRequest, PortfolioStatus, SigmahatError, Status, WarningFlag

__all__ = [
    "UNANSWERED",
    "AssetsDropped",
    "DeadlineExceeded",
    "EstimateWarning",
    "InvalidRequest",
    "NoServer",
    "PortfolioError",
    "RefusedAsset",
    "RequestTooLarge",
    "ServerError",
    "ServerUnavailable",
    "SigmahatError",
    "UniverseError",
    "error_from_grpc",
    "explanation",
    "level_of_caller",
    "listed",
    "no_server",
    "some",
    "warning_text",
]

# In gRPC's words: a closed port, or a name without an address.
_NOBODY = re.compile(r"connection refused|actively refused|errors? resolving|DNS resolution failed", re.IGNORECASE)

# In gRPC's words: the port of an HTTP server, or of one that encrypts.
_NO_GRPC = re.compile(r"failed parsing HTTP/2|http1\.x server", re.IGNORECASE)

UNANSWERED = -1
"""Status of a universe to which no answer came; the client's own, no server sends it."""

_MOST_LISTED = 100


class RefusedAsset(NamedTuple):
    """An asset that cannot be estimated within its universe."""

    asset: Hashable
    status: int
    """A `sigmahat_kernels.status.Status`."""
    n_returns: int
    """Rows of the window in which it has a return; 0 of an asset that is not in the panel."""
    detail: str
    """Rows, values and limits; may be empty."""

    @property
    def reason(self) -> str:
        """What was wanted, and what was found."""
        return explanation(self.status) + (f" ({self.detail})" if self.detail else "")


class AssetsDropped(UserWarning):
    """Universes were estimated without assets that cannot be, as `on_bad_asset="drop"` asks."""


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
    refused : tuple of RefusedAsset
        All such assets of the universe, that one first; or those that were left out, where too few remained.
    """

    def __init__(
        self,
        universe: Hashable,
        status: int,
        asset: Hashable | None = None,
        refused: Sequence[RefusedAsset] = (),
    ) -> None:
        super().__init__(universe, status, asset, refused)  # these are the args that pickle needs
        self.universe, self.status, self.asset, self.refused = universe, status, asset, tuple(refused)

    def __str__(self) -> str:
        if not self.refused:
            culprit = "" if self.asset is None else f", asset {self.asset!r}"
            return f"universe {self.universe!r}{culprit}: {explanation(self.status)}"
        if self.asset is None:
            return f"universe {self.universe!r}: {explanation(self.status)}; left out: {listed(self.refused)}"
        first, *others = self.refused
        also = f"; {len(others)} more: {listed(others)}" if others else ""
        return f"universe {self.universe!r}, asset {first.asset!r}: {first.reason}{also}"


class PortfolioError(SigmahatError):
    """One portfolio could not be measured in one universe; the others there were. Its weights are to be mended.

    Attributes
    ----------
    universe, portfolio : Hashable
        Their names.
    status : int
        A `sigmahat_kernels.status.PortfolioStatus`, or the bare number of one that this version does not know.
    asset : Hashable or None
        The offending asset, where the status names one.
    """

    def __init__(self, universe: Hashable, portfolio: Hashable, status: int, asset: Hashable | None = None) -> None:
        super().__init__(universe, portfolio, status, asset)  # these are the args that pickle needs
        self.universe, self.portfolio, self.status, self.asset = universe, portfolio, status, asset

    def __str__(self) -> str:
        culprit = "" if self.asset is None else f", asset {self.asset!r}"
        known = self.status in list(PortfolioStatus)
        wanted = PortfolioStatus(self.status).explanation if known else f"status {self.status}, which is not known here"
        return f"universe {self.universe!r}, portfolio {self.portfolio!r}{culprit}: {wanted}"


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
    """A message or the server's memory had no room for one request, or it costs more than the server's limit.

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


def listed(refused: Sequence[RefusedAsset]) -> str:
    """Name assets in one line, each with its status and numbers."""
    shown = []
    for asset, status, _, detail in refused[:_MOST_LISTED]:
        name = Status(status).name if status in list(Status) else f"status {status}"
        shown.append(f"{asset!r} ({', '.join(filter(None, [name, detail]))})")
    return ", ".join(shown) + (f" and {len(refused) - len(shown)} more" if len(refused) > len(shown) else "")


def no_server(addresses: Iterable[str]) -> NoServer:
    """Say what to type."""
    where = ", ".join(addresses)
    return NoServer(
        f"{where}: no server is there: start one with `sigmahat serve`, name another with url (--url), or compute "
        "without one by ShrinkageClient.local() (--local)"
    )


def some(names: Sequence[Hashable], most: int = 10) -> str:
    """Name the first few in one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def level_of_caller() -> int:
    """Frames from the function that asks up to the first that is not this package's: whose line a warning shows."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals["__name__"].startswith("sigmahat_client"):
        frame, level = frame.f_back, level + 1
    return level


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
        # Triton's Python models cannot answer with this code, so the word stands in the message.
        case "INVALID_ARGUMENT" if message.startswith("RESOURCE_EXHAUSTED: "):
            return RequestTooLarge(f"{url}: {message}")
        case "INVALID_ARGUMENT":
            return InvalidRequest(message)
        case "DEADLINE_EXCEEDED":
            return DeadlineExceeded(message)
        case "UNAVAILABLE" if _NOBODY.search(message):
            return no_server([url])
        case "UNAVAILABLE" if _NO_GRPC.search(message):
            return NoServer(
                f"{url}: what is there speaks no plain gRPC: name the server's gRPC port with url (--url), 8001 if it "
                "was not changed (8000 is HTTP), or its certificates, if it encrypts"
            )
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
