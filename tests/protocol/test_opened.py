"""What the fast road reads in a reply is what the codec reads, or it leaves it to the codec."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.native.builtins import opened_read
from shmprotocol.wire import messages as m
from shmprotocol.wire.codec import TAG_OF
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from wire_support import frame, frame_of

FIELDS = len(m.Grant._fields)
TAG = TAG_OF[m.Opened]
NUMBERS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, 2**32])
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(
    lambda name: len(name.encode()) < 256
)


def grants(count: int = MAX_DESCRIPTORS) -> st.SearchStrategy[list[m.Grant]]:
    numbers = {field: NUMBERS for field in m.Grant._fields if field != "name"} | {
        "lease": NUMBERS.filter(bool)
    }
    return st.lists(st.builds(m.Grant, name=NAMES, **numbers), min_size=1, max_size=count)


def read_by_codec(data: bytes) -> m.Opened | None:
    """Return the Opened that is all of the data, each of its grants with a lease; None for anything else."""
    connection = Connection("client")
    connection.receive(data, list(range(3, 3 + MAX_DESCRIPTORS)))
    try:
        first, owned = next(connection.messages())
    except (RemoteProtocolError, StopIteration):
        return None
    is_all = isinstance(first, m.Opened) and not connection.is_inside_frame
    return first if is_all and isinstance(first, m.Opened) and len(owned) == len(first.grants) else None


def check(data: bytes) -> bool:
    """Whether the fast road takes the data, which it then reads as the codec does."""
    fast = opened_read(data, FIELDS)
    if fast is None:
        return False
    slow = read_by_codec(data)
    assert slow is not None
    assert fast == (slow.id, [tuple(grant) for grant in slow.grants])
    return True


@given(NUMBERS, grants())
@example(1, [m.Grant(1, 1, 1, "x" * 255, 1, 1, 1, 0)])
@example(1, [m.Grant(1, 1, 1, "x", 1, 1, 1, 0)] * MAX_DESCRIPTORS)
def test_opened_is_read_as_the_codec_reads_it(number: int, granted: list[m.Grant]) -> None:
    assert check(pack(m.Opened(number, tuple(granted))))


LATER = st.integers(0, 2**64 - 1) | st.none() | st.booleans()


@given(NUMBERS, grants(3), st.lists(LATER, max_size=3))
def test_fields_of_a_later_version_are_ignored_in_a_grant(
    number: int, granted: list[m.Grant], in_grant: list[Any]
) -> None:
    assert check(frame_of([TAG, len(granted), number, [[*grant, *in_grant] for grant in granted]]))


@given(NUMBERS, grants(3), st.lists(LATER, min_size=1, max_size=3))
def test_fields_behind_the_grants_are_left_to_the_codec(
    number: int, granted: list[m.Grant], in_frame: list[Any]
) -> None:
    """The first of them brings descriptors."""
    assert not check(frame_of([TAG, len(granted), number, granted, *in_frame]))


@given(st.data(), NUMBERS, grants(3))
def test_changed_reply_is_read_as_the_codec_reads_it_or_left(
    data: st.DataObject, number: int, granted: list[m.Grant]
) -> None:
    whole = bytearray(pack(m.Opened(number, tuple(granted))))
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(whole) - 1))
        whole[index] = data.draw(st.integers(0, 255))
    check(bytes(whole))
    body = bytes(whole[4:])
    check(frame(body[: data.draw(st.integers(0, len(body)))]))


@given(st.binary(max_size=200))
def test_any_bytes_are_left_or_read_as_the_codec_reads_them(body: bytes) -> None:
    check(body)
    check(frame(body))
    check(frame(bytes([0x94, 0xCC, TAG]) + body))
    check(frame(bytes([0x94, 0xCC, TAG, 1, 1, 0x91, 0x90 | FIELDS]) + body))


GRANT = m.Grant(7, 2, 1, "x", 0x550000000000, 5, 8192, 1)
WHOLE = pack(m.Opened(3, (GRANT,)))
LEFT: dict[str, bytes] = {
    "nothing": b"",
    "less than a length": WHOLE[:3],
    "the length alone": WHOLE[:4],
    "a part": WHOLE[:-1],
    "more than one frame": WHOLE + WHOLE,
    "the beginning of another": WHOLE + b"\0",
    "another message": pack(m.Done(3)),
    "no grant": pack(m.Opened(3, ())),
    "a grant without a lease": pack(m.Opened(3, (GRANT._replace(lease=0),))),
    "a descriptor without a lease": frame_of([TAG, 1, 3, [[0, *GRANT[1:]]]]),
    "65 grants": frame_of([TAG, 65, 3, [[*GRANT]] * 65]),
    "a wrong number of descriptors": frame_of([TAG, 2, 3, [[*GRANT]]]),
    "a grant of 7 fields": frame_of([TAG, 1, 3, [[*GRANT][:7]]]),
    "a grant that is a number": frame_of([TAG, 1, 3, [7]]),
    "grants that are a map": frame_of([TAG, 1, 3, {}]),
    "a negative number": frame_of([TAG, 1, 3, [[*GRANT[:-1], -1]]]),
    "a float": frame_of([TAG, 1, 3.0, [[*GRANT]]]),
    "a name of bytes": frame_of([TAG, 1, 3, [[7, 2, 1, b"x", 1, 5, 8192, 1, 0, 0]]]),
    "a name that is not UTF-8": WHOLE.replace(b"\xa1x", b"\xa1\xff"),
    "a name of 256 bytes": pack(m.Opened(3, (GRANT._replace(name="x" * 256),))),
    "a name that ends behind the frame": frame(WHOLE[4 : WHOLE.index(b"\xa1x")] + b"\xbfx"),
    "an array that ends behind the frame": frame(b"\x94\xcc\x84\x01\x03\xdc\xff\xff"),
    "a later field that is an array": frame_of([TAG, 1, 3, [[*GRANT, []]]]),
    "a ledger": pack(m.Opened(3, (GRANT,), (1, 4096))),
    "a ledger that is none": frame_of([TAG, 1, 3, [[*GRANT]], [0, 0]]),
}


@pytest.mark.parametrize("what", LEFT)
def test_anything_but_one_whole_opened_with_leases_is_left(what: str) -> None:
    assert opened_read(LEFT[what], FIELDS) is None
    assert opened_read(WHOLE, FIELDS) == (3, [tuple(GRANT)])


@pytest.mark.parametrize("fields", [0, 7, 13, 2**32])
def test_grants_have_the_fields_that_are_known_here(fields: int) -> None:
    assert opened_read(WHOLE, fields) is None


def test_earlier_version_is_left_when_a_field_is_missing() -> None:
    data = frame_of([TAG, 1, 3, [[*GRANT][:8]]])
    assert opened_read(data, 8) == (3, [tuple(GRANT)[:8]])
    assert opened_read(data, 9) is None
    assert msgpack.unpackb(data[4:])[0] == TAG
