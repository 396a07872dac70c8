"""The state of a host as records, and the state of its successor from them. Pure.

Descriptors are told by indices into a list, which is sent along: see `state_records`.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence

import msgpack

from shmhost.core.hub import Hub
from shmhost.core.meter import Meter
from shmhost.core.objects import Memfd, MemoryObject, PosixShm, ShmNames
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.state_records import (
    HostRecord,
    LinkRecord,
    MeterRecord,
    ObjectRecord,
    PeerRecord,
    RegionRecord,
    SessionRecord,
)
from shmhost.core.window import Span, Window
from shmprotocol.wire.names import Backend, Seal, State

NONE = -1  # in place of a descriptor's index
Give = Callable[[int], int]  # takes a descriptor, or -1; returns its index
Take = Callable[[int], int]  # the other way round


def pack(record: HostRecord) -> bytes:
    """Return a record as bytes."""
    packed: bytes = msgpack.packb(record)
    return packed


def unpack(data: bytes) -> HostRecord:
    """Return the record in bytes that a host of the same form has packed."""
    host = HostRecord._make(msgpack.unpackb(data, use_list=False))
    return host._replace(
        meter=MeterRecord._make(host.meter),
        regions=tuple(
            [
                each._replace(object=ObjectRecord._make(each.object))
                for each in map(RegionRecord._make, host.regions)
            ]
        ),
        links=tuple(
            [
                each._replace(session=SessionRecord._make(each.session))
                for each in map(LinkRecord._make, host.links)
            ]
        ),
    )


def describe_regions(registry: Registry, give: Give) -> tuple[RegionRecord, ...]:
    """Return the records of all regions, in the order of their numbers."""
    return tuple([_describe(registry.regions[number], give) for number in registry.order])


def describe_meter(meter: Meter) -> MeterRecord:
    """Return the counters."""
    latencies = [(name, tuple(latency.counts), latency.total_ns) for name, latency in meter.latencies.items()]
    return MeterRecord(
        meter.started_ns,
        meter.restarts,
        meter.connections,
        meter.dropped,
        tuple(meter.refusals.items()),
        tuple(latencies),
    )


def _describe(region: Region, give: Give) -> RegionRecord:
    owner, span = region.owner, region.span
    return RegionRecord(
        region.number,
        (owner.uid, owner.gid, owner.pid, tuple(owner.groups)),
        region.room,
        region.capacity,
        (span.address, span.size),
        (region.charge.account.uid, region.charge.size, region.charge.files),
        region.name,
        region.mode,
        region.seal,
        region.backend,
        region.state,
        region.size,
        region.generation,
        region.created_ns,
        region.is_successor,
        region.was_busy,
        region.line,
        region.rights,
        region.kind,
        region.record,
        _describe_object(region.object, give),
    )


def _describe_object(memory_object: MemoryObject | None, give: Give) -> ObjectRecord:
    if memory_object is None:
        return ObjectRecord("", 0, False, "", NONE, NONE)
    reader, writer = give(memory_object.reader()), give(memory_object.writer())
    if isinstance(memory_object, PosixShm):
        return ObjectRecord("shm", memory_object.capacity, False, memory_object.path(), reader, writer)
    assert isinstance(memory_object, Memfd)  # a host with arenas is not taken over
    return ObjectRecord("memfd", memory_object.capacity, memory_object.is_spare, "", reader, writer)


def peer_from(record: PeerRecord) -> Peer:
    """Return the identity in a record."""
    uid, gid, pid, groups = record
    return Peer(uid, gid, pid, frozenset(groups))


def resume_numbers(hub: Hub, host: HostRecord) -> None:
    """Go on with the counters of another host."""
    hub.host = host.host
    region, lease, ledger = host.next
    hub.registry.numbers, hub.registry.lease_numbers = itertools.count(region), itertools.count(lease)
    hub.ledger_numbers = itertools.count(ledger)
    hub.registry.generations.adopt(*host.generations)
    meter, record = hub.meter, host.meter
    meter.started_ns, meter.restarts = record.started_ns, record.restarts
    meter.connections, meter.dropped = record.connections, record.dropped
    meter.refusals = Counter(dict(record.refusals))
    for name, counts, total_ns in record.latencies:
        meter.latencies[name].counts, meter.latencies[name].total_ns = list(counts), total_ns


def adopt_regions(registry: Registry, records: Sequence[RegionRecord], take: Take, names: ShmNames) -> None:
    """Enter the regions of another host, whose sessions have their leases."""
    for record in records:
        region = _region_from(record, take, registry, names)
        registry.regions[region.number] = region
        registry.order.append(region.number)
        region.tally = registry.tallies.add(region.state, region.owner.uid, region.capacity)
        if region.state is State.CREATING:
            registry.creating[region.name] = region
        elif region.state is State.CURRENT:
            registry.current[region.name] = region
            insort(registry.names, region.name)
    owners = {region.line: region.owner.uid for region in registry.regions.values() if region.line}
    registry.lines.resume({line: registry.accounts.of(uid).lines for line, uid in owners.items()})


def _region_from(record: RegionRecord, take: Take, registry: Registry, names: ShmNames) -> Region:
    span = Span._make(record.span)
    window = take_span(registry, span)
    uid, size, files = record.charge
    charge = registry.accounts.of(uid).take(size, files)
    region = Region(
        record.number, peer_from(record.owner), record.room, record.capacity, span, window, charge
    )
    region.name, region.mode, region.state = record.name, record.mode, State(record.state)
    region.seal, region.backend = Seal(record.seal), Backend(record.backend)
    region.size, region.generation, region.created_ns = record.size, record.generation, record.created_ns
    region.is_successor, region.was_busy = record.is_successor, record.was_busy
    region.line, region.rights, region.kind = record.line, record.rights, record.kind
    region.record = record.record
    if uid != region.owner.uid:
        charge.bear()
    region.object = _object_from(record, take, names)
    return region


def take_span(registry: Registry, span: Span) -> Window:
    """Take addresses that are in use; they must be free here."""
    window = registry.allocator.claim(span)
    assert window is not None, f"{span.size} bytes at {span.address:#x} are not free in any window"
    return window


def _object_from(region: RegionRecord, take: Take, names: ShmNames) -> MemoryObject | None:
    record = region.object
    if not record.kind:
        return None
    reader, writer = take(record.reader), take(record.writer)
    if record.kind == "shm":
        return PosixShm.of(region.name, record.capacity, names, reader, writer, record.path)
    return Memfd.taken(record.capacity, reader, writer, record.is_spare)


def users_of_lines(registry: Registry) -> dict[int, int]:
    """Return how many regions have each line of the board."""
    return dict(Counter(region.line for region in registry.regions.values() if region.line))


def write_board(registry: Registry) -> None:
    """Say on a board without a word what is current, and the rights to it."""
    for region in registry.regions.values():
        registry.board.set_rights(region.line, region.rights)
    for region in registry.current.values():
        registry.board.set(region.line, region.number, region.generation)
