"""Names that regions of a killed host may get back: what is said of them, and how they are given up. Pure.

They belong to whom they belonged, with the mode that they had. To everybody else they do not exist.
"""

from __future__ import annotations

from shmhost.core.expected import info_of
from shmhost.core.hub import Hub
from shmhost.core.leases import Send
from shmhost.core.peers import Peer
from shmhost.core.records import Record
from shmhost.core.regions import WRITE, allows, refused, sees
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, check_name


def describe(hub: Hub, peer: Peer, request: m.Stat, send: Send) -> None:
    """Answer a Stat. RegionNotFound, which says so of a name that may come back."""
    name = check_name(request.name)
    record = hub.expected.newest(name) if hub.expected else None
    if record is not None and name not in hub.registry.current and sees(peer, info_of(record)):
        raise RegionNotFound(
            f"{name!r} (generation {record.generation}, {record.size} bytes) was a region of a host that was "
            "killed, and no client has handed it back yet; get and open can wait for it, and `shmhost rm` "
            "gives it up"
        )
    send(m.Described(request.id, hub.registry.find(name, peer).info()), ())


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
