# SPDX-License-Identifier: Apache-2.0
"""One client a process for objects that are copied, pickled and sent to workers, and so cannot hold a connection."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from sigmahat_client.client import ShrinkageClient
from sigmahat_client.errors import InvalidRequest


def shared_client(url: str | None, model_repository: str | Path | None) -> ShrinkageClient:
    """Return this process's client of the server at `url`, or without one, of the members in a folder or the package.

    Raises
    ------
    InvalidRequest
        If both are given.
    """
    if url is not None and model_repository is not None:
        raise InvalidRequest(f"a server has its models: give url or model_repository, got both ({model_repository})")
    return _client(url, None if model_repository is None else str(model_repository), os.getpid())


@cache
def _client(url: str | None, model_repository: str | None, pid: int) -> ShrinkageClient:
    # A connection does not survive a fork, hence `pid`.
    return ShrinkageClient.local(model_repository) if url is None else ShrinkageClient(url)
