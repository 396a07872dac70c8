"""Ctrl-C at any line of the client leaves it usable, and nothing behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

import cffi
import numpy as np
import pytest

import shmclient
from support import WatchedHost, give_spares_back, mapped_addresses

FFI = cffi.FFI()
PACKAGES = ("/shmclient/", "/shmprotocol/")
STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 5  # of the places to interrupt


class Interrupt:
    """Raises KeyboardInterrupt in the block at the n-th place where CPython would run a signal's handler.

    That is where a function of ours begins, and after it called one in C, but for the ends of loops.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self.place = ""  # where it was raised; "" if the block had fewer such places

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "c_return") or is_lost(frame):
            return
        name = frame.f_code.co_filename
        if any(package in name for package in PACKAGES):
            self._left -= 1
            if self._left == 0:
                sys.setprofile(None)
                called = f" after {argument.__name__}" if event == "c_return" else ""
                self.place = f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}{called}"
                raise KeyboardInterrupt


def is_lost(frame: FrameType | None) -> bool:
    """Whether an exception could reach no program: Python prints those of destructors and goes on.

    These few places may delay what they give back until the next call, or until the client ends.
    """
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "released", "<genexpr>", "pauses"):
            return True
        frame = frame.f_back
    return False


def connect(shm: shmclient.Client) -> None:
    with shmclient.connect(shm.socket_path):
        pass


def reconnect(shm: shmclient.Client) -> None:
    if shm._core.channel is not None:
        shm._core.channel.retire()
    shm.get("old")


def put(shm: shmclient.Client) -> None:
    shm.put("new", np.arange(10)).close()
    with shm.put("new", b"1") as region:
        bytes(region.data)
    with shm.put("new", b"2") as region:
        region.fileno()
        bytes(region.data)


def put_in_two_steps(shm: shmclient.Client) -> None:
    shm.put("new", np.arange(10_000)).close()


def put_by_a_spare(shm: shmclient.Client) -> None:
    shm.put("new", np.arange(10_000)).close()
    shm.put("new", np.arange(10_000)).close()


def put_beside_a_region(shm: shmclient.Client) -> None:
    with shm.open("old"):
        put(shm)


def get(shm: shmclient.Client) -> None:
    shm.get("old")
    shm.get("old", wait=0)  # by the plain road


def get_what_is_mapped(shm: shmclient.Client) -> None:
    with shm.open("old") as region:
        data = region.data
        del data
        shm.get("old")


def get_with_a_wait(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.WaitTimeout):
        shm.get("missing", wait=0)


def open_many(shm: shmclient.Client) -> None:
    for region in shm.open_many(["old", "older"]):
        region.close()
    for region in shm.open_many(["old", "older"], wait=0):  # by the plain road
        region.close()


def get_many(shm: shmclient.Client) -> None:
    value = shm.get("old")
    shm.get_many(["old", "older", "new"])
    del value
    shm.get_many(["old", "older"], wait=0)  # by the plain road


def create(shm: shmclient.Client) -> None:
    with shm.create("new", 100) as builder:
        builder.data[0] = 1
        builder.alloc(8)
    builder.region.close()


def watch(shm: shmclient.Client) -> None:
    with shm.watch("old") as changes:
        shm.chmod("old", 0o600)
        next(changes)


def lists(shm: shmclient.Client) -> None:
    shm.list()
    shm.stat("old")


def own_an_arena(shm: shmclient.Client) -> None:
    with shm.arena("mine", 1 << 20, names=10, keep=False) as arena:
        arena["x"] = b"1"
    shm.arena("mine", 1 << 20, names=10, keep=False).close()


def write_an_arena(shm: shmclient.Client) -> None:
    with shm.arena("mine", 1 << 20, max_size=4 << 20, names=10, keep=False) as arena:
        arena["x"] = np.arange(10)
        arena["x"] = np.arange(10)
        arena["large"] = bytes(2 << 20)
        arena.put_many({"y": b"1", "z": b"2"})
        with arena.loan("x", (2, 2), "f4") as image:
            image[:] = 1
        with arena.build("x", 100) as builder:
            builder.set_root(builder.new(FFI, "int *", 5))
        arena.set_root("x", arena.new(FFI, "int *", 5))
        del arena["y"]
        assert sorted(arena) == ["large", "x", "z"]
        assert arena["z"].nbytes == 1


def read_an_arena(shm: shmclient.Client) -> None:
    shm.get("camera/x")
    shm.open("camera/x").close()
    view = shm.open_arena("camera")
    assert (view["x"].sum(), list(view)) == (45, ["x"])
    with pytest.raises(shmclient.RegionNotFound):
        shm.get("camera/y")


def open_an_arena_anew(shm: shmclient.Client) -> None:
    if shm._core.channel is not None:
        shm._core.channel.retire()
    assert shm.open_arena("camera")["x"].sum() == 45


def wait_in_an_arena(shm: shmclient.Client) -> None:
    view = shm.open_arena("camera")
    with pytest.raises(shmclient.WaitTimeout):
        view.wait("y", wait=0.001)
    assert [change.name for change in view.changes(since=0, wait=0.001)] == ["x"]
    with shm.follow("camera/x") as values:
        next(values)


OPERATIONS = [
    connect,
    reconnect,
    put,
    put_in_two_steps,
    put_by_a_spare,
    put_beside_a_region,
    get,
    get_what_is_mapped,
    get_with_a_wait,
    open_many,
    get_many,
    create,
    watch,
    lists,
    own_an_arena,
    write_an_arena,
    read_an_arena,
    open_an_arena_anew,
    wait_in_an_arena,
]


@pytest.fixture
def camera(host: WatchedHost) -> Iterator[None]:
    """An arena of another client."""
    with shmclient.connect(host.socket_path) as other, other.arena("camera", 1 << 20, names=10) as arena:
        arena["x"] = np.arange(10)
        yield


def state(host: WatchedHost) -> tuple[dict[str, object], list[int]]:
    return host.counts(), mapped_addresses()


def settles(before: tuple[dict[str, object], list[int]], host: WatchedHost, shm: shmclient.Client) -> bool:
    """Whether the host and this process get back to where they were, without the spares of the client."""
    deadline = time.monotonic() + 20
    give_spares_back(shm)
    while not (host.is_back_at(before[0]) and mapped_addresses() == before[1]):
        if time.monotonic() > deadline:
            return False
        gc.collect()
    return True


@pytest.mark.parametrize("operation", OPERATIONS)
def test_interrupt_leaves_client_usable_and_nothing_behind(
    operation: Callable[[shmclient.Client], None], host: WatchedHost, shm: shmclient.Client, camera: None
) -> None:
    for name in ("old", "older", "new"):
        shm.put(name, b"1" * 10).close()
    operation(shm)
    give_spares_back(shm)
    host.settle(leases=1 + len(shm._core.arenas))  # of the arena's owner, and of its reader
    before = state(host)
    for number in itertools.count(1, STRIDE):
        interrupt = Interrupt(number)
        with contextlib.suppress(KeyboardInterrupt), interrupt:
            operation(shm)
        if not interrupt.place:
            break
        operation(shm)
        assert bytes(shm.get("old")) == b"1" * 10, interrupt.place
        assert settles(before, host, shm), (interrupt.place, before, state(host))
    assert number > 40
