"""What a host of a fleet tells its successor, and which of that the successor refuses."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from shmhost.core.shapes import maker
from shmhost.core.state_records import ExportRecord, FleetRecord, ReplicaRecord
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.plan import SlicedAllocator
from shmprotocol.errors import HostError, QuotaExceeded
from shmprotocol.kernel.constants import MIB

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

from shmhost.fleet import hashing, succession

HOST, OTHER = "0123456789abcdef", "fedcba9876543210"
ROOM = 2 * MIB + 5
LEAVES = [hashing.leaf(bytes((number,))) for number in range(3)]
TREE = hashing.root_of(ROOM, LEAVES)
ANNOUNCEMENT = Announcement("models/x", 3, 1 << 40, ROOM, 1, ROOM, 0, 0, 0, 0, 5, 0o644, "alice", TREE)
RECORD = FleetRecord(
    "lab",
    HOST,
    8,
    3,
    (1,),
    (ExportRecord(1, ANNOUNCEMENT, b"".join(LEAVES)),),
    7,
    ("fleet-0",),
    (ReplicaRecord(2, OTHER, ANNOUNCEMENT, b"", 0.5),),
    ((2, OTHER),),
    ((OTHER, ANNOUNCEMENT),),
    (("models/y", OTHER, 4),),
    ("models/z",),
)
PLAN = FleetConfig("fleet.toml", "lab", "left", slices=8)


def test_record_comes_back_as_it_was() -> None:
    record = maker(FleetRecord)(msgpack.unpackb(msgpack.packb(RECORD), use_list=False))
    assert record == RECORD
    succession.check(record, PLAN)


def replaced(**values: Any) -> FleetRecord:
    return RECORD._replace(**values)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (replaced(fleet="other"), "in fleet 'other', of 8 slices"),
        (replaced(slices=16), "of 16 slices"),
        (replaced(slice=8), "no slices"),
        (replaced(slice=-1), "no slices"),
        (replaced(lost=(8,)), "no slices"),
        (replaced(host="x" * 16), "not the identity"),
        (replaced(origins=((2, HOST[:-1]),)), "not the identity"),
        (replaced(dropped=(("a", "", 1),)), "not the identity"),
        (replaced(pulls=((HOST.upper(), ANNOUNCEMENT),)), "not the identity"),
        (replaced(replicas=(ReplicaRecord(2, "", ANNOUNCEMENT, b"", 0.0),)), "not the identity"),
    ],
)
def test_record_that_no_host_of_this_fleet_writes_is_refused(record: FleetRecord, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        succession.check(record, PLAN)


@pytest.mark.parametrize(
    ("announcement", "leaves", "reason"),
    [
        (ANNOUNCEMENT._replace(address=5), b"", "not a number"),
        (ANNOUNCEMENT._replace(name=""), b"", "name"),
        (ANNOUNCEMENT, b"".join(LEAVES)[1:], "hashes of 'models/x'"),
        (ANNOUNCEMENT, bytes(96), "hashes of 'models/x'"),
    ],
)
def test_announcement_that_no_host_makes_is_refused(
    announcement: Announcement, leaves: bytes, reason: str
) -> None:
    with pytest.raises(HostError, match=reason):
        succession.announced(announcement, leaves)


def test_announcement_comes_with_its_hashes_if_there_are_some() -> None:
    assert succession.announced(ANNOUNCEMENT, b"".join(LEAVES)) == (ANNOUNCEMENT, LEAVES)
    assert succession.announced(ANNOUNCEMENT) == (ANNOUNCEMENT, [])


@pytest.mark.parametrize(("number", "fits"), [(3, True), (4, False)])
def test_slice_by_number_must_be_that_of_the_host_before(number: int, fits: bool) -> None:
    plan = FleetConfig("fleet.toml", "lab", "left", slices=8, slice=number)
    if fits:
        succession.check(RECORD, plan)
    else:
        with pytest.raises(HostError, match=r"has slice 3, also after a takeover; fleet\.toml has 4"):
            succession.check(RECORD, plan)
    succession.check(replaced(slice=None), plan)  # it has lost its own


def test_any_byte_of_a_record_may_be_another() -> None:
    seeded = random.Random(1)
    good = msgpack.packb(RECORD)
    for _ in range(3000):
        data = bytearray(good)
        data[seeded.randrange(len(data))] = seeded.randrange(256)
        try:
            record = maker(FleetRecord)(msgpack.unpackb(bytes(data), use_list=False))
            succession.check(record, PLAN)
            for each in (*record.exports, *record.replicas):
                succession.announced(each.announcement, each.leaves)
        except (HostError, ValueError, msgpack.UnpackException, TypeError):
            continue


def test_addresses_are_those_of_the_slice_of_the_host_before() -> None:
    allocator = SlicedAllocator(((1 << 40, 1 << 36),), 8)
    succession.take_slices(RECORD, allocator)
    taken = allocator.take(MIB)
    assert taken is not None
    assert (taken[0].address - (1 << 40)) // (1 << 33) == 3
    assert allocator.own == {1, 3}


def test_host_that_has_lost_its_slice_gives_no_addresses_after_a_takeover() -> None:
    allocator = SlicedAllocator(((1 << 40, 1 << 36),), 8)
    succession.take_slices(replaced(slice=None), allocator)
    with pytest.raises(QuotaExceeded, match="another host has the slice"):
        allocator.take(MIB)
