# SPDX-License-Identifier: Apache-2.0
"""Compile the CPU's kernels before a server starts, so that its steps find them done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from sigmahat_deploy.installation import environment


def compile_kernels(say: Callable[[str], object]) -> None:
    """Compile what is missing in this user's cache, some 15 s; a second where it has everything.

    In a process of its own, in which Triton's Python steps would find the same Python, cache and processor. Where
    nothing can be compiled, or kept, the steps see to themselves.

    Parameters
    ----------
    say : callable
        Gets a line, as it comes, for whoever waits: that kernels are being compiled, or why not.
    """
    command = [sys.executable, "-m", "sigmahat_kernels.lanes"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    ) as compiler:
        assert compiler.stderr is not None  # it is a pipe
        try:
            for line in compiler.stderr:
                say(line.rstrip())
        except BaseException:  # a signal, which ends the server
            compiler.kill()
            raise
