"""The fast road of an attach: what it takes, and what it leaves to the plain road, on real sockets."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

import shmclient
import shmclient.aio
from middle_support import EVENT, Change, Middle, Part, files
from shmprotocol.abi.header import FLAG_ARENA, FLAG_SEAL_FULL
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS
from support import Machine, client_with_two, count_descriptors, mapped_addresses, wait_until
from wire_support import frame_of


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    """Give a client of the host itself, another process: its descriptors are not counted here."""
    with client_with_two(machine.path) as shm:
        yield shm


@pytest.fixture
def middle(machine: Machine, tmp_path: Path) -> Iterator[Middle]:
    middle = Middle(str(tmp_path / "middle.sock"), machine.path)
    yield middle
    middle.close()


@pytest.fixture
def between(middle: Middle, shm: shmclient.Client) -> Iterator[shmclient.Client]:
    """Give a client behind the listener, and see that it leaves nothing."""
    with shmclient.connect(middle.path, timeout=30) as client:
        assert client.exists("a")  # and the listener has closed what came before this answer
        before = state()
        yield client
        gc.collect()
        wait_until(lambda: state() == before)  # the listener has descriptors, too
    wait_until(lambda: leases(shm) == 0)


def state() -> tuple[list[int], int]:
    return mapped_addresses(), count_descriptors()


def leases(shm: shmclient.Client) -> int:
    return sum(info.leases for info in shm.list())


def is_fast(region: shmclient.Region) -> bool:
    return region._held is not None


def test_plainest_reply_is_taken_whole(between: shmclient.Client) -> None:
    with between.open("a") as region:
        assert is_fast(region)
        assert bytes(region.data) == b"a" * 10
        assert region.is_current()
    regions = between.open_many(["a", "b"])
    assert [is_fast(region) for region in regions] == [True, True]
    assert [bytes(region.data) for region in regions] == [b"a" * 10, b"b" * 10]
    for region in regions:
        region.close()


def split(at: int) -> Change:
    return lambda data, fds: [(data[:at], fds), (data[at:], [])]


def with_grant(**fields: object) -> Change:
    """Change fields of the first grant of an Opened."""

    def change(data: bytes, fds: list[int]) -> list[Part]:
        wire = msgpack.unpackb(data[4:])
        grant = m.Grant(*wire[3][0])._replace(**fields)  # type: ignore[arg-type]
        return [(frame_of([*wire[:3], [grant, *wire[3][1:]]]), fds)]

    return change


def with_ledger(data: bytes, fds: list[int]) -> list[Part]:
    """Let an Opened bring a ledger, as one with the first grant of an arena does."""
    wire = msgpack.unpackb(data[4:])
    return [(frame_of([wire[0], wire[1] + 2, *wire[2:], [7, 4096]]), [*fds, fds[0], fds[0]])]


PIECES: dict[str, Change] = {
    "another name": with_grant(name="other"),
    "a ledger": with_ledger,
    "a length alone": split(4),
    "all but a byte": split(-1),
    "an event in front": lambda data, fds: [(EVENT, []), (data, fds)],
    "an event glued to it": lambda data, fds: [(data + EVENT, fds)],
    "a part of an event behind": lambda data, fds: [(data + EVENT[:9], fds), (EVENT[9:], [])],
    "a later field": lambda data, fds: [(later(data), fds)],
}


def later(data: bytes) -> bytes:
    """Append a field that nobody knows to an Opened, behind that of a ledger, which brings none."""
    body = b"\x96" + data[5:] + b"\x92\0\0\xa3new"
    return len(body).to_bytes(4, "little") + body


def test_arena_without_a_ledger_ends_the_connection(middle: Middle, between: shmclient.Client) -> None:
    middle.change = with_grant(flags=FLAG_SEAL_FULL | FLAG_ARENA)
    with pytest.raises(shmclient.OutOfMemory, match="could not take its ledger"):
        between.get("a")
    middle.change = lambda data, fds: [(data, fds)]
    assert bytes(between.get("b")) == b"b" * 10


@pytest.mark.parametrize("what", PIECES)
def test_reply_in_another_form_goes_the_plain_road(
    what: str, middle: Middle, between: shmclient.Client
) -> None:
    middle.change = PIECES[what]
    with between.open("a") as region:
        assert not is_fast(region)
        assert bytes(region.data) == b"a" * 10
    first, second = between.open_many(("b", "a"))
    assert [bytes(first.data), bytes(second.data)] == [b"b" * 10, b"a" * 10]
    first.close()
    second.close()
    assert bytes(between.get("a")) == b"a" * 10
    assert list(map(bytes, between.get_many(("b", "a")))) == [b"b" * 10, b"a" * 10]
    middle.change = lambda data, fds: [(data, fds)]
    between.open("a").close()  # takes what is left over
    with between.open("a") as region:
        assert is_fast(region)


def test_descriptor_that_no_frame_declares_ends_the_connection(
    middle: Middle, between: shmclient.Client
) -> None:
    middle.change = lambda data, fds: [(data, fds * 2)]
    first = between._core.channel
    between.open("a").close()
    middle.change = lambda data, fds: [(data, fds)]
    between.open("a").close()
    assert between._core.channel is not first


def other_id(data: bytes) -> bytes:
    at = data.index(b"\x94\xcc\x84\x01") + 4
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


WRONG: dict[str, tuple[Change, type[Exception]]] = {
    "another id": (lambda data, fds: [(other_id(data), fds)], RemoteProtocolError),
    "no descriptor": (lambda data, fds: [(data, [])], RemoteProtocolError),
    "the end in the middle": (lambda data, fds: [(data[:-1], fds), (b"", [])], shmclient.HostGone),
    "garbage": (lambda data, fds: [(data[:4] + b"\xc1" * (len(data) - 4), fds)], RemoteProtocolError),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_reply_is_an_error_and_leaves_nothing(
    what: str, middle: Middle, between: shmclient.Client
) -> None:
    change, error = WRONG[what]

    def changed(data: bytes, fds: list[int]) -> list[Part]:
        middle.change = lambda data, fds: [(data, fds)]
        return change(data, fds)

    middle.change = changed
    with pytest.raises(error):
        between.open("a")
    gc.collect()
    with between.open("a") as region:  # by a new connection
        assert bytes(region.data) == b"a" * 10


@pytest.mark.parametrize("is_region", [False, True], ids=["a device", "another region"])
def test_descriptor_of_something_else_is_refused(
    is_region: bool, shm: shmclient.Client, middle: Middle, between: shmclient.Client
) -> None:
    with between.open("b", wait=0) as other, files(1) as null:
        wrong = [other.fileno() if is_region else null[0]]
        middle.change = lambda data, fds: [(data, wrong)]
        with pytest.raises(shmclient.BadRegion):
            between.open("a")
        with pytest.raises(shmclient.BadRegion):
            between.open_many(["a"])
    del other
    gc.collect()
    wait_until(lambda: leases(shm) == 0)


def test_copy_that_is_not_sealed_is_refused(
    middle: Middle, shm: shmclient.Client, between: shmclient.Client
) -> None:
    with shm.open("a") as region:
        content = os.pread(region.fileno(), region.capacity, 0)
    copy = os.memfd_create("copy")  # whoever has it can write it, and cut it off under its readers
    try:
        os.write(copy, content)
        middle.change = lambda data, fds: [(data, [copy])]
        with pytest.raises(shmclient.BadRegion):
            between.open("a")
    finally:
        middle.change = lambda data, fds: [(data, fds)]
        assert between.exists("a")
        os.close(copy)


def test_more_descriptors_than_a_frame_has_are_closed(middle: Middle, between: shmclient.Client) -> None:
    with files(MAX_DESCRIPTORS) as more:
        middle.change = lambda data, fds: [(data, more + fds)]
        with pytest.raises(RemoteProtocolError, match="more than 64 descriptors"):
            between.open("a")
        middle.change = lambda data, fds: [(data, fds)]
        between.open("a").close()


def test_refusals_and_wrong_names_are_those_of_the_plain_road(between: shmclient.Client) -> None:
    for name in ("missing", "../x", "", "x" * 256, "a\0b", 5, None):
        with pytest.raises(shmclient.ShmError) as fast:
            between.open(name)  # type: ignore[arg-type]
        with pytest.raises(shmclient.ShmError) as plain:
            between.open(name, wait=0)  # type: ignore[arg-type]
        if name != "missing":  # where the other one says how long it waited
            assert (type(fast.value), str(fast.value)) == (type(plain.value), str(plain.value))
    with pytest.raises(shmclient.RegionNotFound):
        between.open_many(["a", "missing"])
    with pytest.raises(shmclient.InvalidArgument):
        between.open_many(["a", "../x"])
    assert between.open_many([]) == []


def test_values_of_many_names_come_in_one_trip(
    middle: Middle, shm: shmclient.Client, between: shmclient.Client
) -> None:
    trips: list[int] = []

    def count(data: bytes, fds: list[int]) -> list[Part]:
        trips.append(len(fds))
        return [(data, fds)]

    middle.change = count
    names = [f"many/{number}" for number in range(MAX_DESCRIPTORS + 6)]
    for name in names:
        shm.put(name, name.encode()).close()
    values = between.get_many([*names, *names])
    assert [bytes(value).decode() for value in values] == [*names, *names]
    assert trips == [64, 6]
    assert between.get_many(names[:2]) == values[:2]
    assert bytes(between.get("many/3")) == b"many/3"
    assert trips == [64, 6]  # what is mapped and current needs none
    shm.put("many/1", b"new").close()
    assert list(map(bytes, between.get_many(["many/0", "many/1"]))) == [b"many/0", b"new"]
    assert trips == [64, 6, 1]
    del values
    assert between._core.mapped == {}


def test_values_of_many_names_are_all_or_none(shm: shmclient.Client, between: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionNotFound):
        between.get_many(["a", "b", "missing"])
    with pytest.raises(shmclient.InvalidArgument):
        between.get_many(["a", "../x"])
    with pytest.raises(shmclient.WaitTimeout):
        between.get_many(["a", "missing"], wait=0.01)
    assert between.get_many([]) == []
    assert list(map(bytes, between.get_many(["a", "b"], wait=1))) == [b"a" * 10, b"b" * 10]
    wait_until(lambda: leases(shm) == 0)


@pytest.mark.anyio
async def test_values_of_many_names_come_to_an_async_client(
    shm: shmclient.Client, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(shm.socket_path) as ashm:
        assert list(map(bytes, await ashm.get_many(["b", "a", "b"]))) == [b"b" * 10, b"a" * 10, b"b" * 10]
        with pytest.raises(shmclient.RegionNotFound):
            await ashm.get_many(["a", "missing"])
    wait_until(lambda: leases(shm) == 0)


def test_region_that_is_mapped_here_is_shared(between: shmclient.Client, shm: shmclient.Client) -> None:
    first = between.open("a")
    view = first.data
    second, third = between.open_many(["a", "b"])
    assert (is_fast(first), is_fast(second), is_fast(third)) == (True, False, False)
    assert second.address == first.address
    first.close()
    assert bytes(view) == bytes(second.data) == b"a" * 10
    wait_until(lambda: leases(shm) == 3)
    del view
    wait_until(lambda: leases(shm) == 2)
    second.close()
    third.close()
    wait_until(lambda: leases(shm) == 0)


def test_same_name_twice_in_one_request_is_one_mapping(between: shmclient.Client) -> None:
    before = mapped_addresses()
    regions = between.open_many(["a", "a"])
    assert regions[0].address == regions[1].address
    assert len(mapped_addresses()) == len(before) + 1
    for region in regions:
        region.close()


def test_more_names_than_a_request_has_take_more_requests(
    shm: shmclient.Client, between: shmclient.Client
) -> None:
    names = [f"many/{number}" for number in range(MAX_DESCRIPTORS * 2 + 1)]
    for name in names:
        shm.put(name, name.encode()).close()
    regions = between.open_many(names)
    assert all(map(is_fast, regions))
    assert [bytes(region.data).decode() for region in regions] == names
    with pytest.raises(shmclient.RegionNotFound):
        between.open_many([*names, "missing"])
    for region in regions:
        region.close()
    del region
    regions.clear()
    wait_until(lambda: leases(shm) == 0)


@pytest.mark.parametrize("ask", ["fileno", "data", "header"])
def test_handle_is_whole_whatever_is_asked_of_it(
    ask: str, shm: shmclient.Client, between: shmclient.Client
) -> None:
    region = between.open("a")
    assert between.exists("a")  # and the listener has closed its own
    fds = count_descriptors()
    value = getattr(region, ask)
    result = value() if ask == "fileno" else value
    assert region.fileno() == region.fileno()
    assert os.fstat(region.fileno()).st_size == region.capacity
    assert bytes(region.value()) == b"a" * 10
    assert count_descriptors() == fds
    region.close()
    region.close()
    assert count_descriptors() == fds - 1
    for use in (region.fileno, region.value, lambda: region.data, lambda: region.header):
        with pytest.raises(shmclient.RegionClosed):
            use()
    del value, result
    wait_until(lambda: leases(shm) == 0)


def test_handle_that_is_dropped_gives_all_back(shm: shmclient.Client, between: shmclient.Client) -> None:
    before, mapped = count_descriptors(), mapped_addresses()
    between.open("a")
    between.open_many(["a", "b"])
    view = between.open("a").data
    assert bytes(view) == b"a" * 10
    del view
    assert mapped_addresses() == mapped
    wait_until(lambda: count_descriptors() == before)
    wait_until(lambda: leases(shm) == 0)
