# SPDX-License-Identifier: Apache-2.0
"""The binary of NVIDIA's perf_analyzer: where it is, and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sigmahat_deploy.loadtest.errors import LoadTestError

VERSION = "2.51.0"
"""The last whose binary runs with glibc 2.34."""

_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What the binary links to, and what nvidia-pytriton calls its own copies of it."""

_HOW = "get it with `sigmahat loadtest --install-perf-analyzer`, or name one with --perf-analyzer"


class PerfAnalyzer(NamedTuple):
    """A perf_analyzer that runs on this machine."""

    binary: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it needs: its libraries, if they lie beside it."""
        libraries = self.binary.parent / "lib"
        return {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {}


def default_folder() -> Path:
    """Where `install` puts it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "sigmahat", f"perf_analyzer-{VERSION}")


def find(named: Path | None = None) -> PerfAnalyzer:
    """Find the one that is named, else the one that `install` brought, else the one on PATH.

    Raises
    ------
    LoadTestError
        If there is none, or it does not run; says how to get one.
    """
    if named is not None:
        return _check(named.absolute())
    installed = default_folder() / "perf_analyzer"
    if installed.exists():
        return _check(installed)
    on_path = shutil.which("perf_analyzer")
    if on_path is None:
        raise LoadTestError(f"perf_analyzer was not found: {_HOW}")
    return _check(Path(on_path))


def install(folder: Path) -> PerfAnalyzer:
    """Take the binary out of NVIDIA's wheel (pip downloads 14 MB), and its libraries out of nvidia-pytriton, if there.

    The wheel is not installed: it would put an old tritonclient in the place of the present one.

    Raises
    ------
    LoadTestError
        If pip cannot download it, or it does not run.
    """
    wanted = f"tritonclient=={VERSION}"
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--platform=manylinux1_x86_64", f"--dest={downloads}", wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise LoadTestError(f"pip could not download {wanted}, which brings perf_analyzer: {reason}")
        (wheel,) = Path(downloads).glob("*.whl")
        (folder / "lib").mkdir(parents=True, exist_ok=True)
        binary = folder / "perf_analyzer"
        with zipfile.ZipFile(wheel) as archive:
            binary.write_bytes(archive.read(f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"))
    binary.chmod(0o755)
    for name, source in _found_libraries().items():
        shutil.copy(source, folder / "lib" / name)
    return _check(binary)


def _found_libraries() -> dict[str, Path]:
    """Those that nvidia-pytriton has; the others must be the system's."""
    try:
        folder = Path(str(metadata.distribution("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    except metadata.PackageNotFoundError:
        return {}
    found = {name: next(folder.glob(pattern), None) for name, pattern in _LIBRARIES.items()}
    return {name: path for name, path in found.items() if path is not None}


def _check(binary: Path) -> PerfAnalyzer:
    tool = PerfAnalyzer(binary, "")
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, env=os.environ | tool.environment, check=False
        )
    except OSError as error:
        raise LoadTestError(f"{binary} does not run: {error.strerror}; {_HOW}") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LoadTestError(
            f"{binary} does not run: {reason}; its libraries are Debian's libb64-0d and libcudart.so.12 of "
            f"nvidia-cuda-runtime-cu12, which it also finds in {binary.parent / 'lib'}"
        )
    return tool._replace(version=(done.stdout + done.stderr).replace("Perf Analyzer Version", "").strip())
