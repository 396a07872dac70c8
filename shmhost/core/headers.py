"""The header page of a region, from its creator's publish request. Pure; writes no memory."""

from __future__ import annotations

from shmhost.core.arenas import Arena
from shmhost.core.regions import Region
from shmprotocol.abi.header import (
    FLAG_ARENA,
    FLAG_SEAL_WRITER,
    HEADER_SIZE,
    KIND_ARENA,
    KIND_DATA,
    KIND_OBJECTS,
    Header,
    page_up,
)
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_METADATA


def header_of(region: Region, request: m.Publish, flags: int, generation: int, now_ns: int) -> Header:
    """Return the header of a region. InvalidArgument: the request points outside."""
    base = region.span.address
    payload = range(base + HEADER_SIZE, base + HEADER_SIZE + region.room)
    _check(request, payload, grows=region.extent > 0)
    return Header(
        kind=request.kind,
        flags=flags,
        base=base,
        size=HEADER_SIZE + region.room,
        # Of a spare, after the rest was cut off.
        capacity=region.extent or page_up(HEADER_SIZE + region.room),
        data=payload.start,
        data_size=request.data_size,
        root=request.root,
        root_size=request.root_size,
        generation=generation,
        created_ns=now_ns,
        creator_uid=region.owner.uid,
        creator_gid=region.owner.gid,
        creator_pid=region.owner.pid,
        window_base=region.window.base,
        window_size=region.window.size,
        metadata=request.metadata,
        metadata_size=request.metadata_size,
        name=region.name,
    )


def arena_header(region: Region, arena: Arena) -> Header:
    """Return the header of a new arena: its capacity is its span, what is mapped."""
    base = region.span.address
    return Header(
        kind=KIND_ARENA,
        flags=FLAG_SEAL_WRITER | FLAG_ARENA,
        base=base,
        size=arena.size,
        capacity=arena.span,
        data=base + HEADER_SIZE,
        data_size=arena.size - HEADER_SIZE,
        root=0,
        root_size=0,
        generation=arena.generation,
        created_ns=region.created_ns,
        creator_uid=region.owner.uid,
        creator_gid=region.owner.gid,
        creator_pid=region.owner.pid,
        window_base=region.window.base,
        window_size=region.window.size,
        metadata=0,
        metadata_size=0,
        name=region.name,
    )


def _check(request: m.Publish, payload: range, *, grows: bool) -> None:
    _check_inside("data", payload, payload.start, request.data_size)
    _check_inside("root", payload, request.root, request.root_size)
    _check_inside("metadata", payload, request.metadata, request.metadata_size)
    if grows and request.data_size != len(payload):
        raise InvalidArgument(f"the data of a region that grows is all of its {len(payload)} bytes")
    if request.kind not in (KIND_DATA, KIND_OBJECTS):
        raise InvalidArgument(f"a region's kind is {KIND_DATA} or {KIND_OBJECTS}, not {request.kind}")
    if request.metadata_size > MAX_METADATA:
        raise InvalidArgument(f"{request.metadata_size} bytes of metadata are over {MAX_METADATA}")


def _check_inside(what: str, payload: range, address: int, size: int) -> None:
    if address == 0 and size == 0:
        return
    if address < payload.start or address + size > payload.stop:
        raise InvalidArgument(
            f"{what} at {address:#x}, {size} bytes, is outside of the payload "
            f"{payload.start:#x}-{payload.stop:#x}"
        )
