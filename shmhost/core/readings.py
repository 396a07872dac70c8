"""The arenas that one client reads, by its ledger; regions by their numbers. Waits for nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from shmhost.core.hub import Hub
from shmhost.core.leases import Leases
from shmhost.core.ledgers import Ledger
from shmhost.core.names import arena_over
from shmhost.core.peers import Peer
from shmhost.core.regions import READ, Region
from shmhost.core.work import PAUSE, Steps
from shmprotocol.errors import InvalidArgument, RegionNotFound, Unsupported
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS

BROUGHT = ("ledger", "event")  # the descriptors of a new ledger


class Readings:
    """The arenas that one client reads, and its ledger."""

    def __init__(self, hub: Hub, peer: Peer, leases: Leases) -> None:
        self._hub = hub
        self._peer = peer
        self._leases = leases
        self._ledger: Ledger | None = None
        self._others: list[Ledger] = []  # that it has handed back as well
        self._ahead: Ledger | None = None  # made for the request that is under way

    def open_in_parts(
        self, request: m.Open, version: int, open_now: Callable[[m.Open], None]
    ) -> Steps | None:
        """Open what a request names; if that takes a ledger, others go first when that is made, and noted.

        † To make one takes 60 us, and so does the rest (2026-11).
        """
        is_long = self._ledger is None and version >= m.ARENA_VERSION and self._names_arena(request)
        if is_long:
            return self._opening(request, open_now)
        open_now(request)
        return None

    def _names_arena(self, request: m.Open) -> bool:
        registry = self._hub.registry
        current = registry.current
        return bool(registry.arenas) and any(
            current.get(name) in registry.arenas or arena_over(name, current) is not None
            for name in request.open_names
        )

    def _opening(self, request: m.Open, open_now: Callable[[m.Open], None]) -> Steps:
        self._ahead = self._hub.make_ledger(self._peer)
        try:
            yield PAUSE
            self._hub.note_ledger(self._ahead)
            yield PAUSE
            open_now(request)
        finally:
            if self._ahead is not None:
                self._hub.end_ledger(self._ahead)
                self._ahead = None

    def open(self, request: m.Open, regions: Sequence[Region], version: int) -> None:
        """Grant regions, arenas among them, as `Leases.open` does; with the first arena comes the ledger."""
        if version < m.ARENA_VERSION:
            raise Unsupported(_too_old(request, regions))
        for region in regions:
            region.check(self._peer, READ)
        held = self._held(request, regions)
        with self._ledger_for(regions, held) as (ledger, is_new):
            for region in regions:
                if region.arena is not None:
                    region.arena.join(ledger, partial(self._hub.registry.book.join, ledger, region.number))
            more: tuple[int, ...] = ()
            if is_new:
                more = (ledger.object.writer(), ledger.object.event())
            brought = (ledger.number, ledger.object.capacity) if is_new else (0, 0)
            self._leases.open(request._replace(held=held), regions, brought, more)

    def claim(self, request: m.Claim) -> None:
        """Grant a region by its number, as long as anybody keeps it, current or not."""
        region = self._numbered(request.region)
        self._leases.open(m.Open(request.id, (region.name,), (), False), [region])
        if request.kept:
            self._hub.keeping.take(region, self._peer.uid)

    def keep(self, request: m.Keep) -> None:
        """Keep a region for a reference to it."""
        region = self._numbered(request.region)
        region.check(self._peer, READ)
        self._hub.keeping.keep(region, self._peer)
        self._leases.send(m.Done(request.id), (), ())

    def _numbered(self, number: int) -> Region:
        region = self._hub.registry.regions.get(number)
        if region is None or not region.generation or not region.is_visible(self._peer):
            raise RegionNotFound(f"there is no such region, or uid {self._peer.uid} may not read it")
        if region.arena is not None:
            raise InvalidArgument(f"region {region.number} is the arena {region.name!r}: open it by name")
        return region

    def record(self) -> tuple[int, ...]:
        """Return the number of the ledger, 0 for none, and those of the others; for `resume`."""
        own = self._ledger.number if self._ledger is not None else 0
        return own, *(ledger.number for ledger in self._others)

    def resume(self, ledgers: Sequence[int]) -> None:
        """Take the ledgers that the client got from another host, or has handed back to it."""
        own, *others = ledgers
        self._ledger = self._hub.ledgers[own] if own else None
        self._others = [self._hub.ledgers[number] for number in others]
        for ledger in filter(None, (self._ledger, *self._others)):
            ledger.user = self

    def attend(self, request: m.Attend) -> None:
        """Let the client sleep on values of an arena that it has joined."""
        region = self._hub.registry.regions.get(request.region)
        ledger = self._ledger
        if region is None or region.arena is None or ledger not in region.arena.ledgers:
            raise InvalidArgument(f"region {request.region} is not an arena that this connection has opened")
        assert ledger is not None
        region.arena.attend(ledger)

    def closing(self) -> Iterator[None]:
        """Give up the ledger, one arena in each step."""
        if self._ledger is not None:
            yield from self._forgetting(self._ledger)
        while self._others:
            yield from forgetting(self._hub, self._others.pop())

    def check(self, regions: Sequence[Region]) -> None:
        """RegionNotFound: one is an arena that is not open yet, and that this client has not joined."""
        for region in regions:
            arena = region.arena
            if arena is not None and not arena.is_open and self._ledger not in arena.ledgers:
                raise RegionNotFound(
                    f"{region.name!r} is not back: its host was killed, and its owner has not heard of the "
                    "next one; get and open can wait for a name"
                )

    def adopt(self, ledger: Ledger, peer: Peer) -> None:
        """Have a ledger that the client has handed back, as its own if it has no other."""
        if ledger.user is not self:
            if ledger.user is not None:
                ledger.user.pass_on(ledger)
            if self._ledger is None:
                self._ledger = ledger
            else:
                self._others.append(ledger)
        ledger.user, ledger.peer = self, peer

    def pass_on(self, ledger: Ledger) -> None:
        """Have a ledger no more: another connection of the client has it."""
        if self._ledger is ledger:
            self._ledger = None
        else:
            self._others.remove(ledger)
        ledger.user = None

    def take_used(self, *, is_dropped: bool) -> list[Ledger]:
        """Return the ledgers by which the client may use values still; they are the caller's from then on.

        A client that was not dropped has closed the connection by itself, and says so that it holds nothing:
        but not by one that it has only to hand back what it has.
        """
        ledgers = self._others if self._ledger is None else [self._ledger, *self._others]
        used = [
            each
            for each in ledgers
            if each.is_needed() or ((is_dropped or each.outlives) and each.is_in_use())
        ]
        for ledger in used:
            self.pass_on(ledger)
        return used

    def _held(self, request: m.Open, regions: Sequence[Region]) -> tuple[int, ...]:
        """Return what the client has mapped, but for arenas that it has not joined on this connection."""
        if not request.held:
            return ()
        return tuple(
            number if region.arena is None or self._ledger in region.arena.ledgers else 0
            for number, region in zip(request.held, regions, strict=True)
        )

    @contextmanager
    def _ledger_for(self, regions: Sequence[Region], held: Sequence[int]) -> Iterator[tuple[Ledger, bool]]:
        """Yield the ledger, and whether it is new: then it goes with the reply, or not at all."""
        if self._ledger is not None:
            yield self._ledger, False
            return
        current = [region for region, number in zip(regions, held, strict=False) if region.number == number]
        count = len(regions) - len(current) + len(BROUGHT)
        if count > MAX_DESCRIPTORS:
            raise InvalidArgument(
                f"{count} descriptors, with those of the ledger, are over the {MAX_DESCRIPTORS} of a frame: "
                "open the arenas first, with fewer names"
            )
        ledger, self._ahead = self._ahead or self._made(), None
        try:
            yield ledger, True
        except BaseException:
            for _ in self._forgetting(ledger):
                pass
            raise
        self._ledger, ledger.user = ledger, self
        ledger.object.hand_over()

    def _made(self) -> Ledger:
        ledger = self._hub.make_ledger(self._peer)
        self._hub.note_ledger(ledger)
        return ledger

    def _forgetting(self, ledger: Ledger) -> Iterator[None]:
        yield from forgetting(self._hub, ledger)
        self._ledger = None


def forgetting(hub: Hub, ledger: Ledger) -> Iterator[None]:
    """Have the owners of arenas forget a ledger, one in each step."""
    while ledger.arenas:
        next(iter(ledger.arenas)).leave(ledger)
        yield
    hub.end_ledger(ledger)


def _too_old(request: m.Open, regions: Sequence[Region]) -> str:
    name = next(region.name for region in regions if region.arena is not None)
    return (
        f"{name!r} is an arena, which takes version {m.ARENA_VERSION} of the protocol: use the same shmhost "
        "version on both sides"
    )
