"""Descriptors in flight: sent to clients, and not known to be read. Sends nothing.

The kernel counts descriptors in flight against the user that sent them, which is the host for all its
clients, and refuses more with ETOOMANYREFS when there are more than RLIMIT_NOFILE (unix(7)). So each
connection and each uid has a limit here. A closed connection still counts: its descriptors stay in the
queue of the peer until the peer reads them or closes its socket.

The kernel is asked for the unread bytes (SIOCOUTQ, † 1.1 us) only near a limit. Until then everything that
was sent counts as unread; an empty queue clears the count.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from weakref import WeakValueDictionary

from shmhost.core.accounts import Accounts
from shmhost.core.shares import Share as Counter
from shmhost.serving.backlog import Backlogs
from shmprotocol.wire.names import MAX_DESCRIPTORS

MAX_PER_CONNECTION = 2 * MAX_DESCRIPTORS  # the largest reply, and one more while that is read
LINGER_S = 0.5  # between looks at a socket that is closed but for what its peer has not read
SKIPPED = 16  # sends between looks that find little
MAX_LOOKS = 32  # at the kernel's queues in one turn of the loop: 35 us


class Flight:
    """All unread descriptors of a host: a share for each uid, and sockets whose close is pending."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._is_closed = False
        self._shares: WeakValueDictionary[int, Share] = WeakValueDictionary()
        self._owners: WeakValueDictionary[int, Share] = WeakValueDictionary()
        self._last: Share | None = None
        self._lingering: deque[tuple[Unread, Callable[[], None]]] = deque()

    def share(self, uid: int) -> Share:
        """Return the share of a uid, which all its connections use."""
        return self._of(uid, self._shares, self._accounts.of(uid).unread)

    def owners_share(self, uid: int) -> Share:
        """Return the share of the arenas that a uid owns: their owners may read late."""
        return self._of(uid, self._owners, self._accounts.of(uid).unread_by_owners)

    def _of(self, uid: int, shares: WeakValueDictionary[int, Share], counter: Counter) -> Share:
        share, account = shares.get(uid), self._accounts.of(uid)
        if share is None:
            share = shares[uid] = Share(self, counter, Backlogs(account.queued, account.files))
        share.counter = counter  # another, if the account was closed and opened again
        share.backlogs.counter, share.backlogs.files = account.queued, account.files  # likewise
        self._last = share  # a uid that connects again and again keeps its own
        return share

    def press(self) -> None:
        """Look at connections that may have unread descriptors, some of each uid; clear what is read."""
        for share in [*self._shares.values(), *self._owners.values()]:
            share.press()

    def linger(self, unread: Unread, close: Callable[[], None]) -> None:
        """Call `close` when everything is read, or at the end of the host."""
        if self._is_closed:
            unread.give_up()
            close()
            return
        self._lingering.append((unread, close))
        if len(self._lingering) == 1:
            asyncio.get_running_loop().call_later(LINGER_S, self._look)

    def close(self) -> None:
        """Close the sockets that linger."""
        self._is_closed = True
        while self._lingering:
            self.linger(*self._lingering.popleft())

    def _look(self) -> None:
        for _ in range(min(MAX_LOOKS, len(self._lingering))):
            unread, close = self._lingering.popleft()
            if unread.settle():
                close()
            else:
                self._lingering.append((unread, close))
        if self._lingering:  # at each of them once in LINGER_S
            rate = min(1.0, MAX_LOOKS / len(self._lingering))
            asyncio.get_running_loop().call_later(LINGER_S * rate, self._look)


class Share:
    """The unread data of the connections of one uid: descriptors in the kernel, bytes in the host.

    `counter` is the account's share that the descriptors are taken from.
    """

    def __init__(self, flight: Flight, counter: Counter, backlogs: Backlogs) -> None:
        self.flight = flight
        self.counter = counter
        self.backlogs = backlogs
        self._skipped = 0
        self.debtors: dict[Unread, None] = {}  # the one that was looked at last is the last one

    def press(self) -> None:
        """Look at some debtors: clear those that have read all, and notify the others."""
        for debtor in self._look(MAX_LOOKS):
            debtor.on_pressure()

    def relieve_now_and_then(self) -> None:
        """Look at a few debtors, unless there was little to clear a moment ago, as each of many owes one."""
        if self._skipped:
            self._skipped -= 1
            return
        self.relieve()
        if 2 * self.counter.used > self.counter.booked:
            self._skipped = SKIPPED

    def relieve(self) -> None:
        """Look at a few debtors. Called above half of what is booked, so that more is hardly ever needed."""
        self._look(2)

    def _look(self, count: int) -> list[Unread]:
        """Look at the next debtors; return those that have not read all."""
        debtors = list(itertools.islice(self.debtors, count))
        owing = [debtor for debtor in debtors if not debtor.settle()]
        for debtor in owing:
            self.debtors[debtor] = self.debtors.pop(debtor)
        return owing


class Unread:
    """The unread data of the peer of one socket. `on_pressure` is called when others wait for it to read."""

    __slots__ = ("_behind", "_share", "_sock", "count", "on_pressure")

    def __init__(self, sock: socket.socket, share: Share, on_pressure: Callable[[], None]) -> None:
        self.count: int = 0
        self.on_pressure: Callable[[], None] = on_pressure
        self._sock = sock
        self._share = share
        self._behind = 0  # at most these bytes are queued behind the last descriptor, by the kernel's count

    def record(self) -> tuple[int, int]:
        """Return the counts, for `resume`."""
        return self.count, self._behind

    def resume(self, count: int, behind: int) -> None:
        """Go on with the counts of another host, which sent the descriptors."""
        if count:
            self.add(count)
            self._behind = behind

    def admits(self, more: int) -> bool:
        """Return whether this many descriptors fit in the limits, by the counts so far."""
        counter = self._share.counter
        if self.count + more > MAX_PER_CONNECTION:
            return False
        return counter.used + more <= counter.booked or counter.fits(more)

    def make_room(self, more: int) -> bool:
        """Return whether this many descriptors fit after a look at the kernel's queues."""
        self.settle()
        if self.count + more > MAX_PER_CONNECTION:
            return False
        # The others of this uid have to read; most have, but for the count: a Welcome's is cleared here.
        if not self.admits(more):
            self._share.press()
        return self.admits(more)

    def add(self, count: int) -> None:
        """Count descriptors that were sent."""
        share = self._share
        if not self.count:
            share.debtors[self] = None
        self.count += count
        counter = share.counter
        counter.used = used = counter.used + count
        self._behind = 0
        if 2 * used > counter.booked:
            if used > counter.booked:
                counter.book_ahead()
            pool = counter.pool
            if 2 * pool.booked > pool.total or 2 * used > counter.limit:  # else there is enough for all
                share.relieve_now_and_then()

    def settle(self) -> bool:
        """Return whether all descriptors are read; if so, clear the count. In doubt they count as unread."""
        if self.count and _queued(self._sock) <= self._behind:
            self.give_up()
        return not self.count

    def give_up(self) -> None:
        """Count what is unread no more: it is read, or the host ends."""
        count, self.count = self.count, 0
        del self._share.debtors[self]
        self._share.counter.give(count)

    def send_behind(self, send: Callable[[], int]) -> int:
        """Send bytes without descriptors, which a client may leave unread; return the result of `send`.

        Unread events must not pass for unread descriptors. If the peer reads during the call, the difference
        is too small and the check too strict; but then its queue moves.
        """
        if self.settle():
            return send()
        before = _queued(self._sock)
        sent = send()
        self._behind += max(0, _queued(self._sock) - before)
        return sent

    def close(self, close: Callable[[], None]) -> None:
        """Call `close`, which closes the socket, now or once all is read: the uid is charged until then."""
        self.on_pressure = _do_nothing
        if self.settle():
            close()
        else:
            self._share.flight.linger(self, close)


def _queued(sock: socket.socket) -> int:
    """Return the bytes that were sent and are not fully read, with the kernel's overhead."""
    size: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]  # SIOCOUTQ, unix(7)
    return size


def _do_nothing() -> None:
    pass
