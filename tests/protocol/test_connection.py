"""Frames and errors of the wire. Each case runs whole, byte by byte and followed by more."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmprotocol.errors import LocalProtocolError, RemoteProtocolError
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import MAX_FRAME, MAX_REQUEST, Connection, pack
from shmprotocol.wire.names import MAX_ARRAY, MAX_DESCRIPTORS, MAX_NAME
from strategies import record
from wire_support import DONE, Role, frame, frame_of, item, parse, parse_whole, read, role_of

README = Path(__file__).parents[2] / "protocol" / "README.md"


# --- any message


@pytest.mark.parametrize("cls", list(codec.TAG_OF))
@given(data=st.data())
def test_message_comes_back_equal_when_it_was_packed(cls: type[m.Message], data: st.DataObject) -> None:
    message = data.draw(record(cls))
    descriptors = list(range(100, 100 + m.descriptors_of(message)))
    assert parse(role_of(cls), pack(message), descriptors) == [item(message, descriptors)]


PLAIN = [cls for cls in codec.REQUEST_TAGS.values() if cls not in m.HANDED_BACK]  # which have descriptors


@given(st.lists(st.one_of(list(map(record, PLAIN))), max_size=6))
def test_messages_come_in_order_when_they_are_glued(sent: list[m.Message]) -> None:
    received = parse("host", b"".join(map(pack, sent)))
    assert received == [item(message) for message in sent]


# --- frames


LIMITS: list[tuple[Role, int, m.Message]] = [
    ("host", MAX_REQUEST, m.Stat(1, "a")),
    ("client", MAX_FRAME, m.Goodbye(1, "a")),
]


def body_of(message: m.Message, size: int) -> bytes:
    """A message of two fields in exactly this many bytes, with a later field as the rest."""
    start = msgpack.packb(codec.to_wire(message))[1:]
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


# --- the examples of protocol/README.md


def test_hello_is_the_frame_of_the_specification() -> None:
    assert readme_frame("Hello") == pack(m.Hello(1, 1, 1, "demo"))


def test_open_is_the_frame_of_the_specification() -> None:
    assert readme_frame("Open") == pack(m.Open(2, ("words", "model/weights"), (0, 513), True))


def readme_frame(name: str) -> bytes:
    """Return the bytes of the README's example: in its block, all before the `#` of each line is hex."""
    block = README.read_text("utf-8").split(f"```hex {name}\n")[1].split("```")[0]
    return bytes.fromhex(" ".join(line.split("#")[0] for line in block.splitlines()))


@pytest.mark.parametrize("cls", list(codec.TAG_OF))
def test_message_is_in_the_tables_of_the_specification_when_it_is_in_the_code(cls: Any) -> None:
    tag = {**codec.REQUEST_TAGS, **codec.REPLY_TAGS}
    number = next(number for number, kind in tag.items() if kind is cls)
    rows = [[cell.strip() for cell in line.split("|")] for line in README.read_text("utf-8").splitlines()]
    row = next(row for row in rows if row[1:3] == [str(number), cls.__name__])
    fields = [field.removeprefix("open_") for field in cls._fields[1:]]
    assert row[-2 if cls in codec.REPLY_TAGS.values() else 3] == (described(cls, fields) or "none")


def described(cls: Any, fields: list[str]) -> str:
    """Return the fields of a message as the specification writes them."""
    hints = list(typing.get_type_hints(cls).values())[1:]
    first = {"ledger": "id"}  # of the pairs, which are ranges otherwise
    return ", ".join(
        f"{field} {written(hint, first.get(field, 'base'))}"
        for field, hint in zip(fields, hints, strict=True)
    )


def written(hint: Any, first: str = "base") -> str:
    if hint is int:
        return "u64"
    if not isinstance(hint, types.GenericAlias):
        return str(hint.__name__)
    if hint.__args__[-1] is Ellipsis:
        return f"[{written(hint.__args__[0])}]"
    return f"({first} u64, size u64)"
