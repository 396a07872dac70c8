"""The state that a host's sessions share. Knows no socket, clock or thread; of a session that it listens."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from shmhost.core.absentees import Absentees
from shmhost.core.accounts import Accounts
from shmhost.core.arenas import Control
from shmhost.core.expected import Expected, Returned
from shmhost.core.keeping import Keeping
from shmhost.core.ledgers import Ledger, LedgerObject
from shmhost.core.meter import Latency, Meter
from shmhost.core.news import News, gone, news_of, replaced
from shmhost.core.objects import ArenaObject, MemoryObject
from shmhost.core.peers import Peer
from shmhost.core.processes import Process
from shmhost.core.records import Record
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.shares import Share
from shmhost.core.stored import Stored
from shmhost.core.work import Steps, run_now
from shmprotocol.errors import QuotaExceeded, ShmError, Unsupported
from shmprotocol.native import builtins
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import LEDGER_SIZE, ChangeKind

FULL_BOARD = "board-full"  # among the refusals: names that got no line
LEDGER_FILES = 2  # descriptors that the host keeps of a ledger
MAX_COUNT = 2**64 - 1  # of a Use: as much as there is
MAX_USES = 512  # of a Measured: of 50 bytes at most each
MAX_ACCOUNTS = 4096  # of a Measured: the limit of an array

# A figure for metrics: its name, what it says, and its value; a Latency, which is a copy, is a histogram.
Gauge = tuple[str, str, float | Latency]
MakeObject = Callable[..., MemoryObject]  # backend, name, bytes, and True if it can grow
MakeArena = Callable[
    [str, int, bool, bytes], ArenaObject
]  # name, bytes, whether they may become more, header


class Owner(Protocol):
    """The receiver of the messages on the control socket of an arena."""

    peer: Peer

    @property
    def number(self) -> int:
        """The number of the arena's region."""

    def handle(self, kind: int, size: int) -> Steps:
        """Do what a message asks for, by the steps returned. RemoteProtocolError: no owner says that."""

    def refuse(self, kind: int) -> None:
        """Answer a message that another host has left: the owner can send it again."""

    def ended(self, *, is_by_owner: bool) -> None:
        """Take note that the conversation has ended, and whether the owner has ended it; called once."""


class NewControl(Control, Protocol):
    """A control socket of which the client has no descriptor yet."""

    def theirs(self) -> int:
        """Return the owner's end, until `hand_over`."""

    def hand_over(self) -> None:
        """Close the owner's end: the owner has it."""


def no_arenas(*_: object) -> NoReturn:
    """Refuse: a host that is not told how to make arenas has none."""
    raise Unsupported("this host has no arenas")


def no_successor(*_: object) -> NoReturn:
    """Refuse: a host that is part of a program ends with it."""
    raise Unsupported("this host is part of a program: only one of `shmhost serve` can be taken over")


class Spares(Protocol):
    """The spares of a client, which the host may take back."""

    def take_all(self, now_ns: int | None = None) -> list[Region]:
        """Take all; with a time, none of a reserve, and none that is younger than IDLE_NS."""

    def keep(self, region: Region) -> None:
        """Take one again that could not be emptied: it is charged as long as the client may have it."""


class Sealers(Protocol):
    """The threads that seal memfds, see `builtins.Sealer`."""

    wait_ns: int  # so long may a sealing keep all others waiting

    def take(self, uid: int) -> builtins.Sealer | None:
        """Return one that has nothing to do; None: a user's sealing takes long already, or there is none."""

    def give(self, sealer: builtins.Sealer) -> None:
        """Give one back that has nothing to do again."""

    def finish(self, sealer: builtins.Sealer) -> tuple[int, int]:
        """Wait for what one does, and give it back; return what came of it. For a thread."""


class Returnables(Protocol):
    """The kernel's part of taking regions back, which `machine.returned` has."""

    def examine(self, descriptor: int) -> Returned | None:
        """Describe an object; None if it is not one of memory. Waits for nobody."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor of an object of which the host has another one: nothing is freed by that."""

    def adopt(self, record: Record, descriptor: int) -> MemoryObject:
        """Return the object of a region; the descriptor stays the caller's. OSError."""

    def adopt_writer(self, memory_object: ArenaObject, descriptor: int) -> bool:
        """Let the host grow an arena by a descriptor, which stays the caller's; False if it cannot write."""

    def adopt_ledger(self, descriptor: int) -> LedgerObject:
        """Return the object of a ledger, with a new event; the descriptor stays the caller's. OSError."""

    def may_be(self, process: Process, pid: int) -> bool:
        """Whether a process that is there may be the one that was: False if it is certainly another one."""

    def is_gone(self, process: Process) -> bool:
        """Whether a process that was there has certainly ended."""


class Listener(Protocol):
    """A session with a wait or a watch."""

    peer: Peer

    def fall_behind(self) -> None:
        """Take note that changes come faster than its user can be told of them: it must go, not at once."""

    def hear(self, news: News) -> Iterator[None] | None:
        """Take news of a change; return the steps that this takes, if they are many."""


@dataclass(slots=True)
class Hub:
    """The shared state of a host's sessions: the registry, and the listeners for its changes."""

    registry: Registry
    host: str
    make_object: MakeObject
    meter: Meter = field(default_factory=lambda: Meter(0))
    warn: Callable[[Peer, ShmError], None] = lambda _peer, _error: (
        None
    )  # called with the errors of the system
    # Starts to take back all spares; returns a call that waits for that, for a thread; None: there are none.
    recall: Callable[[], Callable[[], object] | None] = lambda: None
    note_spares: Callable[[], None] = lambda: None  # called when a client has some: they may become idle
    make_arena: MakeArena = no_arenas
    make_ledger_object: Callable[[], LedgerObject] = no_arenas
    make_control: Callable[[Owner], NewControl] = no_arenas
    expected: Expected | None = None  # regions of a host that was killed
    absent: Absentees | None = None  # its ledgers, and owners of arenas
    returnables: Returnables | None = None  # takes them back; None: no client can hand anything back
    stored: Stored | None = None  # what outlives this host without a client
    check_successor: Callable[[Peer, m.Takeover], None] = no_successor  # ShmError: it may not have all
    note_wait: Callable[[Sequence[str]], object] = bool  # called with names that a client waits for
    # Calls a function when names of a killed host had time to come back; False: that time is over.
    be_patient: Callable[[Callable[[], None]], bool] = lambda _call: False
    fleet_gauges: Callable[[], Sequence[Gauge]] = tuple  # of the fleet, for metrics
    sealers: Sealers | None = None
    spare_max: int = 0  # bytes of spares that a connection may have without asking
    reserve_max: int = 0  # bytes that the connections of a uid may reserve
    reserved: Counter[int] = field(default_factory=Counter)  # by uid
    spares: set[Spares] = field(default_factory=set)  # of the clients that have any
    clients: Counter[int] = field(default_factory=Counter)  # by uid
    ledgers: dict[int, Ledger] = field(default_factory=dict)  # by number
    ledger_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    listeners: set[Listener] = field(default_factory=set)  # those with a wait or a watch
    # Has the clients of a uid hear of a change, after earlier ones; False: they are too far behind.
    run_news: Callable[[int, Iterator[None]], bool] = run_now
    run_ends: Callable[[int, Iterator[None]], object] = run_now
    keeping: Keeping = field(init=False)

    def __post_init__(self) -> None:
        self.keeping = Keeping(self.registry)

    def make_ledger(self, peer: Peer) -> Ledger:
        """Make the ledger of a client, which has it noted before it is used, and ends it; or refuse."""
        charge = self.registry.accounts.of(peer.uid).charge(LEDGER_SIZE + REGION_OVERHEAD, LEDGER_FILES)
        try:
            memory_object = self.make_ledger_object()
        except BaseException:
            charge.release()
            raise
        ledger = Ledger(next(self.ledger_numbers), peer, charge, memory_object)
        self.ledgers[ledger.number] = ledger
        return ledger

    def note_ledger(self, ledger: Ledger) -> None:
        """Note a new ledger for the next host, should this one be killed."""
        self.registry.book.enter_ledger(ledger)

    def end_ledger(self, ledger: Ledger) -> None:
        """Free a ledger that no arena knows any more. May be called again."""
        if self.ledgers.pop(ledger.number, None) is not None:
            self.registry.book.remove_ledger(ledger)
            if self.absent is not None:
                self.absent.end(ledger)
            ledger.charge.release()
            self.registry.dispose(ledger.object)

    def note_full_board(self, region: Region) -> None:
        """Count a region without a line, and warn of the first one."""
        names = self.registry.board.names
        if not names:
            return
        error = QuotaExceeded(
            f"the board has no line for {region.name!r}: all {names} are in use. Clients ask for this name "
            "each time; unlink others, or start the host with a larger --board"
        )
        if not self.meter.refusals[FULL_BOARD]:
            self.warn(region.owner, error)
        self.meter.refusals[FULL_BOARD] += 1

    def replaced(self, older: Region | None, region: Region) -> m.RegionInfo | None:
        """Return what `tell` takes of a region that another is about to replace."""
        return replaced(older, region) if self.listeners else None

    def tell(self, kind: ChangeKind, region: Region, before: m.RegionInfo | None = None) -> None:
        """Notify all waits and watches of a change; `before` is what the region was, or replaced."""
        if self.listeners:
            self._tell((news_of(kind, region, before),))

    def tell_of_gone(self, infos: Iterable[m.RegionInfo]) -> None:
        """Notify all watches of names that are gone: a single change for whoever may fall behind."""
        if self.listeners:
            self._tell(tuple(map(gone, infos)))

    def _tell(self, changes: Sequence[News]) -> None:
        groups = defaultdict(list)
        for listener in self.listeners:
            groups[listener.peer.uid].append(listener)
        for uid, group in groups.items():
            if not self._tell_group(uid, changes, group):
                for listener in group:
                    listener.fall_behind()

    def _tell_group(self, uid: int, changes: Sequence[News], group: list[Listener]) -> bool:
        """Have listeners of a uid hear of changes, soon; False if too many wait until they do."""
        share = self.registry.accounts.of(uid).news
        try:
            share.take(1)
        except QuotaExceeded:
            return False
        if self.run_news(uid, _telling(changes, group, share)):
            return True
        share.give(1)
        return False

    def measure(self, request: int) -> m.Measured:
        """Return the counters, as the reply to a request."""
        meter, budget = self.meter, self.registry.accounts.bytes
        tallies, clients = self.registry.tallies, self.clients
        sizes = tallies.users()
        accounts = [
            m.Account(uid, *sizes.get(uid, (0, 0)), clients[uid]) for uid in sizes.keys() | clients.keys()
        ]
        accounts.sort(key=lambda account: (-account.capacity, account.uid))
        return m.Measured(
            request,
            meter.started_ns,
            meter.restarts,
            budget.total,
            budget.used,
            clients.total(),
            len(self.listeners),
            meter.connections,
            meter.dropped,
            tuple(m.Total(state, *total) for state, total in sorted(tallies.states().items())),
            tuple(accounts[:MAX_ACCOUNTS]),
            tuple(
                m.Timing(name, tally.count, tally.total_ns) for name, tally in sorted(meter.latencies.items())
            ),
            tuple(m.Tally(*tally) for tally in sorted(meter.refusals.items())),
            len(self.registry.arenas),
            len(self.ledgers),
            uses_of(self.registry.accounts),
            *((0, 0) if self.expected is None else (self.expected.named, self.expected.named_bytes)),
        )


def _telling(changes: Sequence[News], listeners: list[Listener], share: Share) -> Iterator[None]:
    try:
        for news in changes:
            for listener in listeners:
                yield from listener.hear(news) or ()
                yield
    finally:
        share.give(1)


def uses_of(accounts: Accounts) -> tuple[m.Use, ...]:
    """Return what users have of each resource, and may have; of those with the most bytes."""
    users = sorted(accounts, key=lambda account: (-account.bytes.used, account.uid))
    uses = (
        m.Use(account.uid, share.pool.name, share.used, min(share.most(), MAX_COUNT))
        for account in users
        for share in account.shares
        if share.used
    )
    return tuple(itertools.islice(uses, MAX_USES))
