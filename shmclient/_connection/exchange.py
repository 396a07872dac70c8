"""Requests in flight: which reply is whose, and what becomes of a reply that nobody waits for any more.

Shared by the sync and the async channel; pure, as the connection below it: no socket, thread or clock.
A caller with threads serialises the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shmprotocol.errors import HostGone, RemoteProtocolError, ShmError, again
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection


class Slot:
    """The place for one reply. `descriptors` belong to whoever takes the reply."""

    __slots__ = ("descriptors", "failure", "reply", "request")

    def __init__(self, request: m.Message) -> None:
        self.request = request
        self.reply: m.Message | None = None
        self.descriptors: list[int] = []
        self.failure: ShmError | None = None

    def is_done(self) -> bool:
        """Whether there is a reply, or there never will be one."""
        return self.reply is not None or self.failure is not None


Orphan = tuple[m.Message, list[int]]


class Exchange:
    """The client's side of a connection: slots by request id, events by watch id."""

    def __init__(self) -> None:
        self._connection = Connection("client")
        self._slots: dict[int, Slot] = {}
        self._abandoned: set[int] = set()
        self._events: dict[int, deque[m.Event]] = {}
        self.failure: ShmError | None = None

    def open(self, request: m.Message) -> Slot:
        """Make the slot for the reply of a request that is about to be sent."""
        slot = Slot(request)
        slot.failure = self.failure
        if slot.failure is None:
            self._slots[request.id] = slot
        return slot

    def abandon(self, slot: Slot) -> Orphan | None:
        """Give a slot up. Returns what it holds already; a reply that comes later will be an orphan."""
        if self._slots.pop(slot.request.id, None) is not None:
            self._abandoned.add(slot.request.id)
        elif slot.reply is not None:
            return slot.reply, slot.descriptors
        return None

    def watch(self, request: int) -> deque[m.Event]:
        """Start to keep the events of a watch, and return the queue they will be in."""
        return self._events.setdefault(request, deque())

    def unwatch(self, request: int) -> None:
        """Drop the events of a watch, those to come as well."""
        self._events.pop(request, None)

    def receive(self, data: bytes, descriptors: Sequence[int]) -> list[Orphan]:
        """Take what one read gave, `b""` for the end; fill slots; return the replies that nobody wants.

        An error of the peer fails every slot, those of the future too; it is in `failure`.
        """
        orphans = []
        try:
            if not data:  # in the middle of a frame, too: a host that is killed ends anywhere
                raise HostGone("the host closed the connection: it ended, or dropped this client")
            self._connection.receive(data, descriptors)
            for message, owned in self._connection.messages():
                orphan = self._dispatch(message, owned)
                if orphan is not None:
                    orphans.append(orphan)
        except (HostGone, RemoteProtocolError) as error:
            self.fail(error)
        return orphans

    def fail(self, error: ShmError) -> None:
        """Fail every slot, now and later. The first error stays."""
        if self.failure is None:
            self.failure = again(error)
        for slot in self._slots.values():
            slot.failure = self.failure
        self._slots.clear()

    def drain(self) -> list[int]:
        """Return the descriptors that came with no whole message; they are the caller's to close."""
        return self._connection.drain()

    def _dispatch(self, message: m.Message, descriptors: list[int]) -> Orphan | None:
        if type(message) is m.Goodbye:
            raise RemoteProtocolError(f"the host dropped this client: {message.text}")
        if type(message) is m.Event:
            events = self._events.get(message.id)
            if events is not None:
                events.append(message)
            return None
        slot = self._slots.pop(message.id, None)
        if slot is not None:
            slot.reply, slot.descriptors = message, descriptors
            return None
        if message.id not in self._abandoned:
            name = type(message).__name__
            self.fail(RemoteProtocolError(f"{name} answers no request ({message.id})"))
        self._abandoned.discard(message.id)
        return message, descriptors
