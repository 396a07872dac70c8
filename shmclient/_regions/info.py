"""The values that users get about regions: frozen, made from the messages of the wire. Pure.

The wire's records are tuples, and a later version appends fields to them. These values have no
order, and are equal only to values of their own class.
"""

from __future__ import annotations

from dataclasses import dataclass

from shmprotocol.wire import messages as m


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionInfo:
    """A region as `list` and `stat` tell of it.

    `size` is the bytes of its payload (until it is published: those asked for), `capacity` those of its
    memory object, with header page and metadata: what is charged. `state` is `creating`, `aborted`,
    `current`, `superseded` or `unlinked`. `number` is the host's for this one region, as `Region.number`.
    `created_ns` is CLOCK_REALTIME. `creator_pid` is for people: in another PID namespace it means another
    process, or is 0.
    """

    name: str
    number: int
    generation: int
    state: str
    address: int
    size: int
    capacity: int
    uid: int
    gid: int
    mode: int
    seal: str
    backend: str
    leases: int
    created_ns: int
    creator_pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a name, as `watch` tells of it: `kind` is `published`, `unlinked` or `changed`."""

    kind: str
    info: RegionInfo


def info_of(record: m.RegionInfo) -> RegionInfo:
    """Return what a record of the wire says."""
    return RegionInfo(
        name=record.name,
        number=record.region,
        generation=record.generation,
        state=record.state,
        address=record.address,
        size=record.size,
        capacity=record.capacity,
        uid=record.uid,
        gid=record.gid,
        mode=record.mode,
        seal=record.seal,
        backend=record.backend,
        leases=record.leases,
        created_ns=record.created_ns,
        creator_pid=record.creator_pid,
    )


def change_of(event: m.Event) -> Change:
    """Return what an event of a watch says."""
    return Change(kind=event.kind, info=info_of(event.info))
