# SPDX-License-Identifier: Apache-2.0
"""rich's progress bars, which also say now and then in a line how far they are where nobody sees them, as in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich import progress
from rich.console import Console
from rich.progress import TaskID

T = TypeVar("T")

LINE_EVERY_S = 30.0


class Progress(progress.Progress):
    """As rich's; on a console that is no terminal, a line every 30 s of the task that has just got on."""

    def __init__(self, *columns: str | progress.ProgressColumn, **settings: Any) -> None:
        super().__init__(*columns, **settings)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See `rich.progress.Progress.update`."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """See `rich.progress.Progress.advance`."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self._said < LINE_EVERY_S:
            return
        self._said = now
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:,.0f}"
        extra = "".join(f", {value}" for value in task.fields.values() if value)
        done = f"{task.description or 'steps'}: {task.completed:,.0f}{total}{extra}, {task.elapsed or 0:.0f} s"
        self.console.print(done, soft_wrap=True, markup=False, highlight=False)


def track(
    work: Iterable[T], description: str, *, total: int, completed: int = 0, console: Console, shown: bool = True
) -> Iterator[T]:
    """Yield what there is to do, and show how much of it is done; the bar goes away at the end."""
    if not shown:
        yield from work
        return
    columns = progress.Progress.get_default_columns()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=completed)
        for piece in work:
            yield piece
            bar.advance(task)
