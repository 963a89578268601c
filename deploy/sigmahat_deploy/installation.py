# SPDX-License-Identifier: Apache-2.0
"""The Triton that pip installed: what it needs from this machine, and a private copy of it that runs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from sigmahat_kernels.request import MAX_ASSETS, MAX_PANEL_CELLS, MAX_UNIVERSES

MAX_MESSAGE_BYTES = 4 * (MAX_PANEL_CELLS + 2 * MAX_UNIVERSES * MAX_ASSETS) + 16 * 2**20
"""The largest panel with the most and widest universes and their blocks, and 16 MB for what comes with them."""

_CANCEL = b"\0TRITONSERVER_InferenceRequestCancel\0"

_SET_GRPC_LIMIT = b"\x41\xc7\x45\x50"
"""`movl $..., 0x50(%r13)`: where Triton's gRPC front end sets ``max_receive_message_size``."""

_ASK_HTTP_LIMIT, _THEN_COMPARE = b"\x48\x8b\x40\x70\x48\x85\xc0\x74\x10", b"\x48\x8b\x53\x78\x48\x01\xea\x48\x39\xd0"
"""`mov 0x70(%rax), %rax; test %rax, %rax; je .+16`, then `mov 0x78(%rbx), %rdx; add %rbp, %rdx; cmp %rdx, %rax`: where
its HTTP front end compares what it has of a body with the limit, if there is one."""

_SET_HTTP_LIMIT, _NOTHING = b"\xb8", b"\x0f\x1f\x40\x00"
"""`mov $..., %eax; nopl 0(%rax)`: as many bytes as it takes to ask."""


class ServerError(RuntimeError):
    """The server cannot start or does not answer as it should; the message names the remedy."""


def check_installation() -> Path:
    """Refuse what would fail late or, worse, give wrong numbers; return this Python's shared library."""
    if sys.platform != "linux" or sys.version_info >= (3, 13):
        raise ServerError(
            f"this Triton runs on Linux with Python 3.11 or 3.12, got {sys.platform} with {_python_version()}: the "
            "client and --local run here, the server elsewhere"
        )
    try:
        metadata.version("nvidia-pytriton")
    except metadata.PackageNotFoundError:
        raise ServerError(
            "nvidia-pytriton, which brings the Triton server, is not installed: pip install 'sigmahat[serve]'"
        ) from None
    numpy_version = metadata.version("numpy")
    if int(numpy_version.split(".")[0]) >= 2:
        raise ServerError(
            f"numpy {numpy_version} would silently corrupt every tensor in this Triton's Python models: "
            "pip install 'numpy<2'"
        )
    libpython = _find_libpython()
    if libpython is None:
        version = _python_version()
        raise ServerError(
            f"libpython{version}.so.1.0, which Triton's Python models run in, was not found: install it "
            f"(Debian/Ubuntu: apt-get install libpython{version}) or use a Python built with --enable-shared"
        )
    return libpython


def build_tree(root: Path, libpython: Path) -> Path:
    """Lay out a private copy of the server; return its binary.

    The binaries find their libraries relative to where they lie, three folders up from ``bin`` and four up from the
    Python backend, so the depth is fixed and they must be copies: a link would be followed back.
    """
    site = Path(str(metadata.distribution("nvidia-pytriton").locate_file("")))
    wheel = site / "pytriton" / "tritonserver"
    libraries = root / "nvidia_pytriton.libs"
    binary = root / "a" / "b" / "bin" / "tritonserver"
    backend = root / "a" / "b" / "backends" / "python"
    stub = backend / "triton_python_backend_stub"

    libraries.mkdir()
    for library in (*(site / "nvidia_pytriton.libs").iterdir(), libpython):
        (libraries / library.name).symlink_to(library)
    binary.parent.mkdir(parents=True)
    _copy_mended(wheel / "bin" / "tritonserver", binary)
    shutil.copytree(wheel / "backends" / "python", backend)
    shutil.copy(wheel / "python_backend_stubs" / _python_version() / stub.name, stub)

    # Triton does not report a stub that cannot be loaded: it waits for it in "loading" for good.
    ldd = subprocess.run(["ldd", binary, stub], capture_output=True, text=True, env=environment(), check=False)
    missing = sorted({line.strip() for line in ldd.stdout.splitlines() if "not found" in line})
    if missing:
        raise ServerError(
            f"Triton needs libraries that this system does not have, install them: {'; '.join(missing)} "
            "(built for glibc 2.34 or later)"
        )
    return binary


def _copy_mended(source: Path, target: Path) -> None:
    """Copy the server, with three things changed that Triton 2.51 has no option for.

    It lets a request finish whose caller has gone, instead of cancelling it: it crashes when a request inside an
    ensemble is cancelled, and about every 30th caller that was killed or missed its deadline took it down. The server
    asks its core library for a cancellation by name; in the copy that name, in the table of imported names, is the one
    of a C function that takes nothing, does nothing and returns 0, which means success.

    gRPC refuses a message above `MAX_MESSAGE_BYTES` when its first bytes say how long it is, instead of receiving up to
    2 GB before the models' own limits are asked: the number in the one instruction that sets it is another. HTTP, which
    has a limit in its library that Triton leaves unset, ends a connection that has sent as much in one body.
    """
    content = source.read_bytes()
    ours = struct.pack("<i", MAX_MESSAGE_BYTES)
    changes = {
        _CANCEL: b"\0sched_yield".ljust(len(_CANCEL), b"\0"),
        _SET_GRPC_LIMIT + struct.pack("<i", 2**31 - 1): _SET_GRPC_LIMIT + ours,
        _ASK_HTTP_LIMIT + _THEN_COMPARE: _SET_HTTP_LIMIT + ours + _NOTHING + _THEN_COMPARE,
    }
    for found, wanted in changes.items():
        if content.count(found) != (2 if found is _CANCEL else 1):  # a name is in two tables
            raise ServerError(
                f"{source} is not the Triton 2.51 that nvidia-pytriton 0.7.0 brings: install that version"
            )
        content = content.replace(found, wanted)
    target.write_bytes(content)
    shutil.copymode(source, target)


def environment(**own: str) -> dict[str, str]:
    """Put this Python first on PATH, where the stub looks for its packages, and give each model one thread."""
    unwanted = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", os.defpath)))
    environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", **own)
    return environment


def _python_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _find_libpython() -> Path | None:
    """Find the library of the running Python: one of another build of the same version would also load, silently."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    candidates = (folder, folder / (sysconfig.get_config_var("MULTIARCH") or ""), Path(sys.base_prefix, "lib"))
    name = f"libpython{_python_version()}.so.1.0"
    return next((path / name for path in candidates if (path / name).exists()), None)
