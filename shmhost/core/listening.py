"""Names that one client opens, waits for and watches, as they come and change. Knows no socket or clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from shmhost.core import absent
from shmhost.core.hub import Hub
from shmhost.core.interests import Interests, Wait, names_of
from shmhost.core.leases import Leases, Send
from shmhost.core.news import News
from shmhost.core.peers import Peer
from shmhost.core.readings import Readings
from shmhost.core.refusals import Refusals
from shmhost.core.regions import check_unshared
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.errors import (
    Cancelled,
    InvalidArgument,
    QuotaExceeded,
    RegionNotFound,
    RemoteProtocolError,
    ShmError,
)
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS, ChangeKind, check_name, check_part


class Listening:
    """The part of a session that hears of changes; `end` ends the connection, in a moment.

    `leases`, `readings` and `refusals` are the session's, and `send` is as for that.
    """

    __slots__ = ("_hub", "_interests", "_leases", "_readings", "_refusals", "_send", "end", "peer", "version")

    def __init__(
        self, hub: Hub, peer: Peer, leases: Leases, readings: Readings, refusals: Refusals, send: Send
    ) -> None:
        self.peer: Peer = peer
        self.version: int = m.VERSION_MIN  # of the wire
        self.end: Callable[[str], object] = lambda _why: None
        self._hub = hub
        self._leases = leases
        self._readings = readings
        self._refusals = refusals
        self._send = send
        self._interests = Interests(hub.registry.accounts.of(peer.uid).listening)

    @property
    def interests(self) -> Interests:
        """The waits and watches."""
        return self._interests

    def resume(self, waits: Iterable[Wait], watches: Iterable[tuple[int, str]]) -> None:
        """Take waits and watches that another host has admitted."""
        self._interests.resume(waits, watches)
        if self._interests:
            self._hub.listeners.add(self)
        if self._interests.impatient():
            self._hub.be_patient(self.lose_patience)

    def close(self) -> None:
        """Hear of nothing more."""
        self._hub.listeners.discard(self)
        self._interests.clear()

    def open(self, request: m.Open) -> None:
        """Grant what a request names, now or when it is there; the reply is Opened."""
        if not 1 <= len(request.open_names) <= MAX_DESCRIPTORS:
            raise InvalidArgument(
                f"a request opens 1 to {MAX_DESCRIPTORS} names, not {len(request.open_names)}"
            )
        if request.held and len(request.held) != len(request.open_names):
            raise InvalidArgument(f"{len(request.held)} held regions for {len(request.open_names)} names")
        self._interests.check_wait(request.id)
        find = self._hub.registry.find if self.version < m.ARENA_VERSION else self._hub.registry.find_holding
        try:
            regions = [find(name, self.peer) for name in request.open_names]
            self._readings.check(regions)
        except RegionNotFound as error:
            for name in request.open_names:
                check_name(name)
            if not request.wait:
                self._be_patient(request, error)
                return
            self._wait(request)
            self._hub.note_wait(request.open_names)
            return
        if self.version < m.SHARED_VERSION:
            check_unshared(regions)
        if self._hub.registry.arenas.isdisjoint(regions):
            self._leases.open(request, regions)
        else:
            self._readings.open(request, regions, self.version)

    def stat(self, request: m.Stat) -> None:
        """Describe a name, which may have to come back first; the reply is Described."""
        self._interests.check_wait(request.id)
        try:
            absent.describe(self._hub, self.peer, request, self._send)
        except RegionNotFound as error:
            self._be_patient(request, error)

    def _wait(self, request: Wait) -> None:
        self._interests.wait(request)
        self._hub.listeners.add(self)

    def _be_patient(self, request: Wait, error: RegionNotFound) -> None:
        """Wait for names of a killed host, though the client did not ask for it, or raise RegionNotFound."""
        why, is_coming = absent.why_missing(self._hub, self.peer, names_of(request), error)
        try:
            if not is_coming or not self._hub.be_patient(self.lose_patience):
                raise why
            try:
                self._wait(request)
            except QuotaExceeded:  # the client waits for as much as it may already
                raise why from None
        finally:
            del why, error  # an error has this frame as long as it is kept

    def lose_patience(self) -> None:
        """Wait no more for names that the client did not ask to wait for."""
        self._hub.run_ends(self.peer.uid, self._losing_patience())

    def _losing_patience(self) -> Iterator[None]:
        for request in self._interests.impatient():
            if self._interests.has_wait(request):
                self._retry(request)
                yield

    def _retry(self, request: Wait) -> None:
        self._interests.end_wait(request.id)
        try:
            if isinstance(request, m.Stat):
                self.stat(request)
            else:
                self.open(request)
        except RemoteProtocolError:
            raise
        except (ShmError, OSError) as error:
            self._refusals.fail(request.id, error)

    def cancel(self, request: m.Cancel) -> None:
        """End a wait or a watch; a wait is refused as Cancelled."""
        # A target that was answered already is not an error: the two messages crossed.
        self._interests.end_watch(request.target)
        if self._interests.end_wait(request.target):
            gave_up = Cancelled("the client cancelled the wait")
            self._send(m.Refused(request.target, gave_up.code, str(gave_up)), ())  # not counted as one
        if not self._interests:
            self._hub.listeners.discard(self)

    def watch(self, request: m.Watch) -> None:
        """Tell the client of changes from now on; the reply is Done."""
        self._interests.check_watch(request.id)
        check_part("prefix", request.prefix)
        self._interests.watch(request)
        self._hub.listeners.add(self)
        self._send(m.Done(request.id), ())

    def fall_behind(self) -> None:
        """Have the connection ended: changes come faster than its user can be told of them."""
        self.end("it watches more than it can be told of: its user is too far behind the changes")

    def hear(self, news: News) -> Iterator[None] | None:
        """Handle a change: push it to the watches, and retry the waits for the name."""
        change = news.seen_by(self.peer)
        if change is None:
            return None
        kind, info = change
        is_arena = info.kind == KIND_ARENA
        watches = self._interests.watches(info.name, is_arena=is_arena and self.version >= m.ARENA_VERSION)
        waits = self._interests.waits(info.name, is_arena=is_arena) if kind is ChangeKind.PUBLISHED else []
        return self._hearing(kind, info, watches, waits) if watches or waits else None

    def _hearing(
        self, kind: ChangeKind, info: m.RegionInfo, watches: list[int], waits: list[Wait]
    ) -> Iterator[None]:
        for watch in watches:
            # Not cancelled meanwhile.
            if self._interests.has_watch(watch, info.name, is_arena=info.kind == KIND_ARENA):
                self._send(m.Event(watch, kind, info), ())
                yield
        for wait in waits:
            if self._interests.has_wait(wait):
                self._retry(wait)
                yield
