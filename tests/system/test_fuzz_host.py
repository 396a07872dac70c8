"""A real host against anything that a client can send: it lives, serves others, and keeps nothing.

Both ways of a host with descriptors are tried: the kernel refuses them, and it cannot (before Linux 6.16). An
example takes some 50 ms, so `make fuzz` tries few of them here, and millions without sockets: see
test_fuzz_session.py and test_fuzz_native.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmclient
from hostile import BLOCKING, BUDGET, HELLO, KINDS, conversations, streams
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import RawPeer, WatchedHost, wait_until, watched_host

WINDOW = (0x510000000000 + os.getpid() % 1024 * (1 << 32), 1 << 32)
EXAMPLES = min(settings().max_examples, 1000)
WITNESS = f"the bystander's, of process {os.getpid()}"  # a name that no strategy comes upon


class Faults(logging.Handler):
    """Keeps what the host logs as an error: nothing that a client sends may be one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.getMessage()}: {record.exc_info}")


class Target:
    """A host under attack, with a bystander, and what must be as before when the attacker is gone."""

    def __init__(self, host: WatchedHost, shm: shmclient.Client, refuses: bool) -> None:
        self.host = host
        self.refuses = refuses  # descriptors, by the kernel
        self.faults = Faults()
        self._shm = shm
        self._puts = 0
        self._put()
        self._before = host.counts()

    def check_during(self) -> None:
        """The bystander is answered while the attacker is connected."""
        view = self._shm.get(WITNESS)
        assert int(bytes(view)) == self._puts

    def check_after(self) -> None:
        """Nothing of the attacker is left but what it published, which is removed here."""
        assert self.faults.texts == []
        wait_until(lambda: self.host.counts()["links"] == 1)
        for info in self._shm.list():
            if info.name != WITNESS:
                self._shm.unlink(info.name)
        self._put()
        self.check_during()
        wait_until(
            lambda: self.host.is_back_at(self._before), shown=lambda: (self._before, self.host.counts())
        )

    def _put(self) -> None:
        self._puts += 1
        self._shm.put(WITNESS, b"%d" % self._puts).close()


def kernel_refuses() -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return descriptors.refuse(sock)


@pytest.fixture(scope="module", params=["kernel that refuses descriptors", "kernel that cannot"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    refuses = request.param == "kernel that refuses descriptors"
    if refuses and not kernel_refuses():
        pytest.skip("SO_PASSRIGHTS needs Linux 6.16")
    path = str(tmp_path_factory.mktemp("fuzz") / "host.sock")
    with pytest.MonkeyPatch.context() as patch:
        if not refuses:
            patch.setattr(descriptors, "SO_PASSRIGHTS", 0x7FFF)
        with (
            watched_host(path, windows=(WINDOW,), budget=BUDGET) as host,
            shmclient.connect(path) as shm,
        ):
            target = Target(host, shm, refuses)
            logger = logging.getLogger("shmhost")
            patch.setattr(logger, "level", logging.ERROR)
            logger.addHandler(target.faults)
            try:
                yield target
            finally:
                logger.removeHandler(target.faults)


class Attacker:
    """Sends pieces with descriptors, as far as the host goes on with it."""

    def __init__(self, target: Target, peer: RawPeer) -> None:
        self._target = target
        self._peer = peer
        self.sent = b""
        self.sent_descriptors = False

    def send(self, piece: bytes, kinds: list[str]) -> None:
        """Send a piece; where it goes with descriptors, ours are closed before the host can close its own."""
        with contextlib.ExitStack() as stack:
            fds = [KINDS[kind](stack, self._peer) for kind in kinds]
            if not fds:
                self._peer.send(piece)
            elif self._target.refuses:
                self._send_refused(piece, fds, kinds)
            else:
                went = self._target.host.call(lambda: self._give_up(piece, fds, kinds))
                # The host has them. What blocks, blocks until the stack is left.
                self._target.check_during()
                self._peer.send(piece[went:])
        self.sent += piece

    def _give_up(self, piece: bytes, fds: list[int], kinds: list[str]) -> int:
        """Send, and leave the host as the last holder of what blocks; return how many bytes went.

        Runs in the host's thread, which cannot read meanwhile: so this must not wait for room.
        """
        went = 0
        self._peer.socket.setblocking(False)  # MSG_DONTWAIT is not enough where Python waits by itself
        try:
            with contextlib.suppress(BlockingIOError):
                went = descriptors.send(self._peer.socket, piece, fds, descriptors.DONTWAIT)
                self.sent_descriptors = True
        finally:
            self._peer.socket.settimeout(20)
            _close_blocking(fds, kinds, os.close if went else _close_at_once)
        return went

    def _send_refused(self, piece: bytes, fds: list[int], kinds: list[str]) -> None:
        try:
            with pytest.raises((PermissionError, BrokenPipeError, ConnectionResetError)) as refusal:
                self._peer.send(piece, fds)
        finally:
            _close_blocking(fds, kinds, _close_at_once)
        if not isinstance(refusal.value, PermissionError):
            raise refusal.value
        self._peer.send(piece)

    def must_be_dropped(self) -> bool:
        """Whether what was sent is against the rules of the wire, by itself."""
        connection = Connection("host")
        connection.receive(self.sent)
        try:
            for _ in connection.messages():
                pass
        except RemoteProtocolError:
            return True
        return self.sent_descriptors


def _close_blocking(fds: list[int], kinds: list[str], close: Callable[[int], None]) -> None:
    for kind, descriptor in zip(kinds, fds, strict=True):
        if kind == BLOCKING:
            close(descriptor)


def _close_at_once(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))


def read_to_the_end(peer: RawPeer) -> list[m.Message]:
    """Return what the host says until it closes: all of it well-formed. TimeoutError: it never does."""
    said = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            message, fds = peer.receive()
            descriptors.close_all(fds)
            said.append(message)
    return said


@settings(max_examples=EXAMPLES)
@given(stream=streams())
def test_host_serves_others_whatever_one_client_sends(
    target: Target, stream: list[tuple[bytes, list[str]]]
) -> None:
    with RawPeer(target.host.socket_path, greet=False) as peer:
        attacker = Attacker(target, peer)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece, kinds in stream:
                attacker.send(piece, kinds)
        target.check_during()
        if not attacker.must_be_dropped():
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
        said = read_to_the_end(peer)
        assert all(not isinstance(message, m.Goodbye) for message in said[:-1])
    target.check_after()


# --- a conversation that knows what it was answered


class Talk:
    """A client that waits for its replies, and so knows regions and leases to name in what follows."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer
        self._regions: list[int] = []
        self._leases: list[int] = []
        self._marks = 2**40

    def say(self, message: m.Message) -> None:
        """Send a message, its small numbers replaced, and read up to the reply of a question behind it."""
        self._marks += 1
        self._peer.send(pack(self._resolved(message)) + pack(m.Measure(self._marks)))
        while True:
            reply, fds = self._peer.receive()
            descriptors.close_all(fds)
            self._learn(reply)
            if isinstance(reply, m.Measured) and reply.id == self._marks:
                return

    def _resolved(self, message: m.Message) -> m.Message:
        if isinstance(message, m.Publish | m.Abort | m.Attend) and message.region < len(self._regions):
            return message._replace(region=self._regions[message.region])
        if isinstance(message, m.Release):
            leases = dict.fromkeys(number for number in message.leases if number < len(self._leases))
            held = tuple(self._leases[number] for number in leases)
            self._leases = [lease for lease in self._leases if lease not in held]
            return message._replace(leases=held)
        return message

    def _learn(self, reply: m.Message) -> None:
        grants: tuple[m.Grant, ...] = ()
        if isinstance(reply, m.Created | m.ArenaMade):
            self._regions.insert(0, reply.region)
        elif isinstance(reply, m.Published):
            grants = (reply.grant,)
        elif isinstance(reply, m.Opened):
            grants = reply.grants
        self._leases += [grant.lease for grant in grants if grant.lease]


@settings(max_examples=EXAMPLES)
@given(messages=conversations(), end=st.binary(max_size=3))
def test_host_keeps_nothing_of_a_client_that_went_anywhere(
    target: Target, messages: list[m.Message], end: bytes
) -> None:
    with RawPeer(target.host.socket_path) as peer:
        talk = Talk(peer)
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            for message in messages:
                talk.say(message)
            peer.send(end or HELLO)
        target.check_during()
    target.check_after()
