"""Operations on arenas; see `operations`. Do no I/O."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

from shmclient._arenas.held import ArenaValue, no_value, open_value
from shmclient._arenas.reader import ClientLedger, Reader, open_reader
from shmclient._arenas.resting import Position
from shmclient._arenas.values import decode
from shmclient._connection.exchange import Subscription
from shmclient._drivers import answers
from shmclient._drivers.boards import living_board
from shmclient._drivers.steps import Ask, Context, Operation, Remaining, Run, Sleep, Stay
from shmclient._regions.mapped import Lease
from shmprotocol.abi.header import FLAG_ARENA
from shmprotocol.errors import HostGone, InvalidArgument, OutOfMemory, RegionNotFound, Unsupported
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_mode, check_name

if TYPE_CHECKING:
    from shmclient._arenas.owner import Arena

NAMES, BYTES_A_NAME = 65536, 2048  # of an arena, unless it is said: at most a tenth of it is for names
NAMES_MAX = 1 << 24  # SHM_ARENA_NAMES_MAX
WORK = 1 << 30  # "bytes" of what waits for the host, so that an async client has a thread do it


def create(
    context: Context,
    name: str,
    size: int,
    max_size: int | None,
    names: int | None,
    mode: int,
    keep: bool,
    replace: bool,
    populate: bool,
) -> Operation[Arena]:
    """Return an arena that this process owns, published and empty."""
    from shmclient._arenas import owner  # only for who owns one

    names = min(NAMES, (size if type(size) is int else 0) // BYTES_A_NAME + 1) if names is None else names
    _check_number("names", names)
    if names > NAMES_MAX:
        raise InvalidArgument(f"an arena has at most {NAMES_MAX} names, not {names}: use several arenas")
    request, reply, owned = yield from ask_for(context, name, size, max_size or 0, mode, keep, replace)
    # Not before: a board says when one of its lines has moved, and an earlier one knows nothing of this line.
    yield from living_board(context)
    arena = owner.make_arena(context.outbox, request, reply, owned)
    yield Run(lambda: owner.own(arena, reply, names, populate), WORK)
    return arena


def _ledger_of(context: Context) -> ClientLedger | None:
    """Return the ledger of a connection; None if it was lost on the way, or cannot be mapped."""
    with context.ledger_lock:  # it is mapped once, and sealed
        if context.ledger is None and context.exchange.ledger:
            owned = fds.Owned()
            owned.extend(map(context.exchange.ledger.pop, (0, 0)))
            with contextlib.suppress(OSError):
                context.ledger = ClientLedger(owned, context.outbox.home, context.exchange.ledger_number)
        return context.ledger


def ask_for(
    context: Context, name: str, size: int, max_size: int, mode: int, keep: bool, replace: bool
) -> Operation[tuple[m.Arena, m.ArenaMade, fds.Owned]]:
    """Return the request for a new arena, the host's answer, and the descriptors, which the caller owns.

    Unsupported: the host has none. InvalidArgument: no host would make it.
    """
    if context.version < m.ARENA_VERSION:
        raise Unsupported(f"the host speaks version {context.version} of the protocol, which has no arenas")
    _check_number("size", size)
    if max_size:
        _check_number("max_size", max_size)
    fields = check_name(name), size, max_size, check_mode(mode), bool(replace), bool(keep)
    request = m.Arena(context.outbox.next_id(), *fields)
    reply, owned = yield Ask(request)
    return request, answers.whole(context, reply, owned, m.ArenaMade), owned


def _check_number(label: str, number: int) -> None:
    if type(number) is not int or number < 1:
        raise InvalidArgument(f"{label} of an arena is a positive number, not {number!r:.40}")


def reader_of(context: Context, grant: m.Grant, lease: Lease, owned: fds.Owned, anywhere: bool) -> Reader:
    """Return the reader of a granted arena, found by its name from then on. Closes the descriptor."""
    try:
        reader = context.arenas.get(grant.name)
        if reader is not None and (reader.host_id, reader.grant.region) == (lease.host_id, grant.region):
            lease.release()
            reader.renew(grant, context.outbox.board)
            return reader
        ledger = _ledger_of(context)
        if ledger is None:
            # The host gives it once, so that only another connection can get another one.
            context.outbox.close(HostGone("this connection has no ledger"))
            raise OutOfMemory(
                f"{grant.name!r} is an arena, and this client could not take its ledger: see RLIMIT_NOFILE "
                "and RLIMIT_AS; the next request connects anew"
            )
        board = context.outbox.board
        reader = open_reader(grant, lease, owned[0], board, ledger, anywhere)
    except BaseException:
        lease.release()
        raise
    finally:
        owned.close()
    context.arenas[grant.name] = reader
    return reader


def forget_ended(opened: dict[str, Reader]) -> None:
    """Let go of the arenas that are not current any more: nothing else would, and they can be large.

    Another thread may have opened the next one of a name meanwhile: then that is opened once more.
    """
    for name, reader in list(opened.items()):
        if not reader.was_current():
            opened.pop(name, None)


def known(opened: dict[str, Reader], name: str) -> Reader | None:
    """Return the arena that a name is in, if it was opened and is current by the last word of its host."""
    if type(name) is not str:  # refused elsewhere
        return None
    end = name.find("/")
    while end > 0:
        reader = opened.get(name[:end])
        if reader is not None and reader.was_current():
            return reader
        end = name.find("/", end + 1)
    return None


def short_name(name: str, arena: str) -> str:
    """Return what a name is called in its arena; InvalidArgument for the arena itself."""
    if name == arena:
        raise InvalidArgument(
            f"{name!r} is an arena, not a value: use open_arena({name!r}), or one of its names"
        )
    return name[len(arena) + 1 :]


def value_of(
    context: Context, grant: m.Grant, lease: Lease, owned: fds.Owned, anywhere: bool, name: str
) -> tuple[Any, Position]:
    """Return the value of a name whose arena was granted, and where it stands. RegionNotFound."""
    reader = reader_of(context, grant, lease, owned, anywhere)
    return value_in(reader, name)


def value_in(reader: Reader, name: str) -> tuple[Any, Position]:
    """Return the value of a name in an arena, and where it stands. RegionNotFound."""
    short = short_name(name, reader.name)
    position = Position(reader, short)
    value = reader._get(short, position)
    if position.has_changed():  # the value may be newer than the position
        held = reader._hold(short)
        if held is None:
            raise no_value(reader, short)
        return decode(reader, held), Position(reader, short, held.word)
    if value is position:  # None is a value, too
        raise no_value(reader, short)
    return value, position


def handle_of(
    context: Context, grant: m.Grant, lease: Lease, owned: fds.Owned, anywhere: bool, name: str
) -> ArenaValue:
    """Return a handle of the value of a name whose arena was granted. RegionNotFound."""
    reader = reader_of(context, grant, lease, owned, anywhere)
    return handle_in(reader, name)


def handle_in(reader: Reader, name: str) -> ArenaValue:
    """Return a handle of the value of a name in an arena. RegionNotFound."""
    return open_value(reader, short_name(name, reader.name))


def open_arena(context: Context, name: str, anywhere: bool, wait: Remaining) -> Operation[Reader]:
    """Return the reader of the current arena of a name."""
    from shmclient._drivers import operations

    outcome = yield operations.open_request(context, (name,), (), wait())
    grants, owned = answers.granted(context, outcome, 1, 0)
    lease = answers.leased(context, grants, owned)[0]
    if not grants[0].flags & FLAG_ARENA or grants[0].name != name:
        owned.close()
        lease.release()
        raise InvalidArgument(f"{name!r} is not an arena: use get() or open()")
    return reader_of(context, grants[0], lease, owned, anywhere)


def has_value(reader: Reader, name: str) -> bool:
    """Whether a name in an arena has a value."""
    return reader._hold(short_name(name, reader.name)) is not None


def exists(context: Context, name: str) -> Operation[bool]:
    """Whether a name that has no region is in an arena, and has a value there."""
    from shmclient._drivers import operations

    if "/" not in name or context.version < m.ARENA_VERSION:
        return False
    try:
        outcome = yield operations.open_request(context, (name,), (), None)
    except RegionNotFound:
        return False
    grants, owned = answers.granted(context, outcome, 1, 0)
    leases = answers.leased(context, grants, owned)
    if not grants[0].flags & FLAG_ARENA:  # a region, published just now
        owned.close()
        leases[0].release()
        return True
    return has_value(reader_of(context, grants[0], leases[0], owned, False), name)


def stay(
    context: Context, position: Position, subscription: Subscription, wait_s: float = math.inf
) -> Operation[None]:
    """Return when something has changed since a position was taken, or its arena may not be current.

    That is the entry of its name, or anything in the arena if the name never had a value; or when the time is
    over. An end of the subscription is raised, and HostGone when the host that granted the arena is gone.
    """
    end = time.monotonic() + wait_s
    reader = position.reader
    while True:
        yield from refresh(context, reader)
        if not reader.has_host():
            raise HostGone(f"the host that granted the arena {reader.name!r} is gone")
        line_changes = reader.line_changes()
        if not reader.was_current() or position.has_moved():
            return
        answer = yield Stay(subscription, position, line_changes, end - time.monotonic())
        if answer is None:
            return


def pause(position: Position, pause_s: float) -> Operation[None]:
    """Return after a time, or when a value changes, of an arena whose host is gone."""
    yield Sleep(pause_s, position)


def refresh(context: Context, reader: Reader) -> Operation[None]:
    """Have an arena look at the board of the process that serves by now, if that is another one."""
    if reader.board.has_moved() and reader.host_id == context.outbox.host_id:
        board = yield from living_board(context)
        if board is not None and board is not reader.board and board.line(reader.grant.line):
            reader.move(board)


def attend(context: Context, reader: Reader) -> Operation[None]:
    """Tell the host that this client may sleep on values of an arena; once for each."""
    if reader.is_attended:
        return
    with contextlib.suppress(RegionNotFound):  # it has ended: nothing in it changes any more
        yield Ask(m.Attend(context.outbox.next_id(), reader.grant.region))
    reader.is_attended = True
