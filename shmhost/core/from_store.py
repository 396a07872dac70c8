"""The regions that a service manager has kept: back with their names before anybody asks. Pure.

An entry is as good as what a client hands back: the identity of its object decides, and its name says only
which record to look at. Superseded and unlinked regions come from clients alone, as nobody else needs them.
The rules for joining an arena are those for one that a client hands back: see `reviving`.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmhost.core.expected import Expected, is_of
from shmhost.core.hub import Hub, Returnables
from shmhost.core.records import Record
from shmhost.core.regions import Region
from shmhost.core.reviving import free_unused, revive
from shmhost.core.stored import Stored, number_of
from shmprotocol.errors import OutOfMemory, QuotaExceeded, Unsupported
from shmprotocol.wire.names import State

Entry = tuple[str, int]  # its name and its descriptor


def restore(hub: Hub, stored: Stored, entries: Iterable[Entry]) -> int:
    """Enter regions into the registry; return how many. All other entries have to leave the store.

    The descriptors stay the caller's. The newest of a name first, so that the others are left to clients.
    """
    expected, machine = hub.expected, hub.returnables
    refused, records = list[str](), list[tuple[Record, int, str]]()
    for entry, descriptor in entries:
        record = _record_of(entry, descriptor, expected, machine)
        if record is None:
            refused.append(entry)
        else:
            records.append((record, descriptor, entry))
    records.sort(key=lambda each: -each[0].generation)
    back = dict[str, Region]()
    for record, descriptor, entry in records:
        assert expected is not None
        region = _revive(hub, expected, record, descriptor)
        if region is None:
            refused.append(entry)
        else:
            back[entry] = region
    for entry in set(refused):
        stored.remove(entry)
    for entry, region in back.items():
        if entry not in refused:  # else there were two of it, and both are removed
            stored.keep(region)
    return len(back)


def _record_of(
    entry: str, descriptor: int, expected: Expected | None, machine: Returnables | None
) -> Record | None:
    """Return the record of the current region that an entry is, or None."""
    record = expected.find(number_of(entry)) if expected is not None else None
    if record is None or machine is None or record.state is not State.CURRENT:
        return None
    returned = machine.examine(descriptor)
    return record if returned is not None and is_of(record, returned) else None


def _revive(hub: Hub, expected: Expected, record: Record, descriptor: int) -> Region | None:
    if record.name in hub.registry.current or expected.find(record.number) is None:
        return None
    try:
        region = revive(hub, record, descriptor)
    except (OutOfMemory, QuotaExceeded):  # no descriptor is left, or no line of the board for an arena
        return None
    except Unsupported as error:  # of this one; the host is there for all others
        hub.warn(record.owner, error)
        return None
    if region.state is State.CURRENT:
        return region
    # An arena has come above its name, or its owner has ended, with which it goes.
    free_unused(hub, region)
    return None
