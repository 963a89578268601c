# SPDX-License-Identifier: Apache-2.0
"""The folder of built engines: one entry a key, complete or not there, sealed by the digests of its files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from sigmahat_deploy.engines.builders import Profile
from sigmahat_deploy.engines.device import Device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_kernels.files import new_folder

PLAN, LAYERS, REPORT = "model.plan", "layers.json", "report.json"

_UNFINISHED = ".building-"


class Key(NamedTuple):
    """All that an engine depends on; any other value of any of it needs another engine."""

    tensorrt: str
    device: Device
    precision: str
    profile: Profile
    onnx_sha256: str

    def folder(self) -> str:
        """Name of the cache's entry.

        >>> device = Device("NVIDIA-H200", "9.0", "580.1")
        >>> Key("11.1.0.106", device, "int8", Profile(), "d4f0" * 16).folder()
        '11.1.0.106-sm90-NVIDIA-H200-int8-1-4096-65536-d4f0d4f0d4f0d4f0'
        """
        capability = f"sm{self.device.compute_capability.replace('.', '')}"
        rows = "-".join(map(str, self.profile))
        return f"{self.tensorrt}-{capability}-{self.device.product}-{self.precision}-{rows}-{self.onnx_sha256[:16]}"

    def timing_cache(self) -> str:
        """Name of the file of kernel timings, which all engines of one TensorRT and GPU share."""
        return f"timings-{self.tensorrt}-{self.device.product}.cache"


@contextmanager
def locked(cache: Path, waiting: Callable[[], object], timeout_s: float = 1800.0) -> Iterator[None]:
    """Hold the cache for this process alone; calls `waiting` once if another has it. The lock dies with its process."""
    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / ".lock", poll_interval=0.1)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        waiting()
        try:
            held = lock.acquire(timeout=timeout_s)
        except Timeout:
            raise EngineError(
                f"another process has been building engines in {cache} for more than {timeout_s:g} s"
            ) from None
    with held:
        for leftover in cache.glob(f"*{_UNFINISHED}*"):  # of a build that was killed: nobody else is building now
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def new_entry(cache: Path, key: Key) -> Iterator[Path]:
    """A folder to build in, which becomes the entry when the block ends well and goes away otherwise.

    The block leaves `PLAN`, `LAYERS` and a dict for `REPORT` behind (`seal`).
    """
    entry = cache / key.folder()
    built, old = (entry.with_name(f"{_UNFINISHED}{entry.name}{age}") for age in ("", "-old"))
    with new_folder(built) as folder:
        yield folder
    if entry.exists():  # a rebuild: links point at the name, and whoever has opened the old engine keeps it
        entry.rename(old)
    built.rename(entry)
    shutil.rmtree(old, ignore_errors=True)


def seal(folder: Path, report: dict[str, Any]) -> None:
    """Write `report`, with the digests of the files beside it, and see all of it to the disk."""
    digests = {name: digest(folder / name) for name in (PLAN, LAYERS)}
    (folder / REPORT).write_text(json.dumps({**report, "files": digests}, indent=1) + "\n")
    for name in (PLAN, LAYERS, REPORT):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def read_entry(cache: Path, key: Key) -> dict[str, Any] | None:
    """The report of a complete entry, None if there is none.

    Raises
    ------
    EngineError
        If the entry's files are not those that were sealed.
    """
    entry = cache / key.folder()
    if not entry.exists():
        return None
    try:
        report: dict[str, Any] = json.loads((entry / REPORT).read_text())
        broken = [name for name, expected in report["files"].items() if digest(entry / name) != expected]
        other = report["onnx_sha256"] != key.onnx_sha256
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"the cached engine {entry} cannot be read ({error}): build it anew with --rebuild"
        ) from error
    if broken or other:
        what = f"{', '.join(broken)} truncated or changed" if broken else "made from another ONNX file"
        raise EngineError(f"the cached engine {entry} is damaged, {what}: build it anew with --rebuild")
    return report


def link(plan: Path, name: Path) -> None:
    """Make `name` point at `plan` in one step: whoever opens it finds the old engine or the new one."""
    if name.exists() and not name.is_symlink():
        raise EngineError(f"{name} is a file and no link to the cache: move it away first")
    draft = name.with_name(f".{name.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        draft.symlink_to(plan.absolute())
        draft.replace(name)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def timing_cache(cache: Path, key: Key, scratch: Path) -> Iterator[Path]:
    """A copy of the kernel timings to read and renew; the shared one is replaced when the block ends well.

    Timings save time and keep the choice of kernels stable, no more: a damaged file is left out, not an error.
    """
    shared = cache / key.timing_cache()
    sealed = shared.with_suffix(".sha256")
    copy = scratch / shared.name
    if shared.exists() and sealed.exists() and sealed.read_text() == digest(shared):
        shutil.copy(shared, copy)
    yield copy
    if copy.exists():
        sealed.unlink(missing_ok=True)
        copy.replace(shared)
        sealed.write_text(digest(shared))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
