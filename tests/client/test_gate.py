"""The gate with real threads, switched at random between any two lines: nothing overlaps, nothing is left."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from shmclient._process import gate as gate_module
from shmclient._process.gate import Gate


class Worker:
    """What a gate protects: a section and a handler that notice when they are not alone."""

    def __init__(self) -> None:
        self.gate: Gate[object] = Gate(self.handle)
        self.handled: list[object] = []
        self.overlaps = 0
        self._inside = threading.Lock()
        self._holder: int | None = None

    @contextmanager
    def section(self) -> Iterator[None]:
        with self.gate.draining, self.gate.lock:
            outer, me = self._holder, threading.get_ident()
            self.overlaps += outer not in (None, me)
            self._holder = me
            yield
            self.overlaps += self._holder != me
            self._holder = outer

    def handle(self, item: object) -> None:
        if not self._inside.acquire(blocking=False):
            self.overlaps += 1
            return
        self.overlaps += self._holder is not None  # never in the middle of a section
        self.handled.append(item)
        self._inside.release()


class Dying:
    """Submits when it is collected, as a view's destructor does."""

    def __init__(self, gate: Gate[object], item: object) -> None:
        self._submit: Callable[[], None] = lambda: gate.submit(item)
        self._cycle = self

    def __del__(self) -> None:
        self._submit()


def run_switching(seed: int, functions: list[Callable[[random.Random], None]]) -> None:
    """Run functions in a thread each, which may be switched between any two lines of the gate."""
    start = threading.Barrier(len(functions))

    def run(number: int, function: Callable[[random.Random], None]) -> None:
        chance = random.Random(seed * 1000 + number)

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            if frame.f_code.co_filename != gate_module.__file__:
                return None
            if event == "line" and chance.random() < 0.3:
                os.sched_yield()  # gives up the GIL
            return trace

        sys.settrace(trace)
        start.wait()
        try:
            function(chance)
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a thread waits for ever"


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_item_is_handled_at_once_when_the_gate_is_free(worker: Worker) -> None:
    worker.gate.submit(1)
    assert worker.handled == [1]


def test_item_waits_for_the_end_of_the_outermost_section_of_its_thread(worker: Worker) -> None:
    with worker.section():
        with worker.section():
            worker.gate.submit(1)
        assert worker.handled == []
    assert worker.handled == [1]


def test_submit_never_waits_for_a_section_of_another_thread(worker: Worker) -> None:
    with worker.section():
        thread = threading.Thread(target=worker.gate.submit, args=(1,))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        assert worker.handled == []
    assert worker.handled == [1]


def test_handler_may_submit_and_its_item_is_next() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        handled.append(item)
        if item < 3:
            gate.submit(item + 1)
            assert handled[-1] == item, "handled inside of the handler"

    gate = Gate(handle)
    gate.submit(1)
    assert handled == [1, 2, 3]


def test_nothing_is_handled_when_the_interpreter_ends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "_is_finalizing", staticmethod(lambda: True))
    worker.gate.submit(1)
    assert worker.handled == []


class OvertakenLock:
    """A gate's lock; right before its first release another thread submits, and finds it taken."""

    def __init__(self, worker: Worker) -> None:
        self.acquire = worker.gate.lock.acquire
        self._release = worker.gate.lock.release
        self._overtaker = threading.Thread(target=worker.gate.submit, args=("late",))
        self._is_overtaken = False

    def release(self) -> None:
        if not self._is_overtaken:
            self._is_overtaken = True
            self._overtaker.start()
            self._overtaker.join(20)
        self._release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("is_section", [False, True])
def test_item_that_comes_between_the_last_look_and_the_release_is_not_left(
    is_section: bool, worker: Worker
) -> None:
    worker.gate.lock = OvertakenLock(worker)  # type: ignore[assignment]
    if is_section:
        with worker.section():
            pass
        assert worker.handled == ["late"]
    else:
        worker.gate.submit("first")
        assert worker.handled == ["first", "late"]


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_handled_once_and_alone_in_any_schedule(seed: int, worker: Worker) -> None:
    count, rounds = 4, 30

    def work(chance: random.Random) -> None:
        for _ in range(rounds):
            mark = object()
            expected.append(mark)
            step = chance.randrange(4)
            if step == 0:
                worker.gate.submit(mark)
            elif step == 1:
                with worker.section():
                    worker.gate.submit(mark)
            elif step == 2:
                with worker.section(), worker.section():
                    Dying(worker.gate, mark)._cycle = None  # type: ignore[assignment]
            else:
                with worker.section():
                    pass
                worker.gate.submit(mark)

    expected: list[object] = []
    run_switching(seed, [work] * count)
    assert worker.overlaps == 0
    assert len(worker.handled) == len(expected) == count * rounds
    assert set(worker.handled) == set(expected)
