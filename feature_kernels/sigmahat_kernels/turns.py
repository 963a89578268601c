# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is on the cores of a process: small work passes large work between its slices.

Every piece of work has a place in line, by the cost at which it would be done if all were served evenly (start-time
fair queueing: Goyal, Vin, Cheng 1997). Work that is behind others with enough to do for all cores waits at its next
pause; the first in line never does. So a small request passes a large one, and a large one cannot be passed for ever:
what comes later is placed behind it once as much as its own cost has been served.

Work for many cores leaves all but one idle where it shares a window, asks the networks and is written: what came after
it goes on meanwhile. What was passed waits.

Work of one caller is placed one after the other, so one with a hundred requests gets no more than one with two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Condition


class Overdue(Exception):
    """The time that the caller allows is over."""


class Turn:
    """A place in line; see `Turns.take`."""

    def __init__(
        self, line: Condition, turns: Turns, number: int, place: float, cost: float, width: int, deadline: float
    ) -> None:
        self._line, self._turns = line, turns
        self.number = number  # in the order of coming
        self.place, self.cost, self.width, self.deadline = place, cost, width, deadline

    def pause(self) -> None:
        """Wait until the cores are free for this work.

        Raises
        ------
        Overdue
            If its time is over, before or after.
        """
        with self._line:
            while (left := self.deadline - time.monotonic()) > 0 and self._turns.must_wait(self):
                self._line.wait(min(left, 3600.0))
        if not left > 0:  # nor is a number that is none
            raise Overdue


class Turns:
    """The line of one process.

    Parameters
    ----------
    cores : int
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._line = Condition()
        self._turns: list[Turn] = []
        self._numbers = count()
        self._served = 0.0  # cost of all that is done
        self._last: dict[str, float] = {}  # place of each caller's last

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def cost(self) -> float:
        """Of all that stand in line."""
        with self._line:
            return sum(turn.cost for turn in self._turns)

    def stand(self, cost: float, *, width: int, deadline: float, caller: str = "") -> Turn:
        """Stand in line; to be left with `leave`.

        Parameters
        ----------
        cost : float
            In any unit, the same for all.
        width : int
            Threads that the work can use.
        deadline : float
            In seconds of `time.monotonic`.
        caller : str
            Whose it is; without a name it is a caller's of its own.
        """
        with self._line:
            begin = max(self._served, self._last.get(caller, 0.0)) if caller else self._served
            turn = Turn(self._line, self, next(self._numbers), begin + cost, cost, width, deadline)
            if caller:
                self._last = {name: place for name, place in self._last.items() if place > self._served}
                self._last[caller] = turn.place
            self._turns.append(turn)
            self._turns.sort(key=lambda turn: turn.place)  # stable: first come, first served
            return turn

    def leave(self, turn: Turn) -> None:
        """Leave the line, and let others go on."""
        with self._line:
            self._turns.remove(turn)
            self._served += turn.cost
            self._line.notify_all()

    @contextmanager
    def left_after(self, turn: Turn) -> Iterator[Turn]:
        """Leave the line at the end of the block, whatever it ends with."""
        try:
            yield turn
        finally:
            self.leave(turn)

    def must_wait(self, turn: Turn) -> bool:
        """Whether those ahead have work for all cores; for `Turn.pause`, which holds the lock."""
        ahead = self._turns[: self._turns.index(turn)]
        passed = any(other.number > turn.number for other in ahead)
        each = self._cores if passed else max(1, self._cores - 1)
        return sum(min(other.width, each) for other in ahead) >= self._cores
