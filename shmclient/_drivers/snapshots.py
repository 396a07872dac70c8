"""Regions in files, and back at their addresses. Does no I/O: yields steps."""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from shmclient._drivers import arenas, operations
from shmclient._drivers.answers import only, whole
from shmclient._drivers.steps import Ask, Context, Operation, Run
from shmclient._drivers.transfer import Progress, write_memory
from shmclient._regions import snapshots
from shmclient._regions.creation import Creation
from shmclient._regions.region import RegionHandle
from shmclient._regions.snapshots import Source
from shmprotocol.abi.header import (
    FLAG_SEAL_SHARED,
    FLAG_SEAL_WRITER,
    FLAG_UNSEALED,
    HEADER_SIZE,
    KIND_ARENA,
    Header,
)
from shmprotocol.abi.snapshot import Snapshot
from shmprotocol.errors import AddressConflict, RegionExists, RegionNotFound, Unsupported
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Backend, Seal, check_mode, check_name

IN_A_THREAD = sys.maxsize  # bytes, for what can wait for a disk
_SEALS = {FLAG_SEAL_WRITER: Seal.WRITER, FLAG_SEAL_SHARED: Seal.SHARED}  # all others are full, or take none
R = TypeVar("R", bound=RegionHandle)
Path = str | os.PathLike[str]


def save(
    context: Context, name: str, path: Path, file_mode: int, progress: Progress | None
) -> Operation[int]:
    """Write the current region of a name to a file; return the bytes of that."""
    check_mode(file_mode)
    target = os.fsdecode(path)
    mode, region = yield from _opened(context, check_name(name))
    try:
        size: int = yield Run(lambda: snapshots.save(region, target, mode, file_mode, progress), IN_A_THREAD)
        return size
    finally:
        region.close()


def load(
    context: Context,
    kind: type[R],
    path: Path,
    name: str | None,
    replace: bool,
    anywhere: bool,
    progress: Progress | None,
) -> Operation[R]:
    """Return the region of a file, at its address: a new one, or the current one if that is the same."""
    target = os.fsdecode(path)
    with (yield Run(lambda: Source(target), IN_A_THREAD)) as source:
        name = source.snapshot.header.name if name is None else check_name(name)
        try:
            return (yield from _load(context, kind, source, name, replace, False, progress))
        except (AddressConflict, RegionExists) as error:
            region = yield from _already_there(context, kind, source, name)
            if region is not None:
                return region
            if isinstance(error, RegionExists) or not anywhere:
                raise
            _check_relocatable(source.snapshot.header, error)
        return (yield from _load(context, kind, source, name, replace, True, progress))


def _opened(context: Context, name: str) -> Operation[tuple[int, RegionHandle]]:
    """Return the mode of the current region of a name, and a handle of just that one."""
    while True:
        try:
            reply, _ = yield Ask(m.Stat(context.outbox.next_id(), name))
        except RegionNotFound:
            if (yield from arenas.exists(context, name)):
                raise _in_an_arena(name) from None
            raise
        info = only(reply, m.Described).info
        if info.kind == KIND_ARENA:
            raise _in_an_arena(name)
        opening = operations.open_many(context, RegionHandle, (name,), operations.at_once, True)
        region = (yield from opening)[0]
        if isinstance(region, RegionHandle) and region.number == info.region:
            return info.mode, region
        region.close()  # replaced in between


def _in_an_arena(name: str) -> Unsupported:
    return Unsupported(
        f"{name!r} is an arena, or lies in one, whose owner goes on writing it: put its values in regions, "
        "and save those, such as shm.put('copy', shm.get('camera/front'))"
    )


def _load(
    context: Context,
    kind: type[R],
    source: Source,
    name: str,
    replace: bool,
    is_relocated: bool,
    progress: Progress | None,
) -> Operation[R]:
    """Make a region of a file; without `is_relocated` at the address that it had, or AddressConflict."""
    header = source.snapshot.header
    base = 0 if is_relocated else header.base
    request = _request(context, source.snapshot, name, replace, base)
    reply, owned = yield Ask(request)
    created = whole(context, reply, owned, m.Created)
    creation = Creation(context.outbox, created.region, owned)
    try:
        if base and created.address != base:
            raise _too_old(context)
        descriptor = creation.fileno()

        def write(position: int, piece: memoryview) -> None:
            write_memory(descriptor, position, [(0, piece)])

        yield Run(lambda: source.copy(write, progress), IN_A_THREAD)
        number = context.outbox.next_id()
        reply, owned = yield Ask(_publish(number, created, header))
        return operations.published(context, kind, creation, reply, owned)
    except BaseException:
        creation.abort()
        raise


def _request(context: Context, snapshot: Snapshot, name: str, replace: bool, address: int) -> m.Create:
    header = snapshot.header
    if context.version < m.SHARED_VERSION:
        raise _too_old(context)
    seal = next((seal for flag, seal in _SEALS.items() if header.flags & flag), Seal.FULL)
    backend = Backend.SHM if header.flags & FLAG_UNSEALED else Backend.MEMFD
    size = header.size - HEADER_SIZE
    request = operations.create_request(context, name, size, snapshot.mode, seal, backend, replace)
    return request._replace(address=address, max_size=snapshot.max_size)


def _publish(number: int, created: m.Created, header: Header) -> m.Publish:
    moved = created.address - header.base  # 0, or there are no pointers but those of the header
    metadata = header.metadata + moved if header.metadata else 0
    root = (header.root, header.root_size)
    about = (header.kind, header.data_size, *root, metadata, header.metadata_size)
    return m.Publish(number, created.region, *about)


def _too_old(context: Context) -> Unsupported:
    return Unsupported(
        f"this host, whose version of the protocol is {context.version}, gives no addresses that clients ask "
        "for: use the same shmhost version on both sides"
    )


def _already_there(context: Context, kind: type[R], source: Source, name: str) -> Operation[R | None]:
    """Return the current region of a name, if it is just what the file holds, at the same address."""
    try:
        handles: list[Any] = yield from operations.open_many(context, kind, (name,), operations.at_once, True)
    except (RegionNotFound, OSError):
        return None
    region = handles[0]
    try:
        if isinstance(region, kind) and (yield Run(lambda: source.is_in(region), IN_A_THREAD)):
            return region
    except BaseException:
        region.close()
        raise
    region.close()
    return None


def _check_relocatable(header: Header, error: Exception) -> None:
    if header.root:
        raise AddressConflict(
            f"{error}. The snapshot has pointers, which are right at {header.base:#x} alone: "
            "anywhere=True is for those without"
        )
