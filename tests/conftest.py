# SPDX-License-Identifier: Apache-2.0
"""What several folders of tests share: the real server, and a panel to send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1] / "model_repository"


@pytest.fixture(scope="session")
def running_server() -> Iterator[Any]:
    """A real Triton that serves the committed model repository: `sigmahat_deploy.server.LocalServer`."""
    module = pytest.importorskip("sigmahat_deploy.server", reason="needs sigmahat[serve]")
    from sigmahat_deploy.probe import probe_shrinkage

    with module.local_server(REPOSITORY, grpc_port=0, http_port=0, metrics_port=0, probe=probe_shrinkage) as running:
        yield running


@pytest.fixture(scope="session")
def served(running_server: Any) -> str:
    """host:port of its gRPC."""
    url: str = running_server.grpc_url
    return url


@pytest.fixture(scope="session")
def panel() -> np.ndarray:
    """300 days of 80 assets: a market, sectors, fat tails, and some missing returns. Shape (300, 80) float32."""
    rng = np.random.default_rng(7)
    market = rng.standard_t(5, (300, 1)) * 0.008
    sectors = (rng.standard_normal((300, 5)) * 0.006)[:, rng.integers(5, size=80)]
    own = rng.standard_t(4, (300, 80)) * rng.lognormal(-4.6, 0.4, 80)
    returns = (market * rng.normal(1.0, 0.3, 80) + sectors + own).astype(np.float32)
    returns[rng.random(returns.shape) < 0.01] = np.nan
    returns[:100, 79] = np.nan
    return returns
