"""The array of an iovec: what is in it, and how long it is pinned."""

from __future__ import annotations

import array
import ctypes
import os
import threading

import cffi
import numpy as np
import pytest

import shmclient
from pinning_support import CONTENT
from shmclient import IoVec, Pinner, PinReleased, readv, writev
from support import in_child

FFI = cffi.FFI()
FFI.cdef("struct iovec { void *iov_base; size_t iov_len; };")


def entries(iov: IoVec) -> list[tuple[int, int]]:
    """Return the array as native code sees it."""
    native = FFI.cast("struct iovec *", iov.address)
    return [(int(FFI.cast("uintptr_t", native[i].iov_base)), native[i].iov_len) for i in range(len(iov))]


def test_iovec_holds_address_and_length_of_each_buffer(pinner: Pinner) -> None:
    numbers, cdata = np.arange(3.0), FFI.new("int[4]")
    buffers = [bytearray(5), b"abc", numbers, array.array("H", [1]), cdata, memoryview(b"0123456789")[2:4]]
    iov = pinner.iovec(buffers)
    assert [size for _, size in entries(iov)] == [5, 3, 24, 2, 16, 2]
    assert entries(iov)[2][0] == numbers.ctypes.data
    assert entries(iov)[4][0] == int(FFI.cast("uintptr_t", cdata))
    assert (len(iov), iov.nbytes, list(iov)) == (6, 52, buffers)
    assert ctypes.string_at(entries(iov)[5][0], 2) == b"23"


@pytest.mark.parametrize("count", [0, 1, 1024, 1025, 5000])
def test_iovec_takes_any_number_of_buffers(count: int, pinner: Pinner) -> None:
    buffers = [bytearray(4) for _ in range(count)]
    iov = pinner.iovec(iter(buffers))
    assert (len(iov), iov.nbytes, len(entries(iov))) == (count, 4 * count, count)


def test_empty_buffer_is_null_with_length_0(pinner: Pinner) -> None:
    iov = pinner.iovec([b"", bytearray(), np.zeros(0), b"x"])
    assert entries(iov)[:3] == [(0, 0)] * 3
    assert entries(iov)[3][1] == 1


def test_iovec_pins_what_is_in_it_until_unpin_and_zeroes_the_array_then() -> None:
    pinner, buffers = Pinner(), [bytearray(4), bytearray(4)]
    iov = pinner.iovec(buffers)
    address = iov.address
    with pytest.raises(BufferError):
        buffers[1].append(1)
    pinner.unpin()
    pinner.unpin()
    buffers[1].append(1)
    assert ctypes.string_at(address, 32) == bytes(32)
    for use in (lambda: iov.address, lambda: iov.nbytes, lambda: iov[0], lambda: readv(0, iov)):
        with pytest.raises(PinReleased, match="released"):
            use()


def test_iovec_unpins_at_the_end_of_a_block(pinner: Pinner) -> None:
    buffer = bytearray(4)
    with pinner.iovec([buffer]) as iov, pytest.raises(BufferError):
        assert iov.nbytes == 4
        buffer.append(1)
    buffer.append(1)


@pytest.mark.parametrize("bad", [5, "text", None, object()])
def test_iovec_pins_none_when_one_is_no_buffer(bad: object, pinner: Pinner) -> None:
    buffers = [bytearray(4) for _ in range(5)]
    with pytest.raises(TypeError, match=f"cannot pin a {type(bad).__name__}"):
        pinner.iovec([*buffers[:3], bad, *buffers[3:]])
    with pytest.raises(BufferError, match="not contiguous"):
        pinner.iovec([*buffers, np.arange(4)[::2]])
    assert len(pinner) == 0
    for buffer in buffers:
        buffer.append(1)


def test_iovec_takes_regions(shm: shmclient.Client, pinner: Pinner) -> None:
    shm.put("x", b"in a region").close()
    region = shm.open("x")
    iov = pinner.iovec([b"a", region, region.data])
    assert entries(iov)[1] == (region.address, region.capacity)
    assert ctypes.string_at(*entries(iov)[2]) == b"in a region"


class CIoVec(ctypes.Structure):
    """`struct iovec`, made with ctypes."""

    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


def test_array_of_ctypes_takes_pinned_addresses_for_the_readv_of_the_c_library(
    file: int, pinner: Pinner
) -> None:
    buffers = [bytearray(size) for size in (2, 5, 8, 11)]
    array = (CIoVec * 4)()
    for entry, buffer in zip(array, buffers, strict=True):
        pinned = pinner.pin(buffer)
        pinned.store(entry, "iov_base")
        entry.iov_len = pinned.size
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.readv(file, array, 4) == 26
    assert b"".join(buffers) == CONTENT[:26]
    pinner.unpin()
    assert [entry.iov_base for entry in array] == [None] * 4


def test_child_of_a_fork_unpins_while_its_parent_reads() -> None:
    reader, writer = os.pipe()
    pinner, buffer = Pinner(), bytearray(4)
    iov = pinner.iovec([buffer])
    thread = threading.Thread(target=lambda: readv(reader, iov))
    thread.start()
    while not iov._uses:
        pass

    def child() -> None:
        pinner.unpin()
        buffer.append(1)
        with Pinner() as own:
            assert writev(writer, own.iovec([b"abcd"])) == 4

    assert in_child(child) == 0
    thread.join()
    assert buffer == b"abcd"
    pinner.unpin()
    os.close(reader)
    os.close(writer)
