# SPDX-License-Identifier: Apache-2.0
"""Who may go on: by places in line alone, without threads or clocks."""

from __future__ import annotations

import math
import time

import pytest

from sigmahat_kernels.turns import Overdue, Turn, Turns

NEVER = math.inf


def stand(turns: Turns, cost: float, caller: str = "", width: int = 8) -> Turn:
    return turns.stand(cost, width=width, deadline=NEVER, caller=caller)


def test_small_work_passes_large_work_and_the_large_goes_on_afterwards() -> None:
    turns = Turns(2)
    large = stand(turns, 100.0)
    assert not turns.must_wait(large)
    small = stand(turns, 1.0)
    assert turns.must_wait(large)
    assert not turns.must_wait(small)
    turns.leave(small)
    assert not turns.must_wait(large)


def test_cores_that_those_ahead_cannot_use_are_not_idle() -> None:
    turns = Turns(2)
    large, small = stand(turns, 100.0), stand(turns, 1.0, width=1)
    assert not turns.must_wait(large)
    second = stand(turns, 1.0, width=1)
    assert turns.must_wait(large)
    turns.leave(small)
    turns.leave(second)
    assert len(turns) == 1


@pytest.mark.parametrize("cores", [2, 16])
def test_what_comes_next_begins_where_the_first_leaves_cores_idle(cores: int) -> None:
    turns = Turns(cores)
    first, second, third = (stand(turns, 100.0, "one", width=50) for _ in range(3))
    assert [turns.must_wait(turn) for turn in (first, second, third)] == [False, False, True]
    small = stand(turns, 1.0, width=50)
    assert [turns.must_wait(turn) for turn in (small, first, second, third)] == [False, True, True, True]
    turns.leave(small)
    turns.leave(first)
    assert [turns.must_wait(turn) for turn in (second, third)] == [False, False]


def test_one_core_is_never_idle() -> None:
    turns = Turns(1)
    assert [turns.must_wait(stand(turns, 1.0)) for _ in range(3)] == [False, True, True]


def test_large_work_is_passed_by_no_more_than_its_own_cost() -> None:
    turns = Turns(1)
    large = stand(turns, 10.0)
    passed = 0
    while passed < 1000:
        small = stand(turns, 1.0)
        if turns.must_wait(small):
            break
        turns.leave(small)
        passed += 1
    assert passed == 9  # the tenth is level, and came later
    assert not turns.must_wait(large)


def test_a_caller_with_many_requests_gets_no_more_than_one_with_one() -> None:
    turns = Turns(1)
    many = [stand(turns, 10.0, "many") for _ in range(5)]
    one = stand(turns, 10.0, "one")
    waiting = {id(turn): sum(other.place < turn.place for other in [*many, one]) for turn in [*many, one]}
    assert [waiting[id(turn)] for turn in many] == [0, 2, 3, 4, 5]
    assert waiting[id(one)] == 0  # level with the first
    anonymous = [stand(turns, 10.0) for _ in range(3)]
    assert {turn.place for turn in anonymous} == {10.0}


def test_equal_work_is_done_in_the_order_in_which_it_came() -> None:
    turns = Turns(1)
    first, second = stand(turns, 5.0), stand(turns, 5.0)
    assert not turns.must_wait(first)
    assert turns.must_wait(second)


def test_a_pause_raises_once_the_time_is_over_even_for_the_first_in_line() -> None:
    turns = Turns(1)
    with pytest.raises(Overdue), turns.left_after(turns.stand(1.0, width=1, deadline=time.monotonic())) as turn:
        turn.pause()
    assert len(turns) == 0
    assert turns.cost == 0.0
