"""A host's pure core under random operations and deaths, with its Work done late, early or never.

`Model` is the world; `check` says what must hold after each step. Nothing here waits, and only the objects'
memory is the kernel's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections import Counter

from core_clients import Client, Control, Held, KeptLedger, Taking, client_end
from core_late import Late
from core_owners import Owners
from shmhost.core.absentees import Absentees
from shmhost.core.accounts import Accounts
from shmhost.core.arenas import Arena
from shmhost.core.expected import Expected
from shmhost.core.generations import Generations, numbers
from shmhost.core.hub import Hub, Owner
from shmhost.core.ledgers import Ledger
from shmhost.core.objects import Memfd
from shmhost.core.owning import settle_arena
from shmhost.core.readings import forgetting
from shmhost.core.records import NoBook
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.resources import CONNECTION_FILES, Totals
from shmhost.core.window import STEP, Allocator
from shmhost.core.work import run_to_end
from shmhost.machine.arena_memory import ArenaMemory
from shmhost.machine.board import make_board
from shmhost.machine.state_file import StateFile
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import QuotaExceeded
from shmprotocol.kernel.board import LINE_SIZE, size_of
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import ARENA_BACK, LEDGER_SIZE, ChangeKind, State

WINDOWS = ((1 << 40, 9 * STEP), (1 << 41, 12 * STEP))  # so few that addresses run out
BUDGET = 3 * LEDGER_SIZE + 200 * 4096
TOTALS = Totals(BUDGET, files=150, leases=60)
LINES = 5
LINE = struct.Struct("<QQ4IQI")  # region, generation, changes, rights, cpu, ledgers, size, waiters


class Model:
    """A host's core, and its clients."""

    def __init__(self, folder: str) -> None:
        self._path = f"{folder}/state"
        self._ceiling = 0  # of generations, which the lock keeps
        self._clock = itertools.count(1)
        self._newest: dict[str, int] = {}  # generation of a name that anybody was told
        self.pids: set[int] = set()  # of clients that live
        self._next_pid = itertools.count(1)
        self.unheard: dict[int, set[int]] = {}  # arenas whose owners look at an earlier board; their ledgers
        self.owners, self.late = Owners(self), Late(self)
        self._start()

    def _start(self) -> None:
        self._file = StateFile(self._path)
        self.registry = Registry(
            Allocator(WINDOWS),
            Accounts(TOTALS, {0}),
            lambda: next(self._clock),
            lambda memory: memory.close(),
            generations=Generations(self._store_ceiling),
        )
        board = make_board(self.registry.allocator, LINES, 1)
        assert board is not None
        self._board = self.registry.board = board
        self._free = sum(window.free() for window in self.registry.allocator.windows)
        self.registry.generations.resume(self._ceiling)
        self.registry.numbers = numbers(self._file.first_number, self._file.store_number)
        self.registry.book = self._file
        self.expected = Expected(self.registry, self._file.forget, self._file.retire)
        self.registry.expect_again = self.expected.expect_again
        self.registry.note = self._note
        self.expected.load(self._file.records)
        forget = self._file.forget
        self.absent = Absentees(self.registry, forget, lambda region: settle_arena(self.hub, region))
        self.absent.load(self._file.ledgers)
        self.hub = Hub(self.registry, "host", lambda _backend, name, capacity: Memfd(name, capacity))
        self.hub.expected, self.hub.absent = self.expected, self.absent
        self.hub.returnables = self._taking = Taking(self.pids)
        self.hub.ledger_numbers = itertools.count((self._file.starts << 32) + 1)
        self.hub.make_arena, self.hub.make_ledger_object = ArenaMemory, KeptLedger
        self.hub.make_control = self._make_control
        self.hub.spare_max, self.hub.reserve_max = 8 * 4096, 16 * 4096
        self.clients: list[Client] = []
        self.controls: dict[Arena, Control] = {}
        self.lingering: list[Ledger] = []  # of clients that were dropped, and live

    def _note(self, kind: ChangeKind | State, region: Region) -> None:
        if kind is ChangeKind.PUBLISHED:
            self.expected.give_way(region)

    def _store_ceiling(self, ceiling: int) -> None:
        self._ceiling = ceiling

    def restart(self, part: int) -> None:
        """Kill the host and start another; clients hand back what they hold, but for one lease in `part`."""
        held = [
            (client.session.peer.uid, client.pid, self._held(client))
            for client in self.clients
            if not client.is_dead
        ]
        self.unheard |= self._joined()
        self._kill()
        self._start()
        for number, (uid, pid, things) in enumerate(held):
            self._connect_again(uid, pid)
            self._hand_back(self.clients[-1], things, part + number)
            for fd in [*[fd for _, fd in things.regions.values()], *things.ledgers.values()]:
                os.close(fd)
            for fd in things.arenas.values():
                os.close(fd)

    def _joined(self) -> dict[int, set[int]]:
        """Return the published arenas whose owners write, and who may hold values of them."""
        arenas = [(region, region.arena) for region in self.registry.arenas if region.generation]
        return {
            region.number: {ledger.number for ledger in arena.ledgers} | arena.awaited
            for region, arena in arenas
            if arena is not None
            and (arena.control is not None or not arena.is_open or self.owners.may_write(region))
        }

    def _held(self, client: Client) -> Held:
        """Return what a client has mapped, with a descriptor of each."""
        held = Held({}, {}, {})
        for number, address in client.leases.values():
            region = self.registry.regions[number]
            if region.object is not None and number not in held.regions:
                held.regions[number] = address, os.dup(region.object.reader())
        readings = client.session._readings
        for ledger in [readings._ledger, *readings._others]:
            if ledger is not None:
                held.ledgers[ledger.number] = os.dup(client_end(ledger))
        for number, ownership in client.session._ownerships._owned.items():
            if ownership._region.generation and ownership._arena.ownership is ownership:
                held.arenas[number] = os.dup(ownership._object.writer())
        return held

    def _hand_back(self, client: Client, held: Held, part: int) -> None:
        """Hand back what a client has, but for a part of it; owners heed that later, see `owners_look`."""
        handle = client.session.handle
        for number, fd in list(held.ledgers.items())[part % 3 == 1 :]:
            handle(m.RestoreLedger(1, number, part % 2 == 0), [fd])
        regions = dict(list(held.regions.items())[:: part or 1])
        fds = [os.dup(fd) for _, fd in regions.values()]
        handle(m.Restore(1, tuple(regions)), fds)
        close_all(fds)
        for number in held.regions.keys() - regions.keys():
            self.late.add(number, *held.regions[number])
        for number, fd in list(held.arenas.items())[part % 5 == 1 :]:
            handle(m.RestoreArena(1, number), [fd])
        for number, (address, _) in regions.items():
            region = self.registry.regions.get(number)
            assert region is None or region.span.address == address, "what is back is where it was"

    def owners_look(self, number: int) -> None:
        """Let one of the owners that have handed arenas back look at the board."""
        back = [region for region in self.registry.arenas if region.arena and not region.arena.is_open]
        if back and (arena := (region := back[number % len(back)]).arena) and arena.ownership is not None:
            self.unheard.pop(region.number, None)
            run_to_end(arena.ownership.handle(ARENA_BACK, 0))

    def look_who_is_gone(self) -> None:
        """Let the host look which processes have ended."""
        self.absent.look(self._taking.is_gone, self.registry.arenas)

    def _kill(self) -> None:
        """End the host as SIGKILL does: nothing is undone, and the kernel closes what it had open."""
        self.registry.book = NoBook()
        for client in self.clients:
            if client.steps is not None:
                client.is_dead = True
                client.steps.close()
        for ledger in self.hub.ledgers.values():
            ledger.object.close()
        self.registry.close()
        self._board.close()
        self._file.close(remove=False)

    def _make_control(self, owner: Owner) -> Control:
        control = Control(owner, self.owners)
        self.controls[owner._arena] = control  # type: ignore[attr-defined]
        return control

    def open_controls(self) -> list[Control]:
        return [control for control in self.controls.values() if control.is_open]

    def is_unpublished(self, number: int) -> bool:
        """Whether a number is that of a spare, or of a region that is being created."""
        region = self.registry.regions.get(number)
        return region is not None and region.state in (State.SPARE, State.CREATING)

    def connect(self, uid: int) -> None:
        self._connect_again(uid, next(self._next_pid))

    def _connect_again(self, uid: int, pid: int) -> None:
        with contextlib.suppress(QuotaExceeded):
            self.clients.append(Client(self, uid, pid))
            self.pids.add(pid)

    def drop(self, client: Client) -> None:
        """Drop a client that lives on, and uses values of arenas still."""
        ledger = client.session._readings._ledger
        if ledger is not None and client.steps is None:
            os.pwrite(client_end(ledger), struct.pack("<Q", 1), 0)
            self.lingering += client.session.take_used_ledgers(is_dropped=True)
        client.lives_on = True
        client.die()

    def forget(self) -> None:
        """End a process whose connection was dropped before."""
        ledger = self.lingering.pop()
        self.pids.discard(ledger.peer.pid)
        run_to_end(forgetting(self.hub, ledger))

    def recall(self) -> None:
        """Take back all spares, as a host that is short of memory does."""
        for spares in list(self.hub.spares):
            for region in spares.take_all():
                self.registry.abort(region)

    def check_generation(self, grant: m.Grant) -> None:
        """A client that is granted a name never gets an older generation than anybody had before."""
        newest = self._newest.get(grant.name, 0)
        assert grant.generation >= newest, (grant, newest)
        self._newest[grant.name] = grant.generation

    def end(self) -> None:
        """Have all clients die, and all names go: nothing may be left."""
        for client in list(self.clients):
            client.die()
            if client.steps is not None:
                client.work()
        while self.lingering:
            self.forget()
        self.expected.clear()
        self.late.give_up()
        self.pids.clear()
        self.look_who_is_gone()
        root = Client(self, 0, next(self._next_pid))
        self.clients.append(root)
        for name in list(self.registry.current):
            root.say(m.Unlink(9, name))
        root.die()
        registry = self.registry
        assert (registry.regions, registry.accounts.in_use(), self.hub.ledgers) == ({}, {}, {})
        assert sum(window.free() for window in registry.allocator.windows) == self._free
        assert [*self.hub.clients, *self.hub.spares, *self.hub.listeners, *+self.hub.reserved] == []
        assert registry.tallies.states() == {}

    def close(self) -> None:
        self.registry.close()
        self._board.close()
        self._file.close(remove=True)

    # --- what holds after each step

    def check(self) -> None:
        self._check_charges()
        self._check_shares()
        self._check_addresses()
        self._check_leases()
        self._check_names()
        self._check_board()
        self._check_arenas()
        self.owners.check()
        self.late.check()

    def _check_charges(self) -> None:
        registry = self.registry
        regions = list(registry.regions.values())
        states = registry.tallies.states()
        assert {state: total[0] for state, total in states.items()} == Counter(r.state for r in regions)
        for state, total in states.items():
            some = [region for region in regions if region.state is state]
            assert total[1:] == (sum(r.capacity for r in some), sum(len(r.leases) for r in some))
        assert self.hub.clients == Counter(client.session.peer.uid for client in self.clients)

    def _check_shares(self) -> None:
        """Each uid has in its account what there is of it; the pools have booked that, or the guarantee."""
        accounts = self.registry.accounts
        # They are charged whatever there is: others may have had room while they were not back.
        has_returned = any(region.is_back for region in self.registry.regions.values())
        sums: Counter[tuple[str, int]] = Counter()
        charges = [ledger.charge for ledger in self.hub.ledgers.values()]
        assert all(charge.size == LEDGER_SIZE + REGION_OVERHEAD for charge in charges)
        for region in self.registry.regions.values():
            assert region.charge.size == region.capacity + REGION_OVERHEAD
            charges.append(region.charge)
            if region.arena is not None:
                for share, count in region.charge.more:
                    name = "arenas" if share is share.account.arenas else "addresses"
                    sums[name, region.owner.uid] += count
        for share in self.registry.lines._shares.values():
            sums["lines", share.account.uid] += 1
        for charge in charges:
            sums["regions", charge.account.uid] += charge.regions
            sums["bytes", charge.account.uid] += charge.size
            sums["files", charge.account.uid] += charge.files
        for client in self.clients:
            uid = client.session.peer.uid
            sums["connections", uid] += client.session._is_counted
            sums["files", uid] += CONNECTION_FILES
            sums["leases", uid] += len(client.session._leases._regions)
            sums["listening", uid] += client.session._interests._count
        for control in self.open_controls():
            sums["leases", control.owner.peer.uid] += 1
        sums.update({("leases", uid): count for uid, count in self.owners.leases().items()})
        lines = {region.line for region in self.registry.regions.values() if region.line}
        assert self.registry.lines._shares.keys() == lines
        names = (
            "connections",
            "bytes",
            "files",
            "regions",
            "arenas",
            "leases",
            "lines",
            "listening",
            "addresses",
            "unread",
            "unread_by_owners",
            "queued",
            "news",
            "stored",
        )
        for index, (name, pool) in enumerate(zip(names, accounts.pools, strict=True)):
            shares = [account.shares[index] for account in accounts]
            for account, share in zip(accounts, shares, strict=True):
                assert share is getattr(account, name)
                assert share.used == sums.pop((name, account.uid), 0), (name, account.uid)
                assert share.booked >= max(share.used, share.guarantee)
            assert pool.booked == sum(share.booked for share in shares)
            assert pool.used <= pool.total or has_returned, pool.name
        assert not +sums

    def _check_addresses(self) -> None:
        spans = [region.span for region in self.registry.regions.values()]
        spans += [record.span for record, _ in self.expected._records.values()]
        address, size = self._board.range
        ordered = sorted([(span.address, span.end) for span in spans] + [(address, address + size)])
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
        free = sum(window.free() for window in self.registry.allocator.windows)
        assert free + sum(span.size for span in spans) == self._free
        for region in self.registry.regions.values():
            extent = region.capacity if region.arena is None else region.arena.span
            assert extent < region.span.size, "there is a guard page"

    def _check_leases(self) -> None:
        """Each lease has a client that lives, and what a client was granted is where it was."""
        held: Counter[int] = Counter()
        for client in self.clients:
            for lease, (number, address) in client.leases.items():
                region = self.registry.regions[number]
                assert region.span.address == address
                assert lease in region.leases
                assert region.object is not None
            for number, region in client.session._leases._regions.items():
                assert number in region.leases
                held[region.number] += 1
            for region in client.session._creations._regions.values():
                assert region.number in self.registry.regions
        for control in self.open_controls():
            held[control.owner.number] += 1
        held.update(self.owners.leased())
        assert +held == Counter(
            {number: len(region.leases) for number, region in self.registry.regions.items() if region.leases}
        )

    def _check_names(self) -> None:
        registry = self.registry
        assert registry.names == sorted(registry.current)
        assert registry.order == sorted(registry.regions)
        for name, region in registry.current.items():
            assert (region.name, region.state) == (name, State.CURRENT)
            assert registry.regions[region.number] is region
        for name, region in registry.creating.items():
            assert (region.name, region.state) == (name, State.CREATING)
            assert registry.regions[region.number] is region
        for region in registry.regions.values():
            assert region.state is not State.FREED
            if region.state in (State.SUPERSEDED, State.UNLINKED):
                assert region.leases

    def _has_ended(self, region: Region) -> bool:
        return region.owner.pid not in self.pids

    def _line(self, line: int) -> tuple[int, ...]:
        offset = HEADER_SIZE + size_of(0) + line * LINE_SIZE
        return LINE.unpack(os.pread(self._board.reader(), LINE.size, offset))

    def _check_board(self) -> None:
        current = {region.line: region for region in self.registry.current.values() if region.line}
        assert len(current) == len([1 for region in self.registry.current.values() if region.line])
        users = Counter(region.line for region in self.registry.regions.values() if region.line)
        assert self._board._lines._users == users
        for line in range(1, LINES + 1):
            number, generation = self._line(line)[:2]
            region = current.get(line)
            assert (number, generation) == ((region.number, region.generation) if region else (0, 0))
            if region is not None:
                assert self._line(line)[3] == region.rights

    def _check_arenas(self) -> None:
        readings = [client.session._readings for client in self.clients]
        sessions = [ledger for each in readings for ledger in [each._ledger, *each._others]]
        ledgers = {ledger.number for ledger in [*sessions, *self.lingering] if ledger is not None}
        assert set(self.hub.ledgers) == ledgers
        for region in self.registry.arenas:
            arena = region.arena
            assert arena is not None
            words = self._line(arena.line)
            assert words[5:8] == (arena.messages, arena.size, len(arena.attending) + len(arena.awaited))
            assert arena.attending <= arena.ledgers
            assert all(arena in ledger.arenas for ledger in arena.ledgers)
            if region.number in self.unheard and not self._has_ended(region):
                # Its owner would use again what others hold.
                joined = {ledger.number for ledger in arena.ledgers} | arena.awaited
                assert not arena.is_open
                assert joined <= self.unheard[region.number]
            control = self.controls.get(arena)
            if control is not None and arena.control is control:
                # The owner knows of each reader, or sees by the board that it does not.
                assert control.sent == arena.messages
                assert control.heard <= {ledger.number for ledger in arena.ledgers}
                numbers = control.heard | set(control._waiting)
                assert numbers == {ledger.number for ledger in arena.ledgers}
                assert arena.awaited <= control.kept
        for ledger in self.hub.ledgers.values():
            assert all(ledger in arena.ledgers for arena in ledger.arenas)
