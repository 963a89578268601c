# SPDX-License-Identifier: Apache-2.0
"""What the control of models says when there is no Triton to answer it; tests/served try it on a real one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from sigmahat_deploy.installation import ServerError

pytest.importorskip("geventhttpclient", reason="needs sigmahat[serve]")

from sigmahat_deploy.model_control import ModelControl


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """host:port that says `content` to every caller, and hangs up."""

    def answer(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller:
                    caller.recv(1 << 16)
                    caller.sendall(content)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("content", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnonsense"])
def test_what_is_no_triton_does_not_answer(content: bytes) -> None:
    with (
        answering(content) as url,
        pytest.raises(ServerError, match=f"does not answer at {url}, asked to list its mod"),
    ):
        ModelControl(url).unloading()


def test_a_closed_port_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ServerError, match=f"does not answer at {url}, asked to load shrinkage: .*refused"):
        ModelControl(url).load("shrinkage")


def test_a_refusal_is_told_in_tritons_words() -> None:
    reason = b'{"error":"failed to load, no such model"}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(reason)
    with (
        answering(head + reason) as url,
        pytest.raises(ServerError, match=r"^Triton refused to unload shrinkage: failed to load, no such model$"),
    ):
        ModelControl(url).unload("shrinkage")
