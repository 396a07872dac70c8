"""What happens in the middle of a call on an arena: other threads, destructors, forks."""

from __future__ import annotations

import contextlib
import gc
import platform
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmclient
from shmclient import Arena
from support import Machine, WatchedHost, in_child, wait_until

SIZE = 64 << 20
POLL = 7 if platform.machine() == "x86_64" else 73  # or ppoll, which it is elsewhere


def test_arena_can_be_closed_while_another_thread_copies_into_it(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    """The copy lets other threads run; what it copies into stays mapped until it ends."""
    before = host.counts()
    value = np.ones(2 << 20)
    for _ in range(20):
        arena = shm.arena("camera", SIZE, keep=False)
        results: list[object] = []

        def put(arena: Arena = arena, results: list[object] = results) -> None:
            while not results:
                try:
                    arena["x"] = value
                except shmclient.Closed as error:
                    results.append(error)

        threads = [threading.Thread(target=put) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda arena=arena: "x" in arena)  # type: ignore[misc]
        arena.close()
        for thread in threads:
            thread.join()
        assert len(results) >= 1
    del arena, put
    wait_until(lambda: host.is_back_at(before))


class AtCollection:
    """Does something, once, when the collector runs in the block: it runs at the n-th object that is made."""

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self._number, self._action = number, action
        self.has_run = False

    def __enter__(self) -> AtCollection:
        self._before = gc.get_threshold()
        gc.collect()
        gc.callbacks.append(self._call)
        gc.set_threshold(self._number, 1000, 1000)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._call)
        gc.set_threshold(*self._before)

    def _call(self, phase: str, info: object) -> None:
        if phase == "start" and not self.has_run:
            self.has_run = True
            self._action()


USES: list[Callable[[Arena], object]] = [
    list,
    lambda arena: arena._changed(0),
    lambda arena: arena.put("new", b"1"),
    lambda arena: arena.put("array", np.ones(7)),
    lambda arena: arena.put("array", np.ones((2, 100_000))),
    lambda arena: arena.put("strided", np.ones(100)[::3]),
    lambda arena: arena["n1"],
    lambda arena: arena["array"],
    lambda arena: arena.put_many({f"m{number}": b"1" for number in range(50)}),
    lambda arena: arena.get("n3"),
    lambda arena: arena.remove("n5"),
    lambda arena: len(arena),
    lambda arena: arena._holders(),
    repr,
]


@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
@pytest.mark.parametrize("is_large", [False, True], ids=["alone", "held"])
def test_destructor_may_close_the_arena_in_the_middle(
    shm: shmclient.Client, use: Callable[[Arena], object], is_large: bool
) -> None:
    for number in range(1, 12):
        arena = shm.arena("camera", 4 << 20, names=100)
        arena.put_many({f"n{number}": b"%d" % number for number in range(40)})
        arena["array"] = np.ones(7)
        held = arena["n0"] if is_large else None
        with AtCollection(number, arena.close), contextlib.suppress(shmclient.Closed):
            use(arena)
        assert held is None or bytes(held) == b"0"
        arena.close()


@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
def test_destructor_may_put_and_let_go_in_the_middle(
    shm: shmclient.Client, use: Callable[[Arena], object]
) -> None:
    with shm.arena("camera", 4 << 20, names=200) as arena:
        arena.put_many({f"n{number}": b"%d" % number for number in range(40)})
        arena["array"] = np.ones(7)
        for number in range(1, 12):
            held = [arena[f"n{index}"] for index in range(6, 20)]

            def act(held: list[Any] = held) -> None:
                held.clear()
                for index in range(20, 40):
                    arena[f"n{index}"] = b"%d" % index
                arena["array"] = np.ones(7)
                with contextlib.suppress(KeyError):
                    del arena["strided"]

            with AtCollection(number, act):
                use(arena)
            arena["n5"] = b"5"
            assert [bytes(arena[f"n{index}"]) for index in range(40)] == [b"%d" % i for i in range(40)]
            assert arena["array"].shape in ((7,), (2, 100_000))


def test_fork_while_a_thread_talks_to_the_host(machine: Machine) -> None:
    """The child has no such thread: it is told so at once, and ends."""
    with shmclient.connect(machine.path) as shm:
        arena = shm.arena("camera", 1 << 20, max_size=SIZE)
        arena["x"] = b"1"
        loan, _ = arena._lend("y", 100, None)
        machine.signal(signal.SIGSTOP)
        grow = threading.Thread(target=lambda: arena.grow(SIZE // 2))
        grow.start()
        wait_until(lambda: _is_polling(grow))

        def use() -> None:
            signal.alarm(20)
            with pytest.raises(shmclient.InvalidArgument, match="forked"):
                arena["x"] = b"2"
            loan.discard()
            arena.close()

        try:
            assert in_child(use) == 0
        finally:
            machine.signal(signal.SIGCONT)
        grow.join()
        assert arena.size >= SIZE // 2
        loan.discard()
        arena.close()


def _is_polling(thread: threading.Thread) -> bool:
    """Whether a thread waits in poll(2)."""
    with open(f"/proc/self/task/{thread.native_id}/syscall", encoding="ascii") as file:
        return file.read().startswith(f"{POLL} ")


def test_block_is_given_up_while_a_thread_talks_to_the_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.arena("camera", 1 << 20, max_size=SIZE) as arena:
        used = arena._state()[1]
        loans = [arena._lend("y", 10_000, None)[0] for _ in range(10)]
        machine.signal(signal.SIGSTOP)
        grow = threading.Thread(target=lambda: arena.grow(SIZE // 2))
        grow.start()
        wait_until(lambda: _is_polling(grow))
        timer = threading.Timer(0.1, lambda: machine.signal(signal.SIGCONT))
        timer.start()
        del loans
        grow.join()
        timer.join()
        assert arena._state()[1] == used
