"""Hostile bytes, layer by layer, and what they cost."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import MAX_FRAME, Connection, unpack
from shmprotocol.wire.names import MAX_ARRAY
from strategies import ANY_VALUE, record
from wire_support import Role, frame, frame_of, outcome, parse_bytes, parse_whole, read, role_of

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


@given(st.sampled_from(list(codec.TAG_OF)), st.lists(ANY_VALUE, max_size=16))
def test_checks_raise_nothing_else_when_the_fields_are_any(
    cls: type[m.Message], fields: list[object]
) -> None:
    parse_hostile(role_of(cls), frame_of([codec.TAG_OF[cls], 0, *fields]))


@given(st.data())
def test_checks_raise_nothing_else_when_one_field_is_any(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(list(codec.TAG_OF)))
    wire = list(codec.to_wire(data.draw(record(cls))))
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
