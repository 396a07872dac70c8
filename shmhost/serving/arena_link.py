"""The host's end of the control sockets of arenas: messages in, messages and ledgers out, never waiting.

A control socket is a SOCK_SEQPACKET pair, so that a message is a packet, and a program in C needs no frames.
A message is read in each turn of the loop, and none while an answer waits to be sent. An owner that reads
nothing for long is not at fault: it has nothing to put. Messages to it are queued then, in their order, and
there are no more of them than ledgers that the owner knows, and clients that are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from shmhost.core.board import Board
from shmhost.core.hub import Owner
from shmhost.core.ledgers import Ledger
from shmhost.core.peers import Peer
from shmhost.core.state_records import ControlRecord
from shmhost.core.work import Steps
from shmhost.serving.closing import Closer
from shmhost.serving.outbox import LATER, RETRY_S
from shmhost.serving.turns import Turn
from shmhost.serving.unread import Share, Unread
from shmhost.serving.workers import Outcome, StartWork, attempt, cannot
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import descriptors
from shmprotocol.wire.names import (
    ARENA_BOARD,
    ARENA_FORGET,
    ARENA_KEEP,
    ARENA_LEAVE,
    ARENA_LEDGER,
    ARENA_REST,
)

LOG = logging.getLogger("shmhost")

MESSAGE = struct.Struct("<IiQQ")  # struct shm_arena_message: kind, code, number, size
# Bytes of the kernel's queue, which makes it the least there is: a few messages, whose descriptors are in
# flight and count against the host's user until the owner reads them (unix(7)).
SEND_BUFFER = 4096
LAST_WORDS = 16  # messages, of an owner that asks once in a while; each takes 2 us
MAX_RETRY_S = 0.5  # between attempts, while those of its uid have so many descriptors in flight


class ArenaLink:
    """The control socket of one arena. `on_closed` is called once, after the owner's `ended`.

    OSError: the system has no descriptor for it, or cannot watch it.
    """

    def __init__(
        self,
        owner: Owner,
        start_work: StartWork,
        closer: Closer,
        share: Share,
        turn: Turn,
        on_closed: Callable[[ArenaLink], None],
        sock: socket.socket | None = None,
    ) -> None:
        self.peer: Peer = owner.peer
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._start_work = start_work
        self._closer = closer
        self._share = share
        self._turn = turn
        self._on_closed = on_closed
        self._queue: OrderedDict[int, tuple[bytes, Sequence[int] | Ledger]] = OrderedDict()
        self._count = 0  # messages that were ever queued: the keys
        self._unsent: dict[int, list[int]] = {}  # keys of the messages about new ledgers, by their numbers
        self._working = self._closing = self._is_reading = self._is_held = False
        self._is_left = False  # the owner has ended the conversation, or said that it writes no more
        self._is_asked = False  # where the board is: another host has not answered that
        self._take_back: Callable[[], bool] = cannot
        self._kind = 0  # of the message that is being handled, or that another host has left
        self._can_be_left = False  # though it is working
        self._end = 0  # as `ControlRecord.end`
        self._retry: asyncio.TimerHandle | None = None
        self._delay_s = RETRY_S
        self._theirs: socket.socket | None = None
        if sock is None:
            sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock = sock
        try:
            self._sock.setblocking(False)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._refused = descriptors.refuse(self._sock)
            self._unread = Unread(self._sock, share, _do_nothing)
            turn.add(self._sock.fileno(), self._readable)
            self._is_reading = True
        except BaseException:
            self._sock.close()
            self.hand_over()
            raise

    def theirs(self) -> int:
        """Return the owner's end, until `hand_over`."""
        assert self._theirs is not None, "the owner has it"
        return self._theirs.fileno()

    def hand_over(self) -> None:
        """Close the owner's end: the owner has it."""
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None

    @property
    def is_working(self) -> bool:
        """Whether a Work for the owner is under way."""
        return self._working

    @property
    def can_be_left(self) -> bool:
        """Whether a successor can take it over though it is working."""
        return self._can_be_left

    def hold(self) -> None:
        """Read nothing more until `release`."""
        self._is_held = True
        self._read(False)

    def release(self) -> None:
        """Go on after `hold`."""
        self._is_held = False
        if self._end:
            self._close()
            return
        if self._kind and not self._working:
            self._owner.refuse(self._kind)
            self._kind = 0
        if self._is_asked:
            self._is_asked = False
            self._handle(ARENA_BOARD, 0, 0, 0)
        if not (self._closing or self._working):
            self._flush()

    def record(self, give: Callable[[int], int], closed: socket.socket) -> ControlRecord:
        """Return the state, for `resume_from`, while it is held, with no Work under way or one that is left.

        `closed` stands for the socket of a conversation that is over.
        """
        if self._closing:
            end = 2 if self._is_left else 1
            return ControlRecord(self._owner.number, give(closed.fileno()), (), (0, 0), 0, end)
        ledgers = {key: number for number, keys in self._unsent.items() for key in keys}
        queue = [(message, ledgers.get(key, 0)) for key, (message, _) in self._queue.items()]
        sock = give(self._sock.fileno())
        return ControlRecord(self._owner.number, sock, tuple(queue), self._unread.record(), self._kind, 0)

    def resume_from(self, record: ControlRecord, ledgers: Mapping[int, Ledger]) -> None:
        """Be the control socket of another host, held until `release`."""
        self.hold()
        self._unread.resume(*record.unread)
        self._kind, self._end, self._is_left = record.pending, record.end, record.end == 2
        for message, number in record.queue:
            if MESSAGE.unpack(message)[0] == ARENA_BOARD:
                self._is_asked = True
                continue
            if number:
                self._unsent.setdefault(number, []).append(self._count)
            self._queue[self._count] = message, ledgers[number] if number else ()
            self._count += 1

    def answer(self, kind: int, code: int, size: int) -> None:
        """Answer a message of the owner's."""
        self._send(MESSAGE.pack(kind, code, 0, size), ())

    def tell_ledger(self, ledger: Ledger) -> None:
        """Tell the owner of a ledger, and give it descriptors of that."""
        message = MESSAGE.pack(ARENA_LEDGER, ledger.peer.pid, ledger.number, ledger.object.capacity)
        self._unsent.setdefault(ledger.number, []).append(self._count)
        self._send(message, ledger)

    def has_unsent(self, number: int) -> bool:
        """Whether a message about a ledger waits: its descriptors will be those of the ledger by then."""
        return number in self._unsent

    def tell_start(self, board: Board, line: int, count: int) -> None:
        """Tell an owner from before where its line is, which counts so many messages; OSError: not now."""
        self._send_now(MESSAGE.pack(ARENA_BOARD, count % 2**31, line, board.range[1]), (board.reader(),))

    def tell_kept(self, number: int) -> None:
        """Tell an owner from before of a ledger that it has, or will get when that is here."""
        self._send(MESSAGE.pack(ARENA_KEEP, 0, number, 0), ())

    def tell_rest(self) -> None:
        """Tell an owner from before that all ledgers which it has and was not told of have gone."""
        self._send(MESSAGE.pack(ARENA_REST, 0, 0, 0), ())

    def tell_board(self, board: Board, line: int) -> None:
        """Tell the owner where its line is, and give it a descriptor of the board."""
        self._send(MESSAGE.pack(ARENA_BOARD, 0, line, board.range[1]), (board.reader(),))

    def tell_forget(self, number: int) -> None:
        """Tell the owner that a ledger has gone: what was not sent of it goes without its descriptors."""
        for key in self._unsent.pop(number, ()):
            self._queue[key] = MESSAGE.pack(ARENA_KEEP, 0, number, 0), ()
        self._send(MESSAGE.pack(ARENA_FORGET, 0, number, 0), ())

    def take_back(self, number: int) -> bool:
        """Drop the message about a new ledger, if it was not sent; False if it was."""
        keys = self._unsent.pop(number, [])
        return bool([self._queue.pop(key) for key in keys])

    def close(self) -> None:
        """Close the socket; the owner has ended then, at once or after its Work."""
        if self._closing:
            return
        self._hear_last_words()
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._turn.remove(self._sock.fileno())
        self._wait_no_more()
        self._queue.clear()
        self._unsent.clear()
        self._turn.do_in_parts(self._ending())  # † it takes 30 us, and as long the end of the owner
        if not self._working or self._take_back():
            self._finish()

    def _hear_last_words(self) -> None:
        """Look whether the owner has left already: its client may have ended with its process."""
        for _ in range(LAST_WORDS):
            if self._is_left:
                return
            try:
                data = descriptors.receive_data(self._sock, refused=self._refused)
            except (BlockingIOError, RemoteProtocolError):
                return
            except OSError:
                data = b""
            self._is_left = not data or data[:4] == ARENA_LEAVE.to_bytes(4, "little")

    def _ending(self) -> Iterator[None]:
        # The owner can have copies in other processes: only shutdown reaches them all.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        yield
        self._unread.close(lambda: self._closer.close(self._sock))

    def resume(self, steps: Steps, outcome: Outcome) -> None:
        """Go on with the steps of a message after their Work was carried out elsewhere."""
        self._working = False
        self._take_back = cannot
        self._drive(steps, outcome)
        if self._working:
            return
        self._kind = 0
        if self._closing:
            self._finish()
        else:
            self._flush()

    def _finish(self) -> None:
        self._owner.ended(is_by_owner=self._is_left)
        self._on_closed(self)
        self._take_back = cannot
        del self._owner  # it has this link, as the Work to be taken back has: a cycle

    def _read(self, is_reading: bool) -> None:
        is_reading = is_reading and not self._is_held
        if is_reading != self._is_reading and not self._closing:
            self._is_reading = is_reading
            if is_reading:
                self._turn.resume(self._sock.fileno())
            else:
                self._turn.pause(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data = descriptors.receive_data(self._sock, refused=self._refused)
        except BlockingIOError:
            return
        except RemoteProtocolError as error:
            self._drop(str(error))
            return
        except OSError:
            data = b""
        if not data:
            self._is_left = True
            self.close()
        elif len(data) != MESSAGE.size:
            self._drop(f"a message of {len(data)} bytes, not {MESSAGE.size}")
        else:
            self._handle(*MESSAGE.unpack(data))

    def _handle(self, kind: int, _code: int, _number: int, size: int) -> None:
        try:
            steps = self._owner.handle(kind, size)
        except RemoteProtocolError as error:
            self._drop(str(error))
            return
        self._kind = kind
        self._drive(steps, (None, None))
        if not self._working:
            self._kind = 0

    def _drive(self, steps: Steps, outcome: Outcome) -> None:
        """Run the steps on, until their end or their next Work, which goes to a thread."""
        try:
            while True:
                result, error = outcome
                work = steps.send(result) if error is None else steps.throw(error)
                if work.is_quick:
                    outcome = attempt(work.call)
                    continue
                started = self._start_work(self, steps, work)
                if not isinstance(started, tuple):
                    self._working, self._take_back, self._can_be_left = True, started, work.can_be_left
                    self._read(False)
                    return
                outcome = started
        except StopIteration:
            pass
        except Exception:
            LOG.exception(
                "fault while serving an arena of uid %d", self.peer.uid, extra={"uid": self.peer.uid}
            )
            self.close()

    def _send(self, message: bytes, fds: Sequence[int] | Ledger) -> None:
        if self._closing:
            return
        self._queue[self._count] = message, fds
        self._count += 1
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        """Send what the socket takes, and read on when that is all."""
        self._wait_no_more()
        while self._queue:
            message, fds = next(iter(self._queue.values()))
            try:
                self._send_now(message, fds)
            except OSError as error:
                self._flush_later(error)
                return
            self._queue.popitem(last=False)
            self._delay_s = RETRY_S
        if not self._working:
            self._read(True)

    def _send_now(self, message: bytes, what: Sequence[int] | Ledger) -> None:
        """Send a message. OSError: not now, or never."""
        fds = (what.object.reader(), what.object.raiser()) if isinstance(what, Ledger) else what
        if not fds:
            self._unread.send_behind(lambda: descriptors.send(self._sock, message, (), descriptors.DONTWAIT))
            return
        if not self._may_send(len(fds)):
            raise OSError(errno.ETOOMANYREFS, "other owners of its uid have to read")
        descriptors.send(self._sock, message, fds, descriptors.DONTWAIT)
        self._unread.add(len(fds))
        kind, _, number, _ = MESSAGE.unpack(message)
        if kind == ARENA_LEDGER:
            keys = self._unsent[number]
            del keys[0]
            if not keys:
                del self._unsent[number]

    def _may_send(self, count: int) -> bool:
        """Whether descriptors may go now. One message always may: an owner that reads gets on."""
        unread = self._unread
        if unread.count and not unread.admits(count) and not unread.settle():
            self._share.relieve()  # a look at two others: this is tried again as long as they do not read
            return unread.admits(count)
        return True

    def _flush_later(self, error: OSError) -> None:
        self._read(False)
        if isinstance(error, BlockingIOError):
            self._loop.add_writer(self._sock, self._flush)
        elif error.errno in LATER:
            self._retry = self._loop.call_later(self._delay_s, self._flush)
            self._delay_s = min(2 * self._delay_s, MAX_RETRY_S)
        else:  # the owner has gone
            self._loop.call_soon(self.close)

    def _wait_no_more(self) -> None:
        self._loop.remove_writer(self._sock)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _drop(self, why: str) -> None:
        uid, pid = self.peer.uid, self.peer.pid
        LOG.warning("dropped the owner of an arena, uid %d pid %d: %s", uid, pid, why, extra={"uid": uid})
        self.close()


def _do_nothing() -> None:
    pass
