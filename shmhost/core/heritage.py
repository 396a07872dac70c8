"""The state of a host as records, and the state of its successor from them. Pure.

Descriptors are told by indices into a list, which is sent along: see `state_records`.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgpack

from shmhost.core.accounts import Charge
from shmhost.core.arenas import Arena
from shmhost.core.hub import Hub
from shmhost.core.ledgers import Ledger, LedgerObject
from shmhost.core.meter import Meter
from shmhost.core.objects import ArenaObject, Memfd, MemoryObject, PosixShm, ShmNames
from shmhost.core.peers import Peer
from shmhost.core.processes import Process
from shmhost.core.regions import RETIRED, Region
from shmhost.core.registry import Registry
from shmhost.core.shapes import maker
from shmhost.core.state_records import (
    ArenaRecord,
    ChargeRecord,
    HostRecord,
    LedgerRecord,
    MeterRecord,
    ObjectRecord,
    PeerRecord,
    RegionRecord,
)
from shmhost.core.window import Span, Window
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import Backend, Seal, State

NONE = -1  # in place of a descriptor's index
Give = Callable[[int], int]  # takes a descriptor, or -1; returns its index
Take = Callable[[int], int]  # the other way round


def pack(record: HostRecord) -> bytes:
    """Return a record as bytes."""
    packed: bytes = msgpack.packb(record)
    return packed


def unpack(data: bytes) -> HostRecord:
    """Return the record in bytes that a host of the same form has packed. ValueError: it is another thing."""
    record: HostRecord = maker(HostRecord)(msgpack.unpackb(data, use_list=False))
    return record


def describe_regions(registry: Registry, give: Give) -> tuple[RegionRecord, ...]:
    """Return the records of all regions, in the order of their numbers."""
    return tuple([_describe(registry.regions[number], give) for number in registry.order])


def _growth(region: Region) -> int:
    """Return how many bytes an object has not yet that are charged: a thread is at work on that, and left."""
    if region.object is None or not (region.extent or region.arena):
        return 0
    return region.capacity - region.object.capacity


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
    span, growth = region.span, _growth(region)
    uid, size, files, count = _describe_charge(region.charge)
    return RegionRecord(
        region.number,
        _describe_peer(region.owner),
        region.room,
        region.capacity - growth,
        (span.address, span.size),
        (uid, size - growth, files, count),
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
        region.keep,
        region.line,
        region.rights,
        region.kind,
        region.record,
        region.extent,
        region.is_back,
        _describe_object(region.object, give),
        None if region.arena is None else _describe_arena(region.arena, region.charge),
    )


def _describe_object(memory_object: MemoryObject | None, give: Give) -> ObjectRecord:
    if memory_object is None:
        return ObjectRecord("", 0, False, "", NONE, NONE)
    reader, writer = give(memory_object.reader()), give(memory_object.writer())
    if isinstance(memory_object, PosixShm):
        return ObjectRecord("shm", memory_object.capacity, False, memory_object.path(), reader, writer)
    if isinstance(memory_object, Memfd):
        kind = "growing" if memory_object.can_grow else "memfd"
        return ObjectRecord(kind, memory_object.capacity, memory_object.is_spare, "", reader, writer)
    return ObjectRecord("arena", memory_object.capacity, not memory_object.is_published, "", reader, writer)


def _describe_arena(arena: Arena, charge: Charge) -> ArenaRecord:
    # Also if another user bears the region: this stays its owner's.
    room_to_grow = sum([count for share, count in charge.more if share.pool.name == "addresses"])
    return ArenaRecord(
        arena.span,
        arena.keep,
        arena.size,
        room_to_grow,
        arena.generation,
        arena.control is not None,
        arena.messages,
        tuple([ledger.number for ledger in arena.ledgers]),
        tuple([ledger.number for ledger in arena.attending]),
        arena.is_open,
        tuple(arena.awaited),
        arena.process,
        arena.owner_lease != 0,
    )


def describe_ledgers(hub: Hub, lingering: Mapping[Ledger, int], give: Give) -> tuple[LedgerRecord, ...]:
    """Return the records of all ledgers; `lingering` are those of dropped clients, with their pidfds."""
    return tuple(
        [
            LedgerRecord(
                ledger.number,
                _describe_peer(ledger.peer),
                _describe_charge(ledger.charge),
                give(ledger.object.reader()),
                give(ledger.object.raiser()),
                give(lingering.get(ledger, NONE)),
                ledger.record,
                ledger.joined,
                ledger.outlives,
                ledger.is_taken,
            )
            for ledger in hub.ledgers.values()
        ]
    )


def _describe_peer(peer: Peer) -> PeerRecord:
    return peer.uid, peer.gid, peer.pid, tuple(peer.groups)


def _describe_charge(charge: Charge) -> ChargeRecord:
    return charge.account.uid, charge.size, charge.files, charge.regions


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


class Makers(NamedTuple):
    """The makers of objects that another host had; each object owns the descriptors that it gets."""

    names: ShmNames
    arena: Callable[[int, int, int, bool], ArenaObject]  # capacity, reader, writer, whether it is published
    ledger: Callable[[int, int], LedgerObject]  # reader, raiser
    growing: Callable[[int, int, int, bool], MemoryObject]  # capacity, reader, writer, False


def adopt_ledgers(hub: Hub, records: Sequence[LedgerRecord], take: Take, makers: Makers) -> None:
    """Enter the ledgers of clients of another host."""
    for record in records:
        charge = _charge_from(hub.registry, record.charge)
        memory_object = makers.ledger(take(record.reader), take(record.raiser))
        ledger = Ledger(record.number, peer_from(record.peer), charge, memory_object)
        ledger.record, ledger.joined, ledger.outlives = record.record, record.joined, record.outlives
        ledger.is_taken = record.is_taken
        hub.ledgers[ledger.number] = ledger


def adopt_regions(hub: Hub, records: Sequence[RegionRecord], take: Take, makers: Makers) -> None:
    """Enter the regions of another host, whose sessions have their leases; after the ledgers."""
    registry = hub.registry
    for record in records:
        region = _region_from(record, take, registry, makers)
        if record.arena is not None:
            _adopt_arena(hub, region, record.arena)
        registry.regions[region.number] = region
        registry.order.append(region.number)
        if region.seal is Seal.SHARED or region.extent:
            registry.shared.add(region)
        region.tally = registry.tallies.add(region.state, region.owner.uid, region.capacity)
        if region.state is State.CREATING:
            registry.creating[region.name] = region
        elif region.state is State.CURRENT:
            registry.current[region.name] = region
            insort(registry.names, region.name)
    owners = {region.line: region.owner.uid for region in registry.regions.values() if region.line}
    registry.lines.resume({line: registry.accounts.of(uid).lines for line, uid in owners.items()})


def free_left(hub: Hub, record: HostRecord) -> None:
    """Free what is not published and in no table of a session: what was under way, and was left.

    Also what a lease of work under way has kept, which no session has: nothing would free it any more.
    """
    sessions = [link.session for link in record.links]
    numbers = {number for each in sessions for number in each.creations}
    numbers |= {number for each in sessions for number, _ in each.spares}
    for region in list(hub.registry.regions.values()):
        is_new = region.state in (State.CREATING, State.ABORTED, State.SPARE)
        if is_new and region.arena is None and region.number not in numbers:
            hub.registry.abort(region)
        elif region.state in RETIRED and region.arena is None and not region.leases:
            hub.registry.release(region, hub.registry.lease(region, region.owner))


def _charge_from(registry: Registry, record: ChargeRecord) -> Charge:
    uid, size, files, regions = record
    return registry.accounts.of(uid).charge(size, files, regions)


def _adopt_arena(hub: Hub, region: Region, record: ArenaRecord) -> None:
    registry, account = hub.registry, hub.registry.accounts.of(region.owner.uid)
    region.charge.also(account.arenas, 1)
    region.charge.also(account.addresses, record.room_to_grow)
    arena = Arena(record.span, record.keep, region.line, record.size, registry.board)
    arena.generation, arena.has_owner, arena.messages = record.generation, record.has_owner, record.messages
    arena.ledgers = {hub.ledgers[number] for number in record.ledgers}
    arena.attending = {hub.ledgers[number] for number in record.attending}
    arena.is_open, arena.awaited = record.is_open, set(record.awaited)
    arena.process, arena.is_awaited = Process._make(record.process), record.is_awaited
    for ledger in arena.ledgers:
        ledger.arenas.add(arena)
    region.arena = arena
    registry.arenas.add(region)


def _region_from(record: RegionRecord, take: Take, registry: Registry, makers: Makers) -> Region:
    span = Span._make(record.span)
    window = take_span(registry, span)
    charge = _charge_from(registry, record.charge)
    region = Region(
        record.number, peer_from(record.owner), record.room, record.capacity, span, window, charge
    )
    region.name, region.mode, region.state = record.name, record.mode, State(record.state)
    region.seal, region.backend = Seal(record.seal), Backend(record.backend)
    region.size, region.generation, region.created_ns = record.size, record.generation, record.created_ns
    region.is_successor, region.was_busy = record.is_successor, record.was_busy
    region.keep = record.keep
    region.line, region.rights, region.kind = record.line, record.rights, record.kind
    region.record, region.extent, region.is_back = record.record, record.extent, record.is_back
    if charge.account.uid != region.owner.uid:
        charge.bear()
    if registry.accounts.are_addresses_scarce and record.arena is None:
        charge.also(registry.accounts.of(region.owner.uid).addresses, span.size)
    elif record.extent:
        charge.also(registry.accounts.of(region.owner.uid).addresses, record.extent - record.capacity)
    region.object = _object_from(record, take, makers)
    return region


def take_span(registry: Registry, span: Span) -> Window:
    """Take addresses that are in use; they must be free here."""
    window = registry.allocator.claim(span)
    assert window is not None, f"{span.size} bytes at {span.address:#x} are not free in any window"
    return window


def _object_from(region: RegionRecord, take: Take, makers: Makers) -> MemoryObject | None:
    record = region.object
    if not record.kind:
        return None
    reader, writer = take(record.reader), take(record.writer)
    if record.kind == "shm":
        return PosixShm.of(region.name, record.capacity, makers.names, reader, writer, record.path)
    if record.kind == "arena":
        return makers.arena(record.capacity, reader, writer, not record.is_spare)
    make = makers.growing if record.kind == "growing" else Memfd.taken
    return make(record.capacity, reader, writer, record.is_spare)


def users_of_lines(registry: Registry) -> dict[int, int]:
    """Return how many regions have each line of the board."""
    return dict(Counter(region.line for region in registry.regions.values() if region.line))


def write_board(registry: Registry) -> None:
    """Say on a board without a word what is current, and the rights to it."""
    for region in registry.regions.values():
        registry.board.set_rights(region.line, region.rights)
        if region.arena is not None:
            region.arena.move(registry.board, region.line)
    for region in registry.current.values():
        registry.board.set(region.line, region.number, region.generation)
