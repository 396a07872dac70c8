"""Addresses that were given back: nothing is there, and the kernel keeps few of them apart."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import shmclient
from support import WatchedHost, watched_host

KIB, MIB = 1 << 10, 1 << 20
STEP = 2 * MIB
SLOTS = 256  # SHM_LOOSE_SLOTS
WINDOW = (0x4E0000000000, 16 * MIB)  # not in a default one


class Line(NamedTuple):
    start: int
    end: int
    rights: str


def lines(window: tuple[int, int]) -> list[Line]:
    """Return the mappings of this process in a window."""
    base, size = window
    addresses = []
    for text in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = text.split()
        start, end = (int(number, 16) for number in span.split("-"))
        if base <= start < base + size:
            addresses.append(Line(start, end, rights))
    return addresses


@contextlib.contextmanager
def small_host(folder: Path) -> Iterator[shmclient.Client]:
    """Give a client of a host that has one window of 8 slots, and no board there."""
    with (
        watched_host(str(folder / "h"), windows=(WINDOW,), board=0) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        yield shm


def test_a_range_that_was_given_back_stays_apart_and_is_used_again(tmp_path: Path) -> None:
    with small_host(tmp_path) as shm:
        shm.put("x", b"1").close()
        shm.open("x").close()
        apart = lines(WINDOW)
        assert len(apart) > 1
        assert {line.rights for line in apart} == {"---p"}
        with shm.open("x") as region:
            assert Line(region.address, region.address + region.capacity, "r--s") in lines(WINDOW)
            assert len(lines(WINDOW)) == len(apart)
        assert lines(WINDOW) == apart


def test_few_ranges_stay_apart(host: WatchedHost, shm: shmclient.Client) -> None:
    window = host.host.config.windows[0]
    before = len(lines(window))
    regions = [shm.put(f"n{number}", b"1") for number in range(3 * SLOTS)]
    for region in regions:
        region.close()
    for region in regions:
        shm.open(region.name).close()
    assert len(lines(window)) <= before + 2 * SLOTS


def check(regions: list[shmclient.Region]) -> None:
    """Check that the window is whole, that regions alone can be read, and that no slot is in many pieces."""
    live = {Line(each.address, each.address + each.capacity, "r--s") for each in regions}  # maps them
    addresses = lines(WINDOW)
    assert (addresses[0].start, addresses[-1].end) == (WINDOW[0], sum(WINDOW))
    assert all(before.end == after.start for before, after in itertools.pairwise(addresses))
    assert {line for line in addresses if line.rights != "---p"} == live
    for slot in range(WINDOW[0], sum(WINDOW), STEP):
        pieces = [line for line in addresses if line.end > slot and line.start < slot + STEP]
        assert len(pieces) <= 2, pieces


class Schedule:
    """Names of all sizes come and go in 8 slots, so that ranges of other bounds are given out again."""

    NAMES = tuple(f"n{number}" for number in range(6))
    SIZES = (1, 5 * KIB, MIB, STEP - 8 * KIB, STEP, 5 * MIB)

    def __init__(self, shm: shmclient.Client, randomly: random.Random) -> None:
        self.shm = shm
        self.randomly = randomly
        self.regions: list[shmclient.Region] = []
        self.steps: tuple[Callable[[], object], ...] = (
            *(self.put, self.look, self.look, self.look_at_all),
            *(self.close, self.close, self.close, self.unlink),
        )

    def step(self) -> None:
        try:
            self.randomly.choice(self.steps)()
        except shmclient.QuotaExceeded:  # no address is left
            self.close()
        while len(self.regions) > 8:
            self.close()
        check(self.regions)

    def expected(self) -> list[str]:
        return [info.name for info in self.shm.list()]

    def put(self) -> None:
        value = bytes(self.randomly.choice(self.SIZES))
        self.regions.append(self.shm.put(self.randomly.choice(self.NAMES), value))

    def look(self) -> None:
        if expected := self.expected():
            self.regions.append(self.shm.open(self.randomly.choice(expected)))

    def look_at_all(self) -> None:
        if expected := self.expected():
            self.regions += self.shm.open_many(expected)

    def close(self) -> None:
        if self.regions:
            self.regions.pop(self.randomly.randrange(len(self.regions))).close()

    def unlink(self) -> None:
        if expected := self.expected():
            self.shm.unlink(self.randomly.choice(expected))


@pytest.mark.parametrize("seed", range(6))
def test_any_schedule_leaves_the_window_whole(seed: int, tmp_path: Path) -> None:
    with small_host(tmp_path) as shm:
        schedule = Schedule(shm, random.Random(seed))
        for _ in range(200):
            schedule.step()
        while schedule.regions:
            schedule.close()
        check([])


TOUCH = """
import ctypes, sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    with shm.open("x") as region:
        address = region.address
        assert ctypes.string_at(address, 4) == b"SHMH"
    print("closed", flush=True)
    ctypes.string_at(address, 4)
"""


def test_nothing_can_be_read_where_a_region_was(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    command = [sys.executable, "-c", TOUCH, host.socket_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.returncode) == ("closed\n", -11), result.stderr
