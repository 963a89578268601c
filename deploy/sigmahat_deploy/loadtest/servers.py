# SPDX-License-Identifier: Apache-2.0
"""The servers under load, and how each of the programs that ask them connects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import grpc
import tritonclient.grpc as triton

from sigmahat_client import Tls
from sigmahat_client.endpoints import tls_arguments

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


class Servers(NamedTuple):
    """Where they are, and certificates if they speak TLS. Not a balancer: statistics are those of one server each."""

    urls: tuple[str, ...]  # host:port of gRPC
    tls: Tls | None = None
    metrics: tuple[str, ...] = ()  # host:port, plain HTTP

    def client(self, url: str) -> triton.InferenceServerClient:
        """For what Triton says of itself.

        Raises
        ------
        InvalidRequest
            If a file of `tls` is missing, or only one of certificate and key is given.
        """
        return triton.InferenceServerClient(url, channel_args=list(_OPTIONS), **tls_arguments(self.tls))

    def channel(self, url: str) -> grpc.aio.Channel:
        """For requests, with retries of none: a refusal is a result."""
        options = (*_OPTIONS, ("grpc.enable_retries", 0))
        if self.tls is None:
            return grpc.aio.insecure_channel(url, options=options)
        files = self.tls.root_certificates, self.tls.private_key, self.tls.certificate_chain
        contents = [file and Path(file).read_bytes() for file in files]
        return grpc.aio.secure_channel(url, grpc.ssl_channel_credentials(*contents), options=options)

    def perf_analyzer_options(self) -> list[str]:
        """Of its command line."""
        if self.tls is None:
            return []
        files = {
            "root-certifications": self.tls.root_certificates,
            "private-key": self.tls.private_key,
            "certificate-chain": self.tls.certificate_chain,
        }
        named = [f"--ssl-grpc-{name}-file={Path(file).absolute()}" for name, file in files.items() if file is not None]
        return ["--ssl-grpc-use-ssl", *named]
