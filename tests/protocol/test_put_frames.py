"""The frames of a put are read and written as the connection does it, or left alone; its object is sealed."""

from __future__ import annotations

import fcntl
import os
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.native import builtins
from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut
from shmprotocol.wire.connection import Connection, pack
from strategies import ANY_VALUE, record
from wire_support import frame

PUT = m.Put(5, "x", 0o640, True, 3, 8, 2, b"abc\0\0\0\0\0\x81\x01")
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def messages(data: bytes) -> list[m.Message]:
    """Return the messages in data, as the connection of a host takes them; none if it is not whole."""
    connection = Connection("host")
    connection.receive(data)
    taken = [message for message, _ in connection.messages()]
    return [] if connection.is_inside_frame else taken


def parse(data: bytes) -> list[m.Message] | None:
    """Return what the shortcut takes for Releases and a Put, as messages."""
    parsed = shortcut.parse_put(data)
    if parsed is None:
        return None
    _, leases, *fields, start, size = parsed
    return [m.Release(0, tuple(leases)), m.Put._make((*fields, data[start : start + size]))]


def parse_assign(data: bytes) -> list[m.Message] | None:
    """Return what the shortcut takes for Releases and an Assign, as messages."""
    parsed = shortcut.parse_assign(data)
    return None if parsed is None else [m.Release(0, tuple(parsed[1])), m.Assign._make(parsed[2:])]


def joined(taken: list[m.Message]) -> list[m.Message]:
    """Return messages with their Releases made into one."""
    leases = [lease for message in taken if isinstance(message, m.Release) for lease in message.leases]
    return [m.Release(0, tuple(leases)), *[each for each in taken if not isinstance(each, m.Release)]]


@given(record(m.Put), st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=3))
@example(PUT._replace(payload=bytes(255)), [])
@example(PUT._replace(payload=bytes(256)), [])
@example(PUT._replace(payload=bytes(65400)), [[1] * 16])
@example(PUT._replace(name="x" * 31), [[1] * 15])
@example(PUT._replace(name="x" * 32), [])
@example(PUT._replace(name="x" * 255), [])
def test_frames_of_a_put_are_recognised(put: m.Put, leases: list[list[int]]) -> None:
    data = b"".join(pack(m.Release(0, tuple(each))) for each in leases) + pack(put)
    assert parse(data) == joined(messages(data))


ASSIGN = m.Assign(5, 300, "x", 0o640, True, 1 << 20, 1 << 20, 8, 2, (1 << 20,))


@given(record(m.Assign), st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=3))
@example(ASSIGN._replace(spares=(1,) * 15), [[1] * 15])
@example(ASSIGN._replace(spares=()), [])
def test_frames_of_an_assign_are_recognised(assign: m.Assign, leases: list[list[int]]) -> None:
    data = b"".join(pack(m.Release(0, tuple(each))) for each in leases) + pack(assign)
    if len(assign.spares) > 15:
        assert parse_assign(data) is None
    else:
        assert parse_assign(data) == shortcut_of(data) == joined(messages(data))


def shortcut_of(data: bytes) -> list[m.Message]:
    """Return the same by what takes any of the frequent requests."""
    parsed: Any = shortcut.parse_request(data, {})
    return [m.Release(0, tuple(parsed[1])), m.Assign._make(parsed[2:])]


@given(st.lists(st.binary(max_size=40) | ANY_VALUE.map(msgpack.packb) | st.just(pack(ASSIGN)), max_size=4))
def test_assign_that_is_recognised_is_what_the_connection_takes(parts: list[bytes]) -> None:
    data = b"".join(parts)
    parsed = parse_assign(data)
    if parsed is not None:
        assert parsed == joined(messages(data))


@given(st.data())
def test_damaged_assign_is_left_alone_or_says_the_same(draw: st.DataObject) -> None:
    data = bytearray(pack(m.Release(0, (7, 8))) + pack(ASSIGN))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    parsed = parse_assign(bytes(data))
    if parsed is not None:
        assert parsed == joined(messages(bytes(data)))


@pytest.mark.parametrize("size", range(len(pack(ASSIGN))))
def test_part_of_an_assign_is_left_alone(size: int) -> None:
    assert parse_assign(pack(ASSIGN)[:size]) is None


@given(st.lists(st.binary(max_size=40) | ANY_VALUE.map(msgpack.packb) | st.just(pack(PUT)), max_size=4))
def test_whatever_is_recognised_is_what_the_connection_takes(parts: list[bytes]) -> None:
    data = b"".join(parts)
    parsed = parse(data)
    if parsed is not None:
        assert parsed == joined(messages(data))


@given(st.data())
def test_damaged_frame_is_left_alone_or_says_the_same(draw: st.DataObject) -> None:
    data = bytearray(pack(m.Release(0, (7, 8))) + pack(PUT))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    parsed = parse(bytes(data))
    if parsed is not None:
        assert parsed == joined(messages(bytes(data)))


@pytest.mark.parametrize("size", range(len(pack(PUT))))
def test_part_of_a_frame_is_left_alone(size: int) -> None:
    assert shortcut.parse_put(pack(PUT)[:size]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack(PUT) + b"\0",
        pack(PUT) * 2,
        pack(PUT) + pack(m.Release(0, (1,))),
        pack(m.Release(0, (1,))),
        pack(m.Release(3, (1,))) + pack(PUT),
        pack(m.Stat(1, "x")),
        frame(msgpack.packb([15, 1, *PUT])),  # a descriptor
        frame(msgpack.packb([15, 0, *PUT, 7])),  # a later field
        frame(msgpack.packb([15, 0, *PUT[:-1], "text"])),
        frame(msgpack.packb([15, 0, *PUT[:-1]])),
        frame(msgpack.packb([15, 0, *PUT._replace(replace=1)])),  # type: ignore[arg-type]
        frame(msgpack.packb([15, 0, *PUT._replace(name=b"x")])),  # type: ignore[arg-type]
        frame(msgpack.packb([15, 0, *PUT._replace(mode=-1)])),
        frame(msgpack.packb([15, 0, *PUT]).replace(b"\xa1x", b"\xa1\xff")),  # not UTF-8
    ],
)
def test_anything_else_is_left_alone(data: bytes) -> None:
    assert shortcut.parse_put(data) is None


@given(st.integers(0, 2**64 - 1), record(m.Grant))
def test_published_is_packed_as_the_codec_does(number: int, grant: m.Grant) -> None:
    packed = shortcut.published(number, grant.lease, shortcut.pack_grant(grant))
    assert packed == pack(m.Published(number, grant))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1, 2, b""), ValueError),
        ((-1, 2, b"x"), OverflowError),
        ((1, 2**64, b"x"), OverflowError),
        ((1, 2, "x"), TypeError),
        ((1, 2), TypeError),
    ],
)
def test_published_is_not_packed_of_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        shortcut.published(*arguments)


def test_object_has_its_content_and_nobody_can_write_it() -> None:
    header, data = b"h" * 4096, b"..content.."
    descriptor = builtins.make_sealed(b"shmhost:x", 8192, header, data, 2, 7)
    try:
        assert os.pread(descriptor, 10000, 0) == header + b"content" + bytes(4089)
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(descriptor)
        assert os.fstat(descriptor).st_mode & 0o7777 == 0o444
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:shmhost:x")
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_TRUNC)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"x", 8192, b"", b"data", 5, 0), ValueError),
        ((b"x", 8192, b"", b"data", 4, 1), ValueError),
        ((b"x", 8192, b"", b"data", 1, 2**64 - 1), ValueError),
        ((b"x", 2**63, b"", b"data", 0, 4), ValueError),
        ((b"x", -1, b"", b"data", 0, 4), OverflowError),
        (("x", 8192, b"", b"data", 0, 4), TypeError),
        ((b"x\0", 8192, b"", b"data", 0, 4), ValueError),
        ((b"x", 8192, b"", memoryview(b"data"), 0, 4), TypeError),
        ((b"x" * 300, 8192, b"", b"data", 0, 4), OSError),
        ((), TypeError),
    ],
)
def test_object_is_not_made_of_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(error):
        builtins.make_sealed(*arguments)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_message_that_the_connection_refuses_is_left_alone() -> None:
    data = frame(msgpack.packb([15, 0, *PUT._replace(metadata=-1)]))
    with pytest.raises(RemoteProtocolError):
        messages(data)
    assert shortcut.parse_put(data) is None


# --- the answer, as the fast road of a client reads it

GRANT = m.Grant(7, 6, 5, "x", 0x550000000000, 3, 8192, 1, 4, 3)
FIELDS = len(m.Grant._fields)


@given(st.integers(0, 2**64 - 1), record(m.Grant), st.lists(record(m.Spare), max_size=20))
@example(1, GRANT, [m.Spare(1, 2, 3)] * 63)
def test_published_is_read_as_it_is_packed(number: int, grant: m.Grant, spares: list[m.Spare]) -> None:
    read = builtins.opened_read(pack(m.Published(number, grant, tuple(spares))), FIELDS)
    assert read == ((number, [tuple(grant)]) if grant.lease else None)


@given(st.data())
def test_damaged_answer_is_left_alone_or_says_the_same(draw: st.DataObject) -> None:
    data = bytearray(pack(m.Published(5, GRANT)))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        read = builtins.opened_read(bytes(data), FIELDS)
    except UnicodeDecodeError:
        return
    if read is None:
        return
    connection = Connection("client")
    connection.receive(bytes(data), [9] * len(read[1]))
    ((message, _),) = connection.messages()
    grants = message.grants if isinstance(message, m.Opened) else (message.grant,)  # type: ignore[attr-defined]
    assert read == (message.id, [tuple(grant) for grant in grants])


@pytest.mark.parametrize(
    "wire",
    [
        [131, 1, 5, GRANT, [m.Spare(1, 2, 3)]],
        [131, 2, 5, GRANT, []],
        [131, 2, 5, GRANT, [[1, 2]]],
        [131, 65, 5, GRANT, [m.Spare(1, 2, 3)] * 64],
        [131, 0, 5, GRANT, []],
        [131, 1, 5, GRANT, 7],
        [131, 1, 5, GRANT._replace(lease=0), []],
        [131, 1, 5, GRANT[:-1], []],
        [131, 1, 5],
        [130, 1, 5, GRANT, []],
    ],
    ids=repr,
)
def test_other_answers_are_left_alone(wire: list[Any]) -> None:
    assert builtins.opened_read(frame(msgpack.packb(wire)), FIELDS) is None


@pytest.mark.parametrize("more", [[], [7], [7, None, True]])
def test_answers_of_other_versions_are_read(more: list[Any]) -> None:
    wire = [131, 1, 5, GRANT, *([[], *more] if more else [])]
    assert builtins.opened_read(frame(msgpack.packb(wire)), FIELDS) == (5, [tuple(GRANT)])


@pytest.mark.parametrize("size", range(len(pack(m.Published(5, GRANT)))))
def test_part_of_an_answer_is_left_alone(size: int) -> None:
    assert builtins.opened_read(pack(m.Published(5, GRANT))[:size], FIELDS) is None
