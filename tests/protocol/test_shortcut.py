"""The shortcut reads and writes what the connection does, or leaves it alone."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut
from shmprotocol.wire.connection import Connection, pack
from wire_support import frame

NUMBERS = st.integers(1, 2**64 - 1) | st.sampled_from([127, 128, 255, 256, 65535, 65536, 2**32])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(
    lambda name: len(name.encode()) < 256
)


def messages(role: str, data: bytes) -> list[m.Message]:
    connection = Connection(role)  # type: ignore[arg-type]
    connection.receive(data)
    return [message for message, _ in connection.messages()]


@given(NUMBERS, NAMES, st.lists(NUMBERS, max_size=3))
@example(1, "x" * 31, [])
@example(1, "x" * 32, [])
@example(1, "x" * 255, [])
def test_frames_of_an_attach_are_recognised(number: int, name: str, leases: list[int]) -> None:
    releases = b"".join(pack(m.Release(0, (lease,))) for lease in leases)
    assert shortcut.parse(releases + pack(m.Open(number, (name,), (), False))) == (leases, number, name)
    assert shortcut.parse(releases) == ((leases, 0, "") if leases else None)


@pytest.mark.parametrize(
    "message",
    [
        m.Open(1, ("a", "b"), (), False),
        m.Open(1, (), (), False),
        m.Open(1, ("",), (), False),
        m.Open(1, ("a",), (7,), False),
        m.Open(1, ("a",), (), True),
        m.Release(0, (1, 2)),
        m.Release(0, ()),
        m.Release(5, (1,)),
        m.Stat(1, "a"),
        m.Hello(1, 1, 1, "x"),
    ],
    ids=repr,
)
def test_all_else_is_left_to_the_connection(message: m.Message) -> None:
    assert shortcut.parse(pack(message)) is None
    assert shortcut.parse(pack(m.Release(0, (5,))) + pack(message)) is None


def test_more_after_an_open_is_left_to_the_connection() -> None:
    attach = pack(m.Open(1, ("a",), (), False))
    assert shortcut.parse(attach + attach) is None
    assert shortcut.parse(attach + pack(m.Release(0, (5,)))) is None


@given(NUMBERS, NAMES, st.data())
def test_no_part_of_an_attach_is_taken_for_the_whole(number: int, name: str, data: st.DataObject) -> None:
    whole = pack(m.Release(0, (number,))) + pack(m.Open(number, (name,), (), False))
    cut = data.draw(st.integers(0, len(whole) - 1))
    parsed = shortcut.parse(whole[:cut])
    assert parsed is None or parsed == ([number], 0, "")  # cut between the frames


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_mean_the_same_to_both_or_are_left_alone(tail: bytes, is_open: bool) -> None:
    data = frame((b"\x96\x05\x00" if is_open else b"\x94\x06\x00\x00\x91") + tail)
    parsed = shortcut.parse(data)
    if parsed is None:
        return
    want = [m.Release(0, (lease,)) for lease in parsed.leases]
    assert messages("host", data) == want + (
        [m.Open(parsed.id, (parsed.name,), (), False)] if parsed.name else []
    )


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_without_an_error(data: bytes) -> None:
    shortcut.parse(data)
    shortcut.parse(frame(data))


@given(NUMBERS)
def test_release_is_the_frame_that_pack_makes(lease: int) -> None:
    assert shortcut.release(lease) == pack(m.Release(0, (lease,)))


@given(NUMBERS, NUMBERS, NAMES)
def test_opened_is_the_frame_that_pack_makes(number: int, lease: int, name: str) -> None:
    grant = m.Grant(lease, 7, 2, name, 0x550000000000, 10, 8192, 3)
    assert shortcut.opened(number, lease, shortcut.pack_rest(grant)) == pack(m.Opened(number, (grant,)))
    assert msgpack.unpackb(shortcut.opened(number, lease, shortcut.pack_rest(grant))[4:])[1] == 1
