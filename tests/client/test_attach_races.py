"""The fast road of an attach while other code runs in between: threads, and destructors in the collector."""

from __future__ import annotations

import gc
import socket
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shmclient
import shmclient.aio
from middle_support import EVENT, Middle, Part, files
from shmclient._connection.outbox import Outbox
from shmclient._drivers.trips import Channel
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._regions.region import close_all
from shmprotocol.wire import query
from support import Machine, client_with_two, count_descriptors, mapped_addresses, wait_until


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    with client_with_two(machine.path) as shm:
        yield shm
        wait_until(lambda: sum(info.leases for info in shm.list()) == 0)


class Halves:
    """Has a listener send what it hands back in two parts: the second one once `may_go` is set."""

    def __init__(self, at: int, more: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.has_half, self.may_go = threading.Event(), threading.Event()
        self._at, self._more, self._fds = at, more, list(fds)

    def __call__(self, data: bytes, fds: list[int]) -> Iterator[Part]:
        data += self._more
        yield data[: self._at], self._fds or fds
        self.has_half.set()
        assert self.may_go.wait(20)
        yield data[self._at :], []


@pytest.fixture
def middle(machine: Machine, tmp_path: Path) -> Iterator[Middle]:
    middle = Middle(str(tmp_path / "middle.sock"), machine.path)
    yield middle
    middle.close()


def channel(client: shmclient.Client) -> Channel:
    assert client._core.channel is not None
    return client._core.channel


def test_error_in_a_thread_leaves_the_attach_of_another(shm: shmclient.Client, middle: Middle) -> None:
    """An error before anything was sent is not of the request that waits for the rest of its answer."""
    results: list[bytes] = []
    with shmclient.connect(middle.path, timeout=20) as client:
        middle.change = halves = Halves(9)
        thread = threading.Thread(target=lambda: results.append(bytes(client.open("a").data)))
        thread.start()
        assert halves.has_half.wait(20)
        wait_until(lambda: channel(client)._lane.unfinished)
        for name in ("../x", "../y"):
            with pytest.raises(shmclient.InvalidArgument):
                client.open(name)
        halves.may_go.set()
        thread.join(30)
        assert results == [b"a" * 10]


def test_error_before_the_rest_of_an_event_leaves_the_connection(
    shm: shmclient.Client, middle: Middle
) -> None:
    """The bytes behind the answer are the start of the next message, and are not lost."""
    with shmclient.connect(middle.path, timeout=20) as client, files(1) as null:
        first = channel(client)
        middle.change = halves = Halves(-len(EVENT) + 9, EVENT, null)
        with pytest.raises(shmclient.BadRegion):
            client.open("a")
        halves.may_go.set()
        assert client.exists("a")
        assert channel(client) is first


class AtCollection:
    """Calls a function at the n-th collection in the block, as a destructor in the collector would."""

    def __init__(self, number: int, function: Callable[[], object]) -> None:
        self._left = number
        self._function = function
        self._threshold = gc.get_threshold()

    def __enter__(self) -> AtCollection:
        gc.callbacks.append(self._called)
        gc.set_threshold(1)
        return self

    def __exit__(self, *_: object) -> None:
        gc.set_threshold(*self._threshold)
        gc.callbacks.remove(self._called)

    def _called(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            self._left -= 1
            if self._left == 0:
                self._function()

    @property
    def is_over(self) -> bool:
        return self._left > 0


@pytest.mark.parametrize("is_mapped", [False, True], ids=["new", "mapped"])
def test_collector_that_opens_the_same_regions_shares_them(shm: shmclient.Client, is_mapped: bool) -> None:
    """The books are right wherever a destructor uses them."""
    before = mapped_addresses()
    with shmclient.connect(shm.socket_path) as client, shmclient.connect(shm.socket_path) as other:
        for number in range(1, 1000):
            first = shm.open_many(["a", "b"]) if is_mapped else []
            inner: list[shmclient.Region] = []
            with AtCollection(number, lambda: inner.extend(other.open_many(["b", "a"]))) as collection:  # noqa: B023
                outer = client.open_many(["a", "b"])
            starts = ADDRESS_SPACE._ranges.starts
            assert starts == sorted(ADDRESS_SPACE._ranges.found), number
            close_all(first + inner)
            assert [bytes(region.data) for region in outer] == [b"a" * 10, b"b" * 10]
            close_all(outer)
            assert mapped_addresses() == before, number
            if collection.is_over:
                break
        else:
            pytest.fail("there was no end")


@pytest.mark.parametrize("is_kept", [False, True], ids=["closed", "kept"])
@pytest.mark.parametrize("wait", [None, 20], ids=["fast", "plain"])
def test_collector_that_opens_what_is_being_mapped_shares_it(
    shm: shmclient.Client, wait: float | None, is_kept: bool
) -> None:
    """Nothing comes between the look whether addresses are free and the note of what is mapped there."""
    before = mapped_addresses()
    with shmclient.connect(shm.socket_path) as client, shmclient.connect(shm.socket_path) as other:

        def open_inside() -> None:
            with other.open("a", wait=wait) as region:
                contents.append(bytes(region.data))
                if is_kept:
                    values.append(region.value())

        for number in range(1, 1000):
            values: list[memoryview] = []
            contents: list[bytes] = []
            with AtCollection(number, open_inside) as collection:
                outer = client.open("a", wait=20)
            assert bytes(outer.data) == b"a" * 10, number
            assert collection.is_over or contents == [b"a" * 10], number
            outer.close()
            assert [bytes(value) for value in values] == contents[: len(values)], number
            values.clear()
            assert mapped_addresses() == before, number
            if collection.is_over:
                break
        else:
            pytest.fail("there was no end")


def test_handle_that_another_thread_is_closing_is_closed(shm: shmclient.Client) -> None:
    region = shm.open("a")
    errors: list[Any] = []

    def at_the_next_line(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is type(region).close.__code__ and event == "line":
            is_closed = region._held is not None and region._held.memory is None
            if is_closed and not errors:
                thread = threading.Thread(target=use)
                thread.start()
                thread.join(20)
        return at_the_next_line

    def use() -> None:
        try:
            region.fileno()
        except Exception as error:
            errors.append(error)

    sys.settrace(at_the_next_line)
    try:
        region.close()
    finally:
        sys.settrace(None)
    assert [type(error) for error in errors] == [shmclient.RegionClosed]


def test_client_with_a_small_buffer_sends_requests_in_parts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a request would be the end of a connection of the fast road, so that has no such one."""

    def connect(path: str, connect_s: float) -> socket.socket:
        sock = query.connect(path, connect_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as with a small net.core.wmem_default
        return sock

    monkeypatch.setattr("shmclient._drivers.sync.connect", connect)
    with shmclient.connect(machine.path) as client:
        first, value = channel(client), bytes(range(250)) * 48
        for _ in range(3):
            with client.put("large", value) as region:
                assert region.data == value
        assert channel(client) is first


# --- a client that is closed between the answer and the lease


def at_first_hold(function: Callable[[], object], call: Callable[[], Any]) -> Any:
    """Return the result of a call; the function is called where it is about to note what the host granted."""
    calls = [function]

    def trace(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is Outbox.hold.__code__ and calls:
            calls.pop()()

    sys.settrace(trace)
    try:
        return call()
    finally:
        sys.settrace(None)
        assert not calls


def in_a_thread(function: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join(20)

    return run


GRANTED: dict[str, Callable[[shmclient.Client], Any]] = {
    "open": lambda shm: shm.open("a", wait=20),
    "open_many": lambda shm: shm.open_many(["b", "a"], wait=20),
    "get": lambda shm: shm.get("a", wait=20),
    "get_many": lambda shm: shm.get_many(["b", "a"], wait=20),
    "put": lambda shm: shm.put("c", bytes(100_000)),
    "put_small": lambda shm: shm.put("c", b"1", progress=lambda _: None),
    "put_shm": lambda shm: shm.put("c", b"1", backend="shm"),
    "create": lambda shm: shm.create("c", 10).__enter__(),
}


@pytest.mark.parametrize("how", GRANTED)
def test_client_that_is_closed_before_it_notes_a_grant_is_closed(shm: shmclient.Client, how: str) -> None:
    """Else it would have memory mapped at an address that the host may use again."""
    before, descriptors = mapped_addresses(), count_descriptors()
    client = shmclient.connect(shm.socket_path)
    with pytest.raises(shmclient.ClientClosed):
        at_first_hold(in_a_thread(client.close), lambda: GRANTED[how](client))
    wait_until(lambda: mapped_addresses() == before)
    assert count_descriptors() == descriptors
    wait_until(lambda: sum(info.leases for info in shm.list()) == 0)


@pytest.mark.anyio
async def test_async_client_that_is_closed_before_it_notes_a_grant_is_closed(
    shm: shmclient.Client, anyio_backend: str
) -> None:
    """Another task can close it after the answer came, and before the one that asked goes on."""
    client = await shmclient.aio.connect(shm.socket_path)
    outbox = client._core.channel.outbox  # type: ignore[union-attr]
    hold = outbox.hold

    def close_and_hold(key: object) -> None:
        client._core.close()
        hold(key)

    outbox.hold = close_and_hold  # type: ignore[method-assign]
    with pytest.raises(shmclient.ClientClosed):
        await client.open("a")


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="it counts objects in batches")
@pytest.mark.parametrize("is_put", [False, True], ids=["attach", "put"])
def test_collector_that_closes_the_client_leaves_no_mapping_without_a_lease(
    shm: shmclient.Client, is_put: bool
) -> None:
    before = mapped_addresses()
    ends = set()
    for number in range(1, 1000):
        client = shmclient.connect(shm.socket_path)
        regions: list[shmclient.Region] = []
        with AtCollection(number, client.close) as collection:
            try:
                regions += [client.put("c", b"1")] if is_put else client.open_many(["a", "b"])
            except shmclient.Closed as error:
                ends.add(type(error))
        assert all(shm.stat(region.name).leases == 1 for region in regions), number
        close_all(regions)
        client.close()
        assert mapped_addresses() == before, number
        if collection.is_over:
            break
    else:
        pytest.fail("there was no end")
    assert shmclient.ClientClosed in ends
