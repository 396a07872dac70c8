"""The wire: frames, descriptors, hostile peers. Each case runs whole, byte by byte and followed by more."""

from __future__ import annotations

import tracemalloc
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmprotocol.errors import LocalProtocolError, RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import MAX_FRAME, MAX_REQUEST, Connection, pack, unpack
from shmprotocol.wire.names import MAX_ARRAY, MAX_DESCRIPTORS, MAX_NAME
from strategies import ANY_VALUE, record

Role = Literal["client", "host"]
Item = tuple[m.Message, list[int]]

README = Path(__file__).parents[2] / "protocol" / "README.md"
CREATED = m.Created(7, 1, 0x550000000000, 8192)
DONE = m.Done(8)


def item(message: m.Message, descriptors: Sequence[int] = ()) -> Item:
    return message, list(descriptors)


def read(connection: Connection) -> list[Item]:
    return [item(message, descriptors) for message, descriptors in connection.messages()]


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def frame_of(value: object) -> bytes:
    return frame(msgpack.packb(value))


def parse(role: Role, data: bytes, descriptors: Sequence[int] = (), at: int = 0) -> list[Item]:
    """Parse whole frames in three ways and return what all of them gave.

    Whole; byte by byte, where the descriptors come with byte `at`; and with the beginning of a further
    frame behind. A RemoteProtocolError must come out of all of them or of none.
    """
    whole = outcome(lambda: parse_whole(role, data, descriptors))
    assert outcome(lambda: parse_bytes(role, data, descriptors, at)) == whole
    assert outcome(lambda: parse_whole(role, data + b"\x05\0\0", descriptors)) == whole
    if isinstance(whole, str):
        raise RemoteProtocolError(whole)
    return whole


def outcome(way: Callable[[], list[Item]]) -> list[Item] | str:
    try:
        return way()
    except RemoteProtocolError as error:
        return str(error)


def parse_whole(role: Role, data: bytes, descriptors: Sequence[int] = ()) -> list[Item]:
    connection = Connection(role)
    connection.receive(data, descriptors)
    return read(connection)


def parse_bytes(role: Role, data: bytes, descriptors: Sequence[int] = (), at: int = 0) -> list[Item]:
    connection, items = Connection(role), []
    for index in range(len(data)):
        connection.receive(data[index : index + 1], descriptors if index == at else ())
        items += read(connection)
    return items


# --- any message


def role_of(cls: type[m.Message]) -> Role:
    """Return the side that such a message comes in on."""
    return "host" if cls in m.REQUESTS else "client"


@pytest.mark.parametrize("cls", [*m.REQUESTS, *m.REPLIES])
@given(data=st.data())
def test_message_comes_back_equal_when_it_was_packed(cls: type[m.Message], data: st.DataObject) -> None:
    message = data.draw(record(cls))
    descriptors = list(range(100, 100 + m.descriptors_of(message)))
    assert parse(role_of(cls), pack(message), descriptors) == [item(message, descriptors)]


@given(st.lists(st.one_of([record(cls) for cls in m.REQUESTS]), max_size=6))
def test_messages_come_in_order_when_they_are_glued(sent: list[m.Message]) -> None:
    received = parse("host", b"".join(map(pack, sent)))
    assert received == [item(message) for message in sent]


# --- anything at all, layer by layer


def parse_hostile(role: Role, data: bytes) -> None:
    """Parse; nothing but RemoteProtocolError may come out, however the bytes are cut."""
    whole = outcome(lambda: parse_whole(role, data))
    pieces = outcome(lambda: parse_bytes(role, data))
    assert pieces == whole


@given(st.sampled_from(["client", "host"]), st.binary(max_size=60))
def test_framer_raises_nothing_else_when_the_bytes_are_random(role: Role, data: bytes) -> None:
    parse_hostile(role, data)


@given(st.sampled_from(["client", "host"]), st.binary(max_size=60))
def test_unpacker_raises_nothing_else_when_the_body_is_random(role: Role, body: bytes) -> None:
    parse_hostile(role, frame(body))


@given(st.sampled_from(["client", "host"]), ANY_VALUE)
def test_decoder_raises_nothing_else_when_the_value_is_any(role: Role, value: object) -> None:
    parse_hostile(role, frame_of(value))


@given(st.sampled_from([*m.REQUESTS, *m.REPLIES]), st.lists(ANY_VALUE, max_size=16))
def test_checks_raise_nothing_else_when_the_fields_are_any(
    cls: type[m.Message], fields: list[object]
) -> None:
    parse_hostile(role_of(cls), frame_of([m.TAG_OF[cls], 0, *fields]))


@given(st.data())
def test_checks_raise_nothing_else_when_one_field_is_any(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from([*m.REQUESTS, *m.REPLIES]))
    wire = list(m.to_wire(data.draw(record(cls))))
    wire[data.draw(st.integers(1, len(wire) - 1))] = data.draw(ANY_VALUE)
    parse_hostile(role_of(cls), frame_of(wire))


# --- what hostile frames cost


def filled(item: bytes) -> bytes:
    """A body near the limit: an array of arrays, as long as they may be, of one item."""
    inner = b"\xdc\x10\x00" + item * MAX_ARRAY
    count = MAX_FRAME // len(inner)
    return b"\xdc" + count.to_bytes(2, "big") + inner * count


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xdc\x10\x00" * 1000, id="arrays that claim 4096 items, nested"),
        pytest.param(b"\xdc\x10\x00" * 340_000, id="arrays that claim 4096 items, nested too deeply"),
        pytest.param((b"\xdc\x10\x00" + b"\x91\xc0" * 4000) * 130, id="nested and filled"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array that claims 4 billion items"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map that claims 4 billion items"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="bytes that claim 4 GiB"),
        pytest.param(filled(b"\x80"), id="empty maps"),
        pytest.param(filled(b"\xc7\x00\x05"), id="empty extensions"),
        pytest.param(filled(b"\x91\xc0"), id="arrays of one"),
    ],
)
@pytest.mark.parametrize("role", ["client", "host"])
def test_frame_costs_less_than_64_mib_when_it_is_made_to_cost(body: bytes, role: Role) -> None:
    data = frame(body)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            parse_whole(role, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


@pytest.mark.parametrize("depth", [2, 500, 990, 1000, 1010, 1023, 1024, 1025, 5000, MAX_FRAME - 1])
def test_frame_is_refused_when_it_is_nested(depth: int) -> None:
    """Neither msgpack's stack nor the interpreter's, which repr() needs, may overflow."""
    with pytest.raises(RemoteProtocolError):
        parse_whole("client", frame(b"\x91" * depth + b"\xc0"))


@pytest.mark.parametrize("depth", [900, 1000, 1020])
def test_field_is_refused_when_it_is_nested(depth: int) -> None:
    body = b"\x94\x04\x00\x01" + b"\x91" * depth + b"\xc0"
    with pytest.raises(RemoteProtocolError):
        parse_whole("host", frame(body))


@pytest.mark.parametrize("value", [{}, msgpack.ExtType(5, b""), msgpack.Timestamp(1, 1)])
def test_unpack_refuses_a_value_when_no_message_has_its_type(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(msgpack.packb([9, 0, 1, "a", value]))


def test_big_frame_is_not_copied_again_when_a_byte_comes() -> None:
    """The buffer grows in place: a byte must not cost a copy of what is there already."""
    connection = Connection("client")
    connection.receive(MAX_FRAME.to_bytes(4, "little") + b"\0" * (MAX_FRAME - 1001))
    read(connection)
    tracemalloc.start()
    try:
        for _ in range(1000):
            connection.receive(b"\0")
            read(connection)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # At most one growth of the buffer, by an eighth (bytearray.c), and what little the calls need.
    assert peak < MAX_FRAME * 5 // 4


# --- frames


LIMITS: list[tuple[Role, int, m.Message]] = [
    ("host", MAX_REQUEST, m.Stat(1, "a")),
    ("client", MAX_FRAME, m.Goodbye(1, "a")),
]


def body_of(message: m.Message, size: int) -> bytes:
    """A message of two fields in exactly this many bytes, with a later field as the rest."""
    start = msgpack.packb(m.to_wire(message))[1:]
    return (
        b"\x95" + start + b"\xc6" + (size - len(start) - 6).to_bytes(4, "big") + bytes(size - len(start) - 6)
    )


@pytest.mark.parametrize(("role", "limit", "message"), LIMITS)
def test_frame_is_taken_when_it_is_at_the_limit(role: Role, limit: int, message: m.Message) -> None:
    body = body_of(message, limit)
    assert len(body) == limit
    assert parse_whole(role, frame(body)) == [item(message)]


@pytest.mark.parametrize(("role", "limit", "_message"), LIMITS)
def test_frame_is_refused_when_its_length_is_over_the_limit(
    role: Role, limit: int, _message: m.Message
) -> None:
    """It is refused by its length alone: nothing of it is waited for."""
    with pytest.raises(RemoteProtocolError, match=f"{limit + 1}-byte frame is over {limit}"):
        parse(role, (limit + 1).to_bytes(4, "little"))


def text_at(size: int) -> m.Refused:
    """A Refused whose frame has exactly this many bytes after its length."""
    return m.Refused(1, "", "x" * (size - len(pack(m.Refused(1, "", ""))) + 4 + 1 - 5))


def test_pack_makes_a_frame_when_it_is_at_the_limit() -> None:
    assert len(pack(text_at(MAX_FRAME))) == 4 + MAX_FRAME


def test_pack_raises_when_the_frame_is_over_the_limit() -> None:
    with pytest.raises(LocalProtocolError, match="1048577-byte frame is over 1048576"):
        pack(text_at(MAX_FRAME + 1))


def test_pack_raises_when_a_request_is_over_its_limit() -> None:
    room = MAX_REQUEST - len(pack(m.Stat(1, "x" * 1000))) + 4 + 1000 - 2
    assert len(pack(m.Stat(1, "x" * room))) <= 4 + MAX_REQUEST
    with pytest.raises(LocalProtocolError, match=f"frame is over {MAX_REQUEST}: it is a Stat"):
        pack(m.Stat(1, "x" * (room + 3)))


def test_largest_requests_that_make_sense_fit() -> None:
    for request in (
        m.Release(0, (2**64 - 1,) * MAX_ARRAY),
        m.Open(2**64 - 1, ("x" * MAX_NAME,) * MAX_DESCRIPTORS, (2**64 - 1,) * MAX_DESCRIPTORS, True),
    ):
        assert len(pack(request)) < MAX_REQUEST


def test_pack_raises_when_a_string_is_not_unicode() -> None:
    """Such strings come from file names and arguments that are not UTF-8."""
    with pytest.raises(LocalProtocolError, match="surrogates"):
        pack(m.List(1, "\udcff", ""))


@pytest.mark.parametrize("size", range(1, 8))
def test_connection_is_inside_a_frame_until_it_is_whole(size: int) -> None:
    connection = Connection("client")
    assert not connection.is_inside_frame
    connection.receive(pack(DONE)[:size])
    assert read(connection) == []
    assert connection.is_inside_frame
    connection.receive(pack(DONE)[size:])
    assert read(connection) == [item(DONE)]
    assert not connection.is_inside_frame


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x87\x00", pack(DONE)[4:] + b"\x00"])
def test_frame_is_refused_when_it_is_not_one_value(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a msgpack array"):
        parse("client", frame(body))


@pytest.mark.parametrize("value", [None, 1, "a", b"a", [], [135], [135, 0]])
def test_frame_is_refused_when_it_is_no_message(value: object) -> None:
    with pytest.raises(RemoteProtocolError, match="a frame is an array"):
        parse("client", frame_of(value))


def test_later_fields_are_ignored_when_a_frame_has_them() -> None:
    assert parse("client", frame_of([135, 0, 8, "later", [1, [2]], None])) == [item(DONE)]


@pytest.mark.parametrize("tag", [0, 128, 200, 2**64 - 1])
def test_frame_is_refused_when_its_tag_is_unknown(tag: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown message tag {tag}"):
        parse("client", frame_of([tag, 0, 1]))


@pytest.mark.parametrize(("role", "message"), [("host", DONE), ("client", m.Stat(1, "a"))])
def test_frame_is_refused_when_it_goes_the_wrong_way(role: Role, message: m.Message) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message tag"):
        parse(role, pack(message))


# --- errors


@pytest.fixture
def broken() -> Connection:
    connection = Connection("client")
    connection.receive(frame_of([0, 0, 1]) + pack(DONE))
    with pytest.raises(RemoteProtocolError):
        read(connection)
    return connection


def test_messages_raises_again_when_the_connection_is_broken(broken: Connection) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message tag 0"):
        read(broken)


def test_receive_raises_again_when_the_connection_is_broken(broken: Connection) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message tag 0"):
        broken.receive(pack(DONE))


def test_drain_has_the_descriptors_when_the_connection_is_broken(broken: Connection) -> None:
    with pytest.raises(RemoteProtocolError):
        broken.receive(b"", [5, 6])
    assert broken.drain() == [5, 6]


def test_messages_before_an_error_come_out_when_they_are_whole() -> None:
    connection = Connection("client")
    connection.receive(pack(DONE) + frame_of([0, 0, 1]))
    messages = connection.messages()
    assert item(*next(messages)) == item(DONE)
    with pytest.raises(RemoteProtocolError):
        next(messages)


# --- descriptors


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
    wire = list(m.to_wire(CREATED))
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
    connection.receive(b"\x05", range(100, 164))
    assert read(connection) == []


def test_descriptors_are_refused_when_65_wait_for_a_frame() -> None:
    connection = Connection("client")
    connection.receive(b"\x05", range(100, 165))
    with pytest.raises(RemoteProtocolError, match="65 descriptors"):
        read(connection)


def test_descriptors_are_refused_when_a_client_sends_any() -> None:
    """No request has descriptors: not even one may wait in the host for half a frame."""
    connection = Connection("host")
    connection.receive(pack(m.Stat(1, "a"))[:5], [10])
    with pytest.raises(RemoteProtocolError, match="1 descriptors arrived that no frame declares"):
        read(connection)


# --- the examples of protocol/README.md


def test_hello_is_the_frame_of_the_specification() -> None:
    assert readme_frame("Hello") == pack(m.Hello(1, 1, 1, "demo"))


def test_open_is_the_frame_of_the_specification() -> None:
    assert readme_frame("Open") == pack(m.Open(2, ("words", "model/weights"), (0, 513), True))


def readme_frame(name: str) -> bytes:
    """Return the bytes of the README's example: in its block, all before the `#` of each line is hex."""
    block = README.read_text("utf-8").split(f"```hex {name}\n")[1].split("```")[0]
    return bytes.fromhex(" ".join(line.split("#")[0] for line in block.splitlines()))


@pytest.mark.parametrize("cls", [*m.REQUESTS, *m.REPLIES])
def test_message_is_in_the_tables_of_the_specification_when_it_is_in_the_code(cls: Any) -> None:
    tag = {**m.REQUEST_TAGS, **m.REPLY_TAGS}
    number = next(number for number, known in tag.items() if known is cls)
    rows = [[cell.strip() for cell in line.split("|")] for line in README.read_text("utf-8").splitlines()]
    row = next(row for row in rows if row[1:3] == [str(number), cls.__name__])
    fields = [field.removeprefix("open_") for field in cls._fields[1:]]
    assert row[-2 if cls in m.REPLIES else 3] == (described(cls, fields) or "none")


def described(cls: Any, fields: list[str]) -> str:
    """Return the fields of a message as the specification writes them."""
    hints = list(typing.get_type_hints(cls).values())[1:]
    return ", ".join(f"{field} {written(hint)}" for field, hint in zip(fields, hints, strict=True))


def written(hint: Any) -> str:
    if hint is int:
        return "u64"
    if not isinstance(hint, types.GenericAlias):
        return str(hint.__name__)
    if hint.__args__[-1] is Ellipsis:
        return f"[{written(hint.__args__[0])}]"
    return "(base u64, size u64)"
