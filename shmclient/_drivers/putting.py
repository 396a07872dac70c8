"""`put`, as a generator like those of `operations`: in one request, by a spare, or in two steps. No I/O."""

from __future__ import annotations

from typing import TypeVar

from shmclient import _codecs as codecs
from shmclient._drivers.answers import leased, only, whole
from shmclient._drivers.operations import create_request, published
from shmclient._drivers.steps import Ask, Context, Operation, Outcome, Run
from shmclient._drivers.transfer import Progress, joined, write_memory
from shmclient._regions.creation import Creation
from shmclient._regions.region import RegionHandle, make_region
from shmprotocol.abi.header import HEADER_SIZE, KIND_DATA
from shmprotocol.errors import InvalidArgument, RegionNotFound
from shmprotocol.native import builtins
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Backend, check_mode, check_name

VERSION = 2  # of the wire: the first that has Put, Assign and Reserve
# Bytes that go with the request: a host reads 16 KiB at once, and the rest of a frame by another call.
SENT_MAX = 12 * 1024
# The errors of a put by a spare that the host has taken back: told so, or it is empty, and cannot grow.
TAKEN_BACK = (RegionNotFound, PermissionError)
R = TypeVar("R", bound=RegionHandle)
Chunks = list[tuple[int, memoryview]]


class Value(NamedTuple):
    """A value to be put: its name and rights, and its payload. `size` and `metadata_at` are bytes of that."""

    name: str
    mode: int
    replace: bool
    size: int
    data_size: int
    metadata_at: int
    metadata_size: int
    chunks: Chunks
    progress: Progress | None
    # None: there are no pointers in it, so that it can be written before it has an address.
    pointed: codecs.Encoded | None = None


def put(
    context: Context,
    kind: type[R],
    name: str,
    obj: object,
    mode: int,
    backend: str,
    replace: bool,
    progress: Progress | None,
) -> Operation[R]:
    """Store an object as one sealed region: written with `pwritev`, never mapped.

    On cancellation the name has its old value, or the new one if the host had published already.
    """
    return put_value(context, kind, encode(name, obj, mode, replace, progress), backend)


def put_value(context: Context, kind: type[R], value: Value, backend: str) -> Operation[R]:
    """Do so with an object that is encoded."""
    if can_be_sent(context, value, backend):
        return (yield from _send(context, kind, value))
    if not can_be_filled(context, value, backend):
        return (yield from _create(context, kind, value, backend, ()))
    if (spare := context.spares.take(value.size)) is not None:
        region = yield from _fill(context, kind, value, spare)
        if region is not None:
            return region
    return (yield from _create(context, kind, value, backend, context.spares.wanted(value.size)))


def can_be_sent(context: Context, value: Value, backend: str) -> bool:
    """Whether a request can have the bytes of a value."""
    return value.size <= SENT_MAX and _is_plain(context, value, backend)


def can_be_filled(context: Context, value: Value, backend: str) -> bool:
    """Whether a value can be put by a spare, if there is one."""
    return value.size > SENT_MAX and _is_plain(context, value, backend)


def _is_plain(context: Context, value: Value, backend: str) -> bool:
    return context.version >= VERSION and backend == Backend.MEMFD and value.pointed is None


def encode(name: str, obj: object, mode: int, replace: bool, progress: Progress | None) -> Value:
    """Return an object as a value to be put; the errors of a put that need no host."""
    encoded = codecs.encode(obj)
    check_name(name)
    check_mode(mode)
    metadata, metadata_at = encoded.metadata, encoded.metadata_at
    chunks, size = encoded.chunks, encoded.size
    if metadata_at is None:
        metadata_at = -(-size // 8) * 8
        chunks = [*chunks, (metadata_at, memoryview(metadata))]
        size = metadata_at + len(metadata)
    return Value(
        name,
        mode,
        bool(replace),
        size,
        encoded.size,
        metadata_at,
        len(metadata),
        chunks,
        progress,
        encoded if encoded.pointers else None,
    )


def _send(context: Context, kind: type[R], value: Value) -> Operation[R]:
    """Put a small value by a request that has its bytes."""
    payload = joined(value.chunks, value.progress)
    outcome = yield Ask(request_of(context.outbox.next_id(), value, payload))
    return sent(context, kind, outcome)


def request_of(number: int, value: Value, payload: bytes) -> m.Put:
    """Return the request of a small value."""
    return m.Put(number, *value[:3], *value[4:7], payload)


def sent(context: Context, kind: type[R], outcome: Outcome) -> R:
    """Return the region of a small value that was sent."""
    reply, owned = outcome
    grant = whole(context, reply, owned, m.Published).grant
    return make_region(kind, grant, leased(context, (grant,), owned)[0], owned)


def _fill(context: Context, kind: type[R], value: Value, spare: Creation) -> Operation[R | None]:
    """Write a value into a spare, and name it; return None if the host has taken the spare back."""
    try:
        yield _write(value, spare)
        number, ahead = context.outbox.next_id(), context.spares.wanted(value.size)
        reply, owned = yield Ask(m.Assign(number, spare.region, *value[:7], ahead))
        return published(context, kind, spare, reply, owned)
    except BaseException as error:
        spare.abort()
        if type(error) in TAKEN_BACK:
            return None
        raise


def _create(
    context: Context, kind: type[R], value: Value, backend: str, spares: tuple[int, ...]
) -> Operation[R]:
    """Take the name, write the value, and publish it: two requests."""
    create = create_request(context, value.name, value.size, value.mode, "full", backend, value.replace)
    reply, owned = yield Ask(create)
    created = whole(context, reply, owned, m.Created)
    creation = Creation(context.outbox, created.region, owned)
    try:
        start = created.address + HEADER_SIZE
        root = _point(value, start)
        yield _write(value, creation)
        metadata = (start + value.metadata_at, value.metadata_size)
        number = context.outbox.next_id()
        publish = m.Publish(number, created.region, KIND_DATA, value.data_size, *root, *metadata, spares)
        reply, owned = yield Ask(publish)
        return published(context, kind, creation, reply, owned)
    except BaseException:
        creation.abort()
        raise


def _point(value: Value, start: int) -> tuple[int, int]:
    """Have the pointers of a payload be right for its address; return address and size of its root."""
    if value.pointed is None:
        return 0, 0
    value.pointed.move(start)
    return value.pointed.root_at(start)


def _write(value: Value, creation: Creation) -> Run:
    descriptor = creation.fileno()
    return Run(lambda: write_memory(descriptor, HEADER_SIZE, value.chunks, value.progress), value.size)


def check_reserve(size: int) -> int:
    """Return the bytes to reserve; InvalidArgument unless they are a number of bytes."""
    if type(size) is not int or not 0 <= size < 2**63:
        raise InvalidArgument(f"a reserve is a number of bytes, 0 or more, not {size!r:.40}")
    return size


def reserve(context: Context, size: int) -> Operation[None]:
    """Ask the host for up to `size` bytes of spares for this connection, and have a thread fill them."""
    if context.version < VERSION:
        return
    reply, _ = yield Ask(m.Reserve(context.outbox.next_id(), size))
    context.spares.reserve = only(reply, m.Reserved).size
    if context.spares.reserve:
        context.spares.filler = builtins.Filler()
