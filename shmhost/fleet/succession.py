"""The part of a host in its fleet as a record for its successor, and as that takes it. Waits for nothing.

The successor has the identity and the slice of the host before, announces what that has announced, and has
its copies. It does not ask the others for the slice: that was granted, and whoever joined meanwhile and took
it, as nobody answered for it, is met as after a partition (`claims`). The announcements of others are asked
for anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmhost.core.regions import Region
from shmhost.core.state_records import AnnouncementRecord, ExportRecord, FleetRecord, ReplicaRecord
from shmhost.fleet import hashing
from shmhost.fleet.announcements import Announcement, Known, announcement_of
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.exports import Export
from shmhost.fleet.messages import identities_of
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.pulls import Replica
from shmhost.fleet.zenoh_settings import zenoh_module
from shmhost.machine.fleet_file import Identity
from shmprotocol.errors import HostError, RemoteProtocolError
from shmprotocol.wire.names import State

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

MAX_FOLDERS = 4  # of couriers that may not have ended yet: each ends with its host


def load() -> None:
    """Load what a fleet needs, before clients wait for it. HostError: it is not installed."""
    import shmhost.fleet.service  # noqa: F401

    hashing.hasher()
    zenoh_module()


def check(record: FleetRecord, plan: FleetConfig) -> None:
    """Refuse to go on with a record of another fleet, or with one that no host writes. HostError."""
    if (record.fleet, record.slices) != (plan.fleet, plan.slices):
        raise HostError(
            f"it is in fleet {record.fleet!r}, of {record.slices} slices, and stays so over a takeover; "
            f"{plan.path} has {plan.fleet!r}, of {plan.slices}"
        )
    if None not in (plan.slice, record.slice) and plan.slice != record.slice:
        raise HostError(f"it has slice {record.slice}, also after a takeover; {plan.path} has {plan.slice}")
    if not all(0 <= number < record.slices for number in (*record.lost, record.slice or 0)):
        raise HostError(f"there are no slices {record.slice} and {record.lost}, but {record.slices}")
    hosts = [record.host, *(each.host for each in record.replicas), *(host for _, host in record.origins)]
    hosts += [*(host for host, _ in record.pulls), *(host for _, host, _ in record.dropped)]
    try:
        identities_of(tuple(hosts))
    except RemoteProtocolError as error:
        raise HostError(f"what it says of its fleet is wrong: {error}") from None


def announced(values: AnnouncementRecord, leaves: bytes = b"") -> tuple[Announcement, list[bytes]]:
    """Return an announcement, and the hashes of its chunks, as far as they are known. HostError."""
    try:
        announcement = announcement_of(values)
    except RemoteProtocolError as error:
        raise HostError(f"what it says of its fleet is wrong: {error}") from None
    split = hashing.split(announcement.room, announcement.tree, leaves) if leaves else []
    if split is None:
        raise HostError(f"the hashes of {announcement.name!r} are not those of its announcement")
    return announcement, split


def take_slices(record: FleetRecord, allocator: SlicedAllocator) -> None:
    """Hand out of the slice of the host before, from the start: others may not answer for long."""
    allocator.use(record.slice, "" if record.slice is not None else "another host has the slice of this one")
    allocator.own.update(record.lost)


def identity_of(record: FleetRecord) -> Identity:
    """Return the identity of the host before, which is that of its successor."""
    return Identity(record.host, record.slice, record.lost)


def describe(service: Service) -> FleetRecord:
    """Return what a successor must know. Nothing changes by that, as it may fail."""
    sharing, claims = service.sharing, service.claims
    exports, replicas, values = sharing.exports, sharing.replicas, sharing.values
    registry = service.hub.registry
    for name in list(replicas.current):
        replicas.check(name)  # a note of a change may be on its way
    return FleetRecord(
        service.plan.fleet,
        claims.rank[1],
        claims.count,
        claims.held,
        tuple(claims.lost),
        tuple([_export(each) for each in exports.entries.values()]),
        exports.last,
        values.folders[:MAX_FOLDERS],
        tuple([_replica(each) for each in replicas.current.values()]),
        tuple([each for each in replicas.origins.items() if each[0] in registry.regions]),
        tuple([(pull.host, pull.next or pull.announcement) for pull in replicas.pulls.values()]),
        tuple([(name, *dropped) for name, dropped in replicas.dropped.items()]),
        tuple(sharing.awaited),
    )


def _export(export: Export) -> ExportRecord:
    return ExportRecord(export.region.number, export.announcement, b"".join(export.leaves))


def _replica(replica: Replica) -> ReplicaRecord:
    leaves = b"".join(replica.leaves)
    return ReplicaRecord(replica.region.number, replica.host, replica.announcement, leaves, replica.lag_s)


def adopt(service: Service, record: FleetRecord) -> None:
    """Go on with what a host before has shared, whose regions are here. HostError: it has others."""
    sharing = service.sharing
    exports, replicas = sharing.exports, sharing.replicas
    for each in record.exports:
        announcement, leaves = announced(each.announcement, each.leaves)
        exports.resume(announcement, leaves, _region(service, each.region, announcement))
    exports.last = record.last
    sharing.values.resume(record.folders)
    for copy in record.replicas:
        announcement, leaves = announced(copy.announcement, copy.leaves)
        region = _region(service, copy.region, announcement)
        if region.state is not State.CURRENT or region.name != announcement.name:
            raise HostError(f"the copy of {announcement.name!r} is not the current region of that name")
        replicas.current[region.name] = Replica(announcement, copy.host, region, leaves, copy.lag_s)
        _know(service, copy.host, announcement)
    replicas.origins.update(record.origins)
    for host, values in record.pulls:
        _know(service, host, announced(values)[0])
    replicas.dropped.update({name: (host, generation) for name, host, generation in record.dropped})
    sharing.awaited.update(dict.fromkeys(record.awaited))


def _region(service: Service, number: int, announcement: Announcement) -> Region:
    """Return the region of an announcement."""
    region = service.hub.registry.regions.get(number)
    lies = None if region is None else (region.span.address, region.room)
    if region is None or lies != (announcement.address, announcement.room):
        raise HostError(f"it has no region {number} that is {announcement.name!r}, but {lies}")
    return region


def _know(service: Service, host: str, announcement: Announcement) -> None:
    """Take what a host has announced before: if it has it no more, it says so when all is asked for."""
    service.sharing.known.setdefault(host, Known()).announce(announcement)
