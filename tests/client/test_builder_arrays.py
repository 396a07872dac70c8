"""Arrays that are made in place come back as what was put would: with dtype, shape, and no copy."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from typing import Any

import cffi
import numpy as np
import pytest

import shmclient
from support import WatchedHost, in_child

FFI = cffi.FFI()


PAIR = np.dtype([("a", "u1"), ("b", "f8")])


@pytest.mark.parametrize("dtype", ["f4", np.int64, ">u2", PAIR, "S3", "M8[ns]"])
@pytest.mark.parametrize("shape", [(3, 4), 5, np.int64(5), (), (0, 3), [2, 1, 2]])
def test_array_comes_back_as_if_it_had_been_put(dtype: Any, shape: Any, shm: shmclient.Client) -> None:
    source = np.zeros(shape, dtype)
    with shm.create("x", 1000) as builder:
        array = builder.array(shape, dtype)
        assert (array.shape, array.dtype, array.flags.writeable) == (source.shape, source.dtype, True)
        assert array.ctypes.data % 64 == 0
        assert array.tobytes() == bytes(array.nbytes)
    shm.put("y", source)
    built, put = shm.get("x"), shm.get("y")
    assert (built.dtype, built.shape, built.flags.writeable) == (put.dtype, put.shape, False)
    np.testing.assert_array_equal(built, put)


def test_array_that_was_filled_is_what_get_returns(shm: shmclient.Client) -> None:
    with shm.create("x", 4096) as builder:
        array = builder.array((8, 16), "f4")
        array[:] = np.arange(128).reshape(8, 16)
    value = shm.get("x")
    np.testing.assert_array_equal(value, np.arange(128, dtype="f4").reshape(8, 16))
    assert value.ctypes.data == array.ctypes.data == builder.data_address  # the same memory
    np.testing.assert_array_equal(array, value)

    def write() -> None:
        faulthandler.disable()
        array.fill(0)

    assert in_child(write) == -signal.SIGSEGV


def test_arrays_with_names_come_back_as_a_dict(shm: shmclient.Client) -> None:
    with shm.create("x", 4096) as builder:
        builder.array(3, "u1", name="a")[:] = 7
        builder.array((2, 2), "f8", name="b/ü")[:] = 0.5
        builder.array(0, "f8", name="")
    value = shm.get("x")
    assert list(value) == ["a", "b/ü", ""]
    assert (value["a"].tolist(), value["b/ü"].tolist(), value[""].shape) == ([7] * 3, [[0.5] * 2] * 2, (0,))
    assert all(array.ctypes.data % 64 == 0 for array in value.values())


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [(None, None, "name each"), ("a", None, "name each"), (None, "a", "name each"), ("a", "a", "array 'a'")],
)
def test_second_array_needs_a_name_of_its_own(
    first: str | None, second: str | None, text: str, shm: shmclient.Client
) -> None:
    with shm.create("x", 4096) as builder:
        builder.array(3, "u1", name=first)[:] = 7
        with pytest.raises(shmclient.InvalidArgument, match=text):
            builder.array(3, "u1", name=second)
    value = shm.get("x")
    assert (value if first is None else value["a"]).tolist() == [7] * 3


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (-1, "u1", shmclient.InvalidArgument),
        ((2, -1), "u1", shmclient.InvalidArgument),
        (4097, "u1", shmclient.InvalidArgument),
        ((1,) * 65, "u1", shmclient.InvalidArgument),
        ((1 << 40, 1 << 40), "f8", shmclient.InvalidArgument),
        (3, object, TypeError),
        (3, "nothing", TypeError),
        ("ab", "u1", shmclient.InvalidArgument),
        (1.5, "u1", TypeError),
    ],
)
def test_array_that_cannot_be_is_refused_and_takes_nothing(
    shape: Any, dtype: Any, error: type[Exception], shm: shmclient.Client
) -> None:
    with shm.create("x", 4096) as builder:
        with pytest.raises(error):
            builder.array(shape, dtype)
        assert builder.array(4096, "u1").ctypes.data == builder.data_address


def test_array_is_named_by_a_str(shm: shmclient.Client) -> None:
    with shm.create("x", 4096) as builder, pytest.raises(TypeError, match="named by a str, not int"):
        builder.array(3, "u1", name=7)  # type: ignore[arg-type]


def test_root_is_the_value_where_there_is_one(shm: shmclient.Client) -> None:
    with shm.create("x", 4096) as builder:
        array = builder.array(3, "i4")
        array[:] = [4, 5, 6]
        builder.set_root(FFI.cast("int *", array.ctypes.data))
    region = shm.open("x")
    assert list(FFI.unpack(region.root(FFI, "int *"), 3)) == [4, 5, 6]
    assert isinstance(shm.get("x"), memoryview)


def test_bytes_that_were_built_stay_bytes(shm: shmclient.Client) -> None:
    with shm.create("x", 5) as builder:
        builder.data[:] = b"hello"
    assert bytes(shm.get("x")) == b"hello"


def test_array_whose_description_has_no_room_is_refused(shm: shmclient.Client) -> None:
    count = 0
    full = pytest.raises(shmclient.InvalidArgument, match="that are full")
    with shm.create("x", 64 * 1024) as builder, full:
        for count in range(1000):
            builder.array(1, "i4", name=f"array {count}")[:] = count
    assert [array[0] for array in shm.get("x").values()] == list(range(count))
    assert count >= 50


def test_array_made_after_publish_is_refused(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        pass
    with pytest.raises(shmclient.RegionClosed):
        builder.array(3, "u1")


def test_numpy_is_imported_only_when_an_array_is_made(host: WatchedHost) -> None:
    script = """
import sys
import shmclient
with shmclient.connect(sys.argv[1]).create("x", 100) as builder:
    builder.data[:3] = b"abc"
    assert "numpy" not in sys.modules
    builder.array(3, "u1")
    assert "numpy" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, host.socket_path], check=True, timeout=30, env=os.environ)
