"""A client's outgoing messages on real sockets: in order, each whole, and never a wait."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmclient._connection.outbox import Outbox
from shmprotocol.errors import HostGone
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack


class Ends:
    """An outbox, the host's end of its socket, and how often the socket was closed."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.ours, self.theirs = ours, theirs
        self.closed = 0
        self.outbox = Outbox(ours, self._close)
        self._connection = Connection("host")
        theirs.setblocking(False)

    def _close(self) -> None:
        self.closed += 1
        self.ours.close()

    def read(self, size: int = 1 << 20) -> list[m.Message]:
        """Return the messages that have come, in at most so many bytes; none at the end of the stream."""
        with contextlib.suppress(BlockingIOError):
            self._connection.receive(self.theirs.recv(size))
        return [message for message, _ in self._connection.messages()]

    def drain(self) -> list[m.Message]:
        """Read until nothing is unsent, as a host does; return all messages."""
        messages = self.read()
        while self.outbox.has_unsent:
            self.outbox.flush()
            messages += self.read()
        return messages + self.read()

    def fill(self) -> list[m.Message]:
        """Post until the socket is full; return what was posted."""
        posted = []
        number = 0
        while not number:
            posted.append(stat(self.outbox.next_id()))
            number = self.outbox.post(posted[-1])
        return posted


def stat(number: int) -> m.Stat:
    return m.Stat(number, "x" * 200)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Ends(ours, theirs)


@pytest.fixture
def stream() -> Iterator[Ends]:
    """The same over TCP, which takes a part of a frame: a Unix socket takes it whole or not at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield Ends(ours, theirs)


def test_message_is_sent_at_once_when_there_is_room(ends: Ends) -> None:
    assert ends.outbox.post(stat(1)) == 0
    assert not ends.outbox.has_unsent
    assert ends.read() == [stat(1)]


def test_ids_are_used_once(ends: Ends) -> None:
    assert [ends.outbox.next_id() for _ in range(3)] == [1, 2, 3]


def test_message_waits_when_the_socket_is_full_and_leaves_in_its_turn(ends: Ends) -> None:
    posted = ends.fill()
    posted.append(stat(0))
    number = ends.outbox.post(posted[-1])
    assert number == len(posted)
    assert (ends.outbox.is_sent(number - 2), ends.outbox.is_sent(number - 1)) == (True, False)
    assert not ends.outbox.is_sent(number)
    assert ends.drain() == posted
    assert ends.outbox.is_sent(number)


def test_part_of_a_frame_that_was_sent_is_not_sent_again(stream: Ends) -> None:
    posted = []
    while not (stream.outbox.has_unsent and len(stream.outbox._unsent[0]) != len(pack(posted[-1]))):
        posted.append(m.List(len(posted), "x" * 255, "y" * 255))
        stream.outbox.post(posted[-1])
        assert len(posted) < 100_000
    posted.append(stat(0))
    stream.outbox.post(posted[-1])
    assert stream.drain() == posted


def test_flush_of_a_full_socket_returns(ends: Ends) -> None:
    ends.fill()
    ends.outbox.flush()
    assert ends.outbox.has_unsent


@pytest.mark.parametrize("is_full", [False, True])
def test_post_raises_when_the_peer_has_gone_and_nothing_is_left_to_send(is_full: bool, ends: Ends) -> None:
    if is_full:
        ends.fill()
    ends.theirs.close()
    for _ in range(2):
        with pytest.raises(HostGone, match="closed the connection"):
            ends.outbox.post(stat(1))
    assert (ends.outbox.is_broken, ends.outbox.has_unsent, ends.closed) == (True, False, 0)


def test_flush_notices_a_peer_that_has_gone_and_raises_nothing(ends: Ends) -> None:
    ends.fill()
    ends.theirs.shutdown(socket.SHUT_RD)  # it takes nothing, though it may still send
    ends.outbox.flush()
    assert ends.outbox.is_broken
    ends.ours.settimeout(20)
    assert ends.ours.recv(1) == b""  # the client's reader, in another thread, learns of it


def test_leases_keep_a_closed_outbox_open_and_the_last_one_ends_it(ends: Ends) -> None:
    for key in (1, 2):
        ends.outbox.hold(key)
    ends.outbox.close()
    ends.outbox.give_back(1, m.Release(0, (1,)))
    assert (ends.closed, ends.read()) == (0, [m.Release(0, (1,))])
    ends.outbox.give_back(2, m.Release(0, (2,)))
    assert ends.closed == 1
    assert ends.theirs.recv(1) == b""  # which tells as much as the message would


def test_lease_that_goes_without_a_message_is_counted_too(ends: Ends) -> None:
    ends.outbox.hold(1)
    ends.outbox.close()
    ends.outbox.give_back(1)
    assert ends.closed == 1


def test_socket_is_closed_once_whoever_closes(ends: Ends) -> None:
    ends.outbox.hold(1)
    ends.outbox.shut()
    ends.outbox.shut()
    ends.outbox.close()
    ends.outbox.give_back(1, m.Release(0, (1,)))
    ends.outbox.detach()
    assert ends.closed == 1
    with pytest.raises(HostGone):
        ends.outbox.post(stat(1))


def test_lease_is_given_back_once_however_often_it_is_tried(ends: Ends) -> None:
    """As after Ctrl-C, when nobody knows whether it was."""
    ends.outbox.hold(1)
    ends.outbox.hold(1)
    ends.outbox.hold(2)
    ends.outbox.close()
    for _ in range(2):
        ends.outbox.give_back(1, m.Release(0, (1,)))
    assert (ends.closed, ends.read()) == (0, [m.Release(0, (1,))])


def test_release_waits_its_turn_behind_requests(ends: Ends) -> None:
    ends.outbox.hold(1)
    posted = ends.fill()
    ends.outbox.give_back(1, m.Release(0, (1,)))
    assert ends.drain() == [*posted, m.Release(0, (1,))]


def test_detached_outbox_says_nothing_and_blames_the_fork(ends: Ends) -> None:
    ends.outbox.hold(1)
    ends.outbox.detach()
    ends.outbox.give_back(1, m.Release(0, (1,)))
    ends.outbox.close()
    ends.outbox.flush()
    assert ends.closed == 1
    with pytest.raises(HostGone, match="belongs to the parent process"):
        ends.outbox.post(stat(1))
    assert ends.read() == []


def test_detach_takes_no_lock_that_another_thread_holds(ends: Ends) -> None:
    """As in a child: the thread that holds the gate does not exist there."""
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with ends.outbox._gate.draining, ends.outbox._gate.lock:
            is_held.set()
            is_over.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(20)
    try:
        ends.outbox.detach()
        assert ends.closed == 1
    finally:
        is_over.set()
        holder.join()


@given(st.lists(st.sampled_from(["post", "release", "read", "flush"]), max_size=60), st.integers(1, 3000))
def test_peer_reads_what_was_posted_in_order_and_whole(steps: list[str], size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)  # the kernel's least
        ends = Ends(ours, theirs)
        posted: list[m.Message] = []
        messages: list[m.Message] = []
        for step in steps:
            if step == "post":
                posted.append(m.Open(len(posted), ("x" * 200,) * (1 + len(posted) % 9), (), False))
                ends.outbox.post(posted[-1])
            elif step == "release":
                posted.append(m.Release(0, (len(posted),)))
                ends.outbox.hold(1)
                ends.outbox.give_back(1, posted[-1])
            elif step == "read":
                messages += ends.read(size)
            else:
                ends.outbox.flush()
        assert messages + ends.drain() == posted


def test_threads_post_whole_frames_while_destructors_release(ends: Ends) -> None:
    count = 200

    def work(number: int) -> None:
        for turn in range(count):
            ends.outbox.post(m.Stat(number * count + turn, "x"))
            key = number * count + turn
            ends.outbox.hold(key)
            ends.outbox.give_back(key, m.Release(0, (key,)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    messages: list[m.Message] = []
    while any(thread.is_alive() for thread in threads):
        messages += ends.drain()
    messages += ends.drain()
    stats = [message.id for message in messages if isinstance(message, m.Stat)]
    releases = [message.leases[0] for message in messages if isinstance(message, m.Release)]
    for number in range(4):
        own = list(range(number * count, (number + 1) * count))
        assert [item for item in stats if item in own] == own
        assert [item for item in releases if item in own] == own
