"""The steps of workloads, as a worker process runs them with a session of its peer. A step returns JSON.

An announced value begins with the time at which its `put` began, so that a reader can tell its age: all
processes of a machine have the same monotonic clock.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers.base import Session
from benchmarks.processes import cpu_us

MIB = 1 << 20
PAGE = 4096
INPUT = 0  # the descriptor on which commands come; its reader has no buffer
WAIT_S = 20.0

clock = time.perf_counter_ns


class Steps:
    """The state of one worker: its session, values by size, and further sessions as more clients."""

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._session = connect()
        self._more: list[Session] = []
        self._values: dict[int, bytes] = {}

    def value(self, size: int) -> bytes:
        """Return random bytes, the same ones for the same size."""
        if size not in self._values:
            if size > 16 * MIB:
                self._values.clear()
            block = os.urandom(min(size, MIB))
            self._values[size] = block * (size // len(block)) + block[: size % len(block)]
        return self._values[size]

    def warm(self, size: int) -> None:
        """Make a value now, so that its memory does not count later."""
        self.value(size)

    # publishing

    def put(self, name: str, size: int) -> str:
        return self._session.put(name, self.value(size))

    def replace(self, name: str, size: int) -> str:
        return self._session.replace(name, self.value(size))

    def remove(self, names: list[str]) -> None:
        for name in names:
            self._session.remove(name)

    def remove_many(self, prefix: str, count: int) -> None:
        self._session.remove_many([f"{prefix}/{index}" for index in range(count)])

    def time_put_new(self, name: str, size: int, budget_s: float, limit: int) -> list[float]:
        """Time puts of new names, and remove them afterwards."""
        data, names = self.value(size), [f"{name}/{index}" for index in range(limit)]
        unused = iter(names)
        times = _timed(lambda: self._session.put(next(unused), data), budget_s, limit)
        self.remove(names[: len(times)])
        return times

    def time_replace(self, name: str, size: int, budget_s: float, limit: int) -> list[float]:
        data = self.value(size)
        return _timed(lambda: self._session.replace(name, data), budget_s, limit)

    def noise(self, name: str, size: int) -> int:
        """Replace a value until the next command comes; returns how often."""
        count, data = 0, self.value(size)
        while not select.select([INPUT], [], [], 0)[0]:
            self._session.replace(name, data)
            count += 1
        return count

    # reading

    def subscribe(self, key: str) -> None:
        self._session.subscribe(key)

    def hold(self, key: str) -> int:
        """Hold a value, and read a byte of each page."""
        return sum(self._session.hold(key)[::PAGE]) & 0xFF

    def hold_all(self, keys: list[str]) -> None:
        self._session.hold_many(keys)

    def time_attach(self, key: str, budget_s: float, limit: int) -> list[float]:
        return _timed(lambda: self._session.attach(key), budget_s, limit)

    def time_again(self, key: str, budget_s: float, limit: int) -> list[float]:
        """Time batches of calls, because some take less than the clock."""
        self._session.again(key)
        (first,) = _timed(lambda: self._session.again(key), 0, 1)
        calls = max(1, min(500, int(20 / first)))

        def batch() -> None:
            for _ in range(calls):
                self._session.again(key)

        return [took / calls for took in _timed(batch, budget_s, limit)]

    # many objects

    def put_many(self, prefix: str, count: int, size: int) -> dict[str, Any]:
        values = {f"{prefix}/{index}": self.value(size) for index in range(count)}
        began = clock()
        keys = self._session.put_many(values)
        return {"us": (clock() - began) / 1000 / count, "keys": keys}

    def get_many(self, keys: list[str]) -> float:
        began = clock()
        count = self._session.get_many(keys)
        return (clock() - began) / 1000 / count

    def put_map(self, name: str, count: int, size: int) -> dict[str, Any]:
        values = {f"part/{index}": self.value(size) for index in range(count)}
        began = clock()
        key = self._session.put_map(name, values)
        return {"us": (clock() - began) / 1000 / count, "key": key}

    def get_map(self, key: str, count: int) -> float:
        parts = [f"part/{index}" for index in range(count)]
        began = clock()
        self._session.get_map(key, parts)
        return (clock() - began) / 1000 / count

    def connect_more(self, count: int) -> None:
        """Have this many sessions more, or none."""
        for session in self._more:
            session.close()
        self._more = [self._connect() for _ in range(count)]

    def cost_of_attach(self, key: str, pids: list[int], count: int) -> float:
        """Return the CPU time of the servers for each attach, by all sessions in turn."""
        began = sum(map(cpu_us, pids))
        for index in range(count):
            self._more[index % len(self._more)].attach(key)
        return (sum(map(cpu_us, pids)) - began) / count

    # notice

    def announce(self, name: str, size: int, pause_s: float) -> None:
        """Announce values with their times until the next command comes, so slowly that readers sleep.

        The last one tells a reader that no more follow.
        """
        rest, end = self.value(size)[16:], time.monotonic() + WAIT_S
        while time.monotonic() < end and not select.select([INPUT], [], [], pause_s)[0]:
            self._session.announce(name, stamped(clock(), False, rest))
        self._session.announce(name, stamped(clock(), True, rest))

    def watch(self, name: str, count: int, ready: Callable[[], None]) -> list[float]:
        """Return the ages of new values at the time at which they are here, in microseconds."""
        ages = Ages(count)
        values = self._session.watch(name)
        ready()
        for value in values:
            if not ages.add(value):
                break
        return ages.us

    def watch_loop(self, name: str, count: int, ready: Callable[[], None]) -> list[float]:
        import asyncio  # takes memory, which is measured elsewhere

        async def watch() -> list[float]:
            ages = Ages(count)
            values = self._session.watch_loop(name)
            ready()
            async for value in values:
                if not ages.add(value):
                    break
            return ages.us

        return asyncio.run(watch())

    # one writer and many readers, who tell each other through pipes

    def spread(self, name: str, size: int, count: int, go: list[str], back: str) -> list[float]:
        """Replace a value, tell each reader its key, and wait until all have read it; in microseconds."""
        pipes = [os.open(path, os.O_RDWR) for path in go]
        answers, data = os.open(back, os.O_RDWR), self.value(size)

        def turn() -> None:
            key = self._session.replace(name, data).encode() + b"\n"
            for pipe in pipes:
                os.write(pipe, key)
            left = len(pipes)
            while left:
                left -= len(os.read(answers, left))

        times = _timed(turn, WAIT_S, count)
        for pipe in pipes:
            os.write(pipe, b"\n")
            os.close(pipe)
        os.close(answers)
        return times

    def read_along(self, go: str, back: str, ready: Callable[[], None]) -> int:
        """Hold each value whose key comes, and answer; an empty key ends. Returns how many came."""
        count = 0
        with open(os.open(go, os.O_RDWR), "rb", buffering=0) as keys:
            answer = os.open(back, os.O_RDWR)
            ready()
            while key := keys.readline().rstrip(b"\n"):
                self.hold(key.decode())
                os.write(answer, b".")
                count += 1
            os.close(answer)
        return count

    def close(self) -> None:
        self.connect_more(0)
        self._session.close()


def _timed(call: Callable[[], object], budget_s: float, limit: int) -> list[float]:
    """Time calls in microseconds, until there are enough or the time is up, and at least one."""
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while True:
        began = clock()
        call()
        times.append((clock() - began) / 1000)
        if len(times) >= limit or time.perf_counter() >= end:
            return times


def stamped(began: int, is_last: bool, rest: bytes = b"") -> bytes:
    """Return a value that says when it was announced, and whether it is the last one."""
    return began.to_bytes(8, "little") + int(is_last).to_bytes(8, "little") + rest


class Ages:
    """The ages of values announced since it began; older ones, and the same one again, do not count."""

    def __init__(self, count: int) -> None:
        self.us: list[float] = []
        self._count = count
        self._last = clock()

    def add(self, value: Any) -> bool:
        """Add the age of a value; False after enough of them, or after the last."""
        now = clock()
        head = bytes(memoryview(value)[:16])
        began, is_last = int.from_bytes(head[:8], "little"), head[8:] == (1).to_bytes(8, "little")
        if not self._last < began <= now:
            return True
        self._last = began
        self.us.append((now - began) / 1000)
        return not is_last and len(self.us) < self._count
