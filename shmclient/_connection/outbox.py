"""Outgoing messages of a client: requests from callers, leases from destructors.

Both may happen on any thread at any moment, and a destructor must not wait. So every write is tried
without waiting; what the socket does not take stays here, in order, and whoever writes next sends it
first, as does whoever reads. A lease that is given back therefore reaches the host at once, unless the
socket is full. One of the fast road (`Lane`) may wait a millisecond for a request to go with: whatever is
sent here takes those along, in front.

A sender that is cancelled leaves its frame here, for the next one to send. It never leaves half of it on
the wire, which the host would wait for: each frame goes by a send of its own, and the kernel takes up to
32 KiB in one piece or not at all (unix_stream_sendmsg; the longest request has 17 KiB).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from shmclient._connection.board import NO_BOARD
from shmclient._connection.exchange import Pending
from shmclient._connection.hosts import absolute
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.gate import Gate
from shmprotocol.errors import HostGone, ShmError, again
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import Home, Lane
from shmprotocol.wire import descriptors, shortcut
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import check_name, origin_of


class Outbox:
    """The sending side of a socket, and the count of leases that keep it open after `close`.

    `close_socket` is called once: when the outbox is closed and no lease lives any more.
    """

    def __init__(self, sock: socket.socket, close_socket: Callable[[], None]) -> None:
        self._sock = sock
        self._close_socket = close_socket
        self._unsent: deque[bytes] = deque()  # frames; of the first one, what is left
        self._posted = 0  # frames since the connection began
        self._holds: dict[object, None] = {}  # a key for each
        self.host_id = ""  # said in the host's Welcome
        self.home: Home | None = None  # keeps descriptors for the next host of the same origin
        self.lazy_board = NO_BOARD  # unless one comes with it
        self._ids = itertools.count(1)
        self._gate: Gate[tuple[object, m.Message | Literal[True] | None]] = Gate(self._give_back)
        self.is_broken = False  # the peer takes nothing any more
        self.is_closing = False  # no new requests; the socket goes with the last lease
        self._closed: ShmError | None = None  # why it is closing
        self._is_shut = False
        self.is_detached = False
        self._lane: Lane | None = None  # of a sync client: sends by itself, and has Releases to go

    def make_lane(
        self, pendings: dict[int, Pending], users: set[object], leave: Callable[[object], None]
    ) -> Lane:
        """Return the fast road beside this one; `users` and `leave` are those of the socket's `Line`."""
        self._lane = Lane(
            self._sock.fileno(),
            len(m.Grant._fields),
            ADDRESS_SPACE.space,
            pendings,
            users,
            self._unsent,
            self._ids,
            self._holds,
            self._gate.items,
            self._gate.released,
            leave,
            m.Grant,
            check_name,
        )
        self._lane.outbox = self
        return self._lane

    def arrive(self, host_id: str, path: str, *, is_kept: bool) -> None:
        """Note which host this is; `is_kept`: a successor of it takes back what is kept for it."""
        self.host_id = host_id
        if is_kept and self.origin != host_id:
            with contextlib.suppress(ValueError):  # the path or the name is too long
                self.home = Home(absolute(path), host_id, self._sock.fileno())

    @property
    def origin(self) -> str:
        """The origin of the host: numbers of regions are unique in it."""
        return origin_of(self.host_id)

    def fileno(self) -> int:
        """Return the socket's descriptor, which stays its owner's; -1 when it is closed."""
        return self._sock.fileno()

    @property
    def lane(self) -> Lane | None:
        """The fast road, of a sync client."""
        return self._lane

    @property
    def board(self) -> Board | None:
        """The board of the host, which is mapped for the first one who asks; None if there is none."""
        return self.lazy_board.reader()

    def next_id(self) -> int:
        """Return a request id that this connection has not used."""
        return next(self._ids)

    def post(self, message: m.Message, pending: Pending | None = None, numbers: Sequence[int] = ()) -> int:
        """Send a message, or queue it; return 0 when it is sent, else its number for `is_sent`.

        `pending`, if it is a request, is marked as posted. HostGone when the peer has closed the socket. With
        descriptors it is sent at once, or OSError is raised.
        """
        frame = pack(message)
        with self._gate.draining, self._gate.lock:
            if numbers:
                self._send_with(frame, pending, numbers)
            else:
                self._put(frame, pending)
            self._check()
            return self._posted if self._unsent else 0

    def is_sent(self, number: int) -> bool:
        """Whether the message that `post` gave this number has left. Takes no lock: at worst it is late."""
        return number <= self._posted - len(self._unsent)

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Try to send what is left. Never waits, and raises nothing: whoever reads learns of an end."""
        if self._unsent:
            with self._gate.draining, self._gate.lock:
                self._write()

    def hold(self, key: object) -> None:
        """Keep the connection open for a lease or a creation. May be called again with the same key.

        An error that says why: the connection was closed after the host granted it, and so it has ended.
        """
        with self._gate.draining, self._gate.lock:  # not while `close` decides whether anything is held
            if self._is_shut and self.is_closing:
                raise again(self._closed or HostGone("this connection is closed"))
            self._holds[key] = None

    def is_held(self, key: object) -> bool:
        """Whether this key keeps the connection open."""
        return key in self._holds

    def give_back(self, key: object, message: m.Message | None = None) -> None:
        """Give up what `hold` keeps, and send a Release or Abort if one is due. Safe in a destructor."""
        if not self.is_detached:
            self._gate.submit((key, message))

    def close(self, reason: ShmError | None = None) -> None:
        """Close the socket, or leave that to the last lease. A later `hold` raises the reason."""
        if not self.is_detached:
            with self._gate.draining, self._gate.lock:
                self._closed = self._closed or reason
                self.is_closing = True
                if self._lane is not None:  # first: its leases come here from now on, or are gone already
                    self._lane.close()
                if not self._holds:
                    self._shut()

    def shut(self) -> None:
        """Close the socket now: the peer is gone, so that no lease means anything any more."""
        with self._gate.draining, self._gate.lock:
            self._shut()

    def detach(self) -> None:
        """Forget everything without a word: this is the child of a fork, the connection the parent's.

        The lock is a new one: a thread that does not exist here may have held the other.
        """
        self._gate = Gate(self._give_back)
        self.is_detached = True
        if self._lane is not None:
            self._lane.detach()
        if self.home is not None:
            self.home.end()
        self.lazy_board.forget()
        self._shut()

    def _check(self) -> None:
        if self.is_detached:
            raise HostGone("this connection belongs to the parent process: a fork does not share it")
        if self.is_broken:
            raise HostGone("the host closed the connection: it stopped, or dropped this client")

    def _give_back(self, item: tuple[object, m.Message | Literal[True] | None]) -> None:
        key, message = item
        if key is not None and key not in self._holds:
            return  # as after Ctrl-C: given back before
        self._take_late()  # before the `del`: after Ctrl-C in between, this item is handled again
        frame = b"" if message is None or self.is_broken else _packed(key, message)
        if key is not None:
            del self._holds[key]
        if frame:  # Ctrl-C, which comes after a call, cannot come between this and the `del`
            self._unsent.append(frame)
            self._posted += 1
        if self.is_closing and not self._holds:
            self._shut()  # tells the host as well as a message would
        else:
            self._write()

    def _shut(self) -> None:
        self.is_broken = True
        if not self._is_shut:
            self._is_shut = True
            if self._lane is not None:
                self._lane.shut()
            if self.home is not None:
                self.home.unplug() if self._holds else self.home.end()
            self._unsent.clear()
            self._close_socket()

    def _put(self, frame: bytes, pending: Pending | None = None) -> None:
        if self.is_broken:
            return
        self._take_late()
        if pending is not None:
            pending.is_posted = True  # Ctrl-C cannot come between this and the next line
        self._unsent.append(frame)
        self._posted += 1
        self._write()

    def _send_with(self, frame: bytes, pending: Pending | None, numbers: Sequence[int]) -> None:
        self._take_late()
        self._write()
        self._check()
        if self._unsent:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if pending is not None:
            pending.is_posted = True
        try:
            descriptors.send_now(self._sock, frame, numbers)
        except OSError:
            if pending is not None:
                pending.is_posted = False
            raise

    def _take_late(self) -> None:
        """Have the Releases that wait for a request go before what is sent next."""
        if self._lane is not None and self._lane.queue_late():
            self._posted += 1

    def _write(self) -> None:
        """Send what the socket takes; keep the rest."""
        while self._unsent and not self.is_broken:
            try:
                descriptors.send_first(self._sock, self._unsent)
            except BlockingIOError:
                break
            except OSError:  # EPIPE, ECONNRESET: whoever reads learns that the host is gone
                self.is_broken = True
                if self._lane is not None:
                    self._lane.close()
                self._unsent.clear()
                with contextlib.suppress(OSError):  # and, whatever the error was, does find an end
                    self._sock.shutdown(socket.SHUT_RDWR)
                break


def _packed(key: Any, message: m.Message | Literal[True]) -> bytes:
    if message is True:  # of the fast road, where the key is a lease
        return shortcut.release(key)
    if type(message) is m.Release and len(message.leases) == 1:
        return shortcut.release(message.leases[0])
    return pack(message)
