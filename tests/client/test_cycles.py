"""Memory is never unmapped under an object that is collected with it, in any order of the collector's."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable
from typing import Any

import cffi
import numpy as np
import pytest

import shmclient
from shmclient import Pinner, posix
from support import WatchedHost, in_child, wait_until

FFI = cffi.FFI()
FFI.cdef("struct node { struct node *next; int number; };")
PIECES = 3


class Reading:
    """Reads memory in its destructor, as a model that logs a checksum does."""

    def __init__(self, read: Callable[[Any], int], seen: list[int]) -> None:
        self.read, self.seen, self.memory = read, seen, None
        self.cycle: list[Any] = [self]

    def __del__(self) -> None:
        self.seen.append(self.read(self.memory))


def of_region(shm: shmclient.Client) -> dict[str, tuple[Callable[[], list[Any]], Callable[[Any], int]]]:
    """Return for each kind of memory what makes it, its pieces in a row, and what reads the first."""
    shm.put("bytes", b"\x07" * 100).close()
    shm.put("array", np.full(100, 7)).close()
    with shm.create("root", 4096) as builder:
        builder.set_root(builder.new(FFI, "struct node *", {"number": 7}))
    pinner = Pinner()

    def mapping() -> list[Any]:
        area = posix.mmap(None, 4096, posix.PROT_RDWR, posix.MAP_PRIVATE | posix.MAP_ANONYMOUS)
        area.buffer[0] = 7
        return [area.buffer, area]

    return {
        "bytes": (lambda: [shm.get("bytes")], lambda view: int(view[3])),
        "slice": (lambda: [shm.get("bytes")[5:10]], lambda view: int(view[3])),
        "array": (lambda: [shm.get("array")], lambda array: int(array[3])),
        "data": (lambda: [(region := shm.open("bytes")).data, region], lambda view: int(view[3])),
        "header": (lambda: [shm.open("root").header], lambda header: int(header.abi_major) + 6),
        "root": (lambda: [shm.open("root").root(FFI, "struct node *")], lambda root: int(root.number)),
        "mapping": (mapping, lambda view: int(view[0])),
        "pin": (lambda: [pinner.pin(shm.get("bytes")), pinner], lambda pin: pin.size - 93),
    }


KINDS = ["bytes", "slice", "array", "data", "header", "root", "mapping", "pin"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(PIECES))))
@pytest.mark.parametrize("kind", KINDS)
def test_destructor_in_a_cycle_reads_what_is_still_mapped(
    kind: str, order: tuple[int, ...], host: WatchedHost
) -> None:
    def child() -> None:
        with shmclient.connect(host.socket_path) as shm:
            make, read = of_region(shm)[kind]
            gc.collect()
            gc.disable()
            seen: list[int] = []
            steps: list[Callable[[], Any]] = [make, lambda: [Reading(read, seen)], list]
            objects: dict[int, Any] = {
                number: steps[number]() for number in order
            }  # the collector's order, too
            objects[1][0].memory = objects[0][0]
            objects[1][0].cycle += [objects[0], objects[2]]
            objects[2] += [objects[1][0], objects[0]]
            del objects
            gc.collect()
            assert seen == [7]

    assert in_child(child) == 0


def test_what_was_in_a_cycle_is_given_back(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.create("root", 4096) as builder:
        builder.set_root(builder.new(FFI, "struct node *"))
    del builder
    shm.put("bytes", b"abc").close()
    wait_until(lambda: host.counts()["leases"] == 0)
    before = host.counts()
    for name in ("root", "bytes"):
        region = shm.open(name)
        cycle: list[Any] = [region, region.data, region.header]
        if name == "root":
            cycle.append(region.root(FFI, "struct node *"))
        cycle.append(cycle)
        del region, cycle
    gc.collect()
    wait_until(lambda: host.counts() == before)
    assert sys.getrefcount(shm) < 10
