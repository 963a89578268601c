# SPDX-License-Identifier: Apache-2.0
"""Client of the covariance service: returns and universes in, shrinkage parameters and covariance matrices out."""

from sigmahat_client.client import AsyncShrinkageClient, ShrinkageClient
from sigmahat_client.endpoints import Tls
from sigmahat_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    RequestTooLarge,
    ServerError,
    ServerUnavailable,
    SigmahatError,
    UniverseError,
)
from sigmahat_client.estimates import Estimates

__all__ = [
    "AsyncShrinkageClient",
    "DeadlineExceeded",
    "Estimates",
    "InvalidRequest",
    "RequestTooLarge",
    "ServerError",
    "ServerUnavailable",
    "ShrinkageClient",
    "SigmahatError",
    "Tls",
    "UniverseError",
]
