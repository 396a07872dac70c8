"""The checks of fields on the way out and on the way in."""

from __future__ import annotations

import msgpack
import pytest

from shmprotocol.errors import InvalidArgument, LocalProtocolError, RemoteProtocolError, ShmError, refusal
from shmprotocol.wire import codec
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack

INFO = m.RegionInfo("a", 1, 1, "current", 4096, 1, 4096, 0, 0, 0o600, "full", "memfd", 0, 1, 1)


def grants(count: int, lease: int = 1) -> tuple[m.Grant, ...]:
    return tuple(m.Grant(lease, 1, 1, "a", 4096, 4097, 8192, 1) for _ in range(count))


# --- the tables


def test_tags_are_the_published_numbers() -> None:
    """The tags are the wire: a change here breaks every other program."""
    assert {cls.__name__: tag for tag, cls in codec.REQUEST_TAGS.items()} == {
        "Hello": 1,
        "Create": 2,
        "Publish": 3,
        "Abort": 4,
        "Open": 5,
        "Release": 6,
        "Cancel": 7,
        "List": 8,
        "Stat": 9,
        "Unlink": 10,
        "Chmod": 11,
        "Watch": 12,
        "Inspect": 13,
        "Measure": 14,
        "Put": 15,
        "Assign": 16,
        "Reserve": 17,
        "Arena": 18,
        "Attend": 19,
        "Survey": 20,
        "Restore": 21,
        "Takeover": 22,
        "FindBoard": 23,
        "RestoreLedger": 24,
        "RestoreArena": 25,
        "Claim": 26,
        "Keep": 27,
        "Resize": 28,
    }
    assert {cls.__name__: tag for tag, cls in codec.REPLY_TAGS.items()} == {
        "Welcome": 129,
        "Created": 130,
        "Published": 131,
        "Opened": 132,
        "Listed": 133,
        "Described": 134,
        "Done": 135,
        "Refused": 136,
        "Event": 137,
        "Goodbye": 138,
        "Inspected": 139,
        "Measured": 140,
        "Reserved": 141,
        "ArenaMade": 142,
        "Surveyed": 143,
        "Restored": 144,
        "BoardFound": 145,
        "LedgerRestored": 146,
        "ArenaRestored": 147,
    }


def test_refusal_is_the_error_of_its_code() -> None:
    assert type(refusal("invalid", "why")) is InvalidArgument


def test_refusal_is_the_base_class_when_its_code_is_unknown() -> None:
    assert type(refusal("of a later version", "why")) is ShmError


# --- fields on the way out


@pytest.mark.parametrize("number", [0, 2**64 - 1])
def test_number_is_sent_when_it_is_at_a_limit(number: int) -> None:
    assert pack(m.Cancel(1, number))[4:] == msgpack.packb([7, 0, 1, number])


@pytest.mark.parametrize("number", [2**64, pytest.param(10**5000, id="huge")])
def test_number_is_not_sent_when_it_has_more_than_64_bits(number: int) -> None:
    with pytest.raises(LocalProtocolError):
        pack(m.Cancel(1, number))


def test_opened_is_sent_when_it_has_64_descriptors() -> None:
    assert codec.to_wire(m.Opened(1, grants(64)))[1] == 64


def test_opened_is_not_sent_when_it_has_65_descriptors() -> None:
    with pytest.raises(LocalProtocolError, match="65 descriptors"):
        codec.to_wire(m.Opened(1, grants(65)))


# --- fields on the way in


def test_opened_is_refused_when_it_declares_65_descriptors() -> None:
    plain = (1, 1, 1, "a", 4096, 4097, 8192, 1)
    with pytest.raises(RemoteProtocolError, match="65 descriptors"):
        codec.from_wire((132, 65, 1, (plain,) * 65), codec.REPLY_TAGS)


def test_opened_needs_no_descriptor_when_all_is_current() -> None:
    assert m.descriptors_of(m.Opened(1, grants(65, lease=0))) == 0


def test_boolean_is_no_number_when_it_comes_in() -> None:
    with pytest.raises(RemoteProtocolError, match="True is not an integer"):
        codec.from_wire((7, 0, 1, True), codec.REQUEST_TAGS)


def test_number_is_no_boolean_when_it_comes_in() -> None:
    with pytest.raises(RemoteProtocolError, match="1 is not a bool"):
        codec.from_wire((5, 0, 1, ("a",), (), 1), codec.REQUEST_TAGS)


@pytest.mark.parametrize("tag", [0, 100, 129, -1, True, 1.0, "1", None, (1,)])
def test_tag_is_refused_when_it_is_unknown(tag: object) -> None:
    with pytest.raises(RemoteProtocolError, match="unknown message tag"):
        codec.from_wire((tag, 0, 1), codec.REQUEST_TAGS)


@pytest.mark.parametrize("declared", [1, True, False, None, "0", -1])
def test_message_is_refused_when_it_declares_other_descriptors(declared: object) -> None:
    with pytest.raises(RemoteProtocolError, match="descriptors, not 0"):
        codec.from_wire((9, declared, 1, "a"), codec.REQUEST_TAGS)


def test_message_is_refused_when_a_field_is_missing() -> None:
    with pytest.raises(RemoteProtocolError, match="Stat has 2 fields, not 1"):
        codec.from_wire((9, 0, 1), codec.REQUEST_TAGS)


def test_later_fields_are_ignored_when_the_message_is_whole() -> None:
    assert codec.from_wire((9, 0, 1, "a", None, ((1, 2),)), codec.REQUEST_TAGS) == m.Stat(1, "a")


def test_later_fields_are_ignored_when_they_are_in_a_record() -> None:
    record = (*as_received(INFO), "later", None)
    assert codec.from_wire((134, 0, 1, record), codec.REPLY_TAGS) == m.Described(1, INFO)


@pytest.mark.parametrize("count", [15, 16])
def test_record_of_an_earlier_version_is_as_if_it_said_nothing_else(count: int) -> None:
    record = m.RegionInfo(*INFO[:15])
    assert codec.from_wire((134, 0, 1, as_received(INFO)[:count]), codec.REPLY_TAGS) == m.Described(1, record)


def as_received(record: tuple[object, ...]) -> tuple[object, ...]:
    """Return a record as it is unpacked: all that is in it are plain tuples."""
    unpacked: tuple[object, ...] = msgpack.unpackb(msgpack.packb(record), use_list=False)
    return unpacked


def test_later_fields_are_ignored_when_they_are_in_a_pair() -> None:
    welcome = codec.from_wire((129, 0, 1, 1, "host", ((1, 2, "later", None),), 0), codec.REPLY_TAGS)
    assert welcome == m.Welcome(1, 1, "host", ((1, 2),), 0)


def test_record_is_refused_when_it_is_short() -> None:
    record = codec.to_wire(m.Described(1, INFO))[3][:-3]  # type: ignore[index]
    with pytest.raises(RemoteProtocolError, match="RegionInfo has 17 fields"):
        codec.from_wire((134, 0, 1, record), codec.REPLY_TAGS)


def test_error_stays_short_when_the_value_is_huge() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.from_wire((4, 0, 1, b"\xff" * 1_000_000), codec.REQUEST_TAGS)
    assert len(str(caught.value)) < 300


# --- equality


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (m.Done(5), m.Measure(5)),
        (m.Stat(1, "x"), m.Unlink(1, "x")),
        (m.Total("x", 1, 2, 3), m.Refused(1, "x", "y")),
        (m.Done(5), (5,)),
        ((5,), m.Done(5)),
    ],
)
def test_messages_of_two_kinds_are_never_equal(first: object, other: object) -> None:
    assert (first == other, first != other) == (False, True)


def test_messages_of_one_kind_are_equal_when_their_values_are() -> None:
    first, other = m.Described(1, INFO), m.Described(1, INFO._replace())
    assert (first == other, first != other, hash(first) == hash(other)) == (True, False, True)
    assert first != m.Described(1, INFO._replace(leases=7))


def test_every_record_of_the_wire_compares_its_kind() -> None:
    records = [cls for cls in vars(m).values() if hasattr(cls, "_fields")]
    assert {cls.__eq__ for cls in records} == {m.Done.__eq__}
    assert m.Done.__eq__ is not tuple.__eq__


def test_every_message_has_a_tag() -> None:
    messages = {cls for cls in vars(m).values() if "id" in getattr(cls, "_fields", ())}
    assert messages == set(codec.TAG_OF)
