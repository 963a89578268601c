# SPDX-License-Identifier: Apache-2.0
"""Addresses and certificates -> settings of gRPC channels: balancing, retries, keep-alive, names, TLS."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmahat_client.errors import InvalidRequest

_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
_UNLIMITED = 2**31 - 1

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],  # over the addresses of one name
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService", "method": "ModelInfer"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # A full server, or one whose queue let a request expire, answers UNAVAILABLE too: after five failures in a row
    # these retries stop, and only the slower ones of `dispatch` go on.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


@dataclass(frozen=True)
class Tls:
    """Certificates, as PEM files."""

    root_certificates: str | Path | None = None
    """Who may have signed the server's certificate; default: the authorities that gRPC knows."""
    certificate_chain: str | Path | None = None
    """This client's own, where the server asks for one (mutual TLS)."""
    private_key: str | Path | None = None
    server_name: str | None = None
    """The name in the server's certificate, where that is not the host of the address."""


def addresses(url: str | Iterable[str]) -> list[str]:
    """Check addresses.

    >>> addresses("127.0.0.1:8001")
    ['127.0.0.1:8001']
    """
    found = [url] if isinstance(url, str) else list(url)
    if not found:
        raise InvalidRequest("url must be host:port or a list of them, got none")
    for address in found:
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdigit():
            raise InvalidRequest(f"url must be host:port, such as 127.0.0.1:8001, got {address!r}")
    return found


def is_loopback(address: str) -> bool:
    """Whether the address is this machine's."""
    return address.rpartition(":")[0] in _LOOPBACK


def channel_options(address: str, tls: Tls | None, *, retries: bool) -> list[tuple[str, Any]]:
    """Settings of the channel."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.enable_retries", int(retries)),
        ("grpc.per_rpc_retry_buffer_size", _UNLIMITED),  # a request larger than this, 256 KB by default, is not retried
        # gRPC's own limit is 4 MB; tritonclient lifts it only where it gets no channel options.
        ("grpc.max_send_message_length", _UNLIMITED),
        ("grpc.max_receive_message_length", _UNLIMITED),
        # For a host that vanished without a word; not oftener, or servers with gRPC's default settings take offence.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Defaults of 120 s and 30 s would keep away from a server that is back, or new, for as long.
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.dns_min_time_between_resolutions_ms", 5_000),
        # gRPC would send even loopback through the proxy in `http_proxy`.
        ("grpc.enable_http_proxy", int(not is_loopback(address))),
    ]
    if tls is not None and tls.server_name is not None:
        options += [("grpc.ssl_target_name_override", tls.server_name), ("grpc.default_authority", tls.server_name)]
    return options


def tls_arguments(tls: Tls | None) -> dict[str, Any]:
    """Turn certificates into arguments of tritonclient.

    Raises
    ------
    InvalidRequest
        If a file is missing, or only one of certificate and key is given.
    """
    if tls is None:
        return {}
    files = {
        "root_certificates": tls.root_certificates,
        "certificate_chain": tls.certificate_chain,
        "private_key": tls.private_key,
    }
    for name, path in files.items():
        if path is not None and not Path(path).is_file():
            raise InvalidRequest(f"{name} must be a PEM file, but {path} is none")
    if (tls.certificate_chain is None) != (tls.private_key is None):
        raise InvalidRequest("certificate_chain and private_key go together, got only one of them")
    return {"ssl": True, **files}
