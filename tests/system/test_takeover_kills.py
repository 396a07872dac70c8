"""A successor that is killed at its system calls, from its first word to the moment from which it serves; and
a host that is killed at its own, while it hands over.

`HYPOTHESIS_PROFILE=fuzz` tries each place, `make test` some.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shmclient
import shmhost.cli
from seizing import Seized
from shmhost.serving import takeover
from shmhost.settings.config import Config
from stepping import Stepped, begin
from support import wait_until
from takeover_support import Line, line_of_hosts

FEW = 5
VALUE = b"1" * 50_000


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with line_of_hosts(tmp_path / "h") as hosts:
        yield hosts


def succeed(line: Line) -> None:
    """Take over, in a forked child that stands still from the first word to the host on."""
    request = takeover.request

    def request_in_steps(config: Config) -> takeover.Heritage:
        begin()
        return request(config)

    takeover.request = request_in_steps
    sys.argv = ["shmhost", "serve", "--socket", line.path, "--takeover"]
    shmhost.cli.main()


def has_handed_over(line: Line) -> bool:
    return line.child.poll() is not None


class Load:
    """What a host has, and must have still; `check` looks at all of it."""

    def __init__(self, line: Line) -> None:
        self.shm, self.other = shmclient.connect(line.path), shmclient.connect(line.path)
        self.region = self.shm.put("x", b"x")
        self.watch = self.other.watch("x")
        self.arena = self.shm.arena("arena", size=1 << 20)
        self.arena["x"] = VALUE
        self.value = self.other.get("arena/x")
        self.count = 0

    def check(self) -> None:
        self.count += 1
        assert self.region.is_current()
        self.region.close()
        self.region = self.shm.put("x", b"%d" % self.count)
        assert next(self.watch).info.generation == self.region.generation
        for _ in range(20):
            self.arena["x"] = b"2" * 50_000
        assert bytes(self.value) == VALUE
        assert bytes(self.other.get("arena/x")) == b"2" * 50_000

    def close(self) -> None:
        del self.value
        self.region.close()
        self.arena.close()
        for client in (self.shm, self.other):
            client.close()


def test_host_serves_on_wherever_its_successor_is_killed(line: Line) -> None:
    load = Load(line)
    with Stepped(lambda: succeed(line)) as successor:
        while not has_handed_over(line) and successor.advance(1):
            pass
        count = successor.steps
    line.kill_and_start()
    load.close()
    load = Load(line)
    steps: Sequence[int] = range(1, count)
    if os.environ.get("HYPOTHESIS_PROFILE") != "fuzz":
        steps = sorted(random.sample(steps, FEW))
    for step in steps:
        with Stepped(lambda: succeed(line)) as successor:
            successor.advance(step)
            successor.kill()
        try:
            load.check()
        except shmclient.HostGone:  # it had said that it serves: then the other ends, and without complaint
            wait_until(lambda: has_handed_over(line))
            assert line.child.returncode == 0
            line.kill_and_start()
            load.close()
            load = Load(line)
    print(f"killed a successor at {len(steps)} places of {count}")
    line.take_over()
    load.check()
    load.close()


# --- the host that hands over


def is_killed(pid: int, point: int, is_seized: threading.Event) -> int:
    """Kill a host at its n-th system call from now on; return 0, or how many it made up to its end."""
    host = Seized(pid)
    is_seized.set()
    host.run(lambda _number: host.calls == point)
    count = host.calls if host.is_over else 0
    host.kill()
    return count


def take_over_from_killed(line: Line, point: int) -> int:
    """Have a host that is killed at a system call hand over; start another one if nobody serves then."""
    is_seized = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(is_killed, line.child.pid, point, is_seized)
        is_seized.wait()
        serves = line.try_to_take_over()
        count = killing.result(60)
    if not serves:
        line.kill_and_start()
    return count


def test_names_are_back_wherever_the_host_is_killed_as_it_hands_over(line: Line) -> None:
    clients = [shmclient.connect(line.path, wait=60) for _ in range(2)]
    held = [shm.put(f"n/{number}", VALUE) for number, shm in enumerate(clients)]
    held += [shm.put("both", b"%d" % number) for number, shm in enumerate(clients)]
    count = take_over_from_killed(line, 0)
    points: Sequence[int] = range(1, count + 20)
    if os.environ.get("HYPOTHESIS_PROFILE") != "fuzz":
        points = sorted(random.sample(range(1, count), FEW))
    for point in points:
        take_over_from_killed(line, point)
        with shmclient.connect(line.path, wait=60) as other:
            for region in (held[0], held[1], held[3]):
                wait_until(lambda: other.exists(region.name))  # noqa: B023
                info = other.stat(region.name)
                assert (info.number, info.generation) == (region.number, region.generation)
                assert bytes(other.get(region.name)) == bytes(region.data)
            assert not held[2].is_current()
            last = held[1].generation
            wait_until(clients[1].list)
            held[1].close()
            held[1] = clients[1].put("n/1", VALUE)
            assert held[1].generation == last + 1
    print(f"killed a host at {len(points)} places as it handed over")
    for region in held:
        region.close()
    for shm in clients:
        shm.close()
