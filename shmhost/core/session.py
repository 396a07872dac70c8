"""A client's conversation: a message in, replies out through `send`. Knows no socket, clock or thread.

It makes no system calls, but yields each as a Work, which the caller carries out: in a thread
unless it is quick. While a Work is pending the session gets no further message.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shmhost.core.headers import header_of
from shmhost.core.hub import Hub
from shmhost.core.objects import refusal_of
from shmhost.core.peers import Peer
from shmhost.core.regions import READ, Region
from shmprotocol.errors import (
    Cancelled,
    InvalidArgument,
    OutOfMemory,
    QuotaExceeded,
    RegionBusy,
    RegionNotFound,
    RemoteProtocolError,
    ShmError,
    Unsupported,
)
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS, Backend, ChangeKind, State, check_name, check_part

# Watches, and names that are waited for, of one connection: far more than threads that could wait, and some
# 500 KB at most, with names of 255 bytes.
MAX_LISTENING = 1024
# Of one connection; † 0.4 KiB each (2026-11). A process has 65,530 mappings unless it raised that limit.
MAX_LEASES = 65_536
MAX_HOLDERS = 4096  # leases in an Inspected: of 50 bytes at most each, beside 500 regions
MAX_PAGE = 500  # regions in a Listed: each has at most 255 bytes of name, so a frame holds them


@dataclass(frozen=True, slots=True)
class Work:
    """A call whose result is sent into the generator.

    `is_quick`: no client can make it wait. `is_retry`: an earlier attempt failed, so first attempts go ahead.
    """

    call: Callable[[], Any]
    is_quick: bool
    is_retry: bool = False


Send = Callable[[m.Message, Sequence[int]], None]
Steps = Generator[Work, Any, None]


class Session:
    """The state of one connection: its leases, its unpublished regions, its waits and watches.

    `send` takes a message and its descriptors, which the region still owns; it raises OSError
    if they can neither be sent now nor queued. `close` releases everything; it is called once,
    however the connection ended.
    """

    def __init__(self, hub: Hub, peer: Peer, send: Send) -> None:
        self.peer = peer
        self.client = ""
        self._hub = hub
        hub.clients[peer.uid] += 1
        self._registry = hub.registry
        self._send = send
        self._greeted = False
        self._leases: dict[int, Region] = {}
        self._creations: dict[int, Region] = {}
        self._waits: dict[int, m.Open] = {}
        self._watches: dict[int, str] = {}
        self._listening = 0  # names that are waited for, and watches: what MAX_LISTENING limits

    def handle(self, message: m.Message) -> Steps | None:
        """Answer a message, now or by the steps returned. RemoteProtocolError: the peer must go."""
        if not self._greeted:
            self._hello(message)
            return None
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise RemoteProtocolError("Hello arrived twice")
        try:
            steps = handler(self, message)
        except (ShmError, OSError) as error:
            self._fail(message.id, error)
            return None
        return self._guarded(message.id, steps) if steps is not None else None

    def close(self) -> None:
        """Give back all leases and undo all creations."""
        self._hub.clients[self.peer.uid] -= 1
        if not self._hub.clients[self.peer.uid]:
            del self._hub.clients[self.peer.uid]
        self._hub.listeners.discard(self)
        self._waits.clear()
        self._watches.clear()
        self._listening = 0
        while self._creations:
            self._registry.abort(self._creations.popitem()[1])
        while self._leases:
            lease, region = self._leases.popitem()
            self._registry.release(region, lease)

    def hear(self, kind: ChangeKind, region: Region) -> None:
        """Handle a change: push it to the watches, and retry the waits for the name."""
        for watch, prefix in self._watches.items():
            if region.name.startswith(prefix):
                self._send(m.Event(watch, kind, region.info()), ())
        if kind is ChangeKind.PUBLISHED and self._waits:
            for wait in [w for w in self._waits.values() if region.name in w.open_names]:
                self._retry(wait)

    def _guarded(self, request: int, steps: Steps) -> Steps:
        try:
            yield from steps
        except (ShmError, OSError) as error:
            self._fail(request, error)

    def _fail(self, request: int, error: ShmError | OSError) -> None:
        self._refuse(request, error if isinstance(error, ShmError) else refusal_of(error, "answer"))

    def _refuse(self, request: int, error: ShmError) -> None:
        if isinstance(error, RemoteProtocolError):
            raise error
        self._hub.meter.refusals[error.code] += 1
        if isinstance(error, OutOfMemory | Unsupported):
            self._hub.warn(self.peer, error)
        self._send(m.Refused(request, error.code, str(error)), ())

    def _hello(self, message: m.Message) -> None:
        if type(message) is not m.Hello:
            raise RemoteProtocolError(f"{type(message).__name__} arrived before Hello")
        if not message.version_min <= m.VERSION <= message.version_max:
            raise RemoteProtocolError(
                f"this host speaks version {m.VERSION}, the client {message.version_min} to "
                f"{message.version_max}: use the same shmhost version on both sides"
            )
        self._greeted = True
        self.client = message.client[:80]
        windows = tuple((w.base, w.size) for w in self._registry.allocator.windows)
        self._send(m.Welcome(message.id, m.VERSION, self._hub.host, windows, self.peer.uid), ())

    def _create(self, request: m.Create) -> Steps:
        region = self._registry.create(request, self.peer)
        self._creations[region.number] = region
        # Nobody else has a new memfd, and its pages come when they are touched. The space of shm is reserved
        # now, in a folder that others can make wait.
        is_quick = region.backend is Backend.MEMFD
        try:
            region.object = yield Work(
                lambda: self._hub.make_object(region.backend, region.name, region.capacity), is_quick
            )
            _check_pending(region)
            reply = m.Created(request.id, region.number, region.span.address, region.capacity)
            self._send(reply, (region.object.writer(),))
        except BaseException:
            del self._creations[region.number]
            self._registry.abort(region)
            raise

    def _publish(self, request: m.Publish) -> Steps:
        region = self._creation(request.region)
        registry = self._registry
        header = header_of(region, request, registry.next_generation(region), registry.clock())
        memory_object = region.object
        assert memory_object is not None
        # The creator can make this wait, whatever the size: see `workers`.
        region.is_busy = True
        try:
            yield Work(
                lambda: memory_object.publish(header.pack(), region.seal),
                is_quick=False,
                is_retry=region.was_busy,
            )
        except RegionBusy:
            region.was_busy = True
            raise
        finally:
            region.is_busy = False
        _check_pending(region)
        region.size = header.data_size
        region.generation, region.created_ns = header.generation, header.created_ns
        # The reply goes first: without it the creator would treat a visible region as unpublished.
        try:
            grant = region.grant(self._lease(region))
            self._send_leases(m.Published(request.id, grant), (grant,), (memory_object.reader(),))
        except OSError:
            region.generation = 0
            registry.abandon(region)
            raise
        del self._creations[region.number]
        registry.publish(region)
        self._hub.tell(ChangeKind.PUBLISHED, region)

    def _abort(self, request: m.Abort) -> None:
        region = self._creations.get(request.region)
        if region is None:  # it was published meanwhile: the two messages crossed
            return
        if request.mapped:
            self._registry.abandon(region)
        else:
            del self._creations[region.number]
            self._registry.abort(region)

    def _open(self, request: m.Open) -> None:
        if not 1 <= len(request.open_names) <= MAX_DESCRIPTORS:
            raise InvalidArgument(
                f"a request opens 1 to {MAX_DESCRIPTORS} names, not {len(request.open_names)}"
            )
        if request.held and len(request.held) != len(request.open_names):
            raise InvalidArgument(f"{len(request.held)} held regions for {len(request.open_names)} names")
        if request.id in self._waits:
            raise RemoteProtocolError(f"request id {request.id} is in use by a wait")
        try:
            regions = [self._registry.find(name) for name in request.open_names]
        except RegionNotFound:
            for name in request.open_names:
                check_name(name)
            if not request.wait:
                raise
            self._listen(len(request.open_names))
            self._waits[request.id] = request
            return
        for region in regions:
            region.check(self.peer, READ)
        if len(self._leases) + len(regions) > MAX_LEASES:
            raise QuotaExceeded(
                f"one connection has at most {MAX_LEASES} leases, and this one has {len(self._leases)}: "
                "close regions that are not needed"
            )
        self._grant(request, regions)

    def _grant(self, request: m.Open, regions: list[Region]) -> None:
        grants, descriptors = [], []
        held = request.held or (0,) * len(regions)
        for region, has in zip(regions, held, strict=True):
            if region.number == has:
                grants.append(region.grant(0))
                continue
            assert region.object is not None
            grants.append(region.grant(self._lease(region)))
            descriptors.append(region.object.reader())
        self._send_leases(m.Opened(request.id, tuple(grants)), grants, descriptors)

    def _send_leases(self, reply: m.Message, grants: Sequence[m.Grant], descriptors: Sequence[int]) -> None:
        """Send a reply with the leases that it gives, or take them back and raise OSError."""
        try:
            self._send(reply, descriptors)
        except OSError:
            self._give_back([grant.lease for grant in grants if grant.lease])
            raise

    def _retry(self, request: m.Open) -> None:
        self._end_wait(request.id)
        try:
            self._open(request)
        except (ShmError, OSError) as error:
            self._fail(request.id, error)

    def _release(self, request: m.Release) -> None:
        self._give_back(request.leases)

    def _give_back(self, leases: Sequence[int]) -> None:
        for lease in leases:
            region = self._leases.pop(lease, None)
            if region is None:
                raise RemoteProtocolError(f"lease {lease} is not held by this connection")
            self._registry.release(region, lease)

    def _end_wait(self, request: int) -> bool:
        """Remove a wait; False if there is none with this number."""
        wait = self._waits.pop(request, None)
        if wait is not None:
            self._listening -= len(wait.open_names)
        return wait is not None

    def _cancel(self, request: m.Cancel) -> None:
        # A target that was answered already is not an error: the two messages crossed.
        if self._watches.pop(request.target, None) is not None:
            self._listening -= 1
        if self._end_wait(request.target):
            gave_up = Cancelled("the client cancelled the wait")
            self._send(m.Refused(request.target, gave_up.code, str(gave_up)), ())  # not counted as one
        if not self._waits and not self._watches:
            self._hub.listeners.discard(self)

    def _list(self, request: m.List) -> None:
        check_part("prefix", request.prefix)
        check_part("after", request.after)
        regions, more = self._registry.page(request.prefix, request.after, MAX_PAGE)
        self._send(m.Listed(request.id, tuple(r.info() for r in regions), more), ())

    def _inspect(self, request: m.Inspect) -> None:
        check_part("prefix", request.prefix)
        regions, more = self._registry.inspect(request.prefix, request.after, self.peer, MAX_HOLDERS)
        self._send(m.Inspected(request.id, regions, more), ())

    def _measure(self, request: m.Measure) -> None:
        self._send(self._hub.measure(request.id), ())

    def _stat(self, request: m.Stat) -> None:
        self._send(m.Described(request.id, self._registry.find(check_name(request.name)).info()), ())

    def _unlink(self, request: m.Unlink) -> None:
        name = check_name(request.name)
        if name not in self._registry.current and self._registry.end_creation(name, self.peer):
            self._send(m.Done(request.id), ())
            return
        region = self._registry.unlink(name, self.peer)
        self._send(m.Done(request.id), ())
        self._hub.tell(ChangeKind.UNLINKED, region)

    def _chmod(self, request: m.Chmod) -> None:
        region = self._registry.chmod(check_name(request.name), request.mode, self.peer)
        self._send(m.Done(request.id), ())
        self._hub.tell(ChangeKind.CHANGED, region)

    def _watch(self, request: m.Watch) -> None:
        if request.id in self._watches:
            raise RemoteProtocolError(f"request id {request.id} is in use by a watch")
        check_part("prefix", request.prefix)
        self._listen(1)
        self._watches[request.id] = request.prefix
        self._send(m.Done(request.id), ())

    def _listen(self, count: int) -> None:
        if self._listening + count > MAX_LISTENING:
            raise QuotaExceeded(
                f"one connection has at most {MAX_LISTENING} watches and names that it waits for, and this "
                f"one has {self._listening}: cancel some"
            )
        self._listening += count
        self._hub.listeners.add(self)

    def _lease(self, region: Region) -> int:
        lease = self._registry.lease(region, self.peer)
        self._leases[lease.number] = region
        return lease.number

    def _creation(self, number: int) -> Region:
        region = self._creations.get(number)
        if region is None:
            raise InvalidArgument(f"region {number} is not being created by this connection")
        _check_pending(region)
        return region

    _HANDLERS: ClassVar[dict[type[m.Message], Callable[[Session, Any], Steps | None]]] = {
        m.Create: _create,
        m.Publish: _publish,
        m.Abort: _abort,
        m.Open: _open,
        m.Release: _release,
        m.Cancel: _cancel,
        m.List: _list,
        m.Stat: _stat,
        m.Unlink: _unlink,
        m.Chmod: _chmod,
        m.Watch: _watch,
        m.Inspect: _inspect,
        m.Measure: _measure,
    }


def _check_pending(region: Region) -> None:
    if region.state is State.ABORTED:
        raise RegionNotFound(
            f"the creation of {region.name!r} was ended by an unlink of its name (`shmhost rm`) or an "
            "abort: create it again"
        )
