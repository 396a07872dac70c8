"""The handle of a region: its sizes, its header and its descriptor."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import shmclient
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import HEADER_SIZE
from support import (
    WatchedHost,
    count_descriptors,
    in_child,
    needs_root,
    wait_until,
    without_proc,
)

# --- lifetimes


def test_handle_has_no_constructor() -> None:
    with pytest.raises(TypeError, match=r"a Region has no constructor: use client\.open"):
        shmclient.Region()


def test_handle_says_when_it_is_closed(shm: shmclient.Client) -> None:
    region = shm.put("x", b"12345")
    assert repr(region) == f"<Region 'x' generation 1 at {region.address:#x}, 5 bytes>"
    region.close()
    assert repr(region).endswith(", 5 bytes, closed>")


def test_handle_is_over_when_it_is_closed(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    view = region.data
    region.close()
    region.close()
    with pytest.raises(shmclient.RegionClosed):
        region.fileno()
    assert bytes(view) == b"1"


# --- what is in it


@pytest.mark.parametrize("offset", [0, 1, 4096, 8191])
def test_translate_takes_each_address_of_the_region(offset: int, shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    assert region.capacity == 8192
    assert region.translate(region.address + offset) == region.address + offset


@pytest.mark.parametrize("offset", [-1, 8192, -(1 << 50), 1 << 50])
def test_translate_refuses_other_addresses(offset: int, shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    with pytest.raises(shmclient.InvalidArgument, match=f"{region.address + offset:#x} is not in <Region"):
        region.translate(region.address + offset)


def test_metadata_is_a_copy_at_each_call(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    region.metadata.clear()
    assert region.metadata


def test_header_says_what_the_host_and_the_publisher_said(shm: shmclient.Client) -> None:
    region = shm.put("head", np.arange(10, dtype="u1"))
    header, info = region.header, shm.stat("head")
    number = region.address
    import cffi

    ffi = cffi.FFI()
    assert int(ffi.cast("uintptr_t", header.base)) == number == info.address
    assert (header.data_size, header.capacity) == (info.size, info.capacity) == (10, 8192)
    assert (header.generation, header.creator_uid, header.creator_pid) == (1, os.getuid(), os.getpid())
    assert ffi.string(header.name) == b"head"
    assert region.metadata["format"] == "ndarray"


def test_shm_backend_is_a_file_that_others_can_open(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("sh/m", b"by name", backend="shm").close()
    lock = os.stat(f"{host.socket_path}.lock")
    file = Path(f"/dev/shm/shmhost-{lock.st_dev:x}-{lock.st_ino:x}.sh%2Fm")
    assert file.read_bytes()[HEADER_SIZE:].startswith(b"by name")
    assert bytes(shm.get("sh/m")) == b"by name"
    assert shm.stat("sh/m").seal == "none"
    shm.unlink("sh/m")
    wait_until(lambda: not file.exists())


# --- sizes


@pytest.mark.parametrize("content", [b"hello!", b"", bytes(5000)])
def test_size_is_what_was_put_and_capacity_the_object(content: bytes, shm: shmclient.Client) -> None:
    put = shm.put("a", content)
    for region in (put, shm.open("a")):
        assert region.size == len(region.data) == len(content)
        assert region.capacity == os.fstat(region.fileno()).st_size
        assert f", {len(content)} bytes" in repr(region)
    for info in (shm.stat("a"), *shm.list()):
        assert (info.size, info.capacity) == (len(content), put.capacity)


@pytest.mark.parametrize("size", [1, 4096, 5000])
def test_size_of_what_is_built_is_what_was_asked_for(size: int, shm: shmclient.Client) -> None:
    with shm.create("b", size) as builder:
        assert builder.size == len(builder.data) == size
        assert builder.capacity == os.fstat(builder.fileno()).st_size
    assert builder.region is not None
    assert (builder.region.size, builder.region.capacity) == (builder.size, builder.capacity)
    assert shm.open("b").size == len(shm.open("b").data) == shm.stat("b").size == size


def test_host_charges_capacity_and_its_own_part(host: WatchedHost, shm: shmclient.Client) -> None:
    regions = [shm.put("a", b"1"), shm.put("b", bytes(4096))]
    assert host.counts()["charged"] == sum(region.capacity + REGION_OVERHEAD for region in regions)


# --- descriptors of one region


def test_offset_of_a_descriptor_is_its_own(shm: shmclient.Client) -> None:
    shm.put("x", b"data").close()
    first, second = shm.open("x"), shm.open("x")
    numbers = first.fileno(), second.fileno()
    os.lseek(first.fileno(), 777, os.SEEK_SET)
    os.set_blocking(first.fileno(), False)
    assert os.lseek(second.fileno(), 0, os.SEEK_CUR) == 0
    assert os.get_blocking(second.fileno())
    assert (first.fileno(), second.fileno()) == numbers
    assert os.lseek(first.fileno(), 0, os.SEEK_CUR) == 777
    assert not os.get_inheritable(first.fileno())


@needs_root
def test_offset_is_everybodys_without_proc_and_the_descriptor_works(host: WatchedHost) -> None:
    def check() -> None:
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", b"data").close()
            first, second = shm.open("x"), shm.open("x")
            os.lseek(first.fileno(), 777, os.SEEK_SET)
            assert os.lseek(second.fileno(), 0, os.SEEK_CUR) == 777
            assert os.pread(second.fileno(), 4, 4096) == b"data"

    assert in_child(without_proc(check)) == 0


def test_handle_has_one_descriptor_and_closes_it(shm: shmclient.Client) -> None:
    shm.put("x", b"data").close()
    before = count_descriptors()
    region = shm.open("x")
    number = region.fileno()
    assert count_descriptors() == before + 1
    region.close()
    assert count_descriptors() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with pytest.raises(shmclient.RegionClosed):
        region.fileno()


# --- the value


@pytest.mark.parametrize(
    "value", [b"123", np.arange(6.0).reshape(2, 3), {"a": np.ones(3), "b": b"1"}, np.float32(1.5)]
)
def test_value_of_a_handle_is_what_get_returns(value: object, shm: shmclient.Client) -> None:
    with shm.put("x", value) as region:
        shared = region.value()
    expected = shm.get("x")
    assert type(shared) is type(expected)
    assert comparable(shared) == comparable(expected)


def comparable(value: object) -> object:
    """Return what compares as the value does, without NumPy's comparison by items."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, memoryview) else (value.tolist(), value.dtype)  # type: ignore[attr-defined]


def test_value_is_that_of_the_handles_generation_and_read_only(shm: shmclient.Client) -> None:
    shm.put("x", np.zeros(3)).close()
    region = shm.open("x")
    shm.put("x", np.ones(3)).close()
    value = region.value()
    region.close()
    assert value.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    with pytest.raises(shmclient.RegionClosed):
        region.value()


def test_array_of_a_handle_is_its_value_if_that_is_an_array(shm: shmclient.Client) -> None:
    assert shm.put("x", np.arange(3)).array.tolist() == [0, 1, 2]
    with shm.create("y", 1000) as builder:
        builder.array(2, "u1")[:] = 7
    assert shm.open("y").array.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("value", "kind"), [(b"123", "bytes"), ({"a": np.arange(3)}, "dict")], ids=["bytes", "a dict"]
)
def test_array_of_a_handle_says_what_it_is_instead(value: object, kind: str, shm: shmclient.Client) -> None:
    with pytest.raises(TypeError, match=rf"'x' is not an array but has the format '{kind}': use value\(\)"):
        shm.put("x", value).array
