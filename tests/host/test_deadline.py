"""A deadline on a clock of the test's: it counts the time in which the loop ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shmhost.serving.deadline import TICK_S, Deadline


class FakeHandle:
    def __init__(self, timers: list[Any], due_s: float, call: Callable[[], None]) -> None:
        self.due_s, self.call = due_s, call
        self._timers = timers
        timers.append(self)

    def cancel(self) -> None:
        self._timers.remove(self)


class FakeLoop:
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[FakeHandle] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> FakeHandle:
        return FakeHandle(self.timers, self.now_s + delay_s, call)

    def run(self, seconds: float) -> None:
        """Run for so long, each timer at its time."""
        end_s = self.now_s + seconds
        while self.timers and self.timers[0].due_s <= end_s:
            timer = self.timers.pop(0)
            self.now_s = max(self.now_s, timer.due_s)
            timer.call()
        self.now_s = end_s

    def stop(self, seconds: float) -> None:
        """Be stopped for so long: no timer runs."""
        self.now_s += seconds


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


def make(loop: Any, ticks: int = 3) -> tuple[Deadline, list[float]]:
    expired: list[float] = []
    return Deadline(loop, ticks, lambda: expired.append(loop.time())), expired


def test_deadline_expires_once_after_its_ticks(loop: FakeLoop) -> None:
    deadline, expired = make(loop)
    deadline.start()
    loop.run(2.9 * TICK_S)
    assert (expired, deadline.is_running) == ([], True)
    loop.run(99 * TICK_S)
    assert (expired, deadline.is_running) == ([100 + 3 * TICK_S], False)


def test_deadline_does_not_expire_when_it_was_stopped(loop: FakeLoop) -> None:
    deadline, expired = make(loop)
    deadline.stop()
    deadline.start()
    loop.run(2.9 * TICK_S)
    deadline.stop()
    assert (loop.timers, deadline.is_running) == ([], False)
    loop.run(99 * TICK_S)
    assert expired == []


def test_deadline_counts_from_its_last_start(loop: FakeLoop) -> None:
    deadline, expired = make(loop)
    deadline.start()
    loop.run(2.9 * TICK_S)
    deadline.start()
    loop.run(2.9 * TICK_S)
    assert (expired, len(loop.timers)) == ([], 1)
    loop.run(0.2 * TICK_S)
    assert len(expired) == 1


@pytest.mark.parametrize("ran", [0.0, 1.5, 2.9])
def test_deadline_does_not_count_the_time_in_which_the_process_was_stopped(
    ran: float, loop: FakeLoop
) -> None:
    deadline, expired = make(loop)
    deadline.start()
    loop.run(ran * TICK_S)
    loop.stop(1000 * TICK_S)
    loop.run((2.0 - ran // 1) * TICK_S)
    assert expired == []
    loop.run(2 * TICK_S)
    assert len(expired) == 1
