# SPDX-License-Identifier: Apache-2.0
"""The SHA-256 of every file that holds learned numbers, in one file beside them, checked whenever one is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

MANIFEST = "manifest.json"
"""Name of the file: paths relative to its folder, with slashes, to digests in hexadecimal."""


class ManifestError(RuntimeError):
    """A file is not the one that was trained or exported."""


def write_manifest(folder: Path, files: Iterable[Path]) -> None:
    """Record what `files`, all below `folder`, hold now; the manifest appears whole, or the old one stays."""
    digests = {file.relative_to(folder).as_posix(): _digest(file.read_bytes()) for file in files}
    draft = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n")
        draft.replace(folder / MANIFEST)
    finally:
        draft.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, str]:
    """File, relative to `folder` and with slashes, to digest.

    Raises
    ------
    ManifestError
        If there is no manifest, or it cannot be read.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ManifestError(
            f"files of {folder} cannot be verified: there is no {manifest}; `sigmahat train` and `export` write it"
        )
    try:
        digests: dict[str, str] = dict(json.loads(manifest.read_text()))
    except ValueError as error:
        raise ManifestError(f"{manifest} must be JSON, file to SHA-256, but is none: {error}") from error
    return digests


def read_verified(file: Path, folder: Path) -> bytes:
    """Return the content of `file`, which lies below `folder`, if it is what the manifest in `folder` says.

    One manifest covers all members, so that it also finds files of two different exports side by side.

    Raises
    ------
    ManifestError
        If there is no manifest, it does not name the file, or the file has another content.
    """
    manifest, name = folder / MANIFEST, file.relative_to(folder).as_posix()
    wanted = read_manifest(folder).get(name)
    if wanted is None:
        raise ManifestError(f"{file} cannot be verified: {manifest} does not name {name}")
    content = file.read_bytes()
    if _digest(content) != wanted:
        raise ManifestError(f"{file} is not the file that {manifest} names: SHA-256 {_digest(content)}, not {wanted}")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
