"""The operations of a client as generators, which yield steps and are sent their outcomes. Do no I/O.

The sync and the async client are two drivers of these same generators. A step is a request to the host,
whose reply comes back with its descriptors, or a call that takes time, which the async client makes in a
thread. An error of a step is raised at its `yield`; so is a cancellation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from shmclient._arenas.resting import Position
from shmclient._connection.exchange import Subscription
from shmclient._connection.retry import Wait
from shmclient._drivers import arenas
from shmclient._drivers.answers import granted, leased, only, whole
from shmclient._drivers.boards import living_board
from shmclient._drivers.steps import Ask, Context, Fetch, Operation, Outcome, Remaining, Run
from shmclient._process.limits import no_room
from shmclient._regions.creation import Creation
from shmclient._regions.mapped import Lease, Mapped, attach, note_mapped
from shmclient._regions.region import RegionHandle, attached, close_all, is_region_of, make_region
from shmprotocol.abi.header import FLAG_ARENA, page_up
from shmprotocol.errors import (
    BadRegion,
    InvalidArgument,
    RegionClosed,
    RegionNotFound,
    Unsupported,
)
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import (
    MAX_DESCRIPTORS,
    Seal,
    check_backend,
    check_growth,
    check_mode,
    check_name,
    check_part,
    check_seal,
    check_shared,
)

if TYPE_CHECKING:
    from shmclient._regions.builder import RegionBuilder
    from shmclient._regions.info import RegionInfo

METADATA_ROOM = 4096  # bytes that a builder adds for its metadata at least: some 50 arrays with names
DEFAULT_MODE = 0o600
T = TypeVar("T")
R = TypeVar("R", bound=RegionHandle)


def nothing() -> Operation[None]:
    """Do no more than to be connected."""
    yield from ()


def get(context: Context, name: str, wait: Remaining, anywhere: bool) -> Operation[Any]:
    """Return the value of a name. A region that is mapped and has no line costs one short round trip."""
    # Nothing here keeps the mapping while the host is asked: an error's traceback would keep it on.
    mapped = context.mapped.get(name)
    held = (mapped.grant.region,) if mapped is not None and mapped.is_mapped() else ()
    grants, owned = yield from _open(context, (name,), held, wait())
    if not grants[0].lease and mapped is not None:
        with contextlib.suppress(RegionClosed):  # another thread lets go of it
            value = mapped.value()
            mapped.renew(grants[0], (yield from living_board(context)))
            return value
    if not grants[0].lease:  # the last view went while the host was asked
        grants, owned = yield from _open(context, (name,), (), wait())
    return map_value(context, grants[0], leased(context, grants, owned)[0], owned, anywhere, name)[0]


def get_other(
    context: Context, name: str, last: Mapped | Position | None, anywhere: bool
) -> Operation[tuple[Any, Any] | None]:
    """Return the value of a name and its mapping, unless that is the last one: then None.

    Of a name in an arena it is the value's Position instead of the mapping.
    """
    if isinstance(last, Position):
        if last.reader.is_granted():
            return arenas.value_in(last.reader, name) if last.has_changed() else None
        last = None
    if last is not None and last._is_granted():
        return None
    if last is None or last.is_superseded():
        got: tuple[Any, Mapped] | bool = yield Fetch(name, anywhere)
        if isinstance(got, tuple):
            return got
    grants, owned = yield from _open(context, (name,), (last.grant.region if last is not None else 0,), None)
    if grants[0].lease:
        return map_value(context, grants[0], leased(context, grants, owned)[0], owned, anywhere, name)
    if last is not None:
        last.renew(grants[0], (yield from living_board(context)))
    return None


def map_value(
    context: Context, grant: m.Grant, lease: Lease, owned: fds.Owned, anywhere: bool, name: str
) -> tuple[Any, Any]:
    """Map a granted region; return its value, which has the lease from then on, and the mapping.

    If the name is in an arena, it is that which was granted; the second is the Position of the value then.
    """
    if grant.flags & FLAG_ARENA:
        return arenas.value_of(context, grant, lease, owned, anywhere, name)
    try:
        mapped, buffer = attach(grant, lease, owned[0], context.outbox.board, anywhere=anywhere)
    except BaseException:
        lease.release()
        raise
    finally:
        owned.close()
    note_mapped(context.mapped, mapped)
    value = mapped.value()
    del buffer  # the value's views keep it from here on
    return value, mapped


def at_once() -> None:
    """Return what is left of a wait for no time: the `wait` of what opens names."""


def batches(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the names in parts that fit into a request."""
    for start in range(0, len(names), MAX_DESCRIPTORS):
        yield tuple(names[start : start + MAX_DESCRIPTORS])


def open_many(
    context: Context, kind: type[R], names: Sequence[str], wait: Remaining, anywhere: bool
) -> Operation[list[R]]:
    """Return a handle for each name, mapped; a round trip for each 64 names. All or none."""
    regions: list[R] = []
    try:
        for batch in batches(names):
            outcome = yield open_request(context, batch, (), wait())
            regions += opened(context, kind, outcome, batch, anywhere)
    except BaseException:
        close_all(regions)
        raise
    return regions


def opened(
    context: Context, kind: type[R], outcome: Outcome, names: Sequence[str], anywhere: bool
) -> list[R]:
    """Return the handles for the answer to an Open of these names, mapped. All or none.

    The handle of a value in an arena is an ArenaValue.
    """
    grants, owned = granted(context, outcome, len(names), 0)
    leases = leased(context, grants, owned)
    regions: list[Any] = []
    try:
        for name, grant, lease in zip(names, grants, leases, strict=True):
            if grant.flags & FLAG_ARENA:
                regions.append(arenas.handle_of(context, grant, lease, owned.take(), anywhere, name))
            else:
                regions.append(make_region(kind, grant, lease, owned.take(), anywhere=anywhere))
                attached(regions[-1])
    except BaseException:
        close_all(regions)
        for lease in leases:
            lease.release()  # again, or of one that has no handle yet
        raise
    return regions


def create(
    context: Context,
    name: str,
    size: int,
    mode: int,
    seal: str,
    backend: str,
    replace: bool,
    keep: bool = True,
    max_size: int | None = None,
) -> Operation[RegionBuilder]:
    """Return a builder, mapped read-write at its final address."""
    if type(size) is not int or size < 1:
        raise InvalidArgument(f"a region has at least 1 byte, not {size!r:.40}")
    whole_size = page_up(size + METADATA_ROOM)
    request = create_request(context, name, whole_size, mode, seal, backend, replace, keep)
    if max_size is not None:
        request = with_room(context, request, size, max_size)
    reply, owned = yield Ask(request)
    created = whole(context, reply, owned, m.Created)
    from shmclient._regions import builder as building  # only for who builds: see `shmclient`

    return building.make_builder(context.outbox, request, created, owned, size)


def publish(context: Context, kind: type[R], builder: RegionBuilder) -> Operation[R]:
    """Publish what a builder has built, or give it up."""
    from shmclient._pins.pinner import check_unpinned
    from shmclient._regions import builder as building

    try:
        yield Run(lambda: building.check_built(builder), builder.size)
        if building.is_to_be_sealed(builder):
            check_unpinned(builder)
        reply, owned = yield Ask(building.finish(builder, context.outbox.next_id()))
        region = published(context, kind, building.creation_of(builder), reply, owned)
        attached(region)
        building.published(builder, region)
        return region
    except BaseException:
        building.abort(builder)
        raise


def list_regions(context: Context, prefix: str) -> Operation[list[RegionInfo]]:
    """Return all current regions whose name starts with the prefix, sorted by name."""
    check_part("a prefix", prefix)
    from shmclient._regions.info import info_of

    infos: list[RegionInfo] = []
    more = True
    while more:
        after = infos[-1].name if infos else ""
        reply, _ = yield Ask(m.List(context.outbox.next_id(), prefix, after))
        infos += map(info_of, reply.regions)
        more = reply.more and bool(reply.regions)
    return infos


def stat(context: Context, name: str) -> Operation[RegionInfo]:
    """Return what the host knows of a current region."""
    reply, _ = yield Ask(m.Stat(context.outbox.next_id(), check_name(name)))
    from shmclient._regions.info import info_of

    return info_of(only(reply, m.Described).info)


def exists(context: Context, name: str) -> Operation[bool]:
    """Whether a name has a current region, or a value in an arena."""
    if (reader := arenas.known(context.arenas, name)) is not None and reader.is_granted():
        return arenas.has_value(reader, name)
    try:
        yield from stat(context, name)
    except RegionNotFound:
        return (yield from arenas.exists(context, name))
    return True


def listen(
    context: Context, prefix: str, passes: Callable[[m.Event], bool] | None = None
) -> Operation[Subscription]:
    """Start a watch of the names with a prefix; with a filter, keep only the events that pass it."""
    subscription = context.attend(passes)
    try:
        yield Ask(m.Watch(subscription.id, check_part("a prefix", prefix)))
    except BaseException:
        context.unlisten(subscription)
        raise
    return subscription


def unlink(context: Context, name: str) -> Operation[None]:
    """Hide a name at once; its memory goes with the last lease."""
    yield Ask(m.Unlink(context.outbox.next_id(), check_name(name)))


def chmod(context: Context, name: str, mode: int) -> Operation[None]:
    """Set who may open (read) and replace or unlink (write) the current region of a name."""
    yield Ask(m.Chmod(context.outbox.next_id(), check_name(name), check_mode(mode)))


def is_current(context: Context, region: RegionHandle) -> Operation[bool]:
    """Whether a region is still what its name stands for, by the host."""
    try:
        info = yield from stat(context, region.name)
    except RegionNotFound:
        return False
    if region._host_id == context.outbox.host_id:  # a host that came after a kill has other lines
        region._follow((yield from living_board(context)))  # for the next time
    return is_region_of(region, context.outbox.host_id, info.number)


def _open(
    context: Context, names: tuple[str, ...], held: tuple[int, ...], wait: Wait | None
) -> Operation[tuple[tuple[m.Grant, ...], fds.Owned]]:
    outcome = yield open_request(context, names, held, wait)
    return granted(context, outcome, len(names), len(held))


def open_request(context: Context, names: tuple[str, ...], held: tuple[int, ...], wait: Wait | None) -> Ask:
    """Return the request to open names; InvalidArgument if one is wrong."""
    for name in names:
        check_name(name)
    return Ask(m.Open(context.outbox.next_id(), names, held, wait is not None), wait)


def create_request(
    context: Context,
    name: str,
    size: int,
    mode: int,
    seal: str,
    backend: str,
    replace: bool,
    keep: bool = True,
) -> m.Create:
    """Return the request for a new region; InvalidArgument if no host would take it."""
    kind, memory = check_seal(seal), check_backend(backend)
    if kind is Seal.SHARED and context.version < m.SHARED_VERSION:
        raise _too_old("seal='shared'", context)
    check_shared(kind, memory)
    if not keep and context.version < m.SHARED_VERSION:
        raise _too_old("keep=False", context)
    number, mode = context.outbox.next_id(), check_mode(mode)
    return m.Create(number, check_name(name), size, seal, backend, mode, bool(replace), bool(keep))


def with_room(context: Context, request: m.Create, size: int, max_size: int) -> m.Create:
    """Return the request for a region that can grow to a size; InvalidArgument if it cannot."""
    if context.version < m.SHARED_VERSION:
        raise _too_old("max_size", context)
    if type(max_size) is not int or not 0 < max_size < 2**62:
        raise InvalidArgument(f"max_size is a number of bytes, not {max_size!r:.40}")
    check_growth(size, max_size, check_seal(request.seal), check_backend(request.backend))
    return request._replace(max_size=max(page_up(max_size), request.size))


def resize(context: Context, region: RegionHandle, size: int) -> Operation[int]:
    """Have a region grow to a size at least; return the bytes that it has then."""
    if type(size) is not int or not 0 < size < 2**62:
        raise InvalidArgument(f"a size is a number of bytes, not {size!r:.40}")
    attached(region)  # RegionClosed: nobody would see what it has grown to
    if size > region.size:
        yield Ask(m.Resize(context.outbox.next_id(), region.number, size))
    grown: int = region.size
    if grown < size:
        raise BadRegion(f"{region.name!r} has {grown} bytes, and the host let it have {size}: open it again")
    return grown


def _too_old(what: str, context: Context) -> Unsupported:
    return Unsupported(
        f"{what} takes version {m.SHARED_VERSION} of the protocol, and this host speaks {context.version}: "
        "use the same shmhost version on both sides"
    )


def published(context: Context, kind: type[R], creation: Creation, reply: m.Message, owned: fds.Owned) -> R:
    """Return the region that a creation has become; keep the spares that came with it."""
    answer = only(reply, m.Published)
    (lease,) = leased(context, (answer.grant,), owned)
    creation.published(lease)  # before any error: what is mapped keeps it
    if not owned:
        lease.release()
        context.spares.add(answer.spares, owned)
        raise no_room(reply, 0)
    reader = owned
    if answer.spares:
        reader = owned.take()
        context.spares.add(answer.spares, owned)
    return make_region(kind, answer.grant, lease, reader)


def check_timeout(timeout_s: float) -> float:
    """Return the time that a host may take; InvalidArgument unless it is a positive number of seconds."""
    if not 0 < timeout_s < 1e9:
        raise InvalidArgument(f"timeout is a positive number of seconds, not {timeout_s!r}")
    return timeout_s
