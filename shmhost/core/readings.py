"""The arenas that one client reads, and its ledger. Knows no socket, clock or thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from shmhost.core.hub import Hub
from shmhost.core.leases import Leases
from shmhost.core.ledgers import Ledger
from shmhost.core.names import arena_over
from shmhost.core.peers import Peer
from shmhost.core.regions import READ, Region
from shmhost.core.work import PAUSE, Steps
from shmprotocol.errors import InvalidArgument, Unsupported
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
        self._ahead: Ledger | None = None  # made for the request that is under way

    def open_in_parts(
        self, request: m.Open, version: int, open_now: Callable[[m.Open], None]
    ) -> Steps | None:
        """Open what a request names; if that takes a ledger, others go first when that is made.

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
                    region.arena.join(ledger)
            more: tuple[int, ...] = ()
            if is_new:
                more = (ledger.object.writer(), ledger.object.event())
            brought = (ledger.number, ledger.object.capacity) if is_new else (0, 0)
            self._leases.open(request._replace(held=held), regions, brought, more)

    def record(self) -> int:
        """Return the number of the ledger, for `resume`; 0: there is none."""
        return self._ledger.number if self._ledger is not None else 0

    def resume(self, ledger: int) -> None:
        """Take the ledger that the client got from another host."""
        self._ledger = self._hub.ledgers[ledger] if ledger else None

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

    def take_used(self) -> Ledger | None:
        """Return the ledger if the client may use values still; it is the caller's from then on."""
        ledger = self._ledger
        if ledger is None or not ledger.is_in_use():
            return None
        self._ledger = None
        return ledger

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
        ledger, self._ahead = self._ahead or self._hub.make_ledger(self._peer), None
        try:
            yield ledger, True
        except BaseException:
            for _ in self._forgetting(ledger):
                pass
            raise
        self._ledger = ledger
        ledger.object.hand_over()

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
