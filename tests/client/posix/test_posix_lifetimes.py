"""Mappings: how long they live, with views, threads and forks."""

from __future__ import annotations

import gc
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posix_support import CONTENT, PAGE, anonymous, dies_of, permissions, reserved, shared
from shmclient import posix
from shmclient.posix._mappings import MAPPINGS
from support import in_child, wait_until

# --- the end: F25


def test_munmap_is_refused_while_views_live(fd: int) -> None:
    mapping = shared(fd)
    for view in (
        mapping.buffer,
        mapping.buffer[10:20],
        mapping.buffer.cast("I"),
        np.frombuffer(mapping.buffer),
    ):
        with pytest.raises(BufferError, match=rf"views of <Mapping {PAGE} bytes .* live: delete them before"):
            posix.munmap(mapping)
        assert bytes(view)[:4] == CONTENT[:4]
        del view
    posix.munmap(mapping)


def test_numpy_array_over_a_view_keeps_the_memory(fd: int) -> None:
    mapping = shared(fd)
    array = np.frombuffer(mapping.buffer, np.uint8)[::2][5:]
    with pytest.raises(BufferError):
        posix.munmap(mapping)
    address = mapping.address
    del mapping
    gc.collect()
    assert set(array) == {1}
    assert permissions(address) == ["rw-s"]
    del array
    assert permissions(address) == [None]


def test_end_of_a_with_block_is_refused_while_views_live(fd: int) -> None:
    with pytest.raises(BufferError), shared(fd) as mapping:
        view = mapping.buffer
    assert bytes(view[:4]) == CONTENT[:4]
    del view
    posix.munmap(mapping)


def test_second_munmap_is_refused(fd: int, base: int) -> None:
    mapping = shared(fd, base)
    posix.munmap(mapping)
    with anonymous(PAGE, base):
        with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped already"):
            posix.munmap(mapping)
        assert permissions(base) == ["rw-p"]


def test_mapping_ends_with_its_block_also_when_unmapped_before(fd: int) -> None:
    with shared(fd) as mapping:
        posix.munmap(mapping)
    with pytest.raises(OSError, match="is unmapped"):
        mapping.buffer


@pytest.mark.parametrize("kind", ["slice", "view", "bytes", "none", "address", "standard"])
def test_munmap_of_what_mmap_did_not_return_is_refused(kind: str, fd: int) -> None:
    mapping, theirs = shared(fd), mmap.mmap(-1, PAGE)
    foreign: dict[str, Callable[[], Any]] = {
        "slice": lambda: mapping.buffer[:10],
        "view": lambda: mapping.buffer,
        "bytes": lambda: b"bytes",
        "none": lambda: None,
        "address": lambda: mapping.address,
        "standard": lambda: theirs,
    }
    with pytest.raises(OSError, match=r"Invalid argument: munmap of a \w+, which is not a result of mmap"):
        posix.munmap(foreign[kind]())
    assert permissions(mapping.address) == ["rw-s"]
    posix.munmap(mapping)
    theirs.close()


def test_collected_mapping_is_unmapped(fd: int, base: int) -> None:
    mapping = shared(fd, base)
    del mapping
    assert permissions(base) == [None]
    with shared(fd, base):
        pass


def test_collected_mapping_stays_while_a_view_lives(fd: int, base: int) -> None:
    view = shared(fd, base).buffer[PAGE - 4 :]
    gc.collect()
    assert permissions(base) == ["rw-s"]
    view[:] = b"text"
    with pytest.raises(FileExistsError):
        shared(fd, base)
    del view
    assert permissions(base) == [None]
    assert os.pread(fd, 4, PAGE - 4) == b"text"


def test_mapping_in_a_cycle_with_its_view_is_unmapped(fd: int, base: int) -> None:
    mapping = shared(fd, base)
    cycle: list[Any] = [mapping, mapping.buffer]
    cycle.append(cycle)
    del mapping, cycle
    gc.collect()
    assert permissions(base) == [None]


def test_views_of_one_mapping_are_of_the_same_memory(fd: int) -> None:
    with shared(fd) as mapping:
        first, second = mapping.buffer, mapping.buffer
        first[:4] = b"text"
        assert bytes(second[:4]) == b"text"
        del first
        with pytest.raises(BufferError):
            posix.munmap(mapping)
        del second


def test_interpreter_ends_in_silence_with_mappings_left() -> None:
    program = """
from shmclient import posix
ANONYMOUS = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
outer = posix.mmap(None, 65536, 0, ANONYMOUS)
inner = posix.mmap(outer.address, 65536, posix.PROT_RDWR, ANONYMOUS, destroys=outer)
view = inner.buffer
cycle = [posix.mmap(None, 65536, posix.PROT_RDWR, ANONYMOUS), outer, inner, view]
cycle.append(cycle)
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_memory_of_an_unmapped_mapping_gives_no_view(fd: int) -> None:
    mapping = shared(fd)
    memory = mapping.buffer.obj
    posix.munmap(mapping)
    with pytest.raises(BufferError, match="unmapped"):
        memoryview(memory)


def test_destructor_may_unmap_when_the_collector_runs_inside_of_a_call() -> None:
    """A lock that its own thread waits for would hang the child until its alarm."""

    class Owner:
        def __init__(self) -> None:
            self.mapping = anonymous()
            self.cycle = self

        def __del__(self) -> None:
            posix.munmap(self.mapping)

    def child() -> None:
        gc.collect()
        before = len(MAPPINGS._found)  # of tests before this one, inherited by the fork
        gc.set_threshold(1)
        views = []
        for _ in range(300):
            Owner()
            views.append(anonymous())
        gc.set_threshold(700)
        gc.collect()
        for mapping in views:
            posix.munmap(mapping)
        assert len(MAPPINGS._found) == before

    assert in_child(child) == 0


# --- threads: F24


def in_threads(count: int, function: Callable[[int], None]) -> None:
    """Run a function in threads that start together; raise what one of them raised."""
    start, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait(20)
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_parallel_mappings_at_any_address_are_apart(fd: int) -> None:
    mappings: list[posix.Mapping] = []
    in_threads(50, lambda number: mappings.append(shared(fd, offset=number % 4 * PAGE)))
    assert len({mapping.address for mapping in mappings}) == 50
    assert sorted(bytes(mapping.buffer[:1]) for mapping in mappings)[::13] == [b"\1", b"\2", b"\3", b"\4"]
    for mapping in mappings:
        posix.munmap(mapping)


def test_threads_map_and_unmap_in_any_order_and_leave_nothing(fd: int, base: int) -> None:
    """At 30 addresses that they fight for, and in a reservation that they share; some views are kept."""
    before = len(MAPPINGS._found)
    outer = reserved(30 * PAGE, base + 100 * PAGE)

    def work(number: int) -> None:
        chance = random.Random(number)
        views: list[Any] = []
        for _ in range(30):
            slot, page = chance.randrange(30), chance.randrange(4)
            inside = chance.random() < 0.4
            address = (outer.address if inside else base) + slot * PAGE
            try:
                mapping = shared(fd, address, offset=page * PAGE, destroys=outer if inside else None)
            except FileExistsError:
                continue
            view = mapping.buffer[chance.randrange(PAGE) :]
            assert view == bytes([page + 1]) * len(view)
            match chance.randrange(4):
                case 0:
                    views.append(view)
                case 1:
                    views.append(mapping)
                case 2:
                    with pytest.raises(BufferError):
                        posix.munmap(mapping)
                case _:
                    del view
                    posix.munmap(mapping)
            if len(views) > 3:
                del views[chance.randrange(3)]
            mapping = view = None

    in_threads(50, work)
    gc.collect()
    assert permissions(base, 31) == [None] * 31
    assert permissions(outer.address, 30) == ["---p"] * 30
    posix.munmap(outer)
    assert len(MAPPINGS._found) == before


# --- forks


def test_child_uses_and_unmaps_its_own_copy_of_a_mapping(fd: int) -> None:
    with shared(fd) as mapping:

        def use() -> None:
            mapping.buffer[:4] = b"text"
            posix.munmap(mapping)
            assert permissions(mapping.address) == [None]
            shared(fd, mapping.address).__exit__()

        assert in_child(use) == 0
        assert bytes(mapping.buffer[:4]) == b"text"


def test_private_memory_is_the_childs_own() -> None:
    with anonymous() as mapping:
        mapping.buffer[:4] = b"mine"
        assert in_child(lambda: mapping.buffer.__setitem__(slice(4), b"your")) == 0
        assert bytes(mapping.buffer[:4]) == b"mine"


def test_child_has_no_mapping_that_it_was_not_to_have(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.madvise(mapping, posix.MADV_DONTFORK)
        assert dies_of(signal.SIGSEGV, lambda: view[0])
        posix.madvise(mapping, posix.MADV_DOFORK)
        assert in_child(lambda: view[0]) == 0
        view.release()


def test_child_can_map_when_forked_while_other_threads_map(fd: int) -> None:
    """No child may inherit the registry locked, or halfway through a change."""
    done, rounds = threading.Event(), [0, 0]

    def hammer(number: int) -> None:
        while not done.is_set():
            with shared(fd), shared(fd):
                rounds[number] += 1

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(rounds) > 3)
        for _ in range(20):
            assert in_child(lambda: shared(fd).__exit__()) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
