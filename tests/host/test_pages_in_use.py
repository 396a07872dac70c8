"""Pages that are in use for a moment, as the kernel's own work has them: sealing is tried again."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from test_sealing import PAGES, vmsplice

from shmprotocol.native import builtins

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
SIZE = PAGES * mmap.PAGESIZE


def by_the_sealer(descriptor: int) -> None:
    """Seal by a thread of C, as the spare of a put."""
    failed, number = builtins.Sealer().seal(descriptor, descriptor, False, SIZE, b"h", SEALS, 1 << 40) or (
        1,
        0,
    )
    if failed:
        raise OSError(number, os.strerror(number))


def by_a_call(descriptor: int) -> None:
    """Seal as what was created."""
    builtins.add_seals(descriptor, SEALS)


@pytest.fixture
def pinned() -> Iterator[tuple[int, Callable[[], object]]]:
    """Give an object whose pages lie in a pipe, and a function that empties that."""
    descriptor = os.memfd_create("pinned", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    reader, writer = os.pipe()
    with mmap.mmap(descriptor, SIZE) as pages:
        pages.write(b"x" * SIZE)
        vmsplice(writer, pages)
    yield descriptor, lambda: os.read(reader, SIZE)
    for each in (descriptor, reader, writer):
        os.close(each)


@pytest.mark.parametrize("seal", [by_the_sealer, by_a_call])
def test_sealing_is_tried_again(
    seal: Callable[[int], None], pinned: tuple[int, Callable[[], object]]
) -> None:
    """The pages are free between the times at which a first and a second attempt give up."""
    descriptor, free = pinned
    began_s = time.monotonic()
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    patience_s = time.monotonic() - began_s
    timer = threading.Timer(patience_s * 1.4, free)
    timer.start()
    try:
        seal(descriptor)
    finally:
        timer.join()
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS


@pytest.mark.parametrize("seal", [by_the_sealer, by_a_call])
def test_pages_that_stay_in_use_are_an_error(
    seal: Callable[[int], None], pinned: tuple[int, Callable[[], object]]
) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        seal(pinned[0])
