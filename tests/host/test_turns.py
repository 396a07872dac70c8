"""Turns: users are served one after the other, a slice each, however many connections they have."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import pytest

from shmhost.serving import turns as turns_module
from shmhost.serving.turns import MAX_NEWS, Turn, Turns


class Ring:
    """Sockets of one user that are always readable, and a log of the calls for them."""

    def __init__(self, turn: Turn, log: list[str], name: str, count: int, stack: ExitStack) -> None:
        self.turn = turn
        self.sockets: list[socket.socket] = []
        for number in range(count):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.send(b"x")
            self.sockets.append(ours)
            turn.add(ours.fileno(), lambda number=number: log.append(f"{name}{number}"))

    def remove(self) -> None:
        for sock in self.sockets:
            self.turn.remove(sock.fileno())


def run(main: Callable[[ExitStack], Coroutine[Any, Any, None]]) -> None:
    async def with_stack() -> None:
        with ExitStack() as stack:
            await asyncio.wait_for(main(stack), 20)

    asyncio.run(with_stack())


async def until(condition: Callable[[], bool]) -> None:
    """Return in the round of the loop in which a condition holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("the condition never held")


async def rounds(log: list[str], count: int) -> list[str]:
    """Return what is logged until there are so many entries."""
    await until(lambda: len(log) >= count)
    return log[:count]


@pytest.fixture
def each_call_is_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "ALONE_NS", -1)
    monkeypatch.setattr(turns_module, "SHARED_NS", -1)


@pytest.mark.usefixtures("each_call_is_a_slice")
@pytest.mark.parametrize("count", [2, 3, 40])
def test_user_with_many_sockets_has_as_many_turns_as_one_with_a_single_socket(count: int) -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        many = Ring(turns.of(7), log, "many", count, stack)
        single = Ring(turns.of(8), log, "one", 1, stack)
        calls = await rounds(log, 200)
        assert 80 <= sum(call.startswith("one") for call in calls) <= 120
        many.remove()
        single.remove()

    run(main)


@pytest.mark.usefixtures("each_call_is_a_slice")
def test_sockets_of_one_user_are_served_in_turn() -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        _other = turns.of(8)
        ring = Ring(turns.of(7), log, "s", 40, stack)
        assert sorted(await rounds(log, 40)) == sorted(f"s{number}" for number in range(40))
        ring.remove()

    run(main)


@pytest.mark.usefixtures("each_call_is_a_slice")
def test_what_was_begun_and_what_comes_anew_take_turns() -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        turn, _other = turns.of(7), turns.of(8)
        ring = Ring(turn, log, "socket", 2, stack)

        def go_on() -> None:
            log.append("later")
            turn.later(go_on)

        go_on()
        calls = await rounds(log, 60)
        assert 20 <= calls.count("later") <= 40
        assert calls.count("socket0") >= 8 <= calls.count("socket1")
        ring.remove()

    run(main)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_socket_is_not_served_while_it_is_paused(count: int) -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        turn, _other = turns.of(7), turns.of(8)
        ring = Ring(turn, log, "s", count, stack)
        first = ring.sockets[0].fileno()
        turn.pause(first)
        turn.pause(first)
        for _ in range(10):
            await asyncio.sleep(0)
        assert "s0" not in log
        turn.resume(first)
        await until(lambda: "s0" in log)
        ring.remove()

    run(main)


def test_socket_that_is_removed_in_the_call_of_another_is_not_served() -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        turn, _other = turns.of(7), turns.of(8)
        ring = Ring(turn, log, "s", 3, stack)
        closer, _ = (stack.enter_context(sock) for sock in socket.socketpair())
        _.send(b"x")

        def end_all() -> None:
            log.append("end")
            ring.remove()
            turn.remove(closer.fileno())

        turn.add(closer.fileno(), end_all)
        await until(lambda: "end" in log)
        count = len(log)
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(log) == count

    run(main)


@pytest.mark.usefixtures("each_call_is_a_slice")
def test_epoll_is_there_while_there_are_other_users() -> None:
    async def main(stack: ExitStack) -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        turns, log = Turns(), list[str]()
        turn = turns.of(7)
        ring = Ring(turn, log, "s", 2, stack)
        before = count()
        other = turns.of(8)
        assert count() == before + 1
        del other
        await until(lambda: count() == before)
        other = turns.of(8)
        assert count() == before + 1
        await rounds(log, len(log) + 10)
        ring.remove()
        assert count() == before
        del other

    run(main)


@pytest.mark.usefixtures("each_call_is_a_slice")
def test_user_whose_slice_has_just_ended_lets_a_round_go_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "REST_NS", 10**12)

    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        _other = turns.of(8)
        turn = turns.of(7)
        ring = Ring(turn, log, "s", 3, stack)

        def tick() -> None:
            log.append("round")
            asyncio.get_running_loop().call_soon(tick)

        tick()
        await rounds(log, 60)
        assert 15 <= sum(entry != "round" for entry in log[:60]) <= 25  # in every other round
        ring.remove()

    run(main)


@pytest.mark.usefixtures("each_call_is_a_slice")
def test_user_lets_no_round_go_by_when_another_one_was_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short that took: who waited has had a slice."""
    monkeypatch.setattr(turns_module, "REST_NS", 10**12)

    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        rings = [Ring(turns.of(uid), log, f"{uid} ", 3, stack) for uid in (7, 8)]

        def tick() -> None:
            log.append("round")
            asyncio.get_running_loop().call_soon(tick)

        tick()
        await rounds(log, 60)
        assert 36 <= sum(entry != "round" for entry in log[:60]) <= 44  # two in every round
        for ring in rings:
            ring.remove()

    run(main)


def test_sockets_are_served_when_no_descriptor_is_left_for_an_epoll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        monkeypatch.setattr(select, "epoll", refuse)
        turn, _other = turns.of(7), turns.of(8)
        ring = Ring(turn, log, "s", 3, stack)
        await until(lambda: set(log) == {"s0", "s1", "s2"})
        ring.remove()

    run(main)


def test_call_that_fails_keeps_no_other_from_its_own() -> None:
    async def main(stack: ExitStack) -> None:
        turn, log = Turns().of(7), list[str]()
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        turn.later(lambda: 1 / 0)
        turn.later(lambda: log.append("next"))
        await rounds(log, 1)
        assert len(errors) == 1

    run(main)


def test_slices_are_shorter_while_there_are_other_users() -> None:
    async def main(stack: ExitStack) -> None:
        turns = Turns()
        turn = turns.of(7)
        assert turn._slice_ns() == turns_module.ALONE_NS
        other = turns.of(8)
        assert turn._slice_ns() == turns_module.SHARED_NS
        assert turns.of(8) is other
        del other
        assert turn._slice_ns() == turns_module.ALONE_NS

    run(main)


def test_news_of_a_user_are_refused_when_too_many_wait() -> None:
    async def main(stack: ExitStack) -> None:
        turns, log = Turns(), list[str]()
        turn = turns.of(7)

        def news(number: int) -> Any:
            yield
            log.append(str(number))
            while True:
                yield

        assert [turns.tell(7, news(number)) for number in range(MAX_NEWS + 1)] == [True] * MAX_NEWS + [False]
        assert turns.tell(8, iter(()))
        assert log == ["0"]
        del turn

    run(main)
