# SPDX-License-Identifier: Apache-2.0
"""Load and unload models of a running Triton, over its HTTP port, with the key that keeps others from doing so.

HTTP, because it stays on loopback where gRPC wants certificates, which this process has none of.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from geventhttpclient.response import HTTPParseError
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from sigmahat_client.shared_memory import KEY_HEADER as SHARED_MEMORY_HEADER
from sigmahat_deploy.installation import ServerError

_HEADER = "sigmahat-control"

_TIMEOUT_S = 120.0
"""A load answers when the model has been loaded."""

_OWNERS = ("model-repository", "trace", "logging")
"""Triton's APIs for whoever started the server."""


@dataclass(frozen=True)
class ModelControl:
    """The models of the server at `http_url`, for whoever started it."""

    http_url: str  # host:port
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    shared_memory_key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def keys(self) -> tuple[str, str]:
        """Both."""
        return self.key, self.shared_memory_key

    def restrict(self) -> list[str]:
        """Options of ``tritonserver`` that refuse its controls, over gRPC and HTTP, to callers without the key.

        The shared memory's has a key of its own, which clients of the same user get.
        """
        rules = (
            f"{','.join(_OWNERS)}:{_HEADER}={self.key}",
            f"shared-memory:{SHARED_MEMORY_HEADER}={self.shared_memory_key}",
        )
        options = ("--grpc-restricted-protocol", "--http-restricted-api")
        return [f"{option}={rule}" for option in options for rule in rules]

    def load(self, model: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Load `model`, or what is new or gone of it on disk; what is loaded serves on until then, and if this fails.

        Raises
        ------
        ServerError
            With Triton's reason.
        """
        self._ask(f"load {model}", lambda client, headers: client.load_model(model, headers), timeout_s)

    def unload(self, model: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Refuse new requests for `model` from now on; `unloading` tells when its accepted ones have been answered."""
        self._ask(f"unload {model}", lambda client, headers: client.unload_model(model, headers), timeout_s)

    def unloading(self) -> list[str]:
        """Names of the models that still have requests to answer before they are gone."""
        index = self._ask("list its models", lambda client, headers: client.get_model_repository_index(headers))
        return [entry["name"] for entry in index if entry.get("state") == "UNLOADING"]

    def _ask(
        self,
        what: str,
        call: Callable[[InferenceServerClient, dict[str, str]], Any],
        timeout_s: float = 10.0,
    ) -> Any:
        try:
            with InferenceServerClient(
                self.http_url, connection_timeout=timeout_s, network_timeout=timeout_s
            ) as client:
                return call(client, {_HEADER: self.key})
        except InferenceServerException as error:
            raise ServerError(f"Triton refused to {what}: {error.message()}") from error
        except (OSError, HTTPParseError, ValueError) as error:  # what tritonclient's HTTP half lets through
            raise ServerError(f"Triton does not answer at {self.http_url}, asked to {what}: {error}") from error
