"""What `put` takes and `get` gives: bytes, arrays and mappings, the same and read-only."""

from __future__ import annotations

import array
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shmclient
from support import (
    WatchedHost,
    in_child,
    wait_until,
)

BYTES_LIKE = {
    "bytes": b"some bytes",
    "empty": b"",
    "bytearray": bytearray(b"some bytes"),
    "slice": memoryview(b"some bytes")[2:5],
    "strided": memoryview(b"some bytes")[::2],
    "reversed": memoryview(b"some bytes")[::-1],
}
STRUCTURED = np.dtype(
    {"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 16], "itemsize": 32, "aligned": True}
)
ARRAYS = {
    "one dimension": np.arange(10),
    "C order": np.arange(24).reshape(2, 3, 4),
    "F order": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "not contiguous": np.arange(100)[::3],
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "0-d": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "big-endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "no bytes at all": np.zeros(3, "S0"),
    "time": np.array(["2020-01-01T00:00:00.5"], "M8[ms]"),
    "half": np.array([0.5], "f2"),
    "structured": np.array([(1, 2.5), (3, 4.5)], STRUCTURED),
    "nested": np.zeros(3, [("x", [("y", "<u2"), ("z", "<f4", (2, 2))]), ("name", "U3")]),
    "titled": np.zeros(2, [(("a title", "x"), "<i4")]),
    "read-only": np.frombuffer(b"12345678", "<i4"),
}


@pytest.mark.parametrize("what", BYTES_LIKE)
def test_bytes_come_back_read_only(what: str, shm: shmclient.Client) -> None:
    value = BYTES_LIKE[what]
    shm.put("x", value).close()
    got = shm.get("x")
    assert isinstance(got, memoryview)
    assert (bytes(got), got.readonly) == (bytes(value), True)


def test_buffers_keep_their_item_format_and_shape(shm: shmclient.Client) -> None:
    shm.put("x", array.array("d", [1.5, 2.5])).close()
    got = shm.get("x")
    assert (got.format, got.tolist()) == ("d", [1.5, 2.5])
    shm.put("y", memoryview(bytes(range(6))).cast("B", shape=[2, 3])).close()
    assert shm.get("y").tolist() == [[0, 1, 2], [3, 4, 5]]
    shm.put("z", mmap.mmap(-1, 4096)).close()
    assert bytes(shm.get("z")) == bytes(4096)


@pytest.mark.parametrize("what", ARRAYS)
def test_array_keeps_dtype_shape_and_order(what: str, shm: shmclient.Client) -> None:
    value = ARRAYS[what]
    shm.put("x", value).close()
    got = shm.get("x")
    assert (got.dtype, got.shape) == (value.dtype, value.shape)
    assert not got.flags.writeable
    assert got.flags.f_contiguous if value.flags.f_contiguous else got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.asarray(value))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    value=hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes(allow_subarrays=True)),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        fill=st.nothing(),
    )
)
def test_any_array_comes_back_byte_for_byte(value: Any, shm: shmclient.Client) -> None:
    shm.put("x", value).close()
    got = shm.get("x")
    assert (got.dtype, got.shape, got.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_dict_is_one_region(shm: shmclient.Client) -> None:
    value = {"a": ARRAYS["F order"], "b": b"bytes", "": np.array(1), "ü": b""}
    shm.put("x", value).close()
    got = shm.get("x")
    assert list(got) == list(value)
    assert got["a"].flags.f_contiguous
    assert (bytes(got["b"]), int(got[""]), bytes(got["ü"])) == (b"bytes", 1, b"")
    np.testing.assert_array_equal(got["a"], value["a"])
    assert [info.name for info in shm.list()] == ["x"]
    assert got["a"].ctypes.data % 64 == 0


def test_empty_dict_comes_back(shm: shmclient.Client) -> None:
    shm.put("x", {}).close()
    assert shm.get("x") == {}


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (1j, TypeError, "complex.*put_object"),
        ([{1, 2}], TypeError, "set.*put_object"),
        ([{"a": {1: b""}}], TypeError, "keys.*put_object"),
        ({1: b""}, TypeError, "keys"),
        ({"a": {"b": object()}}, TypeError, "'a'.*put_object"),
        (np.array([None]), TypeError, "object.*put_object"),
        (np.zeros(1, [(f"{n:0100}", "u1") for n in range(6000)]), shmclient.InvalidArgument, "fewer fields"),
    ],
)
def test_put_refuses_what_it_cannot_share(
    value: Any, error: type[Exception], match: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    before = host.counts()
    with pytest.raises(error, match=match):
        shm.put("x", value)
    assert host.counts() == before


# --- many at once


def test_large_object_goes_through_threads_of_the_host(host: WatchedHost, shm: shmclient.Client) -> None:
    value = np.arange(8_000_000)
    shm.put("large", value).close()
    got = shm.get("large")
    assert got[-1] == value[-1]
    assert got.sum() == value.sum()
    del got
    shm.put("large", b"small").close()
    wait_until(lambda: host.counts()["regions"] == 1)


def test_reader_dies_when_it_writes_through_a_view(shm: shmclient.Client) -> None:
    import ctypes
    import signal

    shm.put("x", np.arange(10)).close()
    value = shm.get("x")

    def write() -> None:
        import faulthandler

        faulthandler.disable()
        ctypes.memset(value.ctypes.data, 0, 1)

    assert in_child(write) == -signal.SIGSEGV
    assert value[1] == 1
