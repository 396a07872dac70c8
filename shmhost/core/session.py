"""A client's conversation: a message in, replies out through `send`. Knows no socket, clock or thread.

It makes no system calls, but yields each as a Work, which the caller carries out: in a thread
unless it is quick. While a Work is pending the session gets no further message. The creations, leases,
refusals and so on of the client are in the modules of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from shmhost.core import absent, filled_puts, small_puts
from shmhost.core.creations import Creations
from shmhost.core.filled_puts import FilledPuts
from shmhost.core.growing import resize
from shmhost.core.hub import Hub
from shmhost.core.inspecting import Inspection
from shmhost.core.leases import MAX_RELEASED, Leases, Send, SendFrame
from shmhost.core.ledgers import Ledger
from shmhost.core.listening import Listening
from shmhost.core.listing import listing
from shmhost.core.owning import Ownerships
from shmhost.core.peers import Peer
from shmhost.core.readings import Readings
from shmhost.core.refusals import Refusals
from shmhost.core.regions import Region
from shmhost.core.returns import Returns
from shmhost.core.small_puts import SmallPuts, has_room
from shmhost.core.spares import Spares
from shmhost.core.state_records import SessionRecord
from shmhost.core.successors import find_board, hand_over
from shmhost.core.surveying import survey
from shmhost.core.work import Steps
from shmprotocol.errors import RemoteProtocolError, ShmError
from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut
from shmprotocol.wire.names import ChangeKind, check_name, check_part

PUT_SIZE = 11  # of what `parse_put` returns

Answer = tuple[int, str] | tuple[int, str, Steps]


class Session:
    """The state of one connection: its leases, its unpublished regions, its waits and watches.

    `send` takes a message and its descriptors, which the region still owns; it raises OSError
    if they can neither be sent now nor queued. `close` releases everything; it is called once,
    however the connection ended. QuotaExceeded: the client may have no more connections.
    """

    def __init__(self, hub: Hub, peer: Peer, send: Send) -> None:
        self.peer = peer
        self._hub = hub
        self._registry = hub.registry
        self._account = self._registry.accounts.of(peer.uid)
        self._account.connect(peer)
        hub.clients[peer.uid] += 1
        self._send = send
        self._is_counted = True  # among the connections of its user: it does more than to hand regions back
        self._greeted = False
        self._leases = Leases(self._registry, peer, send)
        self._spares = spares = Spares(hub, peer)
        self._creations = Creations(hub, peer, self._leases, spares, send)
        self._filled_puts = FilledPuts(hub, peer, self._creations, self._leases, spares)
        self._small_puts = SmallPuts(hub, peer, self._leases)
        self._readings = Readings(hub, peer, self._leases)
        self._ownerships = Ownerships(hub, peer, send)
        self._refusals = Refusals(hub, peer, send)
        self._listening = Listening(hub, peer, self._leases, self._readings, self._refusals, send)
        self._interests = self._listening.interests
        self._descriptors: list[int] = []  # of the message that is being handled

    @property
    def version(self) -> int:
        """The version of the wire; the lowest as long as the client has not said Hello."""
        return self._listening.version

    @property
    def listening(self) -> int:
        """The number of waits and watches of the client."""
        return len(self._interests)

    def on_end(self, end: Callable[[str], object]) -> None:
        """Have this called with a reason, when the connection is to end, in a moment."""
        self._listening.end = end

    def handle(self, message: m.Message, descriptors: list[int] | None = None) -> Steps | None:
        """Answer a message, now or by the steps returned. RemoteProtocolError: the peer must go.

        Descriptors that came with it stay the caller's, who closes those that are left in the list then.
        """
        self._descriptors = [] if descriptors is None else descriptors
        if not self._greeted:
            self._hello(message)
            return None
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise RemoteProtocolError("Hello arrived twice")
        try:
            if not self._is_counted and type(message) not in m.HANDED_BACK:
                self._account.count()
                self._is_counted = True
            steps = handler(self, message)
        except RemoteProtocolError:
            raise
        except (ShmError, OSError) as error:
            self._refusals.fail(message.id, error)
            return None
        return self._refusals.guarded(message.id, steps) if steps is not None else None

    def answer(self, data: bytes, send_frame: SendFrame) -> Answer | None:
        """Do what `handle` does with the messages in these frames; None, and nothing, if it cannot.

        The result is the number of Releases, and the operation that came behind them, "" for none; and what
        is left of it, if anything.
        """
        request = shortcut.parse_request(data, self._registry.current)
        if request is None or not self._greeted or not self._is_counted:
            return None
        if len(request) == 4:
            return self._attach(request, send_frame)
        rest: Any = request  # mypy does not tell such long tuples apart, and `cast` is a call
        if len(rest) == PUT_SIZE:
            return self._put(rest, data, send_frame)
        return self._assign(rest, send_frame)

    def _attach(
        self, request: tuple[int, list[int], int, list[Region]], send_frame: SendFrame
    ) -> Answer | None:
        releases, leases, number, regions = request
        if len(leases) > MAX_RELEASED or (self._hub.listeners and self._interests.is_waiting(number)):
            return None
        if self._registry.arenas and not self._registry.arenas.isdisjoint(regions):
            return None
        if self._registry.shared and not self._registry.shared.isdisjoint(regions):
            return None
        self._leases.give_back(leases)
        if not regions:
            return releases, ""
        try:
            are_many = len(self._hub.clients) > 1
            left = self._leases.open_packed(number, regions, send_frame, in_parts=are_many)
        except (ShmError, OSError) as error:
            self._refusals.fail(number, error)
            left = None
        return (
            (releases, "open") if left is None else (releases, "open", self._refusals.guarded(number, left))
        )

    def _put(self, parsed: small_puts.Parsed, data: bytes, send_frame: SendFrame) -> Answer | None:
        leases, number = parsed[1], parsed[2]
        if len(leases) > MAX_RELEASED or not has_room(self._account, parsed[10]):
            return None
        self._leases.give_back(leases)
        try:
            if not self._small_puts.put(parsed, data, send_frame):
                put = m.Put._make((*parsed[2:9], b""))
                self._creations.put_packed(put, data, parsed[9:], send_frame)
        except (ShmError, OSError) as error:
            self._refusals.fail(number, error)
        return parsed[0], "put"

    def _assign(self, parsed: filled_puts.Parsed, send_frame: SendFrame) -> Answer | None:
        releases, leases, number, *_ = parsed
        sealer = self._filled_puts.sealer_for(parsed) if len(leases) <= MAX_RELEASED else None
        if sealer is None:
            return None
        self._leases.give_back(leases)
        try:
            left = self._filled_puts.put(parsed, sealer, send_frame)
        except (ShmError, OSError) as error:
            self._refusals.fail(number, error)
            left = None
        return (
            (releases, "assign")
            if left is None
            else (releases, "assign", self._refusals.guarded(number, left))
        )

    def record(self) -> SessionRecord:
        """Return the state, for `resume`; while no Work is under way."""
        peer, (waits, questions, watches) = self.peer, self._interests.record()
        return SessionRecord(
            (peer.uid, peer.gid, peer.pid, tuple(peer.groups)),
            self._greeted,
            self._listening.version,
            self._leases.record(),
            self._creations.record(),
            *self._spares.record(),
            waits,
            questions,
            watches,
            self._readings.record(),
            self._ownerships.record(),
            self._refusals.pending,
        )

    def resume(self, record: SessionRecord) -> None:
        """Be the session of another host, whose regions are in the registry."""
        find = self._registry.regions.__getitem__
        self._greeted, self._listening.version = record.is_greeted, record.version
        self._leases.resume((lease, find(number), since) for lease, number, since in record.leases)
        self._creations.resume(list(map(find, record.creations)))
        self._spares.resume(record.reserved, [(find(number), since) for number, since in record.spares])
        waits, questions = map(m.Open._make, record.waits), map(m.Stat._make, record.questions)
        self._listening.resume([*waits, *questions], record.watches)
        self._readings.resume(record.ledgers)
        self._ownerships.resume(record.owned, record.version)
        self._refusals.pending = record.pending

    def refuse_pending(self) -> None:
        """Refuse the request that was under way at another host, which did not wait for its end."""
        self._refusals.refuse_pending()

    def take_used_ledgers(self, *, is_dropped: bool) -> list[Ledger]:
        """Return the ledgers by which the client may use values of arenas still; the caller has them then."""
        return self._readings.take_used(is_dropped=is_dropped)

    def close(self) -> None:
        """Undo all creations and give back all leases, a little later if they are many."""
        self._hub.clients[self.peer.uid] -= 1
        if not self._hub.clients[self.peer.uid]:
            del self._hub.clients[self.peer.uid]
        self._listening.close()
        self._hub.run_ends(self.peer.uid, self._closing())

    def _closing(self) -> Iterator[None]:
        yield from self._creations.closing()
        yield from self._ownerships.closing()
        yield from self._leases.closing()
        yield from self._readings.closing()
        self._account.disconnect(is_counted=self._is_counted)

    def _hello(self, message: m.Message) -> None:
        if type(message) is not m.Hello:
            raise RemoteProtocolError(f"{type(message).__name__} arrived before Hello")
        version = min(m.VERSION, message.version_max)
        if version < max(m.VERSION_MIN, message.version_min):
            raise RemoteProtocolError(
                f"this host speaks versions {m.VERSION_MIN} to {m.VERSION}, the client "
                f"{message.version_min} to {message.version_max}: use the same shmhost version on both sides"
            )
        self._greeted = True
        self._listening.version = version
        windows = tuple((w.base, w.size) for w in self._registry.allocator.windows)
        board = self._registry.board
        span = board.range if version > 1 else (0, 0)
        welcome = m.Welcome(message.id, version, self._hub.host, windows, self.peer.uid, span)
        self._send(welcome, (board.reader(),) if span[1] else ())

    def _open(self, request: m.Open) -> Steps | None:
        listening = self._listening
        return self._readings.open_in_parts(request, listening.version, listening.open)

    def _list(self, request: m.List) -> Steps:
        check_part("prefix", request.prefix)
        check_part("after", request.after)
        return listing(self._registry, self.peer, request, self._send)

    def _inspect(self, request: m.Inspect) -> Steps:
        check_part("prefix", request.prefix)
        return Inspection(self._registry, self.peer, request, self._send).steps()

    def _measure(self, request: m.Measure) -> None:
        self._send(self._hub.measure(request.id), ())

    def _chmod(self, request: m.Chmod) -> None:
        before, region = self._registry.chmod(check_name(request.name), request.mode, self.peer)
        self._send(m.Done(request.id), ())
        self._hub.tell(ChangeKind.CHANGED, region, before)

    def _hand_back(self, request: m.Restore | m.RestoreLedger | m.RestoreArena) -> None:
        returns = Returns(self._hub, self.peer, self._leases, self._send)
        parts = self._descriptors, self._readings, self._ownerships
        if returns.handle(request, *parts) and self._is_counted:
            self._is_counted = False
            self._account.spare()

    def _attend(self, request: m.Attend) -> None:
        self._readings.attend(request)
        self._send(m.Done(request.id), ())

    def _abort(self, request: m.Abort) -> None:
        self._creations.abort(request)
        self._ownerships.abort(request.region)

    _HANDLERS: ClassVar[dict[type[m.Message], Callable[[Session, Any], Steps | None]]] = {
        m.Create: lambda self, request: self._creations.create(request),
        m.Publish: lambda self, request: self._creations.publish(request),
        m.Put: lambda self, request: self._creations.put(request),
        m.Assign: lambda self, request: self._creations.assign(request),
        m.Reserve: lambda self, request: self._creations.reserve(request),
        m.Abort: _abort,
        m.Open: _open,
        m.Claim: lambda self, request: self._readings.claim(request),
        m.Keep: lambda self, request: self._readings.keep(request),
        m.Resize: lambda self, request: resize(self._hub, self.peer, request, self._send),
        m.Release: lambda self, request: self._leases.release(request.leases),
        m.Cancel: lambda self, request: self._listening.cancel(request),
        m.List: _list,
        m.Stat: lambda self, request: self._listening.stat(request),
        m.Unlink: lambda self, request: absent.unlink(self._hub, self.peer, request, self._send),
        m.Chmod: _chmod,
        m.Watch: lambda self, request: self._listening.watch(request),
        m.Inspect: _inspect,
        m.Measure: _measure,
        m.Arena: lambda self, request: self._ownerships.make(request),
        m.Attend: _attend,
        **dict.fromkeys(m.HANDED_BACK, _hand_back),
        m.Takeover: lambda self, request: hand_over(self._hub, self.peer, request, self._send),
        m.FindBoard: lambda self, request: find_board(self._registry, request, self._send),
        m.Survey: lambda self, request: survey(self._registry, self.peer, request, self._send),
    }
