# SPDX-License-Identifier: Apache-2.0
"""Client of the covariance service: returns and universes in, shrinkage parameters and covariance matrices out."""

from sigmahat_client.client import ShrinkageClient
from sigmahat_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ServerError,
    ServerUnavailable,
    SigmahatError,
    UniverseError,
)
from sigmahat_client.estimates import Estimates

__all__ = [
    "DeadlineExceeded",
    "Estimates",
    "InvalidRequest",
    "ServerError",
    "ServerUnavailable",
    "ShrinkageClient",
    "SigmahatError",
    "UniverseError",
]
