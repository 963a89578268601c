# SPDX-License-Identifier: Apache-2.0
"""What Triton writes, read as it comes and kept short: callers can make it write more than anyone can store."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from typing import IO

_TAIL_LINES = 30
_KEPT_LINES = 1_000
_LINE_BYTES = 2_000
_LINES_A_SECOND = 50
"""Messages passed on; what comes above is counted."""

NOISE = re.compile(
    r"^\s*$|^[+|]|^I\d{4} [^\]]*\]\s*$"  # tables of options and model states, and the headers above them
    r"|CudaDriverHelper|CUDA memory pool|NVML|DCGM|unable to create stream|Unable to allocate pinned"  # without a GPU
    r"|Collecting CPU metrics|TRITONBACKEND_ModelInstance|Timeout \d+: Found|successfully unloaded"
)
"""What Triton writes into its log that helps nobody."""

_MESSAGE = re.compile(r"[IWEF]\d{4} ")


class TritonLog:
    """The last lines of `pipe`, and its warnings and errors; read in a thread, so that the writer never waits."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._messages: list[str] = []
        self._in_message = False
        self._dropped = 0
        self._second, self._taken = 0, 0
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def begun(self) -> bool:
        """Whether Triton has written a message, which it does once it has read its options."""
        with self._lock:
            return any(map(_MESSAGE.match, self._lines))

    def tail(self) -> str:
        """Return the last lines, less the tables and what is harmless without a GPU."""
        with self._lock:
            telling = [line for line in self._lines if not NOISE.search(line)]
        return "\n".join(telling[-_TAIL_LINES:]) or "(the log is empty)"

    def new_messages(self) -> list[str]:
        """Return warnings and errors since the last call; the last one says how many lines more there were."""
        with self._lock:
            messages, self._messages = [message.strip() for message in self._messages], []
            if self._dropped:
                messages.append(f"{self._dropped:,} more lines of Triton's were dropped: more than can be kept")
                self._dropped = 0
        return [message for message in messages if message]

    def close(self) -> None:
        """Wait a moment for the last lines of a server that has ended."""
        self._reader.join(timeout=1.0)

    def _read(self) -> None:
        whole = True
        with self._pipe:
            while piece := self._pipe.readline(_LINE_BYTES):
                if whole:  # the rest of a line that is too long is left out
                    self._take(piece.decode(errors="replace").rstrip("\n"))
                whole = piece.endswith(b"\n")

    def _take(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            starts = _MESSAGE.match(line) is not None
            if starts:
                self._in_message = line[0] != "I" and not NOISE.search(line)
            if not self._in_message:
                return
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._taken = second, 0
            self._taken += 1
            if self._taken > _LINES_A_SECOND:
                self._dropped += 1
            elif starts or not self._messages:
                self._messages.append(line)
            else:
                self._messages[-1] += "\n" + line
