"""A connected socket of the host: frames in, frames out, never waiting for either.

A link owns its socket; its outbox owns the frames that a slow client has not read. It reads by callbacks of
the loop, not by awaiting: † a task that awaits readability for each request costs another 12-15 us per round
trip (asyncio and uvloop alike, 2026-11), and a host does little else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns

from shmhost.core.leases import Send
from shmhost.core.meter import Meter
from shmhost.core.peers import Peer
from shmhost.core.records import Note
from shmhost.core.session import Session
from shmhost.core.work import PAUSE, Steps
from shmhost.serving.closing import Closer
from shmhost.serving.deadline import TICK_S, Deadline
from shmhost.serving.deaths import Deaths
from shmhost.serving.intake import Intake
from shmhost.serving.lingering import Lingering
from shmhost.serving.outbox import Outbox, packed_welcome
from shmhost.serving.turned_away import noting_drop
from shmhost.serving.turns import Turn
from shmhost.serving.unread import Share
from shmhost.serving.workers import Outcome, StartWork, attempt, cannot, later
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import descriptors
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.messages import HANDED_BACK, Goodbye, Hello, Message, Welcome
from shmprotocol.wire.names import MAX_DESCRIPTORS

LOG = logging.getLogger("shmhost")

# For Hello to come, and for the rest of a frame that has begun, which is held in memory until then. A client
# sends either at once; so long is for machines that swap.
FRAME_TICKS = 10


class Link:
    """The socket of one session. `on_closed` is called once, when the session has released everything.

    OSError, or what `make_session` raises: there is no link, and the socket stays the caller's.
    """

    __slots__ = (
        "_began_ns",
        "_can_be_left",
        "_closer",
        "_closing",
        "_deaths",
        "_is_dropped",
        "_is_finished",
        "_is_held",
        "_is_inside_frame",
        "_lingering",
        "_loop",
        "_meter",
        "_on_closed",
        "_operation",
        "_refused",
        "_start_work",
        "_take_back",
        "_turn",
        "_working",
        "connection",
        "deadline",
        "intake",
        "outbox",
        "peer",
        "pidfd",
        "session",
        "socket",
    )

    def __init__(
        self,
        sock: socket.socket,
        pidfd: int | None,
        meter: Meter,
        make_session: Callable[[Send], Session],
        start_work: StartWork,
        closer: Closer,
        share: Share,
        turn: Turn,
        on_closed: Callable[[Link], None],
        deaths: Deaths,
        lingering: Lingering,
        *,
        may_return: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.socket: socket.socket = sock
        self._refused = descriptors.are_refused(sock)
        self.intake = Intake(sock, lambda: closer.foreign.is_full(self.peer.uid)) if may_return else None
        self._closer = closer
        self._turn = turn
        self.pidfd: int | None = pidfd
        self._deaths = deaths
        self._lingering = lingering
        self.connection: Connection = Connection("host")
        if may_return:
            self.connection.allow_descriptors(MAX_DESCRIPTORS)
        self._meter = meter
        self._operation = ""  # the request that is being carried out, and since when
        self._began_ns = 0
        self._start_work = start_work
        self._on_closed = on_closed
        self.outbox: Outbox = Outbox(sock, share, turn, self._all_sent, self._end)
        self.deadline: Deadline = Deadline(self._loop, FRAME_TICKS, self._overdue)
        self._working = False  # a Work is in a thread, or waits for one
        self._is_inside_frame = False  # the connection is: looked at for each request, so it is kept here
        self._take_back: Callable[[], bool] = cannot
        self._can_be_left = False  # though it is working
        self._closing = False
        self._is_dropped = False
        self._is_finished = False
        self._is_held = False  # it reads nothing until `release`
        self._begin(make_session)
        self.session.on_end(lambda why: self._loop.call_soon(self._end, why))
        self.peer: Peer = self.session.peer
        self.deadline.start()  # until Hello has come

    def _begin(self, make_session: Callable[[Send], Session]) -> None:
        try:
            self.session: Session = make_session(self.send)
        except BaseException:  # the client may have no more connections
            if self.pidfd is not None:
                os.close(self.pidfd)
            raise
        try:
            self._watch()
        except BaseException:
            self.session.close()
            raise

    def _watch(self) -> None:
        try:
            self._turn.add(self.socket.fileno(), self._readable)
        except OSError:
            if self.pidfd is not None:
                os.close(self.pidfd)
            raise
        try:
            if self.pidfd is not None:
                # The process is gone even if a child that it forked still holds the socket.
                self._deaths.watch(self.pidfd, self.close)
        except OSError:  # the kernel cannot watch one more: the socket stays the caller's
            self._turn.remove(self.socket.fileno())
            raise

    def send(self, message: Message, fds: Sequence[int], note: Note | None = None) -> None:
        """Send a message, as `Outbox.send` does a frame. OSError as there."""
        if self._closing:
            return
        self.outbox.send(packed_welcome(message) if type(message) is Welcome else pack(message), fds, note)

    def resume(self, steps: Steps, outcome: Outcome) -> None:
        """Go on with a session's steps after their Work was carried out elsewhere."""
        self._working = False
        self._take_back = cannot
        if self._drive(steps, outcome):
            if self._closing:
                self._finish()
                return
            self._meter.add(self._operation, perf_counter_ns() - self._began_ns)
            if self.outbox.is_empty:
                self._go_on()

    @property
    def is_working(self) -> bool:
        """Whether a Work of the session is under way, or descriptors wait for the rest of their frame."""
        return self._working or self.connection.has_descriptors

    @property
    def is_closing(self) -> bool:
        """Whether the socket is closed, or about to be."""
        return self._closing

    @property
    def can_be_left(self) -> bool:
        """Whether a successor can take it over though it is working."""
        return self._can_be_left and not self.connection.has_descriptors

    def hold(self) -> None:
        """Read nothing more, and handle no message that is here, until `release`."""
        self._is_held = True
        self._pause()

    def release(self) -> None:
        """Go on after `hold`."""
        self._is_held = False
        self._is_inside_frame = self.connection.is_inside_frame
        if not (self._closing or self._working) and self.outbox.is_empty:
            self._go_on()

    def close(self) -> None:
        """Close the socket and give back what the session holds: when it has its turn, or after its Work."""
        if self._closing:
            return
        self._closing = True
        self._turn.remove(self.socket.fileno())
        self.deadline.end()
        self._let_process_go()
        self._turn.do_in_parts(self._ending())  # † all takes 60 us

    def _ending(self) -> Iterator[None]:
        # A forked child of this process may hold a copy: only shutdown reaches the client then.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._closer.foreign.close(self.connection.drain(), self.peer.uid)
        yield
        closing = self._closer.closing(self.socket, refused=self._refused)
        self.outbox.close(lambda: self._turn.end(closing))
        if not self._working or self._take_back():
            self._finish()

    def _let_process_go(self) -> None:
        """Watch the process no more, unless it lives on, and uses values of arenas still."""
        ledgers = self.session.take_used_ledgers(is_dropped=self._is_dropped)
        if ledgers:
            self._lingering.keep(ledgers, self.pidfd)
        elif self.pidfd is not None:
            self._deaths.forget(self.pidfd)

    def _finish(self) -> None:
        if self._is_finished:  # closed by the outcome of its own Work, and by the caller that resumed it
            return
        self._is_finished = True
        self.session.close()
        self._on_closed(self)
        del self.session  # it has this link's `send`: a cycle, which only the garbage collector would free

    def _pause(self) -> None:
        self._turn.pause(self.socket.fileno())

    def _go_on(self) -> None:
        if self._is_held or self._closing:
            return
        self._turn.resume(self.socket.fileno())
        if self._is_inside_frame:
            self._pump()

    def _readable(self) -> None:
        if self._working:  # rare, as clients wait for the reply: so only now, and what came stays there
            self._pause()
            return
        numbers: list[int] = []
        try:
            if self.intake is None:
                data = descriptors.receive_data(self.socket, refused=self._refused)
            else:
                data, numbers = self.intake.receive()
        except BlockingIOError:
            return
        except RemoteProtocolError as error:
            self._drop(error)
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        if self.intake is not None:
            self.connection.receive(data, numbers)
            self._pump()
            self._end_intake()
        elif self._is_inside_frame or self.outbox.queue or not self._answer(data):
            self.connection.receive(data)
            self._pump()

    def _end_intake(self) -> None:
        if self.intake is not None and self.intake.is_done:
            self.intake, self._refused = None, True
            self.connection.allow_descriptors(0)

    def _answer(self, data: bytes) -> bool:
        """Answer the most frequent requests without unpacking them; False: they are something else."""
        began_ns = perf_counter_ns()
        try:
            done = self.session.answer(data, self.outbox.send)
        except RemoteProtocolError as error:
            self._drop(error)
            return True
        except Exception:
            self._fault()
            return True
        if done is None:
            return False
        if len(done) == 3:
            self.deadline.stop()
            self._operation, self._began_ns = done[1], began_ns
            if not self._drive(done[2], (None, None)):
                return True
        self._meter.add_answers(done[0], done[1], perf_counter_ns() - began_ns)
        if self.outbox.queue:
            self._pause()
        return True

    def _pump(self) -> None:
        """Handle received frames, until a Work or a slow client makes the rest wait."""
        turn_ends_ns = self._turn.ends_ns()
        try:
            for message, numbers in self.connection.messages():
                self.deadline.stop()
                self._operation, self._began_ns = type(message).__name__.lower(), perf_counter_ns()
                steps = self._handle(message, numbers)
                if steps is not None and not self._drive(steps, (None, None)):
                    return
                if self._closing:
                    return
                now_ns = perf_counter_ns()
                self._meter.add(self._operation, now_ns - self._began_ns)
                if not self.outbox.is_empty:
                    self._pause()
                    return
                if now_ns > turn_ends_ns and self.connection.is_inside_frame:  # now the others
                    self._pause()
                    self._turn.later(self._take_turn)
                    return
            # All is handled, so the rest of a frame is the client's to send. A later byte of it gives no
            # more time, and the first of the stream does not either: its deadline runs already.
            if self.connection.is_inside_frame and not self.deadline.is_running:
                self.deadline.start()
        except RemoteProtocolError as error:
            self._drop(error)
        except Exception:
            self._fault()
        finally:
            self._is_inside_frame = self.connection.is_inside_frame

    def _handle(self, message: Message, numbers: list[int]) -> Steps | None:
        if self.intake is None:
            return self.session.handle(message)
        if type(message) not in (Hello, *HANDED_BACK):
            self.intake.end()
        try:
            return self.session.handle(message, numbers)
        finally:
            self._closer.foreign.close(numbers, self.peer.uid)

    def _overdue(self) -> None:
        what = "the rest of its frame" if self._is_inside_frame else "its Hello"
        self._drop(RemoteProtocolError(f"{what} did not come within {FRAME_TICKS * TICK_S:.0f} s"))

    def _take_turn(self) -> None:
        # With something in the outbox, or a Work under way, their end goes on reading.
        if self.outbox.is_empty and not (self._closing or self._working):
            self._go_on()

    def _drive(self, steps: Steps, outcome: Outcome) -> bool:
        """Run the steps on; False when their next Work has gone to a thread and the rest waits for it."""
        try:
            while True:
                result, error = outcome
                work = steps.send(result) if error is None else steps.throw(error)
                if work is PAUSE:
                    self._working, self._take_back = True, later(self._turn.later, steps, self.resume)
                    self._can_be_left = False
                    return False
                if not work.is_quick:
                    started = self._start_work(self, steps, work)
                    if not isinstance(started, tuple):
                        self._working, self._take_back = True, started
                        self._can_be_left = work.can_be_left
                        return False
                    outcome = started
                else:
                    outcome = attempt(work.call)
        except StopIteration:
            return True
        except RemoteProtocolError as error:
            self._drop(error)
        except Exception:
            self._fault()
        return True

    def _fault(self) -> None:
        """Handle a bug or a broken system: only this client loses its connection."""
        LOG.exception("fault while serving uid %d", self.peer.uid, extra={"uid": self.peer.uid})
        self._is_dropped = True
        self.close()

    def _drop(self, error: RemoteProtocolError) -> None:
        """Send the peer its error, if the socket has room, and close."""
        self._note_drop(str(error))  # which does not keep the frames of its traceback
        self.send(Goodbye(0, str(error)), ())
        self.close()

    def _end(self, why: str) -> None:
        """Close the connection: the peer is gone, or would not read a word about `why` it is dropped."""
        if why and not self._closing:
            self._note_drop(why)
        self.close()

    def _note_drop(self, why: str) -> None:
        self._meter.dropped += 1
        self._is_dropped = True
        self._turn.do_in_parts(noting_drop(self.peer, why))

    def _all_sent(self) -> None:
        if not self._working:
            self._go_on()
