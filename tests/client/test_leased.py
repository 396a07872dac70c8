"""The handle of a small put: it has a descriptor and a lease, and maps at its first use."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import shmclient
from shmprotocol.errors import AddressConflict, BadRegion, InvalidArgument, RegionClosed
from shmprotocol.native import builtins
from support import Machine, count_descriptors, mapped_addresses, wait_until


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    """Give a client of the host itself, another process: its descriptors are not counted here."""
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"first").close()
        builtins.flush_late()
        before = mapped_addresses(), count_descriptors()
        yield shm
        gc.collect()
        wait_until(lambda: leases(shm) == 0)
        assert (mapped_addresses(), count_descriptors()) == before


def leases(shm: shmclient.Client) -> int:
    builtins.flush_late()
    return sum(info.leases for info in shm.list())


def is_leased(region: shmclient.Region) -> bool:
    """Whether it has a lease, and no mapping."""
    return region._held is not None and region._held.lane is not None


def test_put_maps_nothing_until_somebody_looks(shm: shmclient.Client) -> None:
    before = mapped_addresses()
    region = shm.put("x", b"abc")
    assert (is_leased(region), mapped_addresses()) == (True, before)
    assert (region.name, region.size, region.generation, region.is_current()) == ("x", 3, 2, True)
    assert bytes(region.data) == b"abc"
    assert (is_leased(region), len(mapped_addresses())) == (False, len(before) + 1)
    assert region.metadata["format"] == "bytes"
    region.close()
    assert mapped_addresses() == before


USES: dict[str, Callable[[shmclient.Region], object]] = {
    "nothing": lambda region: None,
    "data": lambda region: region.data,
    "value": lambda region: region.value(),
    "header": lambda region: region.header,
    "descriptor": lambda region: os.pread(region.fileno(), 3, 4096),
    "descriptor, then data": lambda region: (region.fileno(), bytes(region.data)),
    "data, then descriptor": lambda region: (bytes(region.data), region.fileno()),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("is_closed", [True, False])
def test_every_use_of_it_leaves_nothing(
    use: Callable[[shmclient.Region], object], is_closed: bool, shm: shmclient.Client
) -> None:
    region = shm.put("x", b"abc")
    use(region)
    assert leases(shm) == 1
    if is_closed:
        region.close()
        region.close()
        assert leases(shm) == 0  # while there is a handle still, and before the next request


def test_view_keeps_it_after_its_handle(shm: shmclient.Client) -> None:
    view = shm.put("x", b"abc").data
    gc.collect()
    assert (bytes(view), leases(shm)) == (b"abc", 1)


def test_closed_one_is_closed(shm: shmclient.Client) -> None:
    region = shm.put("x", b"abc")
    region.close()
    for use in (region.value, region.fileno, lambda: region.data):
        with pytest.raises(RegionClosed):
            use()


def test_two_handles_share_a_mapping(shm: shmclient.Client) -> None:
    before = len(mapped_addresses())
    region, other = shm.put("x", b"abc"), shm.open("x")
    assert region.address == other.address
    assert len(mapped_addresses()) == before + 1
    other.close()
    assert bytes(region.data) == b"abc"


def test_occupied_address_is_a_conflict_that_leaves_the_handle(shm: shmclient.Client) -> None:
    region, other = shm.put("x", b"abc"), shm.open("x")
    assert region._held is not None
    lane = region._held.lane
    assert lane is not None
    host_id, lane.host_id = lane.host_id, "another host"  # whose region lies there then
    with pytest.raises(AddressConflict):
        _ = region.data
    lane.host_id = host_id
    assert os.pread(region.fileno(), 3, 4096) == b"abc"
    other.close()
    assert bytes(region.data) == b"abc"


def test_mapping_works_after_the_client_is_closed(machine: Machine) -> None:
    with shmclient.connect(machine.path) as other:
        with shmclient.connect(machine.path) as shm:
            regions = [shm.put(name, b"abc") for name in ("x", "y")]
        assert bytes(regions[0].data) == b"abc"
        assert os.pread(regions[1].fileno(), 3, 4096) == b"abc"
        assert leases(other) == 2
        for region in regions:
            region.close()
        wait_until(lambda: leases(other) == 0)


def test_child_of_a_fork_maps_it_and_its_end_gives_nothing_back(shm: shmclient.Client) -> None:
    region = shm.put("x", b"abc")
    child = os.fork()
    if not child:
        try:
            is_right = bytes(region.data) == b"abc"
            region.close()
            os._exit(0 if is_right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert leases(shm) == 1
    assert bytes(region.data) == b"abc"


def test_threads_that_use_and_close_it_at_once_leave_nothing(shm: shmclient.Client) -> None:
    errors: list[BaseException] = []

    def use(region: shmclient.Region, start: threading.Barrier, how: int) -> None:
        try:
            start.wait(20)
            if how == 0:
                region.close()
            elif how == 1:
                assert bytes(region.data) == b"abc"
            else:
                assert os.pread(region.fileno(), 3, 4096) in (b"abc", b"")
        except (RegionClosed, OSError):  # another thread was first
            pass
        except BaseException as error:
            errors.append(error)

    for _ in range(100):
        region, start = shm.put("x", b"abc"), threading.Barrier(3)
        threads = [threading.Thread(target=use, args=(region, start, how)) for how in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        region.close()
    assert errors == []


def test_descriptor_that_is_not_a_region_is_refused_when_it_is_mapped(shm: shmclient.Client) -> None:
    free = os.dup(0)
    os.close(free)
    region = shm.put("x", b"abc")  # whose descriptor has that number
    with socket.socket() as other:
        os.dup2(other.fileno(), free, inheritable=False)
    with pytest.raises(BadRegion):
        _ = region.data
    region.close()


# --- what is put


ARRAYS = [
    np.arange(12, dtype="i4"),
    np.arange(12, dtype="i4").reshape(3, 4),
    np.arange(12, dtype=">i4"),
    np.arange(12, dtype="f8").reshape(3, 4).T,
    np.arange(12, dtype="f8")[::2],
    np.zeros((3, 0)),
    np.zeros(0, dtype="u1"),
    np.array(5.0),
    np.arange(3).astype("M8[s]"),
    np.zeros(3, dtype=[("a", "i2"), ("b", "f4")]),
    np.array(["ab", "c"]),
    np.arange(6, dtype="i4").reshape(2, 3).view(np.recarray),
]


@pytest.mark.parametrize("array", ARRAYS, ids=repr)
def test_arrays_come_back_the_same_each_time(array: np.ndarray, shm: shmclient.Client) -> None:
    for _ in range(3):
        with shm.put("x", array) as region:
            value = region.value()
            assert (value.dtype, value.shape, value.strides) == (array.dtype, array.shape, value.strides)
            np.testing.assert_array_equal(value, array)
            assert type(value) is type(array)
            is_f = array.flags.f_contiguous and not array.flags.c_contiguous
            assert region.metadata["order"] == ("F" if is_f else "C")
        array = array.copy(order="K") if array.flags.writeable else array


SIZES = [0, 1, 7, 8, 9, 127, 128, 255, 256, 1024, 12000, *range(12236, 12260), 12288, 13000, 70000]


@pytest.mark.parametrize("size", SIZES)
def test_bytes_of_each_size_come_back(size: int, shm: shmclient.Client) -> None:
    content = os.urandom(size)
    with shm.put("x", content) as region:
        assert region.size == size
        assert bytes(region.data) == content
        assert region.metadata == {"format": "bytes", "offset": 0, "size": size}
        assert bytes(shm.get("x")) == content


def test_bytes_by_the_fast_road_are_the_region_of_the_plain_one(shm: shmclient.Client) -> None:
    with shm.put("x", b"abc") as fast, shm.put("x", memoryview(b"abc")) as plain:
        assert (is_leased(fast), is_leased(plain)) == (True, False)
        contents = [os.pread(region.fileno(), 8192, 0) for region in (fast, plain)]
        assert contents[0][4096:] == contents[1][4096:]
        assert fast.capacity == plain.capacity


@pytest.mark.parametrize("mode", [-1, 0o1000, 2**64, "600", None, 6.0])
def test_wrong_mode_is_refused(mode: object, shm: shmclient.Client) -> None:
    with pytest.raises(InvalidArgument, match="mode"):
        shm.put("x", b"abc", mode=mode)  # type: ignore[arg-type]


def test_replace_is_true_or_false_as_any_object_is(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionExists):
        shm.put("x", b"abc", replace=[])  # type: ignore[arg-type]
    shm.put("x", b"abc", replace=1).close()  # type: ignore[arg-type]
