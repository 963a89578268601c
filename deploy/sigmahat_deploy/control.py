# SPDX-License-Identifier: Apache-2.0
"""Load and unload models of a running Triton, over its HTTP port, with the key that keeps others from doing so."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from sigmahat_deploy.installation import ServerError

_HEADER = "sigmahat-control"

_TIMEOUT_S = 120.0
"""A load answers when the model has been loaded."""


@dataclass(frozen=True)
class Control:
    """The models of the server at `http_url`, for whoever started it."""

    http_url: str  # host:port
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def restrict(self, apis: Sequence[str]) -> list[str]:
        """Options of ``tritonserver`` that refuse `apis`, over gRPC and HTTP, to callers without the key."""
        rule = f"{','.join(apis)}:{_HEADER}={self.key}"
        return [f"--grpc-restricted-protocol={rule}", f"--http-restricted-api={rule}"]

    def load(self, model: str) -> None:
        """Load `model`, or what is new or gone of it on disk; what is loaded serves on until then, and if this fails.

        Raises
        ------
        ServerError
            With Triton's reason.
        """
        self._post(f"/v2/repository/models/{model}/load")

    def unload(self, model: str) -> None:
        """Refuse new requests for `model` from now on; `unloading` tells when its accepted ones have been answered."""
        self._post(f"/v2/repository/models/{model}/unload")

    def unloading(self) -> list[str]:
        """Names of the models that still have requests to answer before they are gone."""
        return [entry["name"] for entry in self._post("/v2/repository/index") if entry.get("state") == "UNLOADING"]

    def _post(self, path: str) -> list[dict[str, str]]:
        connection = HTTPConnection(self.http_url, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", path, body="{}", headers={_HEADER: self.key})
            response = connection.getresponse()
            content = response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise ServerError(f"Triton does not answer at {self.http_url}{path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServerError(f"Triton refused {path}: {content}")
        answer: list[dict[str, str]] = json.loads(content) if content else []
        return answer
