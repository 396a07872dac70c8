"""Arenas under many threads, many forks, and ends in every order: nothing torn, lost or left."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import cffi
import numpy as np
import pytest

import shmclient
from shmclient import Arena, ArenaFull
from support import WatchedHost, in_child, mapped_addresses, wait_until

SIZE = 32 << 20
THREADS = 64
FFI = cffi.FFI()
FFI.cdef("struct pair { struct pair *other; long number; };")


def write(arena: Arena, name: str, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        with contextlib.suppress(ArenaFull):  # the readers hold too much for a moment
            arena[name] = np.full(100 + number % 5 * 3000, number)


def read(client: shmclient.Client, arena: str, stop: threading.Event, seed: int) -> int:
    """Get and let go, with some values held for longer, and each checked at its end."""
    randomly, held, count = random.Random(seed), list[tuple[Any, int]](), 0
    while not stop.is_set():
        value = client.get(f"{arena}/{randomly.choice('abcd')}")
        held.append((value[randomly.randrange(50) :], int(value[0])))
        count += 1
        while len(held) > randomly.randrange(8):
            old, first = held.pop(randomly.randrange(len(held)))
            assert (old == first).all()
    return count


def run_for(seconds: float, pool: ThreadPoolExecutor, futures: list[Any], stop: threading.Event) -> None:
    wait(futures, timeout=seconds, return_when=FIRST_EXCEPTION)
    stop.set()
    for future in futures:
        future.result()


def test_threads_get_and_let_go(host: WatchedHost, shm: shmclient.Client) -> None:
    stop = threading.Event()
    with (
        shmclient.connect(host.socket_path) as other,
        shm.arena("storm", SIZE) as arena,
        ThreadPoolExecutor(THREADS + 4) as pool,
    ):
        arena.put_many(dict.fromkeys("abcd", np.zeros(100)))
        clients = (shm, other)
        futures = [pool.submit(write, arena, name, stop) for name in "abcd"]
        futures += [pool.submit(read, clients[seed % 2], "storm", stop, seed) for seed in range(THREADS)]
        run_for(2, pool, futures, stop)
        assert all(future.result() for future in futures[4:])  # nobody starved
        futures.clear()
        gc.collect()
        del arena["a"], arena["b"], arena["c"], arena["d"]
        arena["all"] = bytes(SIZE - (8 << 20))  # needs all that was held


def test_forks_in_the_middle_of_a_storm(host: WatchedHost, shm: shmclient.Client) -> None:
    stop = threading.Event()
    with (
        shmclient.connect(host.socket_path) as other,
        shm.arena("storm", SIZE) as arena,
        ThreadPoolExecutor(8) as pool,
    ):
        arena.put_many(dict.fromkeys("abcd", np.zeros(100)))
        other.get("storm/a")
        futures = [pool.submit(write, arena, name, stop) for name in "abcd"]
        futures += [pool.submit(read, other, "storm", stop, seed) for seed in range(4)]

        def use() -> None:
            with pytest.raises(shmclient.InvalidArgument, match="forked"):
                arena["a"] = b"1"
            value = other.get("storm/b")  # by a connection, and a ledger, of its own
            assert (value == value[0]).all()
            gc.collect()

        def leave() -> None:
            os._exit(0)

        for number in range(12):
            assert in_child(use if number % 2 else leave) == 0
        run_for(0, pool, futures, stop)
    wait_until(lambda: host.counts()["ledgers"] == len([shm, other]) - 1 or host.counts()["ledgers"] == 0)


class Juggler:
    """Clients, arenas, views, values, blocks: made, used and ended at random, by calls or by references."""

    def __init__(self, path: str, seed: int) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._things: dict[str, list[Any]] = {
            kind: [] for kind in ("client", "arena", "view", "value", "block", "cycle")
        }
        self._count = 0

    def step(self) -> None:
        names = [name for name in dir(self) if name.startswith("do_")]
        if self._random.random() < 0.5:
            names = [name for name in names if not name.startswith(("do_drop", "do_close", "do_cycle"))]
        with contextlib.suppress(
            shmclient.Closed, shmclient.ClientClosed, shmclient.RegionNotFound, ArenaFull, KeyError
        ):
            getattr(self, self._random.choice(names))()

    def _some(self, kind: str) -> Any:
        if not self._things[kind]:
            raise KeyError(kind)
        return self._random.choice(self._things[kind])

    def _drop(self, kind: str) -> Any:
        if not self._things[kind]:
            raise KeyError(kind)
        return self._things[kind].pop(self._random.randrange(len(self._things[kind])))

    def _note(self, value: Any, first: int) -> None:
        self._things["value"].append((value, first))

    def do_connect(self) -> None:
        if len(self._things["client"]) < 4:
            self._things["client"].append(shmclient.connect(self._path))

    def do_make(self) -> None:
        name = self._random.choice(["p", "q"])
        keep = self._random.random() < 0.3
        arena = self._some("client").arena(name, 2 << 20, max_size=4 << 20, names=20, keep=keep)
        self._things["arena"].append(arena)

    def do_open(self) -> None:
        self._things["view"].append(self._some("client").open_arena(self._random.choice(["p", "q"])))

    def do_put(self) -> None:
        arena = self._some("arena")
        for _ in range(10):
            self._count += 1
            arena[self._random.choice("xyz")] = np.full(self._random.choice([5, 500, 20_000]), self._count)

    do_put_more = do_put

    def do_remove(self) -> None:
        del self._some("arena")[self._random.choice("xyz")]

    def do_read_as_owner(self) -> None:
        value = self._some("arena")[self._random.choice("xyz")]
        self._note(value[1:], int(value[0]))

    def do_read_by_view(self) -> None:
        value = self._some("view")[self._random.choice("xyz")]
        self._note(memoryview(value)[1:], int(value[0]))

    def do_get(self) -> None:
        name = f"{self._random.choice('pq')}/{self._random.choice('xyz')}"
        value = self._some("client").get(name)
        self._note(value, int(value[0]))

    def do_hold(self) -> None:
        handle = self._some("view").open(self._random.choice("xyz"))
        self._note(handle, int(handle.array[0]))

    def do_build(self) -> None:
        arena = self._some("arena")
        self._count += 1
        pair = arena.new(FFI, "struct pair *", {"number": self._count})
        arena.set_root("root", arena.new(FFI, "struct pair *", {"other": pair, "number": self._count}))

    def do_read_root(self) -> None:
        pair = self._some("view").open("root").root(FFI, "struct pair *")
        self._note(pair, pair.number)

    def do_leave_open(self) -> None:
        arena = self._some("arena")
        self._count += 1
        if self._random.random() < 0.5:
            arena.new(FFI, "long[]", [self._count] * 100)
            return
        loan = arena.loan("x", (100,), "i8")
        loan.__enter__()[:] = self._count
        self._things["block"].append(loan)

    def do_end_block(self) -> None:
        self._drop("block").__exit__(None, None, None)

    def do_drop_block(self) -> None:
        self._drop("block")

    def do_list(self) -> None:
        assert set(self._some("view")) <= {"x", "y", "z", "root"}
        assert set(self._some("arena")) <= {"x", "y", "z", "root"}

    def do_cycle(self) -> None:
        cycle: list[Any] = [self._drop(self._random.choice(["arena", "view", "value", "client"]))]
        cycle.append(cycle)

    def do_collect(self) -> None:
        gc.collect()

    def do_close_client(self) -> None:
        if self._random.random() < 0.3:
            self._drop("client").close()

    def do_close_arena(self) -> None:
        if self._random.random() < 0.3:
            self._some("arena").close()

    def do_drop_arena(self) -> None:
        self._drop("arena")

    def do_drop_view(self) -> None:
        self._drop("view")

    def do_let_go(self) -> None:
        for _ in range(3):
            value, first = self._drop("value")
            check(value, first)

    do_let_go_more = do_let_go

    def check(self) -> None:
        """See that all values that are held are what they were."""
        for value, first in self._things["value"]:
            check(value, first)


def check(value: Any, first: int) -> None:
    if isinstance(value, FFI.CData):
        assert (value.number, value.other.number) == (first, first)
    else:
        array = value.array if isinstance(value, shmclient.ArenaValue) else np.asarray(value)
        assert (array == first).all()


@pytest.mark.parametrize("seed", range(20))
def test_ends_in_any_order(host: WatchedHost, seed: int) -> None:
    before, addresses = host.counts(), mapped_addresses()
    juggler = Juggler(host.socket_path, seed)
    for number in range(400):
        juggler.step()
        if number % 20 == 0:
            juggler.check()
    del juggler

    def is_over() -> bool:
        gc.collect()
        with shmclient.connect(host.socket_path) as shm:
            for info in shm.list():
                shm.unlink(info.name)
        return host.is_back_at(before) and mapped_addresses() == addresses

    wait_until(is_over, shown=lambda: (before, host.counts()))
