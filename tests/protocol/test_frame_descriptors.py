"""Descriptors go to the frame that declares them, however they come."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from wire_support import DONE, frame_of, item, parse, read

CREATED = m.Created(7, 1, 0x550000000000, 8192)


def opened(request: int, leases: Sequence[int]) -> m.Opened:
    return m.Opened(request, tuple(m.Grant(lease, 1, 1, "a", 4096, 4097, 8192, 1) for lease in leases))


def test_descriptors_go_to_the_grants_with_a_lease_when_some_have_none() -> None:
    message = opened(1, [5, 0, 6])
    assert parse("client", pack(message), [10, 11]) == [item(message, [10, 11])]


def test_descriptors_go_to_the_frame_that_declares_them_when_a_plain_one_is_glued_before_it() -> None:
    assert parse("client", pack(DONE) + pack(CREATED), [10], at=len(pack(DONE))) == [
        item(DONE),
        item(CREATED, [10]),
    ]


def test_descriptors_are_handed_out_in_order_when_two_frames_are_glued() -> None:
    connection = Connection("client")
    connection.receive(pack(opened(1, [1, 2]))[:9], [10, 11])
    connection.receive(pack(opened(1, [1, 2]))[9:] + pack(CREATED), [12])
    assert [descriptors for _, descriptors in connection.messages()] == [[10, 11], [12]]


def test_descriptors_wait_for_their_frame_when_it_comes_in_parts() -> None:
    connection = Connection("client")
    connection.receive(pack(CREATED)[:1], [10])
    assert read(connection) == []
    connection.receive(pack(CREATED)[1:])
    assert read(connection) == [item(CREATED, [10])]


def test_frame_is_refused_when_its_descriptors_are_missing() -> None:
    with pytest.raises(RemoteProtocolError, match="Created declares 1 descriptors, but 0 arrived"):
        parse("client", pack(CREATED))


def test_frame_is_refused_when_one_descriptor_is_missing() -> None:
    with pytest.raises(RemoteProtocolError, match="Opened declares 2 descriptors, but 1 arrived"):
        parse("client", pack(opened(1, [1, 2])), [10])


def test_drain_has_the_descriptors_when_there_were_too_few() -> None:
    connection = Connection("client")
    connection.receive(pack(opened(1, [1, 2])), [10])
    with pytest.raises(RemoteProtocolError):
        read(connection)
    assert connection.drain() == [10]
    assert connection.drain() == []


@pytest.mark.parametrize("received", [[], [10]])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_lost_descriptors_are_of_one_frame_and_the_others_stay_in_step(
    received: list[int], step: int
) -> None:
    """Each frame's set comes with its first bytes, which may end a read that began before it."""
    frames = [
        (pack(opened(1, [1, 2])), [1, 2]),
        (pack(m.Done(2)), []),
        (pack(opened(3, [3, 4])), [*received, m.LOST]),
        (pack(opened(4, [])), []),
        (pack(opened(5, [5, 6])), [5, 6]),
        (pack(CREATED), [m.LOST]),
    ]
    connection, claimed = Connection("client"), []
    for frame, descriptors in frames:
        for start in range(0, len(frame), step):
            connection.receive(frame[start : start + step], descriptors if start == 0 else [])
            claimed += [owned for _, owned in connection.messages()]
    assert claimed == [[1, 2], [], received, [], [5, 6], []]
    assert connection.drain() == []


def test_lost_descriptors_are_in_step_when_all_frames_are_read_late() -> None:
    connection = Connection("client")
    connection.receive(pack(opened(1, [1, 2])), [1, m.LOST])
    connection.receive(pack(CREATED), [3])
    connection.receive(pack(opened(2, [1])), [m.LOST])
    assert [owned for _, owned in connection.messages()] == [[1], [3], []]


def test_lost_descriptors_that_no_frame_declares_are_refused_and_drain_has_the_others() -> None:
    connection = Connection("client")
    connection.receive(pack(m.Done(1)), [10, m.LOST])
    with pytest.raises(RemoteProtocolError, match="no frame declares"):
        list(connection.messages())
    assert connection.drain() == [10]


def test_frame_is_refused_when_it_declares_another_count_than_its_kind_has() -> None:
    wire = list(codec.to_wire(CREATED))
    wire[1] = 2
    with pytest.raises(RemoteProtocolError, match="Created declares 2 descriptors, not 1"):
        parse("client", frame_of(wire), [10, 11])


def test_descriptors_are_refused_when_no_frame_declares_them() -> None:
    connection = Connection("client")
    connection.receive(pack(CREATED), [10, 11])
    messages = connection.messages()
    assert item(*next(messages)) == item(CREATED, [10])
    with pytest.raises(RemoteProtocolError, match="1 descriptors arrived that no frame declares"):
        next(messages)
    assert connection.drain() == [11]


def test_descriptors_are_kept_when_64_wait_for_a_frame() -> None:
    connection = Connection("client")
    connection.receive(b"\x05", [*range(100, 164)])
    assert read(connection) == []


def test_descriptors_are_refused_when_65_wait_for_a_frame() -> None:
    connection = Connection("client")
    connection.receive(b"\x05", [*range(100, 165)])
    with pytest.raises(RemoteProtocolError, match="65 descriptors"):
        read(connection)


def test_descriptors_are_refused_when_a_client_sends_any() -> None:
    """No request has descriptors: not even one may wait in the host for half a frame."""
    connection = Connection("host")
    connection.receive(pack(m.Stat(1, "a"))[:5], [10])
    with pytest.raises(RemoteProtocolError, match="1 descriptors arrived that no frame declares"):
        read(connection)
