"""Names that regions of a killed host may get back: what is said of them, and how they are given up. Pure.

They belong to whom they belonged, with the mode that they had. To everybody else they do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shmhost.core.expected import info_of
from shmhost.core.hub import Hub
from shmhost.core.leases import Send
from shmhost.core.names import arena_over
from shmhost.core.peers import Peer
from shmhost.core.records import Record
from shmhost.core.regions import WRITE, allows, not_found, refused, sees
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, check_name


def describe(hub: Hub, peer: Peer, request: m.Stat, send: Send) -> None:
    """Answer a Stat. RegionNotFound, which says so of a name that may come back."""
    name = check_name(request.name)
    record = hub.expected.newest(name) if hub.expected else None
    if record is not None and name not in hub.registry.current and sees(peer, info_of(record)):
        raise _not_back(record)
    send(m.Described(request.id, hub.registry.find(name, peer).info()), ())


def why_missing(
    hub: Hub, peer: Peer, names: Iterable[str], error: RegionNotFound
) -> tuple[RegionNotFound, bool]:
    """Return what to say of names that are not all here, and whether all that are missing may come back.

    It is the `error` if nothing else is known of them. An arena whose owner is not back is missing.
    """
    if not (hub.expected or hub.registry.arenas):
        return error, False
    current, first, is_missing = hub.registry.current, None, False
    for name in names:
        region = current.get(name) or arena_over(name, current)
        if region is None:
            record = _expected(hub, peer, name)
            if record is None:
                return not_found(name, peer), False
            first, is_missing = first or record, True
        elif not region.is_visible(peer):
            return not_found(name, peer), False
        elif region.arena is not None and not region.arena.is_open:
            is_missing = True
    return (_not_back(first) if first is not None else error), is_missing


def _expected(hub: Hub, peer: Peer, name: str) -> Record | None:
    """Return the record of a name that is not here, or of the arena over it, if a peer may see that."""
    if not hub.expected:
        return None
    for part in _with_those_above(name):
        record = hub.expected.newest(part)
        if record is not None and (part == name or record.kind == KIND_ARENA):
            return record if sees(peer, info_of(record)) else None
    return None


def _with_those_above(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]


def _not_back(record: Record) -> RegionNotFound:
    return RegionNotFound(
        f"{record.name!r} (generation {record.generation}, {record.size} bytes) was a region of a host that "
        "was killed, and no client has handed it back yet; get and open can wait for it, and `shmhost rm` "
        "gives it up"
    )


def unlink(hub: Hub, peer: Peer, request: m.Unlink, send: Send) -> None:
    """Hide a name for good, end its creation, or let nobody get it back; the reply is Done."""
    name, registry = check_name(request.name), hub.registry
    record = hub.expected.newest(name) if hub.expected else None
    if name not in registry.current:
        if record is not None and _may_unlink(record, peer):
            _give_up(hub, record)
            send(m.Done(request.id), ())
            hub.tell_of_gone((info_of(record),))
            return
        if registry.end_creation(name, peer):
            send(m.Done(request.id), ())
            return
        if record is not None:
            raise refused(name, record.owner, record.mode, peer, WRITE)
    region = registry.unlink(name, peer)
    if record is not None and _may_unlink(record, peer):  # a newer one, which its creator has not heard of
        _give_up(hub, record)
    send(m.Done(request.id), ())
    hub.tell(ChangeKind.UNLINKED, region)


def _may_unlink(record: Record, peer: Peer) -> bool:
    owner = record.owner
    return peer.uid == 0 or allows(owner.uid, owner.gid, record.mode, peer, WRITE)


def _give_up(hub: Hub, record: Record) -> None:
    assert hub.expected is not None
    hub.expected.unlink(record.name)
