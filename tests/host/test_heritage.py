"""What a host hands over to its successor: every attribute of what it has, or a reason why not."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from session_support import World
from shmhost.core.accounts import Account, Charge
from shmhost.core.arenas import Arena
from shmhost.core.creations import Creations
from shmhost.core.heritage import Makers, adopt_regions, describe_regions, free_left
from shmhost.core.hub import Hub
from shmhost.core.interests import Interests
from shmhost.core.leases import Leases
from shmhost.core.ledgers import Ledger
from shmhost.core.listening import Listening
from shmhost.core.meter import Meter
from shmhost.core.owning import Ownership, Ownerships, create_arena
from shmhost.core.peers import Peer
from shmhost.core.readings import Readings
from shmhost.core.refusals import Refusals
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.session import Session
from shmhost.core.spares import Spares
from shmhost.core.state_records import HostRecord
from shmhost.core.work import SETTLE
from shmhost.machine.board import open_board
from shmhost.machine.shm_names import ShmNames
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.handover import HandOver
from shmhost.serving.link import Link
from shmhost.serving.outbox import Outbox
from shmhost.serving.unread import Unread
from shmprotocol.errors import Unsupported
from shmprotocol.wire import messages as m

# Of each class what its record says, and what needs no record: parts of the process, which the successor has
# itself; what other records say; and what is over, or not begun, whenever nothing is under way.
ATTRIBUTES: dict[type, tuple[str, str]] = {
    Region: (
        "number owner room capacity span charge name mode seal backend object was_busy keep state size "
        "generation created_ns is_successor line rights kind arena record extent is_back",
        "window tally is_busy leases packed readers",
    ),
    Charge: ("account size files regions more", "is_borne"),
    Arena: (
        "span keep line size generation control ledgers attending messages has_owner is_open awaited process "
        "owner_lease",
        "board ownership is_awaited",
    ),
    Ledger: ("number peer charge object record joined outlives is_taken", "arenas user"),
    Meter: ("started_ns restarts connections dropped refusals latencies", ""),
    Session: (
        "peer _greeted _leases _spares _creations _readings _ownerships _listening _refusals",
        "_hub _registry _account _is_counted _send _filled_puts _small_puts _interests _descriptors",
    ),
    Listening: ("version _interests", "_hub _leases _readings _refusals _send end peer"),
    Refusals: ("pending", "_hub _peer _send"),
    Leases: ("_regions", "_registry _peer _send _share"),
    Creations: ("_regions _unkept _growing", "_hub _registry _peer _leases _send _spares"),
    Spares: ("_regions _reserved", "_hub _peer _is_closed"),
    Interests: ("_waits _watches", "_share _names _prefixes _count"),
    Readings: ("_ledger _others", "_hub _peer _leases _ahead"),
    Ownerships: ("_owned", "_hub _peer _send _has_old_board"),
    Ownership: ("_region _lease control _has_left", "peer _hub _arena _object _owned"),
    Link: (
        "socket pidfd peer session connection intake outbox",
        "_loop _refused _closer _turn _deaths _lingering _meter _operation _began_ns _start_work _on_closed "
        "deadline _working "
        "_can_be_left _is_inside_frame _take_back _closing _is_dropped _is_finished _is_held",
    ),
    Outbox: (
        "queue _unread",
        "_loop _sock _share _turn _on_emptied _on_end _backlog _is_closed _is_held _retry _delay_s _stall",
    ),
    Unread: ("count _behind", "on_pressure _sock _share"),
    ArenaLink: (
        "_owner _queue _unsent _sock _unread _kind _is_left",
        "peer _loop _start_work _closer _share _turn _on_closed _count _working _closing _is_reading "
        "_is_held _is_asked _take_back _retry _delay_s _theirs _refused _can_be_left _end",
    ),
}


def attributes_of(cls: type) -> set[str]:
    """Return the names of a class's attributes: fields, slots, or what its `__init__` sets."""
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    slots: Any = getattr(cls, "__slots__", None)
    if slots is not None:
        return set(slots)
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    init = next(
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return {
        node.attr
        for node in ast.walk(init)
        if isinstance(node, ast.Attribute)
        and (isinstance(node.ctx, ast.Store) or node.attr == "control")
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("cls", ATTRIBUTES, ids=lambda cls: cls.__name__)
def test_each_attribute_is_handed_over_or_need_not_be(cls: type) -> None:
    handed_over, left = (set(names.split()) for names in ATTRIBUTES[cls])
    assert not handed_over & left
    assert attributes_of(cls) == handed_over | left, (
        "an attribute is new, or gone: see that `state_records` and `resume` have it, or that a successor "
        "can do without; then note it here"
    )


def never(*_: object) -> NoReturn:
    raise AssertionError("no region has an object")


def taken_by(hub: Hub, *, is_over: bool = False) -> Registry:
    """Return the registry of a successor of a host whose regions have no objects, and no sessions."""
    successor = World().hub
    successor.registry.accounts.is_adopting = True
    records = describe_regions(hub.registry, lambda number: number)
    makers = Makers(ShmNames("shmhost-none"), never, never, never)
    adopt_regions(successor, records, lambda number: number, makers)
    successor.registry.accounts.is_adopting = False
    if is_over:
        free_left(successor, cast(HostRecord, SimpleNamespace(links=())))
    return successor.registry


def test_region_that_work_under_way_has_kept_is_freed() -> None:
    """Such as an older generation that the fleet announces no more: no session has its lease."""
    hub, peer = World().hub, Peer(5, 5)
    asked = m.Create(2, "a", 100, "full", "memfd", 0o600, True)
    current, older = (hub.registry.create(asked._replace(name=name), peer) for name in "ab")
    for region in (current, older):
        region.size, region.generation = 100, 1
        hub.registry.publish(region)
        hub.registry.lease(region, peer)
    hub.registry.hide(older)
    assert taken_by(hub).regions.keys() == {current.number, older.number}
    assert taken_by(hub, is_over=True).regions.keys() == {current.number}


def in_use(registry: Registry) -> dict[int, dict[str, int]]:
    def of(account: Account) -> dict[str, int]:
        return {share.pool.name: share.used for share in account.shares if share.used}

    return {account.uid: of(account) for account in registry.accounts if of(account)}


def test_arena_that_another_user_bears_is_charged_as_before() -> None:
    hub = World().hub
    registry = hub.registry
    board = open_board(registry.allocator, 16)
    assert board is not None
    registry.board = board
    region = create_arena(registry, m.Arena(2, "a", 8192, 5 * 8192, 0o644, True, True), Peer(1000, 70))
    region.charge.move(registry.accounts.of(1001))
    before = in_use(registry)
    assert set(before) == {1000, 1001}
    assert in_use(taken_by(hub)) == before
    board.close()


def test_successor_that_could_not_be_killed_is_refused() -> None:
    """On Linux before 6.5, in another pid namespace: pid 0 is the host's own process group."""
    link: Any = SimpleNamespace(pidfd=None, peer=Peer(0, 0, 0))
    nothing: Any = None
    said = HandOver(nothing).start(link, nothing, SETTLE)
    assert isinstance(said, tuple)
    assert isinstance(said[1], Unsupported)
