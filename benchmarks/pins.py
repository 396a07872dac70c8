"""Pins, iovecs and the pointer check against what Python and cffi do without them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import cffi

import shmclient
import shmhost
from benchmarks.measure import Figure, paired
from benchmarks.results import FLOOR, OURS, Row
from shmclient import Pinner

BUFFERS = 1024
ROUNDS, SAMPLES = 10, 200
NODES = 1_000_000

ffi = cffi.FFI()
ffi.cdef(
    """
    struct iovec { void *iov_base; size_t iov_len; };
    struct node { struct node *next; struct node *jump; long number; };
    """
)


def rows(cpu: int) -> Iterator[Row]:
    """Yield all figures, measured on one CPU."""
    os.sched_setaffinity(0, {cpu})
    yield bench_pin()
    for size in (16, 1024, 4096):
        yield bench_readv(size)
    yield bench_from_buffer()
    yield bench_check_pointers()


def bench_pin() -> Row:
    """Pin, store and unpin 1024 buffers one by one; the same with ffi.from_buffer, which zeroes no slot."""
    buffers = [bytearray(16) for _ in range(BUFFERS)]
    slots = ffi.new("void *[]", BUFFERS)
    places = [ffi.addressof(slots, index) for index in range(BUFFERS)]
    pinner = Pinner()

    def ours() -> None:
        for buffer, slot in zip(buffers, places, strict=True):
            pinner.pin(buffer).store(slot)
        pinner.unpin()

    def bare() -> None:
        held = []
        for index, buffer in enumerate(buffers):
            pointer = ffi.from_buffer(buffer)
            slots[index] = pointer
            held.append(pointer)
        for pointer in held:
            ffi.release(pointer)

    mine, theirs = paired(ours, bare, ROUNDS, 20)
    return _row("pins", "pin + store + unpin, 1024 buffers", mine, theirs)


def bench_readv(size: int) -> Row:
    """Read into 1024 buffers that are pinned for it, against os.preadv, which pins them too."""
    descriptor, buffers = _file(size)
    pinner = Pinner()

    def ours() -> None:
        shmclient.preadv(descriptor, pinner.iovec(buffers), 0)
        pinner.unpin()

    mine, theirs = paired(ours, lambda: os.preadv(descriptor, buffers, 0), ROUNDS, SAMPLES)
    os.close(descriptor)
    return _row(f"preadv/{size}", f"iovec + preadv + unpin, 1024 of {size} bytes", mine, theirs, 1.0)


def bench_from_buffer() -> Row:
    """The same against an iovec that is built with ffi.from_buffer for each buffer, and read by os.preadv."""
    descriptor, buffers = _file(16)
    pinner = Pinner()

    def ours() -> None:
        shmclient.preadv(descriptor, pinner.iovec(buffers), 0)
        pinner.unpin()

    def bare() -> None:
        iov = ffi.new("struct iovec[]", BUFFERS)
        held = []
        for index, buffer in enumerate(buffers):
            pointer = ffi.from_buffer(buffer)
            iov[index].iov_base, iov[index].iov_len = pointer, len(buffer)
            held.append(pointer)
        os.preadv(descriptor, buffers, 0)

    mine, theirs = paired(ours, bare, ROUNDS, 50)
    os.close(descriptor)
    return _row("preadv/from_buffer", "the same of 16 bytes, against ffi.from_buffer", mine, theirs)


def bench_check_pointers() -> Row:
    """Check a million nodes with two pointers each, against a loop in Python that only follows one."""
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        with shmclient.unchecked(), shm.create("nodes", NODES * 24 + 64) as builder:
            nodes: Any = builder.new(ffi, "struct node[]", NODES)
            _link(builder, NODES)
            builder.set_root(ffi.addressof(nodes, 0))
        with shm.open("nodes") as region:
            root: Any = region.root(ffi, "struct node *")
            ours, theirs = paired(_checked(region), _followed(root), 3, 1)
            del root
    return _row("check_pointers", "check_pointers, a million objects", ours, theirs)


def _link(builder: shmclient.RegionBuilder, count: int) -> None:
    """Chain the nodes in a scattered order, with a second pointer to a node far off."""
    import numpy as np

    order = np.concatenate(([0], np.random.default_rng(1).permutation(np.arange(1, count))))
    addresses = builder.data_address + 24 * order.astype(np.uint64)
    words = np.frombuffer(builder.data, np.uint64)[: 3 * count].reshape(count, 3)
    words[order[:-1], 0] = addresses[1:]
    words[order, 1] = addresses[::-1]


def _checked(region: shmclient.Region) -> Callable[[], None]:
    def check() -> None:
        assert shmclient.check_pointers(region, ffi, "struct node *") == NODES

    return check


def _followed(root: Any) -> Callable[[], None]:
    def follow() -> None:
        node, count = root, 0
        while node:
            node = node.next
            count += 1
        assert count == NODES

    return follow


def _file(size: int) -> tuple[int, list[bytearray]]:
    descriptor = os.memfd_create("bench")
    os.ftruncate(descriptor, size * BUFFERS)
    os.pwrite(descriptor, os.urandom(size * BUFFERS), 0)
    return descriptor, [bytearray(size) for _ in range(BUFFERS)]


def _row(key: str, title: str, ours: Figure, floor: Figure, ratio: float | None = None) -> Row:
    return Row(key, title, figures={OURS: ours, FLOOR: floor}, aim_ratio=ratio)
