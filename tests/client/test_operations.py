"""The operations as generators: each is fed its outcomes by hand, with no socket and no host."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from shmclient import Region, RemoteProtocolError
from shmclient._connection.exchange import Exchange, Pending
from shmclient._connection.outbox import Outbox
from shmclient._connection.retry import Retry, Wait
from shmclient._drivers import answers, operations, putting
from shmclient._drivers.steps import Ask, Context, Run
from shmclient._regions.mapped import Lease
from shmclient._regions.region import make_region
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import (
    BadRegion,
    HostGone,
    InvalidArgument,
    OutOfMemory,
    RegionBusy,
    RegionNotFound,
    RegionTimeout,
)
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection
from shmprotocol.wire.descriptors import Owned
from shmprotocol.wire.names import MAX_DESCRIPTORS
from support import count_descriptors

INFO = m.RegionInfo("x", 7, 1, "current", 0, 0, 0, 0, 0, 0, "full", "memfd", 0, 0, 0)
ADDRESS = 0x550000000000


class Wire:
    """A socket that takes everything, and what it took."""

    def __init__(self) -> None:
        self._connection = Connection("host")

    def send(self, data: bytes, _flags: int) -> int:
        self._connection.receive(data)
        return len(data)

    def messages(self) -> list[m.Message]:
        return [message for message, _ in self._connection.messages()]


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = count_descriptors()
    yield
    assert count_descriptors() == before


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def context(wire: Wire) -> Context:
    outbox = Outbox(wire, lambda: None)  # type: ignore[arg-type]
    outbox.host_id = "host"
    return Context(outbox, Exchange(), lambda: None)


def ask(operation: Generator[Ask | Run, Any, Any], outcome: Any = None) -> m.Message:
    """Send an outcome; return the request that comes next."""
    step = operation.send(outcome)
    assert isinstance(step, Ask)
    return step.request


def end(operation: Generator[Ask | Run, Any, Any], outcome: Any) -> Any:
    """Send the last outcome; return the result."""
    with pytest.raises(StopIteration) as caught:
        operation.send(outcome)
    return caught.value.value


def memfd(content: bytes = b"") -> int:
    descriptor = os.memfd_create("operations")
    os.pwrite(descriptor, content, 0)
    return descriptor


def handle(context: Context, number: int, lease: int = 99) -> Region:
    grant = m.Grant(lease, number, 1, "x", ADDRESS, 100, 8192, 0)
    return make_region(Region, grant, Lease(context.outbox, lease), Owned([memfd()]))


# --- waiting


def test_error_of_a_wait_says_what_was_asked_for_and_not_what_was_left(context: Context) -> None:
    now = 0.0
    retry = Retry(10.0, lambda: now)
    now = 7.0  # as when there was no host at first
    step = next(operations.open_many(context, Region, ("x",), retry.wait, False))
    assert isinstance(step, Ask)
    assert step.wait == Wait(3.0, 10.0)
    pending = Pending(step.request)
    pending.reply = m.Refused(1, "cancelled", "")
    with pytest.raises(RegionTimeout, match="'x' did not appear within 10 s"):
        answers.take(pending, step.wait)


# --- what only asks


def test_list_goes_on_after_the_last_name_until_there_are_no_more(context: Context) -> None:
    listing = operations.list_regions(context, "p")
    first = ask(listing)
    assert isinstance(first, m.List)
    assert (first.prefix, first.after) == ("p", "")
    second = ask(listing, (m.Listed(1, (INFO._replace(name="p1"), INFO._replace(name="p2")), True), []))
    assert isinstance(second, m.List)
    assert (second.prefix, second.after) == ("p", "p2")
    result = end(listing, (m.Listed(2, (INFO._replace(name="p3"),), False), []))
    assert [info.name for info in result] == ["p1", "p2", "p3"]


def test_list_ends_at_an_empty_page_whatever_it_promises(context: Context) -> None:
    listing = operations.list_regions(context, "")
    ask(listing)
    assert end(listing, (m.Listed(1, (), True), [])) == []


def test_reply_of_another_kind_is_the_hosts_fault(context: Context) -> None:
    stat = operations.stat(context, "x")
    ask(stat)
    with pytest.raises(RemoteProtocolError, match="Done arrived instead of Described"):
        stat.send((m.Done(1), []))


@pytest.mark.parametrize(
    ("number", "host", "expected"), [(7, "host", True), (8, "host", False), (7, "h2", False)]
)
def test_region_is_current_when_number_and_host_are_the_same(
    number: int, host: str, expected: bool, context: Context
) -> None:
    with handle(context, number) as region:
        context.outbox.host_id = host
        current = operations.is_current(context, region)
        ask(current)
        assert end(current, (m.Described(1, INFO), [])) is expected


def test_region_without_a_name_is_not_current(context: Context) -> None:
    with handle(context, 7) as region:
        current = operations.is_current(context, region)
        ask(current)
        with pytest.raises(StopIteration) as caught:
            current.throw(RegionNotFound("gone"))
    assert caught.value.value is False


@pytest.mark.parametrize("mode", [0, 0o777])
def test_mode_is_sent_up_to_its_limits(mode: int, context: Context) -> None:
    request = ask(operations.chmod(context, "x", mode))
    assert isinstance(request, m.Chmod)
    assert request.mode == mode


@pytest.mark.parametrize("mode", [-1, 0o1000, True, "600", None])
def test_mode_is_refused_before_anything_is_sent(mode: Any, context: Context) -> None:
    with pytest.raises(InvalidArgument, match="a mode is 0o000 to 0o777"):
        next(operations.chmod(context, "x", mode))


@pytest.mark.parametrize("timeout_s", [1e-9, 1, 1e9 - 1])
def test_timeout_is_taken_up_to_its_limits(timeout_s: float) -> None:
    assert operations.check_timeout(timeout_s) == timeout_s


@pytest.mark.parametrize("timeout_s", [0, -1, 1e9, float("inf"), float("nan")])
def test_timeout_is_refused(timeout_s: float) -> None:
    with pytest.raises(InvalidArgument, match="positive number of seconds"):
        operations.check_timeout(timeout_s)


# --- what was granted is given back when it is of no use


def grants(count: int, first: int = 1) -> tuple[m.Grant, ...]:
    return tuple(m.Grant(first + i, i, 1, "x", ADDRESS, 100, 8192, 0) for i in range(count))


def released(wire: Wire) -> list[int]:
    return sorted(
        lease for message in wire.messages() if isinstance(message, m.Release) for lease in message.leases
    )


def test_open_asks_for_64_names_at_a_time(context: Context) -> None:
    names = [f"n{number}" for number in range(MAX_DESCRIPTORS + 1)]
    opening = operations.open_many(context, Region, names, lambda: None, False)
    request = ask(opening)
    assert isinstance(request, m.Open)
    assert request.open_names == tuple(names[:MAX_DESCRIPTORS])
    opening.close()


@pytest.mark.parametrize(("granted", "sent"), [(1, 1), (3, 3), (0, 0)])
def test_grants_for_other_names_are_given_back(granted: int, sent: int, context: Context, wire: Wire) -> None:
    opening = operations.open_many(context, Region, ["a", "b"], lambda: None, False)
    ask(opening)
    with pytest.raises(RemoteProtocolError, match=f"{granted} grants arrived for 2 names"):
        opening.send((m.Opened(1, grants(granted)), Owned(memfd() for _ in range(sent))))
    assert released(wire) == list(range(1, granted + 1))


def test_grants_are_given_back_when_descriptors_found_no_room(context: Context, wire: Wire) -> None:
    opening = operations.open_many(context, Region, ["a", "b"], lambda: None, False)
    ask(opening)
    with pytest.raises(OutOfMemory, match="1 of 2 descriptors"):
        opening.send((m.Opened(1, grants(2)), Owned([memfd()])))
    assert released(wire) == [1, 2]


def test_all_of_many_are_given_back_when_one_is_not_a_region(context: Context, wire: Wire) -> None:
    opening = operations.open_many(context, Region, ["a", "b"], lambda: None, False)
    ask(opening)
    with pytest.raises(BadRegion, match="not sealed"):
        opening.send((m.Opened(1, grants(2)), Owned([memfd(), memfd()])))
    assert released(wire) == [1, 2]


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        (
            m.Opened(1, (*grants(2, 5), grants(1)[0]._replace(lease=0))),
            [m.Release(0, (5,)), m.Release(0, (6,))],
        ),
        (m.Published(1, grants(1, 5)[0]), [m.Release(0, (5,))]),
        (m.Created(1, 9, ADDRESS, 8192), [m.Abort(0, 9, False)]),
        (m.Done(1), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reply_that_nobody_waits_for_is_undone(
    reply: m.Message, sent: list[m.Message], context: Context, wire: Wire
) -> None:
    answers.dispose(context, reply, Owned([memfd()]))
    assert wire.messages() == sent


# --- put


def put(context: Context) -> Generator[Ask | Run, Any, Region]:
    return putting.put(context, Region, "x", b"content!", 0o600, "memfd", True, None)


def test_put_creates_writes_and_publishes(context: Context, wire: Wire) -> None:
    operation, created = put(context), memfd()
    request = ask(operation)
    assert isinstance(request, m.Create)
    copy = os.dup(created)
    step = operation.send((m.Created(1, 9, ADDRESS, 8192), Owned([created])))
    assert isinstance(step, Run)
    step.call()
    assert os.pread(copy, request.size, HEADER_SIZE)[:8] == b"content!"
    os.close(copy)
    publish = ask(operation)
    assert isinstance(publish, m.Publish)
    assert (publish.region, publish.data_size) == (9, 8)
    with end(operation, (m.Published(2, grants(1, 5)[0]), Owned([memfd()]))):
        assert wire.messages() == []
    assert wire.messages() == [m.Release(0, (5,))]


@pytest.mark.parametrize("step", ["write", "publish"])
@pytest.mark.parametrize("error", [RegionBusy, HostGone, KeyboardInterrupt, GeneratorExit])
def test_put_gives_the_name_back_when_it_is_ended_at_its(
    step: str, error: type[BaseException], context: Context, wire: Wire
) -> None:
    operation = put(context)
    ask(operation)
    operation.send((m.Created(1, 9, ADDRESS, 8192), Owned([memfd()])))
    if step == "publish":
        ask(operation)
    with pytest.raises(error):
        operation.throw(error("ended"))
    assert wire.messages() == [m.Abort(0, 9, False)]


def test_put_that_is_published_without_room_keeps_no_lease(context: Context, wire: Wire) -> None:
    operation = put(context)
    ask(operation)
    operation.send((m.Created(1, 9, ADDRESS, 8192), Owned([memfd()])))
    ask(operation)
    with pytest.raises(OutOfMemory, match="1 of 1 descriptors"):
        operation.send((m.Published(2, grants(1, 5)[0]), []))
    assert wire.messages() == [m.Release(0, (5,))]
