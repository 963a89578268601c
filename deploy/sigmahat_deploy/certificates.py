# SPDX-License-Identifier: Apache-2.0
"""Certificates are read before Triton reads them: it starts with an expired one, and of a wrong key says nothing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sigmahat_deploy.installation import ServerError

_WARN_BEFORE = timedelta(days=30)


class Tls(NamedTuple):
    """Files in PEM format that encrypt the gRPC port."""

    certificate: Path
    key: Path
    client_ca: Path | None = None  # if given, callers must have a certificate that it signed

    def digest(self) -> str:
        """SHA-256 of what the files hold now."""
        content = b"".join(_read(path) for path in self if path is not None)
        return hashlib.sha256(content).hexdigest()

    def check(self) -> list[str]:
        """Return warnings: of certificates that expire within 30 days.

        Raises
        ------
        ServerError
            If a file cannot be read, a certificate is not valid today, or the key is another certificate's.
        """
        chain = _certificates(self.certificate)
        try:
            key = load_pem_private_key(_read(self.key), password=None)
        except (ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise ServerError(f"{self.key} must hold a private key in PEM format, unencrypted: {error}") from error
        if key.public_key() != chain[0].public_key():
            raise ServerError(f"{self.key} is not the key of the certificate in {self.certificate}")
        warnings = _check_dates(self.certificate, chain)
        if self.client_ca is not None:
            warnings += _check_dates(self.client_ca, _certificates(self.client_ca))
        return warnings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServerError(f"cannot read {path}: {error.strerror}") from error


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise ServerError(f"{path} must hold certificates in PEM format: {error}") from error


def _check_dates(path: Path, certificates: list[x509.Certificate]) -> list[str]:
    now = datetime.now(UTC)
    warnings = []
    for certificate in certificates:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        name = certificate.subject.rfc4514_string()
        if now > end:
            raise ServerError(f"the certificate {name} in {path} expired at {end:%Y-%m-%d %H:%M} UTC: renew it")
        if now < begin:
            raise ServerError(f"the certificate {name} in {path} is not valid before {begin:%Y-%m-%d %H:%M} UTC")
        if now + _WARN_BEFORE > end:
            warnings.append(f"the certificate {name} in {path} expires at {end:%Y-%m-%d %H:%M} UTC: renew it")
    return warnings
