"""Pages that are in use for a moment, as the kernel's own work has them: sealing is tried again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from test_sealing import PAGES, vmsplice

from shmhost.core import apart
from shmprotocol.native import builtins

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
SIZE = PAGES * mmap.PAGESIZE
PATIENCE_S = 0.2  # an attempt gives up in less on an idle machine


def by_the_sealer(descriptor: int) -> None:
    """Seal by a thread of C, as the spare of a put."""
    failed, number = builtins.Sealer().seal(descriptor, descriptor, False, SIZE, b"h", SEALS, 1 << 40) or (
        1,
        0,
    )
    if failed:
        raise OSError(number, os.strerror(number))


def by_a_call(descriptor: int) -> None:
    """Seal as an arena."""
    apart.add_seals(descriptor, SEALS)


@contextlib.contextmanager
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


def seals_when_freed(seal: Callable[[int], None], after_s: float) -> bool:
    """Whether an object is sealed whose pages are in use for so long."""
    with pinned() as (descriptor, free):
        timer = threading.Timer(after_s, free)
        timer.start()
        with contextlib.suppress(OSError):
            seal(descriptor)
        timer.join()
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS


@pytest.mark.parametrize("seal", [by_the_sealer, by_a_call])
def test_sealing_is_tried_again(seal: Callable[[int], None]) -> None:
    """The pages are free between the times at which a first and a second attempt give up.

    On a busy machine they may be free too late for both, which is tried again.
    """
    with pinned() as (descriptor, _):
        began_s = time.monotonic()
        with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        patience_s = min(time.monotonic() - began_s, PATIENCE_S)
    assert any(seals_when_freed(seal, patience_s * 1.4) for _ in range(5))


@pytest.mark.parametrize("seal", [by_the_sealer, by_a_call])
def test_pages_that_stay_in_use_are_an_error(seal: Callable[[int], None]) -> None:
    with pinned() as (descriptor, _), pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        seal(descriptor)
