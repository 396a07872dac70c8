"""What may be done with the pages of a mapping: protection, write-back, advice."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posix_support import (
    CALLS,
    CONTENT,
    PAGE,
    anonymous,
    dies_of,
    permissions,
    refused,
    shared,
)
from shmclient import posix

# --- protection: F26


def test_write_to_a_page_made_read_only_ends_the_process(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.mprotect(mapping, posix.PROT_READ)
        assert view[0] == 1
        assert dies_of(signal.SIGSEGV, lambda: view.__setitem__(0, 9))
        posix.mprotect(mapping, posix.PROT_RDWR)
        view[0] = 9
        assert os.pread(fd, 1, 0) == b"\t"
        view.release()


def test_read_of_a_page_without_access_ends_the_process(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.mprotect(mapping, posix.PROT_NONE)
        assert dies_of(signal.SIGSEGV, lambda: view[0])
        posix.mprotect(mapping, posix.PROT_READ)
        assert view[0] == 1
        view.release()


def test_page_beyond_the_end_of_an_object_ends_the_process(fd: int) -> None:
    with posix.mmap(None, 2 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd) as mapping:
        view = mapping.buffer
        posix.ftruncate(fd, PAGE)
        assert view[0] == 1
        assert dies_of(signal.SIGBUS, lambda: view[PAGE])
        view.release()


def test_protection_of_the_whole_mapping_is_what_it_says(fd: int) -> None:
    with shared(fd) as mapping:
        for prot, allowed in (
            (posix.PROT_READ, "r--s"),
            (posix.PROT_NONE, "---s"),
            (posix.PROT_RDWR, "rw-s"),
        ):
            posix.mprotect(mapping, prot)
            assert (mapping.prot, permissions(mapping.address)) == (prot, [allowed])


def test_protection_of_a_slice_is_that_of_its_pages_alone(fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.mprotect(mapping.buffer[PAGE : 3 * PAGE], posix.PROT_READ)
        assert permissions(mapping.address, 4) == ["rw-s", "r--s", "r--s", "rw-s"]
        assert mapping.prot == posix.PROT_RDWR
        view = mapping.buffer
        view[0] = view[3 * PAGE] = 9
        assert dies_of(signal.SIGSEGV, lambda: view.__setitem__(PAGE, 9))
        posix.mprotect(np.frombuffer(view, np.uint8)[PAGE : 3 * PAGE], posix.PROT_RDWR)
        view[PAGE] = 9
        view.release()


@pytest.mark.parametrize("call", CALLS)
def test_call_on_a_part_of_a_page_is_refused(call: str) -> None:
    """The kernel would take the rest of the last page along, which the caller did not name."""
    with anonymous(2 * PAGE) as mapping:
        for start, end in ((1, PAGE), (1, PAGE + 1), (PAGE - 1, 2 * PAGE), (0, 100), (PAGE, PAGE + 1)):
            with refused(errno.EINVAL):
                CALLS[call](mapping.buffer[start:end])
        assert permissions(mapping.address, 2) == ["rw-p", "rw-p"]


def test_advice_for_a_part_of_a_page_never_destroys_the_rest() -> None:
    with anonymous() as mapping:
        mapping.buffer[:] = b"x" * PAGE
        with refused(errno.EINVAL):
            posix.madvise(mapping.buffer[:100], posix.MADV_DONTNEED)
        assert bytes(mapping.buffer) == b"x" * PAGE


@pytest.mark.parametrize("call", CALLS)
def test_last_page_may_be_named_in_part_where_the_mapping_ends_there(call: str, fd: int) -> None:
    with posix.mmap(None, PAGE + 100, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        CALLS[call](mapping.buffer[PAGE:])
        CALLS[call](mapping.buffer)
        CALLS[call](mapping)


def test_bad_protection_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for bad in (0x10000000, -1, 1 << 31, 1 << 40):
            with refused(errno.EINVAL):
                posix.mprotect(mapping, bad)
        assert (mapping.prot, permissions(mapping.address)) == (posix.PROT_RDWR, ["rw-s"])


# --- calls on what is not ours


@pytest.mark.parametrize("call", CALLS)
def test_call_on_memory_of_others_is_refused_and_harms_nothing(call: str) -> None:
    content = bytearray(b"x" * 4 * PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(content)) % PAGE
    page = memoryview(content)[start : start + PAGE]
    with mmap.mmap(-1, PAGE) as theirs:
        for target in (content, page, page.toreadonly(), b"bytes", np.zeros(5), theirs):
            with refused(errno.EINVAL):
                CALLS[call](target)
        theirs[0] = content[start] = page[1] = 9
    assert content.count(b"x") == 4 * PAGE - 2


@pytest.mark.parametrize("call", CALLS)
def test_call_on_more_than_one_mapping_is_refused(call: str, base: int) -> None:
    with anonymous(PAGE, base) as first, anonymous(PAGE, base + PAGE) as second:
        both = (ctypes.c_char * (2 * PAGE)).from_address(base)
        with refused(errno.EINVAL):
            CALLS[call](both)
        assert permissions(base, 2) == ["rw-p", "rw-p"]
        assert first.prot == second.prot == posix.PROT_RDWR


@pytest.mark.parametrize("call", CALLS)
def test_call_on_what_is_no_memory_is_refused(call: str) -> None:
    for bad in (None, 5, "text", [1], 0x680000000000):
        with refused(errno.EINVAL):
            CALLS[call](bad)


@pytest.mark.parametrize("call", [*CALLS.values(), posix.mlock, posix.munlock])
def test_call_on_an_unmapped_mapping_is_refused(call: Callable[[Any], object], base: int) -> None:
    mapping = anonymous(PAGE, base)
    posix.munmap(mapping)
    with anonymous(PAGE, base):
        with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped"):
            call(mapping)
        assert permissions(base) == ["rw-p"]


@pytest.mark.parametrize("bad", ["1", None, 1.0])
def test_flags_of_another_type_are_type_errors(bad: Any) -> None:
    with anonymous() as mapping:
        for call in (posix.mprotect, posix.msync, posix.madvise):
            with pytest.raises(TypeError):
                call(mapping, bad)
    with pytest.raises(TypeError):
        posix.mlockall(bad)


def test_no_call_leaves_a_view_behind(fd: int) -> None:
    mapping = shared(fd)
    for call in (*CALLS.values(), posix.mlock, posix.munlock):
        call(mapping)
    with refused(errno.EINVAL):
        posix.madvise(mapping, 9999)
    posix.munmap(mapping)


# --- msync: F27


@pytest.mark.parametrize(
    "flags", [posix.MS_SYNC, posix.MS_ASYNC, posix.MS_INVALIDATE, posix.MS_SYNC | posix.MS_INVALIDATE, 0]
)
def test_msync_takes_each_mode(flags: int, fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        mapping.buffer[:4] = b"text"
        posix.msync(mapping, flags)
        posix.msync(mapping.buffer[PAGE : 2 * PAGE], flags)
    assert os.pread(fd, 4, 0) == b"text"


def test_msync_writes_a_mapping_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    fd = os.open(tmp_path / "file", os.O_RDWR)
    with shared(fd) as mapping:
        mapping.buffer[:4] = b"text"
        posix.msync(mapping)
        assert (tmp_path / "file").read_bytes()[:4] == b"text"
    posix.close(fd)


def test_bad_mode_of_msync_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for flags in (posix.MS_SYNC | posix.MS_ASYNC, 64, -1, 1 << 31):
            with refused(errno.EINVAL):
                posix.msync(mapping, flags)


def test_msync_that_would_drop_locked_pages_is_busy(fd: int) -> None:
    with shared(fd) as mapping:
        posix.mlock(mapping)
        with pytest.raises(OSError, match=r"busy: msync .*munlock them first"):
            posix.msync(mapping, posix.MS_INVALIDATE)
        posix.munlock(mapping)
        posix.msync(mapping, posix.MS_INVALIDATE)


# --- madvise: F28


@pytest.mark.parametrize(
    "advice",
    [
        "MADV_NORMAL",
        "MADV_RANDOM",
        "MADV_SEQUENTIAL",
        "MADV_WILLNEED",
        "MADV_DONTNEED",
        "MADV_DONTFORK",
        "MADV_DOFORK",
        "MADV_DONTDUMP",
        "MADV_DODUMP",
        "MADV_POPULATE_READ",
        "MADV_POPULATE_WRITE",
    ],
)
def test_advice_is_taken_and_the_content_of_an_object_stays(advice: str, fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.madvise(mapping, getattr(posix, advice))
        posix.madvise(mapping.buffer[PAGE : 3 * PAGE], getattr(posix, advice))
        assert bytes(mapping.buffer) == CONTENT


@pytest.mark.parametrize(
    ("advice", "needs"),
    [
        ("MADV_HUGEPAGE", "/sys/kernel/mm/transparent_hugepage"),
        ("MADV_NOHUGEPAGE", "/sys/kernel/mm/transparent_hugepage"),
        ("MADV_MERGEABLE", "/sys/kernel/mm/ksm"),
        ("MADV_UNMERGEABLE", "/sys/kernel/mm/ksm"),
    ],
)
def test_advice_that_not_every_kernel_knows_is_taken(advice: str, needs: str) -> None:
    if not Path(needs).exists():
        pytest.skip(f"this kernel has no {needs}")
    with anonymous() as mapping:
        posix.madvise(mapping, getattr(posix, advice))


def test_bad_advice_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for advice in (9999, 7, -1, 1 << 31, 1 << 40):
            with refused(errno.EINVAL):
                posix.madvise(mapping, advice)


def smaps_of(address: int) -> dict[str, str]:
    """Return what /proc/self/smaps says of the mapping that starts at an address."""
    lines = Path("/proc/self/smaps").read_text().split(f"\n{address:x}-", 1)[1].splitlines()[1:]
    pairs = itertools.takewhile(lambda line: re.match(r"\w+:", line), lines)
    return dict(line.split(":", 1) for line in pairs)


@pytest.mark.parametrize("advice", [posix.MADV_POPULATE_READ, posix.MADV_POPULATE_WRITE])
def test_populated_pages_are_present_before_they_are_touched(advice: int, fd: int, base: int) -> None:
    with posix.mmap(base, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        assert smaps_of(base)["Rss"].split() == ["0", "kB"]
        posix.madvise(mapping, advice)
        assert smaps_of(base)["Rss"].split() == [str(4 * PAGE // 1024), "kB"]


def test_pages_that_may_not_be_written_are_not_populated_for_writing(fd: int) -> None:
    with shared(fd, prot=posix.PROT_READ) as mapping, refused(errno.EINVAL):
        posix.madvise(mapping, posix.MADV_POPULATE_WRITE)


def test_pages_are_kept_out_of_a_dump(fd: int, base: int) -> None:
    with shared(fd, base) as mapping:
        posix.madvise(mapping, posix.MADV_DONTDUMP)
        assert "dd" in smaps_of(base)["VmFlags"].split()
        posix.madvise(mapping, posix.MADV_DODUMP)
        assert "dd" not in smaps_of(base)["VmFlags"].split()


def test_private_pages_that_are_not_needed_are_zero_again() -> None:
    with anonymous() as mapping:
        mapping.buffer[:4] = b"text"
        posix.madvise(mapping, posix.MADV_DONTNEED)
        assert bytes(mapping.buffer) == bytes(PAGE)


def test_removed_pages_are_gone_from_the_object(fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.madvise(mapping.buffer[PAGE : 2 * PAGE], posix.MADV_REMOVE)
    assert os.pread(fd, 3 * PAGE, 0) == CONTENT[:PAGE] + bytes(PAGE) + CONTENT[2 * PAGE : 3 * PAGE]
