"""Threads for calls that may wait, in a lane for each user."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shmhost.serving.workers import MAX_IDLE, WIDTH, NoThread, Outcome, Workers
from support import wait_until


class Gate:
    """A call that waits in its thread until it is opened."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.opened.wait(20)


def run(test: Callable[[Workers], Awaitable[None]]) -> None:
    async def main() -> None:
        workers = Workers()
        await test(workers)
        await workers.drain()
        workers.close()

    asyncio.run(main())


def ignore(_outcome: Any) -> None:
    pass


async def begun(gate: Gate) -> None:
    await asyncio.to_thread(gate.begun.wait, 20)


def test_lane_runs_its_width_at_once_and_the_rest_in_order() -> None:
    async def test(workers: Workers) -> None:
        gates = [Gate() for _ in range(WIDTH)]
        for gate in gates:
            workers.start("a", gate, ignore)
        order: list[int] = []
        last = asyncio.Event()
        for number in range(3):
            workers.start("a", lambda number=number: order.append(number), ignore)
        workers.start("a", ignore_nothing, lambda _: last.set())
        for gate in gates:
            await begun(gate)
        assert order == []
        gates[0].opened.set()  # one thread is enough for the rest
        await last.wait()
        assert order == [0, 1, 2]
        gates[1].opened.set()

    run(test)


def ignore_nothing() -> None:
    pass


def test_full_lane_leaves_others_alone() -> None:
    async def test(workers: Workers) -> None:
        gates = [Gate() for _ in range(3 * WIDTH)]
        for gate in gates:
            workers.start("blocked", gate, ignore)
        answered = asyncio.get_running_loop().create_future()
        workers.start("other", lambda: 7, answered.set_result)
        assert await answered == (7, None)
        for gate in gates:
            gate.opened.set()

    run(test)


def test_job_is_taken_back_only_before_it_begins() -> None:
    async def test(workers: Workers) -> None:
        gates = [Gate() for _ in range(WIDTH + 1)]
        jobs = [workers.start("a", gate, ignore) for gate in gates]
        assert [workers.cancel(job) for job in jobs] == [False] * WIDTH + [True]
        assert not workers.cancel(jobs[-1])
        for gate in gates:
            gate.opened.set()
        await workers.drain()
        assert not gates[-1].begun.is_set()

    run(test)


def test_error_of_a_call_is_its_outcome() -> None:
    async def test(workers: Workers) -> None:
        answered = asyncio.get_running_loop().create_future()
        workers.start("a", lambda: 1 // 0, answered.set_result)
        result, error = await answered
        assert result is None
        assert isinstance(error, ZeroDivisionError)

    run(test)


def test_limit_of_threads_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test(workers: Workers) -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        answered = [asyncio.get_running_loop().create_future() for _ in range(WIDTH + 1)]
        for future in answered:
            workers.start("a", ignore_nothing, future.set_result)
        for future in answered:
            _, error = await future
            assert isinstance(error, NoThread)
            assert error.errno == errno.EAGAIN

    run(test)


def test_limit_of_descriptors_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test(workers: Workers) -> None:
        monkeypatch.setattr(os, "eventfd", refuse)
        answered = asyncio.get_running_loop().create_future()
        workers.start("a", ignore_nothing, answered.set_result)
        _, error = await answered
        assert isinstance(error, NoThread)
        assert error.errno == errno.EMFILE

    run(test)


def test_outcome_that_cannot_be_taken_keeps_no_other_from_its_own() -> None:
    async def test(workers: Workers) -> None:
        loop = asyncio.get_running_loop()
        answered, errors = loop.create_future(), []
        loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
        gates = [Gate(), Gate()]
        workers.start("a", gates[0], lambda _: 1 // 0)
        workers.start("b", gates[1], answered.set_result)
        for number, gate in enumerate(gates, 1):  # the loop, which this blocks, takes neither outcome yet
            gate.opened.set()
            wait_until(lambda number=number: len(workers._outcomes) == number)
        assert await answered == (None, None)
        assert [type(error) for error in errors] == [ZeroDivisionError]

    run(test)


def count_workers() -> int:
    return len([thread for thread in threading.enumerate() if thread.name == "shmhost worker"])


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The counters that are open of those that were opened since."""
    opened: set[int] = set()
    open_counter, close = os.eventfd, os.close

    def opening(initial: int, flags: int) -> int:
        opened.add(descriptor := open_counter(initial, flags))
        return descriptor

    def closing(descriptor: int) -> None:
        opened.discard(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "eventfd", opening)
    monkeypatch.setattr(os, "close", closing)
    return opened


@pytest.mark.parametrize("ends_first", [True, False])
def test_threads_and_counters_are_gone_after_close(ends_first: bool, counters: set[int]) -> None:
    async def main() -> None:
        workers, gate = Workers(), Gate()
        workers.start("a", gate, outcomes.append)
        assert gate.begun.wait(20)
        assert len(counters) == 2
        if ends_first:
            gate.opened.set()
            wait_until(lambda: len(workers._outcomes) == 1)
        workers.close()
        gate.opened.set()
        wait_until(lambda: count_workers() == 0)

    wait_until(lambda: count_workers() == 0)  # those of earlier tests end by themselves
    outcomes: list[Outcome] = []
    asyncio.run(main())
    assert outcomes == []
    assert counters == set()


def test_threads_end_when_they_are_not_needed() -> None:
    async def test(workers: Workers) -> None:
        gates = [Gate() for _ in range(10)]
        for number, gate in enumerate(gates):
            workers.start(number, gate, ignore)
        assert count_workers() >= 10
        for gate in gates:
            gate.opened.set()
        await workers.drain()
        wait_until(lambda: count_workers() <= before + MAX_IDLE)

    before = count_workers()
    run(test)
    wait_until(lambda: count_workers() <= before)
