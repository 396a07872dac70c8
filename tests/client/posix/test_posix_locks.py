"""Pages locked in memory: mlock, munlock, mlockall and their limits."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from posix_support import (
    PAGE,
    anonymous,
    field,
    refused,
    reserved,
)
from shmclient import posix
from support import in_child, needs_root


def test_locked_pages_are_counted_until_unlocked(fd: int) -> None:
    before = field("VmLck")
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.mlock(mapping)
        assert field("VmLck") == before + 4 * PAGE
        posix.munlock(mapping.buffer[: 3 * PAGE])
        assert field("VmLck") == before + PAGE
        posix.munlock(mapping)
        posix.mlock(mapping.buffer[PAGE : 2 * PAGE])
        assert field("VmLck") == before + PAGE
    assert field("VmLck") == before


def test_lock_takes_the_whole_pages_that_a_buffer_lies_in() -> None:
    content = bytearray(3 * PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(content)) % PAGE
    before = field("VmLck")
    with memoryview(content)[start + 1 : start + PAGE + 1] as view:
        posix.mlock(view)
        assert field("VmLck") == before + 2 * PAGE
        posix.munlock(view)
    assert field("VmLck") == before
    posix.mlock(content)
    posix.munlock(content)
    content.append(1)  # and nothing holds it


def test_locks_take_an_array_and_nothing_at_all() -> None:
    for target in (np.zeros(10), b"bytes", bytearray()):
        posix.mlock(target)
        posix.munlock(target)


@pytest.mark.parametrize("call", [posix.mlock, posix.munlock])
def test_lock_of_what_is_no_memory_is_a_type_error(call: Callable[[Any], None]) -> None:
    for bad in (None, 5, "text", 0x680000000000):
        with pytest.raises(TypeError):
            call(bad)


def test_lock_of_pages_without_access_is_refused(base: int) -> None:
    with reserved(PAGE, base) as mapping, refused(errno.ENOMEM):
        posix.mlock(mapping)


@needs_root
@pytest.mark.parametrize(("limit", "code"), [(4 * PAGE, errno.ENOMEM), (0, errno.EPERM)])
def test_lock_over_the_limit_is_refused_with_what_to_do(limit: int, code: int) -> None:
    with anonymous(8 * PAGE) as mapping:

        def lock() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            what = f"mlock of {8 * PAGE} bytes at {mapping.address:#x}"
            with pytest.raises(OSError, match=rf"Errno {code}\] .*: {what}.*RLIMIT_MEMLOCK.*ulimit -l"):
                posix.mlock(mapping)
            if limit:
                posix.mlock(mapping.buffer[:PAGE])
                with refused(errno.ENOMEM):
                    posix.mlockall(posix.MCL_CURRENT)
            else:
                with refused(errno.EPERM):
                    posix.mlockall(posix.MCL_CURRENT)

        assert in_child(lock) == 0


@needs_root
def test_all_pages_are_locked_and_unlocked() -> None:
    """On fault, so that the child need not have all its memory present."""

    def lock() -> None:
        with anonymous() as mapping:
            posix.mlockall(posix.MCL_CURRENT | posix.MCL_FUTURE | posix.MCL_ONFAULT)
            locked = field("VmLck")
            assert locked > 1 << 20
            with anonymous(4 * PAGE):
                assert field("VmLck") == locked + 4 * PAGE
            assert posix.munlock(mapping) is None
            assert field("VmLck") == locked - PAGE
            posix.munlockall()
            assert field("VmLck") == 0

    assert in_child(lock) == 0


@pytest.mark.parametrize("flags", [0, 64, -1, 1 << 31])
def test_bad_flags_of_mlockall_are_refused(flags: int) -> None:
    with refused(errno.EINVAL):
        posix.mlockall(flags)


def test_page_size_is_a_power_of_two_and_pythons() -> None:
    size = posix.getpagesize()
    assert size > 0
    assert size & (size - 1) == 0
    assert size == mmap.PAGESIZE == os.sysconf("SC_PAGESIZE")
