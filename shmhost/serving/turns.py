"""Turns: the loop serves one user after the other, a slice of time each, however many connections they have.

All that a user's clients ask for goes through the user's Turn: what comes on their sockets, the rest of what
takes long, and news for them. A user who asks without end keeps its own clients waiting, and everybody else
for one slice.

The loop watches the sockets of a user who is alone. Otherwise an epoll of the user's own watches them
(epoll(7), in which the kernel goes round), and the loop watches that: so it takes from it only as much as a
slice has room for. † That costs 1 us in each slice (2026-11). And a user whose slice has just ended lets a
round of the loop go by: who has come meanwhile waits for one slice, and not for two.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from weakref import WeakValueDictionary

from shmhost.core.work import run_to_end
from shmhost.serving.chores import Chores

ALONE_NS = 100_000  # as much as one client's queued requests keep other clients of its user waiting
SHARED_NS = 25_000  # while there are other users: each of those waits so long, or for one request
# Since the end of its slice a user has just had its turn, if nobody else was served in between. Threads of
# the host may have had the CPU since then, so that it is more than a round's few us.
REST_NS = 200_000
FEW = 8  # sockets, which are given back to the loop at once: it takes 5 us for each
BATCH = 16  # sockets in one look: about as many requests as a slice has room for
MAX_NEWS = 1000  # changes that a user's clients have not heard of yet, † 2 KiB each


class Turns:
    """The turns of all users that are connected. Made and used in the loop's thread alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns: WeakValueDictionary[int, Turn] = WeakValueDictionary()
        self._latest = Latest()

    def of(self, uid: int) -> Turn:
        """Return the turn of a user, which lives as long as somebody has it."""
        turn = self._turns.get(uid)
        if turn is None:
            turn = self._turns[uid] = Turn(uid, self._loop, self.are_many, self._latest)
            if self.are_many():
                for other in list(self._turns.values()):
                    other.be_one_of_many()
        return turn

    def tell(self, uid: int, news: Iterator[None]) -> bool:
        """Have the clients of a user hear of a change, after earlier ones; False: they are too far behind."""
        return self.of(uid).tell(news)

    def end(self, uid: int, work: Iterator[None]) -> None:
        """Do what follows from the end of a user's client."""
        self.of(uid).end(work)

    def finish(self) -> None:
        """Do all that waits for its turn but requests."""
        turns = list(self._turns.values())
        for turn in turns:
            turn.finish_ends()
        for turn in turns:  # others may hear of those
            turn.finish_news()

    def are_many(self) -> bool:
        """Whether there are several users."""
        return len(self._turns) > 1


class Latest:
    """Whose slice was the latest one: -1 for nobody's."""

    __slots__ = ("uid",)

    def __init__(self) -> None:
        self.uid: int = -1


class Turn:
    """The sockets and the pending work of one user. The sockets stay their owners'."""

    def __init__(
        self, uid: int, loop: asyncio.AbstractEventLoop, are_many: Callable[[], bool], latest: Latest
    ) -> None:
        self._uid = uid
        self._latest = latest
        self._loop = loop
        self._are_many = are_many  # users
        self._calls: dict[int, Callable[[], None]] = {}  # by the descriptors of sockets
        self._watched: set[int] = set()  # those that are not paused
        self._epoll: select.epoll | None = None  # while there are several, and other users
        self._ready: deque[int] = deque()  # descriptors that the epoll gave, whose time has not come
        self._later: deque[Callable[[], None]] = deque()
        self._is_new_next = False
        self._is_scheduled = self._is_running = False
        self._ends_ns = self._ended_ns = 0
        self._has_rested = self._is_kept = False
        self._news, self._ends = Chores(), Chores()

    def add(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call a function whenever there is something to read. OSError: the kernel cannot watch one more."""
        self._calls[descriptor] = call
        try:
            self.resume(descriptor)
        except BaseException:
            del self._calls[descriptor]
            raise
        if self._epoll is None and self._are_many():
            self.be_one_of_many()

    def be_one_of_many(self) -> None:
        """Take note that there are other users, who are to be served as often as this one."""
        if self._epoll is None and self._calls:
            self._share()

    def remove(self, descriptor: int) -> None:
        """Watch a socket no more; it must be open still."""
        self.pause(descriptor)
        del self._calls[descriptor]
        self._unshare_if_empty()

    def keep(self) -> None:
        """Keep the epoll, though there may be no sockets, until `let_go`."""
        self._is_kept = True

    def let_go(self) -> None:
        """Keep it no longer than there are sockets."""
        self._is_kept = False
        self._unshare_if_empty()

    def pause(self, descriptor: int) -> None:
        """Do not watch a socket until `resume`."""
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            if self._epoll is None:
                self._loop.remove_reader(descriptor)
            else:
                self._epoll.unregister(descriptor)

    def resume(self, descriptor: int) -> None:
        """Watch a socket, unless it is watched already."""
        if descriptor in self._watched:
            return
        if self._epoll is None:
            self._loop.add_reader(descriptor, self._calls[descriptor])
        else:
            self._epoll.register(descriptor, select.EPOLLIN)
        self._watched.add(descriptor)

    def later(self, call: Callable[[], None]) -> None:
        """Call a function when others have had their turn."""
        self._later.append(call)
        self._schedule()

    def first(self, call: Callable[[], None]) -> None:
        """Call a function before all else that waits here, unless a slice has just ended."""
        self._later.appendleft(call)
        self._schedule()

    def tell(self, news: Iterator[None]) -> bool:
        """Have the clients hear of a change; see `Turns.tell`."""
        if len(self._news) >= MAX_NEWS:
            return False
        self._news.add(news, self.later, at_once=not self._are_many())
        return True

    def end(self, work: Iterator[None]) -> None:
        """Do a work of the host's own for this user."""
        self._ends.add(work, self.later, at_once=not self._are_many())

    def do_in_parts(self, work: Iterator[None]) -> None:
        """Do a short work of the host's own now, or later and in parts while there are other users."""
        if self._are_many():
            self.end(work)
        else:
            run_to_end(work)

    def finish_ends(self) -> None:
        """Do all works of the host's own now."""
        self._ends.finish()

    def finish_news(self) -> None:
        """Have the clients hear of all changes now."""
        self._news.finish()

    def ends_ns(self) -> int:
        """Return when the slice is over, by `perf_counter_ns`."""
        return self._ends_ns if self._is_running else perf_counter_ns() + self._slice_ns()

    def _slice_ns(self) -> int:
        return SHARED_NS if self._are_many() else ALONE_NS

    def _share(self) -> None:
        """Have an epoll watch the sockets from now on; if there is none, the loop watches more than one."""
        try:
            epoll = select.epoll()
        except OSError:
            return
        watched = list(self._watched)
        for descriptor in watched:
            self.pause(descriptor)
        self._epoll = epoll
        try:
            self._loop.add_reader(epoll.fileno(), self._look)
            for descriptor in watched:
                self.resume(descriptor)
        except OSError:
            self._unshare()
            for descriptor in watched:
                self.resume(descriptor)

    def _unshare_if_empty(self) -> None:
        if not (self._calls or self._is_kept) and self._epoll is not None:
            self._unshare()

    def _unshare(self) -> None:
        """Have the loop watch the sockets again."""
        assert self._epoll is not None
        watched = list(self._watched)
        for descriptor in watched:
            self.pause(descriptor)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._epoll = None
        for descriptor in watched:
            self.resume(descriptor)

    def _look(self) -> None:
        if self._is_scheduled or self._rests():
            return
        self._run()
        if self._epoll is not None and len(self._calls) <= FEW and not self._are_many():
            self._unshare()

    def _go_on(self) -> None:
        if self._rests():
            self._loop.call_soon(self._go_on)
        else:
            self._is_scheduled = False
            self._run()

    def _rests(self) -> bool:
        """Whether this round of the loop is for others: those who came during the slice before it."""
        self._has_rested = (
            not self._has_rested
            and self._latest.uid == self._uid
            and self._are_many()
            and perf_counter_ns() - self._ended_ns < REST_NS
        )
        return self._has_rested

    def _run(self) -> None:
        self._ends_ns = perf_counter_ns() + self._slice_ns()
        if self._epoll is not None and not self._ready:
            self._ready.extend([descriptor for descriptor, _ in self._epoll.poll(0, BATCH)])
        self._is_running = True
        try:
            self._call_until(self._ends_ns)
        finally:
            self._is_running = False
            self._latest.uid = self._uid
            self._ended_ns = perf_counter_ns()
            if self._later or (self._ready and self._epoll is None):
                self._schedule()  # what else is ready makes the epoll readable still

    def _call_until(self, ends_ns: int) -> None:
        """Call what is next until the time is over; what was begun and what comes anew in turn."""
        ready, later = self._ready, self._later
        is_new_next = self._is_new_next
        while ready or later:
            is_new_next = not is_new_next
            if later and not (is_new_next and ready):
                call = later.popleft()
            else:
                descriptor = ready.popleft()
                if descriptor not in self._watched:  # it was closed, or paused, meanwhile
                    continue
                call = self._calls[descriptor]
            self._is_new_next = is_new_next
            call()
            if perf_counter_ns() > ends_ns:
                break

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_running:
            self._is_scheduled = True
            self._loop.call_soon(self._go_on)
