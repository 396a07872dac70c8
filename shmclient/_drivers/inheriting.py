"""Operations for programs that inherit regions and arenas, and have no client of their own. Do no I/O.

Nothing of it is mapped in this process: see `$SHM_REGIONS` and `$SHM_ARENAS` in `protocol/README.md`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from shmclient._drivers import answers, arenas, operations
from shmclient._drivers.boards import find_board
from shmclient._drivers.steps import Ask, Context, Operation, Remaining
from shmclient._regions.creation import Creation
from shmclient._regions.mapped import Lease
from shmclient._regions.region import RegionHandle
from shmprotocol.abi.header import FLAG_ARENA, HEADER_SIZE, KIND_DATA, KIND_OBJECTS, page_up
from shmprotocol.errors import InvalidArgument, OutOfMemory, Unsupported
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m

NAMES_MAX = 62  # of a request: a ledger comes with two descriptors more


class Heirloom(NamedTuple):
    """A region or an arena that a program inherits: its descriptors, and its line of the environment.

    `variable` is the name of the environment's variable. Owns the descriptors; the lease, if there is one,
    lasts as long as the connection.
    """

    variable: str
    line: str
    owned: fds.Owned
    lease: Lease | None

    @property
    def is_written(self) -> bool:
        """Whether it is an arena that the program writes."""
        return self.variable == "SHM_ARENAS" and self.lease is None


def opened(context: Context, names: Sequence[str], wait: Remaining) -> Operation[list[Heirloom]]:
    """Return what a program needs to read regions and arenas."""
    heirlooms = []
    for start in range(0, len(names), NAMES_MAX):
        batch = tuple(names[start : start + NAMES_MAX])
        outcome = yield operations.open_request(context, batch, (), wait())
        yield from find_board(
            context
        )  # afterwards: it is that of the host which granted them, or of a later one
        grants, owned = answers.granted(context, outcome, len(batch), 0)
        leases = answers.leased(context, grants, owned)
        for name, grant, lease in zip(batch, grants, leases, strict=True):
            if not grant.flags & FLAG_ARENA:
                heirlooms.append(_region(grant, lease, owned.take()))
                continue
            if grant.name != name:
                raise InvalidArgument(f"{name!r} is in the arena {grant.name!r}: pass that on")
            yield Ask(m.Attend(context.outbox.next_id(), grant.region))
            heirlooms.append(_arena(context, grant, lease, owned.take()))
    return heirlooms


def owned_arena(context: Context, name: str, size: int, mode: int) -> Operation[Heirloom]:
    """Return what a program needs to own a new arena: it publishes that by itself."""
    _, reply, owned = yield from arenas.ask_for(context, name, size, 0, mode, keep=True, replace=True)
    yield from find_board(context)  # likewise
    sizes = (reply.line, reply.region, reply.size, reply.span, reply.address)
    line = _line(owned[0], owned[1], _board(context), *sizes, -1, -1, name)
    return Heirloom("SHM_ARENAS", line, owned, None)


class Draft(NamedTuple):
    """The fields of a header page that the program has filled in, by their offsets in `shm_abi.h`."""

    kind: int
    data_size: int
    root: int
    root_size: int
    metadata: int
    metadata_size: int

    @classmethod
    def read(cls, descriptor: int) -> Draft:
        """Read it from the object. It says anything: the host checks what it is asked to publish."""
        page = os.pread(descriptor, HEADER_SIZE, 0)
        kind, data_size, root, root_size, metadata, metadata_size = _DRAFT.unpack_from(page)
        kind = KIND_OBJECTS if kind == KIND_OBJECTS else KIND_DATA
        return cls(kind, data_size, root, root_size, metadata, metadata_size)


_DRAFT = struct.Struct("<16x I 36x Q Q Q 48x Q Q")


def created(context: Context, name: str, size: int, mode: int) -> Operation[tuple[Heirloom, Creation]]:
    """Return what a program needs to fill a new region of so many bytes of data, and the region itself."""
    if size < 1:
        raise InvalidArgument(f"the region {name!r} has at least 1 byte, not {size}")
    whole_size = page_up(size + operations.METADATA_ROOM)
    request = operations.create_request(context, name, whole_size, mode, "full", "memfd", True)
    reply, owned = yield Ask(request)
    made_of = answers.whole(context, reply, owned, m.Created)
    creation = Creation(context.outbox, made_of.region, owned)
    line = _line(owned[0], made_of.address, made_of.capacity, size, name)
    return Heirloom("SHM_CREATES", line, owned, None), creation


def publish(context: Context, creation: Creation) -> Operation[RegionHandle]:
    """Publish what a program has filled, which has ended."""
    draft = Draft.read(creation.fileno())
    reply, owned = yield Ask(m.Publish(context.outbox.next_id(), creation.region, *draft))
    return operations.published(context, RegionHandle, creation, reply, owned)


def _region(grant: m.Grant, lease: Lease, owned: fds.Owned) -> Heirloom:
    fds.separate(owned[0])
    return Heirloom("SHM_REGIONS", f"{owned[0]} {grant.name}", owned, lease)


def _arena(context: Context, grant: m.Grant, lease: Lease, owned: fds.Owned) -> Heirloom:
    ledger = context.exchange.ledger
    if len(ledger) < 2:
        raise OutOfMemory("the descriptors of the ledger were lost: see RLIMIT_NOFILE")
    size = grant.size + HEADER_SIZE
    numbers = (owned[0], -1, _board(context), grant.line, grant.region, size, grant.capacity, grant.address)
    return Heirloom("SHM_ARENAS", _line(*numbers, ledger[0], ledger[1], grant.name), owned, lease)


def _board(context: Context) -> int:
    descriptor = context.outbox.lazy_board.fileno()
    if descriptor < 0:
        raise Unsupported("the host's board is mapped already, or there is none")
    return descriptor


def _line(*values: object) -> str:
    return " ".join(map(str, values))
