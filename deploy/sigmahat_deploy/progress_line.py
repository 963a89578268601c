# SPDX-License-Identifier: Apache-2.0
"""How far long work is: a bar on a terminal, now and then a line where there is none, as in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 30.0


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], object]]:
    """Give a function to be called with how many of `what` are done, and how many there are."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], object]:
    begin = said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            click.echo(f"{done:,} of {total:,} {what}, {now - begin:.0f} s", err=True)

    return say
