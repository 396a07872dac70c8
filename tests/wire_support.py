"""How the tests of the wire read frames: whole, byte by byte and followed by more, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgpack

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection

Role = Literal["client", "host"]
Item = tuple[m.Message, list[int]]
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
    connection.receive(data, [*descriptors])
    return read(connection)


def parse_bytes(role: Role, data: bytes, descriptors: Sequence[int] = (), at: int = 0) -> list[Item]:
    connection, items = Connection(role), []
    if role == "host" and descriptors:
        connection.allow_descriptors(len(descriptors))  # for a Restore
    for index in range(len(data)):
        connection.receive(data[index : index + 1], [*descriptors] if index == at else ())
        items += read(connection)
    return items


def role_of(cls: type[m.Message]) -> Role:
    """Return the side that such a message comes in on."""
    return "host" if cls in codec.REQUEST_TAGS.values() else "client"
