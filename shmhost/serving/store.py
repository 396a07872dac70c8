"""Tells a service manager what to keep for the next host, whenever there is nothing better to do.

A change is told at once when there was none before, else some time after the last one. So a name that is
replaced in a loop costs as much as one that is replaced 50 times a second, and a value that was put and let
go is lost by a kill within that time, unless its client still has it: clients hand back what they have.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
from collections.abc import Sequence
from time import perf_counter_ns

import anyio

from shmhost.core.from_store import Entry, restore
from shmhost.core.hub import Hub
from shmhost.core.objects import Freeable, MemoryObject, PosixShm
from shmhost.core.records import NoBook
from shmhost.core.stored import MAX_STORED, Change, Stored
from shmhost.serving.closing import Closer
from shmhost.serving.notify import Notifier

LOG = logging.getLogger("shmhost")

PAUSE_S = 0.02  # after the last change, and while the manager takes nothing
SLICE_NS, BETWEEN_S = 20_000, 0.001  # for the changes of one turn of the loop, some three; and between them
# † systemd 252 compares what it is given with each entry that it has: 30 us and 1 us for each (2026-11). All
# services of the machine wait for that, so it shall be a fifth of its time at most; but a second in one go,
# after a while with less to do, is quicker for 1,024 new names.
CHANGE_S, ENTRY_S, PARTS, BURST_S = 30e-6, 1e-6, 5, 5.0
END_S = 10.0  # for the manager to take the rest, when the host ends


class Store:
    """The store of a service manager; without one, `room` is 0 and nothing happens. For the loop's thread.

    `entries` are what it kept for this host, which owns their descriptors.
    """

    def __init__(self, notifier: Notifier, room: int, entries: Sequence[Entry] = ()) -> None:
        self._notifier = notifier
        self._room = room if notifier.is_heard else 0
        self._entries = entries
        self._stored: Stored | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # while it may send
        self._timer: asyncio.Handle | None = None
        self._predecessor: socket.socket | None = None
        self._barriers: dict[int, list[MemoryObject]] = {}  # by the end of a pipe that the manager closes
        self._next = 0.0  # not before that, the manager is told of more
        self._paid = 0.0  # until then, it has had its time for all that it was told
        self._told = 0  # changes
        self._is_full = False  # and that was logged

    @property
    def keeps(self) -> bool:
        """Whether names outlive this host, even if it ends cleanly."""
        return self._stored is not None and self._stored.room > 0

    def open(self, hub: Hub, closer: Closer) -> None:
        """Bring back what was kept. The hub expects it, and has its board."""
        stored = self._open(hub, self._room)
        if self._entries:
            count = restore(hub, stored, self._entries)
            LOG.info("%d of %d descriptors of the service manager are regions", count, len(self._entries))
            closer.foreign.close([descriptor for _, descriptor in self._entries], os.geteuid())
            self._entries = ()

    def record(self) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        """Return what a successor must know, for `resume`."""
        assert self._stored is not None
        return self._stored.record()

    def resume(self, hub: Hub, room: int, numbers: Sequence[int], strays: Sequence[str]) -> None:
        """Go on as another host of the same service did, when its regions are here."""
        stored = self._open(hub, self._room or (room if self._notifier.is_heard else 0))
        stored.resume(numbers, strays)

    def _open(self, hub: Hub, room: int) -> Stored:
        self._stored = Stored(hub.registry)
        self._stored.open(room)
        hub.stored = self._stored if room else None
        return self._stored

    def takes(self, memory_object: Freeable) -> bool:
        """Whether an object that nobody needs any more is freed later, when the manager has closed it."""
        return self._stored is not None and self._loop is not None and self._stored.lent.takes(memory_object)

    def begin(self, predecessor: socket.socket | None) -> None:
        """Tell the manager of changes from now on, as long as the notifier is open.

        `predecessor`: another host, which has said that it goes; it is closed. Until it is gone, the manager
        may still listen to that one alone (NotifyAccess=main).
        """
        self._loop = asyncio.get_running_loop()
        if predecessor is None:
            self._start()
        else:
            self._predecessor = predecessor
            self._loop.add_reader(predecessor, self._hear_end)

    def keep(self) -> None:
        """Leave all names to a next host: it does not forget them when it ends."""
        if self.keeps:
            assert self._stored is not None
            self._stored.registry.book = NoBook()
            for region in self._stored.registry.regions.values():
                if region.generation and isinstance(region.object, PosixShm):
                    region.object.stay()

    async def finish(self) -> None:
        """Tell the rest, as far as the manager takes it, and no more after that."""
        self._end_predecessor()
        if self._timer is not None:
            self._timer.cancel()
        if self._stored is None or self._loop is None:
            return
        self._stored.wake = _do_nothing
        with anyio.move_on_after(END_S if self.keeps else 0, shield=True) as scope:
            while self._stored.has_more and self._notifier.is_heard:  # no event tells
                self._stored.begin()
                self._tell(math.inf)
                await anyio.sleep(BETWEEN_S if self._stored.has_more else 0)
        self._end_barriers()
        if self.keeps and (scope.cancelled_caught or not self._notifier.is_heard):
            LOG.warning("the service manager has not taken all that the next host would need")

    def _hear_end(self) -> None:
        """The other host says nothing more: what can be read is its end."""
        self._end_predecessor()
        self._start()

    def _end_predecessor(self) -> None:
        if self._predecessor is not None:
            assert self._loop is not None
            self._loop.remove_reader(self._predecessor)
            self._predecessor.close()
            self._predecessor = None

    def _start(self) -> None:
        assert self._stored is not None
        self._stored.wake = self._wake
        self._wake()

    def _wake(self) -> None:
        assert self._loop is not None
        if self._timer is None:
            self._timer = self._loop.call_later(max(0.0, self._next - self._loop.time()), self._work)

    def _work(self) -> None:
        assert self._stored is not None
        assert self._loop is not None
        self._timer = None
        ends_ns, before = perf_counter_ns() + SLICE_NS, self._told
        self._stored.begin()
        is_slice_over = self._tell(ends_ns)
        cost_s = (self._told - before) * (CHANGE_S + len(self._stored) * ENTRY_S) * PARTS
        now = self._loop.time()
        self._paid = max(self._paid, now) + cost_s
        self._next = max(now + (BETWEEN_S if is_slice_over else PAUSE_S), self._paid - BURST_S)
        if self._stored.has_more:
            self._wake()
        if recalled := self._stored.lent.recalled():
            self._free_later(recalled)
        self._log_full()

    def _free_later(self, objects: list[MemoryObject]) -> None:
        """Free objects when the manager has done what it was told: at the end of a pipe."""
        assert self._loop is not None
        try:
            reader, writer = os.pipe()
        except OSError:  # no descriptor is left
            self._free(objects)
            return
        if self._notifier.barrier(writer):
            self._barriers[reader] = objects
            self._loop.add_reader(reader, self._pass_barrier, reader)
        else:
            os.close(reader)
            self._free(objects)
        os.close(writer)

    def _pass_barrier(self, reader: int) -> None:
        assert self._loop is not None
        self._loop.remove_reader(reader)
        os.close(reader)
        self._free(self._barriers.pop(reader))

    def _free(self, objects: list[MemoryObject]) -> None:
        assert self._stored is not None
        for memory_object in self._stored.lent.end(objects):
            self._stored.registry.dispose(memory_object)

    def _end_barriers(self) -> None:
        assert self._stored is not None
        for reader in list(self._barriers):
            self._pass_barrier(reader)
        for memory_object in self._stored.lent.end_all():
            self._stored.registry.dispose(memory_object)

    def _tell(self, ends_ns: float) -> bool:
        """Tell the manager of the changes of this round; return whether there was no time for all of them."""
        assert self._stored is not None
        while (change := self._stored.next()) is not None:
            if perf_counter_ns() > ends_ns:
                return True
            if not self._send(change):
                return False
            self._stored.done(change)
            self._told += 1
        return False

    def _send(self, change: Change) -> bool:
        if change.region is None:
            return self._notifier.remove(change.entry)
        assert change.region.object is not None
        return self._notifier.store(change.entry, change.region.object.reader())

    def _log_full(self) -> None:
        assert self._stored is not None
        if self._stored.left_out and self._stored.room and not self._is_full:
            self._is_full = True
            LOG.warning(
                "the service manager keeps %d regions, and has no place for %d: a restart loses the names of "
                "those that nobody holds. Raise FileDescriptorStoreMax= (to %d at most), or unlink some",
                len(self._stored),
                self._stored.left_out,
                MAX_STORED,
            )


def _do_nothing() -> None:
    pass
