# SPDX-License-Identifier: Apache-2.0
"""Client of the covariance service: returns and universes in, shrinkage parameters and covariance matrices out."""

from typing import TYPE_CHECKING, Any

from sigmahat_client.client import ShrinkageClient
from sigmahat_client.endpoints import Tls
from sigmahat_client.errors import (
    AssetsDropped,
    DeadlineExceeded,
    EstimateWarning,
    InvalidRequest,
    NoServer,
    PortfolioError,
    RefusedAsset,
    RequestTooLarge,
    ServerError,
    ServerUnavailable,
    SigmahatError,
    UniverseError,
)
from sigmahat_client.estimates import Estimates
from sigmahat_client.risks import Risks

if TYPE_CHECKING:
    from sigmahat_client.aio import AsyncShrinkageClient

__all__ = [
    "AssetsDropped",
    "AsyncShrinkageClient",
    "DeadlineExceeded",
    "EstimateWarning",
    "Estimates",
    "InvalidRequest",
    "NoServer",
    "PortfolioError",
    "RefusedAsset",
    "RequestTooLarge",
    "Risks",
    "ServerError",
    "ServerUnavailable",
    "ShrinkageClient",
    "SigmahatError",
    "Tls",
    "UniverseError",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncShrinkageClient":  # asyncio takes as long to import as all of this
        from sigmahat_client.aio import AsyncShrinkageClient

        return AsyncShrinkageClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
