# SPDX-License-Identifier: Apache-2.0
"""Client of the covariance service: returns and universes in, shrinkage parameters and covariance matrices out."""

from importlib import import_module
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
    from sigmahat_client.matrices import annualise, plot_matrix, single_factor, to_correlation
    from sigmahat_client.prices import returns_from_prices

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
    "annualise",
    "plot_matrix",
    "returns_from_prices",
    "single_factor",
    "to_correlation",
]

_LATER = {
    "AsyncShrinkageClient": "aio",  # asyncio takes as long to import as all of this
    "annualise": "matrices",
    "plot_matrix": "matrices",
    "returns_from_prices": "prices",
    "single_factor": "matrices",
    "to_correlation": "matrices",
}
"""What is imported when it is first asked for, and from where."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
