"""What readers get can be written by no way of NumPy's, Python's or ctypes': the write would be SIGSEGV."""

from __future__ import annotations

import ctypes
import gc
import mmap
import pickle
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shmclient
from shmclient import posix
from shmprotocol.wire.names import MAX_METADATA
from support import WatchedHost

ARRAYS = {
    "C order": np.arange(24.0).reshape(2, 3, 4),
    "F order": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "structured": np.zeros(2, [("a", "<i4"), ("b", "<f8", 2)]),
    "recarray": np.rec.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
    "matrix": np.ones((2, 2)).view(np.matrix),
    "bfloat16": np.ones(3, ml_dtypes.bfloat16),
    "time": np.zeros(2, "M8[s]"),
    "no dimensions": np.array(1),
    "empty": np.zeros((0, 3)),
    "no bytes": np.zeros(3, "V0"),
}


def must_stay_read_only(got: Any) -> None:
    for view in (got, got[...], got.T, got.view(), got.view(np.ndarray), np.asarray(got)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            view[...] = view.copy()
    assert got.copy().flags.writeable
    # By protocol 5, the default of Python 3.14, NumPy makes the copy of a read-only array read-only.
    assert pickle.loads(pickle.dumps(got, protocol=4)).flags.writeable


@pytest.mark.parametrize("name", ARRAYS)
def test_array_cannot_be_made_writable_again(name: str, shm: shmclient.Client) -> None:
    shm.put("x", {"in a dict": ARRAYS[name]}).close()
    must_stay_read_only(shm.get("x")["in a dict"])
    shm.put("x", ARRAYS[name]).close()
    must_stay_read_only(shm.get("x"))


def test_memory_cannot_be_made_writable_again_by_way_of_its_owner(shm: shmclient.Client) -> None:
    with shm.put("x", b"12345678") as region:
        for view in (region.data, shm.get("x")):
            assert memoryview(view.obj).readonly
            with pytest.raises(ValueError, match="WRITEABLE"):
                np.ndarray(8, "u1", view).flags.writeable = True
            with pytest.raises(TypeError, match="not writable"):
                (ctypes.c_char * 8).from_buffer(view)


def test_what_its_builder_writes_others_only_read(shm: shmclient.Client) -> None:
    """A reader in the builder's process has a view of the builder's mapping, which is writable."""
    with shm.create("x", 8, seal="writer") as builder:
        mine = np.ndarray(2, "<i4", builder.data)
        mine[:] = 7
    theirs = np.ndarray(2, "<i4", shm.get("x"))
    must_stay_read_only(theirs)
    mine[0] = 8
    assert (theirs.tolist(), theirs.ctypes.data) == ([8, 7], mine.ctypes.data)


def test_read_only_mapping_of_posix_cannot_be_made_writable_again() -> None:
    prot, flags = posix.PROT_READ, posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
    with posix.mmap(None, 4096, prot, flags) as mapping:
        got = np.ndarray(4096, "u1", mapping.buffer)
        must_stay_read_only(got)
        with pytest.raises(BufferError):
            posix.munmap(mapping)  # the array keeps it
        del got


def test_metadata_that_its_writer_enlarges_is_a_bad_region(host: WatchedHost, shm: shmclient.Client) -> None:
    """The host has checked its size at publish. Unpacking 8 MiB of it took 604 MiB."""
    with shm.create("x", 2 << 20, seal="writer") as builder:
        page = mmap.mmap(builder.fileno(), 4096)
    with page, shmclient.connect(host.socket_path) as other:
        page[128:144] = struct.pack("<QQ", builder.data_address, MAX_METADATA + 1)
        del builder
        gc.collect()  # or this process would map it no second time
        with pytest.raises(shmclient.BadRegion):
            other.open("x")
        with pytest.raises(shmclient.BadRegion):
            other.get("x")
