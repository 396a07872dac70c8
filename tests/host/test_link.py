"""A connected socket of the host, with a session that does what each test says: order, ends and faults."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.meter import Meter
from shmhost.core.peers import Peer
from shmhost.core.resources import Totals
from shmhost.core.work import PAUSE, Steps, Work
from shmhost.serving.closing import Closer
from shmhost.serving.deaths import Deaths
from shmhost.serving.lingering import Lingering
from shmhost.serving.link import Link
from shmhost.serving.turns import Turns
from shmhost.serving.unread import Flight
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import count_descriptors


class Session:
    """A session that answers each request, and does what `deeds` has for its name first."""

    def __init__(self, send: Callable[[m.Message, Sequence[int]], None]) -> None:
        self.peer = Peer(7, 70, 700)
        self.deeds: dict[str, Callable[[], object]] = {}
        self.log: list[str] = []
        self.began: list[Callable[[], object]] = []  # called when a long request begins
        self.end: Callable[[str], object] = lambda _why: None
        self._send = send

    def on_end(self, end: Callable[[str], object]) -> None:
        """Call a function to end the connection."""
        self.end = end

    def answer(self, data: bytes, send_frame: Any) -> None:
        """Leave each request to `handle`."""

    def handle(self, message: Any) -> Steps | None:
        self.log.append(message.name)
        deed = self.deeds.get(message.name)
        if message.name.startswith("work"):
            return self._work(message, deed)
        if message.name.startswith("long"):
            return self._pause(message)
        if deed is not None:
            deed()
        self._send(m.Done(message.id), ())
        return None

    def _work(self, message: Any, deed: Any) -> Steps:
        result = yield Work(deed, is_quick=message.name.endswith("quick"))
        self.log.append(f"{message.name}: {result}")
        self._send(m.Done(message.id), ())

    def _pause(self, message: Any) -> Steps:
        for call in self.began:
            call()
        try:
            yield PAUSE
            yield PAUSE
            self._send(m.Done(message.id), ())
        finally:
            self.log.append("long ended")

    def take_used_ledgers(self, *, is_dropped: bool) -> list[Any]:
        """Return none: it has read no arena."""
        return []

    def close(self) -> None:
        self.log.append("closed")


class Rig:
    """A link, the client's end of its socket, and the Work that waits to be carried out."""

    def __init__(self, pidfd: int | None = None) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs.setblocking(False)
        self.meter = Meter(0)
        self.closed: list[Link] = []
        self.work: list[tuple[Steps, Work]] = []
        self.can_take_back = True
        self.turns = Turns()
        self._connection = Connection("client")
        with contextlib.ExitStack() as stack:
            deaths = Deaths()
            stack.callback(deaths.close)
            self.link = self._make_link(ours, pidfd, deaths)
            stack.pop_all()

    def _make_link(self, ours: socket.socket, pidfd: int | None, deaths: Deaths) -> Link:
        return Link(
            ours,
            pidfd,
            self.meter,
            self._make_session,  # type: ignore[arg-type]
            self._start_work,
            Closer(),
            Flight(Accounts(Totals(1))).share(7),
            self.turns.of(7),
            self.closed.append,
            deaths,
            Lingering(deaths, lambda ledger: None),
        )

    def _make_session(self, send: Callable[[m.Message, Sequence[int]], None]) -> Session:
        self.session = Session(send)
        return self.session

    def _start_work(self, _link: Link, steps: Steps, work: Work) -> Callable[[], bool]:
        self.work.append((steps, work))
        return lambda: self.can_take_back

    def finish_work(self) -> None:
        steps, work = self.work.pop()
        self.link.resume(steps, (work.call(), None))

    def ask(self, *names: str) -> None:
        """Send a request of each name in one piece; their ids count from 1."""
        self.theirs.send(b"".join(pack(m.Stat(number, name)) for number, name in enumerate(names, 1)))

    async def replies(self, count: int) -> list[m.Message]:
        """Return the next messages of the host; fewer when it ends the stream."""
        messages: list[m.Message] = []
        while len(messages) < count:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.theirs, 1 << 16), 20)
            if not data:
                break
            self._connection.receive(data)
            messages += [message for message, _ in self._connection.messages()]
        return messages

    async def is_ended(self) -> bool:
        """Whether the stream ends, and the session was closed and reported once."""
        messages = await self.replies(1)
        return (messages, self.closed, self.session.log.count("closed")) == ([], [self.link], 1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # a link belongs to its loop


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.link.close()
    rig.theirs.close()


pytestmark = pytest.mark.anyio


async def turns() -> None:
    """Let the loop see all that has come: its readers run in each turn."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_requests_are_answered_in_order(rig: Rig) -> None:
    rig.ask("a", "b", "c")
    assert await rig.replies(3) == [m.Done(1), m.Done(2), m.Done(3)]
    assert rig.session.log == ["a", "b", "c"]


async def test_others_go_first_where_steps_pause(rig: Rig) -> None:
    rig.ask("long", "b")
    other: list[str] = []
    began = rig.session.began
    began.append(lambda: asyncio.get_running_loop().call_soon(lambda: other.extend(rig.session.log)))
    assert await rig.replies(2) == [m.Done(1), m.Done(2)]
    assert rig.session.log == ["long", "long ended", "b"]
    assert other == ["long"]


async def test_steps_that_pause_end_when_the_link_is_closed(rig: Rig) -> None:
    closed = asyncio.Event()

    def close() -> None:
        rig.link.close()
        closed.set()

    rig.session.began.append(lambda: asyncio.get_running_loop().call_soon(close))
    rig.ask("long")
    await closed.wait()
    assert rig.session.log == ["long", "long ended", "closed"]
    await turns()
    assert (rig.session.log[2:], rig.closed) == (["closed"], [rig.link])


async def test_requests_behind_a_work_wait_for_it(rig: Rig) -> None:
    rig.session.deeds["work"] = lambda: "result"
    rig.ask("work", "b")
    await turns()
    rig.ask("c")  # while it works: it stays in the socket
    await turns()
    assert rig.session.log == ["work"]
    assert not asyncio.get_running_loop().remove_reader(rig.link.socket)  # or the loop would spin
    rig.finish_work()
    assert await rig.replies(3) == [m.Done(1), m.Done(2), m.Done(1)]
    assert rig.session.log == ["work", "work: result", "b", "c"]


async def test_quick_work_goes_to_no_thread(rig: Rig) -> None:
    rig.session.deeds["work quick"] = lambda: "at once"
    rig.ask("work quick")
    assert await rig.replies(1) == [m.Done(1)]
    assert rig.session.log == ["work quick", "work quick: at once"]
    assert rig.work == []


async def test_work_that_has_begun_ends_before_its_session_does(rig: Rig) -> None:
    rig.can_take_back = False
    rig.session.deeds["work"] = lambda: "late"
    rig.ask("work", "never")
    await turns()
    rig.theirs.close()
    rig.link.close()
    await turns()
    assert (rig.session.log, rig.closed) == (["work"], [])
    rig.finish_work()
    assert rig.session.log == ["work", "work: late", "closed"]
    assert rig.closed == [rig.link]


async def test_work_that_has_not_begun_is_taken_back_at_the_end(rig: Rig) -> None:
    rig.session.deeds["work"] = lambda: pytest.fail("it was taken back")
    rig.ask("work")
    await turns()
    rig.link.close()
    assert rig.session.log == ["work", "closed"]
    assert await rig.is_ended()


async def test_end_of_the_stream_closes_once(rig: Rig) -> None:
    rig.ask("a")
    rig.theirs.shutdown(socket.SHUT_WR)
    assert await rig.replies(1) == [m.Done(1)]
    assert await rig.is_ended()
    rig.link.close()
    assert rig.closed == [rig.link]


async def test_end_is_done_in_parts_while_there_are_other_users(rig: Rig) -> None:
    _other = rig.turns.of(8)
    rig.ask("a")
    assert await rig.replies(1) == [m.Done(1)]
    rig.link.close()
    assert (rig.session.log, rig.closed) == (["a"], [])
    assert await rig.is_ended()


async def test_what_is_sent_before_the_end_has_its_turn_goes_on_with_nothing(rig: Rig) -> None:
    _other = rig.turns.of(8)
    rig.link.send(m.Stat(1, "x" * 200), ())
    while rig.link.outbox.is_empty:
        rig.link.send(m.Stat(1, "x" * 200), ())
    rig.link.close()
    while not rig.link.outbox.is_empty:
        rig.theirs.recv(1 << 20)
        rig.link.outbox._go_on()
    rig.theirs.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            rig.theirs.recv(1 << 20)
    assert await rig.is_ended()


async def test_peer_that_breaks_the_rules_is_told_and_dropped(rig: Rig) -> None:
    def break_rules() -> None:
        raise RemoteProtocolError("it broke a rule")

    rig.session.deeds["b"] = break_rules
    rig.ask("a", "b", "never")
    assert await rig.replies(2) == [m.Done(1), m.Goodbye(0, "it broke a rule")]
    assert await rig.is_ended()
    assert (rig.session.log, rig.meter.dropped) == (["a", "b", "closed"], 1)


@pytest.mark.parametrize("name", ["b", "work", "work quick"])
async def test_fault_ends_this_connection_and_is_logged(
    name: str, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.session.deeds[name] = lambda: 1 // 0
    with caplog.at_level(logging.ERROR, "shmhost"):
        rig.ask(name, "never")
        await turns()
        if rig.work:
            steps, work = rig.work.pop()
            with contextlib.suppress(ZeroDivisionError):
                work.call()
            rig.link.resume(steps, (None, ZeroDivisionError()))
        assert await rig.is_ended()
    assert "never" not in rig.session.log
    assert [record.message for record in caplog.records] == ["fault while serving uid 7"]


async def test_bytes_that_are_no_frame_drop_the_peer(rig: Rig) -> None:
    rig.theirs.send(b"\xff" * 8)
    (goodbye,) = await rig.replies(1)
    assert isinstance(goodbye, m.Goodbye)
    assert await rig.is_ended()


async def test_frame_may_come_byte_by_byte(rig: Rig) -> None:
    for byte in pack(m.Stat(1, "slow")):
        rig.theirs.send(bytes([byte]))
        await turns()
    assert await rig.replies(1) == [m.Done(1)]


async def test_client_that_asks_on_and_on_lets_other_callbacks_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhost.serving.turns.ALONE_NS", 0)
    between: list[int] = []
    rig.session.deeds["a"] = lambda: asyncio.get_running_loop().call_soon(
        lambda: between.append(len(rig.session.log))
    )
    rig.ask(*"aaaa")
    assert await rig.replies(4) == [m.Done(number) for number in range(1, 5)]
    assert between == [1, 2, 3, 4]


async def test_process_that_ends_closes_though_a_child_holds_its_socket() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    rig = Rig(os.pidfd_open(process.pid))
    child_has = rig.theirs.dup()
    with rig.theirs, child_has:
        await turns()
        assert rig.closed == []
        await process.communicate(b"\n")
        assert await rig.is_ended()


async def test_no_room_to_watch_leaves_the_socket_and_closes_the_pidfd(tmp_path: Path) -> None:
    """A file stands for the pidfd: epoll refuses it, as it refuses all when the user has too many."""
    pidfd = os.open(tmp_path / "file", os.O_CREAT)
    before = count_descriptors()
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socketpair", lambda: (ours, theirs))
        with pytest.raises(PermissionError):
            Rig(pidfd)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(pidfd)
        assert ours.send(b"it is the caller's, and not watched") > 0
        assert not asyncio.get_running_loop().remove_reader(ours)
    assert count_descriptors() == before - 1


async def test_session_can_end_its_connection_in_a_moment(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.session.end("it is too far behind")
    assert rig.closed == []
    assert await rig.is_ended()
    assert "dropped uid 7 pid 700: it is too far behind" in caplog.text
