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
from typing import NamedTuple

from sigmahat_kernels.request import MAX_ASSETS, MAX_PANEL_CELLS, MAX_UNIVERSES

MAX_MESSAGE_BYTES = 4 * (MAX_PANEL_CELLS + 2 * MAX_UNIVERSES * MAX_ASSETS) + 16 * 2**20
"""The largest panel with the most and widest universes and their blocks, and 16 MB for what comes with them."""


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


class _Change(NamedTuple):
    """Bytes of the server's binary, and as many that take their place."""

    found: bytes
    wanted: bytes
    times: int = 1  # how often they are found


def _copy_mended(source: Path, target: Path) -> None:
    """Copy the server, with the things changed that Triton 2.51 has no option for."""
    content = source.read_bytes()
    for change in (*_requests_live_to_their_end(), *_messages_are_limited(MAX_MESSAGE_BYTES)):
        if content.count(change.found) != change.times:
            raise ServerError(
                f"{source} is not the Triton 2.51 that nvidia-pytriton 0.7.0 brings: install that version"
            )
        content = content.replace(change.found, change.wanted)
    target.write_bytes(content)
    shutil.copymode(source, target)


def _requests_live_to_their_end() -> tuple[_Change, ...]:
    """A request whose caller has gone is finished, not cancelled.

    Triton 2.51 crashes when a request inside an ensemble is cancelled: about every 30th caller that was killed or
    missed its deadline took it down. The server asks its core library for a cancellation by name; in the copy that
    name, in both tables of imported names, is the one of a C function that takes nothing, does nothing and returns 0,
    which means success.

    Its gRPC front end has a race besides (server pull request 8078 mends a part of it): gRPC hands it a request twice,
    when the answer is sent and when the call is done or cancelled, and two threads that take the two may both release
    the request. In the copy `ModelInfer` does not ask to be told that a call is done (`StateNew` clears gRPC's
    has_notify_when_done_tag_ instead of setting it), and `ModelInferHandler::Process` releases a request when its
    answer is sent (it returns false in step COMPLETE), as nothing else will come. Streams, which one thread reads,
    stay.
    """
    cancel = b"\0TRITONSERVER_InferenceRequestCancel\0"
    # delete ...; mov 0x158(%rbx), %rbp; mov 0x10(%rbx), %rax; movb $1, 0x18(%rax); mov %rbp, 0x20(%rax)
    notify = "e8da86ebff 488bab58010000 488b4310 c64018{} 48896820"
    # movl $FINISH, 0x20(%r12); mov $1, %r13d: not yet; jmp
    keep = "41c744242002000000 41bd{}000000 e945ffffff"
    return (
        _Change(cancel, b"\0sched_yield".ljust(len(cancel), b"\0"), times=2),
        *(_Change(bytes.fromhex(x.format("01")), bytes.fromhex(x.format("00"))) for x in (notify, keep)),
    )


def _messages_are_limited(max_bytes: int) -> tuple[_Change, ...]:
    """What is sent has at most `max_bytes`.

    gRPC refuses a longer message when its first bytes say how long it is, instead of receiving up to 2 GB before the
    models' own limits are asked: the number in the one instruction that sets max_receive_message_size is another. HTTP,
    which has a limit in its library that Triton leaves unset, ends a connection that has sent as much in one body.
    """
    unlimited, ours = (struct.pack("<i", number) for number in (2**31 - 1, max_bytes))
    set_grpc_limit = bytes.fromhex("41c74550")  # movl $..., 0x50(%r13)
    # mov 0x70(%rax), %rax; test %rax, %rax; je .+16: the limit, if there is one. Then it is compared with what has
    # come: mov 0x78(%rbx), %rdx; add %rbp, %rdx; cmp %rdx, %rax
    ask_http_limit, compare = bytes.fromhex("488b4070 4885c0 7410"), bytes.fromhex("488b5378 4801ea 4839d0")
    set_http_limit, nothing = bytes.fromhex("b8"), bytes.fromhex("0f1f4000")  # mov $..., %eax; nopl 0(%rax)
    return (
        _Change(set_grpc_limit + unlimited, set_grpc_limit + ours),
        _Change(ask_http_limit + compare, set_http_limit + ours + nothing + compare),
    )


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
