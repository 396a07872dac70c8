"""A killed predecessor, whose regions may come back, and the notes for a successor.

`machine.state_file` has the file, `core.expected` the regions that may come back.
"""

from __future__ import annotations

import logging

from shmhost.core.expected import Expected
from shmhost.core.generations import numbers
from shmhost.core.hub import Hub
from shmhost.core.regions import Region
from shmhost.machine.socket_file import Lock
from shmhost.machine.state_file import StateFile, open_state
from shmprotocol.wire.names import ChangeKind, State

# So long may a client take to notice the end of its host: one that is stopped, or swapped out.
EXPECT_S = 600.0
LOG = logging.getLogger("shmhost")


def take_up(path: str, lock: Lock, hub: Hub) -> StateFile | None:
    """Expect what a killed predecessor had, and note in the file what there is; None: there is no file.

    The caller closes the file. Nobody has an address of the registry before this.
    """
    state = open_state(path, lock)
    if state is None:
        return None
    registry = hub.registry
    hub.host = f"{state.family}.{state.starts}"
    registry.numbers = numbers(state.first_number, state.store_number)
    registry.book = state
    registry.make_room = lambda: give_up(hub)
    hub.expected = Expected(registry, state.forget, state.supersede)
    hub.expected.load(state.records)
    state.records.clear()
    if hub.expected:
        LOG.info("%d regions of the host before may come back", len(hub.expected))
    return state


def give_up(hub: Hub) -> bool:
    """Expect no more what nobody has handed back; return whether there was any."""
    if not hub.expected:
        return False
    LOG.info("gave up %d regions of the host before: nobody has handed them back", len(hub.expected))
    hub.expected.clear()
    return True


def end_returns(hub: Hub) -> None:
    """Take nothing back any more: who wanted to hand anything back has done so."""
    give_up(hub)
    hub.returnables = None


def note_change(hub: Hub, kind: ChangeKind | State, region: Region) -> None:
    """Take note of a change of a region, and log it."""
    if kind is ChangeKind.PUBLISHED and hub.expected:
        hub.expected.give_way(region)
    _log_change(kind, region)


def _log_change(kind: ChangeKind | State, region: Region) -> None:
    # A name is new or gone now and then; generations follow each other as often as requests do.
    is_routine = region.is_successor if kind is ChangeKind.PUBLISHED else region.state is State.SUPERSEDED
    level = logging.DEBUG if is_routine else logging.INFO
    if not LOG.isEnabledFor(level):
        return
    LOG.log(
        level,
        "%s %r generation %d: %d bytes at %#x, uid %d, mode %04o",
        kind,
        region.name,  # quoted: a name may have spaces, and characters that reverse a line
        region.generation,
        region.size,
        region.span.address,
        region.owner.uid,
        region.mode,
        extra={"uid": region.owner.uid},
    )
