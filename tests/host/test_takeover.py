"""A host that takes the place of another: nothing is lost, and nobody notices."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import shmclient
import shmclient.aio
from manager_support import Manager, scraped
from shmhost.core.heritage import unpack
from shmhost.core.state_records import STATE_FORM
from shmprotocol.errors import AccessDenied, Unsupported
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from shmprotocol.wire.query import Query
from support import RawPeer, WatchedHost, as_nobody, needs_root, wait_until
from takeover_support import HalfSuccessor, Line, line_of_hosts, takeover


@pytest.fixture
def line(folder: Path) -> Iterator[Line]:
    with line_of_hosts(folder / "h") as hosts:
        yield hosts


def measured(path: str) -> m.Measured:
    with Query(path) as query:
        return query.measure()


def leases(path: str) -> int:
    return sum(total.leases for total in measured(path).totals)


def test_all_that_the_host_has_is_as_it_was(line: Line) -> None:
    with shmclient.connect(line.path) as shm, shmclient.connect(line.path) as other:
        shm.put("a", b"1" * 10, mode=0o644).close()
        held, view = shm.open("a"), other.get("a")
        shm.put("a", b"2" * 10_000, mode=0o644).close()
        gone = shm.put("gone", b"3" * 100)
        shm.unlink("gone")
        before, regions = measured(line.path), [shm.stat("a"), *shm.list()]
        line.take_over()
        after = measured(line.path)
        assert [shm.stat("a"), *shm.list()] == regions
        assert (after.used, after.totals) == (before.used, before.totals)
        assert (after.started_ns, after.restarts) == (before.started_ns, before.restarts + 1)
        assert {timing.operation: timing.requests for timing in after.timings}["put"] == 3
        assert bytes(held.data) == bytes(view) == b"1" * 10
        assert not held.is_current()
        assert shm.open("a").is_current()
        assert bytes(gone.data) == b"3" * 100
        number = shm.put("next", b"").number
        assert number > max(info.number for info in regions)
        for region in (held, gone):
            region.close()
        del view
        wait_until(lambda: {t.state for t in measured(line.path).totals} <= {"current", "spare"})


def test_waits_watches_and_creations_go_on(line: Line) -> None:
    values: list[bytes] = []
    with shmclient.connect(line.path) as shm, shmclient.connect(line.path) as waiting:
        watch = shm.watch("")
        thread = threading.Thread(target=lambda: values.append(bytes(waiting.get("late", wait=30))))
        thread.start()
        wait_until(lambda: measured(line.path).listeners == 2)
        with shm.create("built", 100) as builder:
            line.take_over()
            builder.data[:4] = b"1234"
        shm.put("late", b"5678").close()
        thread.join(30)
        assert [next(watch).info.name for _ in range(2)] == ["built", "late"]
        assert values == [b"5678"]
        assert bytes(shm.get("built"))[:4] == b"1234"


def test_spares_are_still_the_clients(line: Line) -> None:
    """The second put of its size takes the spare that came with the first."""
    with shmclient.connect(line.path, reserve=1 << 20) as shm:
        shm.put("a", b"1" * 50_000).close()
        assert [t.regions for t in measured(line.path).totals if t.state == "spare"]
        line.take_over()
        shm.put("a", b"2" * 50_000).close()
        assert bytes(shm.get("a")) == b"2" * 50_000
        counted = {timing.operation: timing.requests for timing in measured(line.path).timings}
        assert counted["assign"] == 1


def test_follower_gets_each_value_once(line: Line) -> None:
    values: list[bytes] = []
    with shmclient.connect(line.path) as shm, shmclient.connect(line.path) as other:

        def follow() -> None:
            for value in other.follow("x"):
                values.append(bytes(value))
                if value == b"end":
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        for number in range(4):
            shm.put("x", b"%d" % number).close()
            wait_until(lambda number=number: len(values) > number)
            line.take_over()
        shm.put("x", b"end").close()
        thread.join(30)
    assert values == [b"0", b"1", b"2", b"3", b"end"]


def test_moved_board_is_looked_at_without_the_host(line: Line) -> None:
    with shmclient.connect(line.path) as shm, shm.put("x", b"1") as region, shm.open("x") as other:
        assert region.is_current()
        assert other.is_current()
        line.take_over()
        assert region.is_current()  # which asks, and finds the board
        line.child.send_signal(signal.SIGSTOP)
        try:
            assert region.is_current()
            assert other.is_current()
        finally:
            line.child.send_signal(signal.SIGCONT)
        shm.put("x", b"2").close()
        assert not region.is_current()
        assert not other.is_current()


async def test_async_client_goes_on(line: Line, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(line.path) as shm, await shm.put("x", b"1") as region:
        assert await region.is_current()
        await anyio.to_thread.run_sync(line.take_over)
        assert await region.is_current()
        line.child.send_signal(signal.SIGSTOP)
        try:
            assert await region.is_current()
        finally:
            line.child.send_signal(signal.SIGCONT)
        assert bytes(await shm.get("x")) == b"1"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_client_of_an_earlier_version_hears_nothing_new(version: int, line: Line) -> None:
    with RawPeer(line.path, greet=False) as peer, shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        peer.ask(m.Hello(1, 1, version, "old"))
        opened, fds = peer.ask(m.Open(2, ("x",), (), False))
        assert isinstance(opened, m.Opened)
        peer.ask(m.Watch(3, ""))
        line.take_over()
        shm.put("x", b"2").close()
        event, _ = peer.receive()
        assert isinstance(event, m.Event)
        peer.send(pack(m.Release(0, (opened.grants[0].lease,))))
        described, _ = peer.ask(m.Stat(4, "x"))
        assert isinstance(described, m.Described)
        descriptors.close_all(fds)
        wait_until(lambda: all(total.state != "superseded" for total in measured(line.path).totals))


def test_client_of_this_version_finds_the_next_board(line: Line) -> None:
    with RawPeer(line.path) as peer:
        before, fds = peer.ask(m.FindBoard(2))
        line.take_over()
        after, more = peer.ask(m.FindBoard(3))
        assert isinstance(before, m.BoardFound)
        assert isinstance(after, m.BoardFound)
        assert before.board[1] == after.board[1] == os.fstat(more[0]).st_size
        assert before.board[0] != after.board[0]
        descriptors.close_all([*fds, *more])


def test_request_in_two_halves_is_answered(line: Line) -> None:
    frame = pack(m.Stat(2, "x"))
    with RawPeer(line.path, greet=False) as peer, shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        peer.ask(m.Hello(1, 3, 3, "slow"))
        peer.send(frame[:7])
        peer.send(b"")
        line.take_over()
        peer.send(frame[7:])
        assert isinstance(peer.receive()[0], m.Described)


def test_hello_after_the_takeover_is_answered(line: Line) -> None:
    with RawPeer(line.path, greet=False) as peer:
        line.take_over()
        assert isinstance(peer.ask(m.Hello(1, 4, 4, "late"))[0], m.Welcome)


def test_unread_replies_come_in_their_order(line: Line) -> None:
    """More descriptors than a client may leave unread: the rest waits in the host."""
    count = 3 * MAX_DESCRIPTORS
    with RawPeer(line.path) as peer, shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        for number in range(2, count):
            peer.send(pack(m.Open(number, ("x",), (), False)))
        wait_until(lambda: leases(line.path) >= 2 * MAX_DESCRIPTORS)
        line.take_over()
        for number in range(2, count):
            reply, fds = peer.receive()
            assert reply.id == number
            assert len(fds) == 1
            descriptors.close_all(fds)


def test_descriptors_are_as_many_as_before(line: Line) -> None:
    with shmclient.connect(line.path) as shm:
        regions = [shm.put(f"x{number}", b"1") for number in range(150)]
        shm.list()
        before = line.descriptors()
        for _ in range(2):
            line.take_over()
            shm.list()
            assert line.descriptors() == before
        for region in regions:
            region.close()


def test_addresses_of_old_boards_are_free_again(line: Line) -> None:
    with shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        line.take_over()
    line.take_over()
    successor = HalfSuccessor(line.path)
    for step in (successor.ask, successor.hear, successor.start, successor.read_all):
        step()
    assert unpack(successor.data).old_boards == ()
    successor.die()


def test_socket_file_is_the_successors(line: Line) -> None:
    line.take_over()
    assert os.path.exists(line.path)
    with pytest.raises(AssertionError, match="another host serves"):
        Line(Path(line.path))
    line.child.send_signal(signal.SIGTERM)
    line.child.communicate(timeout=30)
    assert line.child.returncode == 0
    assert not os.path.exists(line.path)
    assert not os.path.exists(f"{line.path}.state")
    with line_of_hosts(Path(line.path)) as next_line, shmclient.connect(next_line.path) as shm:
        shm.put("x", b"1").close()


def test_service_manager_follows_the_successor(folder: Path, path_manager: Manager) -> None:
    os.environ["NOTIFY_SOCKET"] = path_manager.address
    try:
        with line_of_hosts(folder / "h") as line:
            path_manager.receive()
            del os.environ["NOTIFY_SOCKET"]
            line.take_over()
            messages = [path_manager.receive() for _ in range(2)]
            assert [f"MAINPID={line.child.pid}"] in messages
            assert any("READY=1" in message for message in messages)
            assert not any("STOPPING=1" in message for message in path_manager.pending())
    finally:
        os.environ.pop("NOTIFY_SOCKET", None)


def test_metrics_go_on_at_their_address(folder: Path) -> None:
    with line_of_hosts(folder / "h", "--metrics", str(folder / "metrics")) as line:
        assert b"shmhost_restarts_total 0" in scraped(folder / "metrics")
        line.take_over()
        assert b"shmhost_restarts_total 1" in scraped(folder / "metrics")


STEPS = ["ask", "hear", "start", "read_some", "read_all", "ready", "let_go"]


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_host_serves_on_when_its_successor_dies(steps: int, line: Line) -> None:
    with shmclient.connect(line.path) as shm, shm.put("x", b"1") as region:
        assert region.is_current()
        watch = shm.watch("")
        successor = HalfSuccessor(line.path)
        for step in STEPS[:steps]:
            if step == "read_some" and steps > STEPS.index(step) + 1:
                continue  # all is read at once then
            getattr(successor, step)()
        successor.die()
        assert region.is_current()
        shm.put("x", b"2").close()
        assert not region.is_current()
        assert next(watch).info.name == "x"
        line.take_over()
        assert bytes(shm.get("x")) == b"2"


def test_successor_that_says_nothing_any_more_is_killed_after_go(line: Line) -> None:
    """Only its end tells that it serves nobody."""
    pid = os.fork()
    if pid == 0:
        successor = HalfSuccessor(line.path)
        for step in STEPS:
            if step != "read_some":
                getattr(successor, step)()
        signal.pause()
    with shmclient.connect(line.path, timeout=40) as shm:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        shm.put("x", b"1").close()


def test_successor_ends_when_the_host_is_killed_before_it_lets_go(line: Line) -> None:
    """And leaves the socket to the next host, as any kill does."""
    with shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        with pytest.raises(AssertionError, match="cannot take over"):
            line.take_over_and_kill("before")
        assert os.path.exists(line.path)
        line.kill_and_start()
        shm.put("y", b"2").close()


def test_successor_serves_when_the_host_is_killed_after_it_let_go(line: Line) -> None:
    with shmclient.connect(line.path) as shm, shm.put("x", b"1") as region:
        line.take_over_and_kill("after")
        assert region.is_current()
        shm.put("x", b"2").close()
        assert not region.is_current()


@needs_root
def test_other_user_is_refused(folder: Path) -> None:
    def ask() -> None:
        with Query(line.path) as query, pytest.raises(AccessDenied, match="may not take over"):
            query.ask(takeover(), m.Done)

    folder.chmod(0o755)
    with line_of_hosts(folder / "h", "--socket-mode", "666") as line:
        assert as_nobody(ask) == 0


def test_host_of_another_form_is_refused(line: Line) -> None:
    with (
        Query(line.path) as query,
        pytest.raises(Unsupported, match=rf"form {STATE_FORM}, .* in form {STATE_FORM + 1}"),
    ):
        query.ask(takeover(state=STATE_FORM + 1), m.Done)


def test_other_windows_are_refused(line: Line) -> None:
    assert re.search("windows .* stay as they are", line.fail("--window", "0x560000000000:1G"))
    line.take_over()


def test_host_without_takeovers_is_refused(folder: Path) -> None:
    """A host of version 3 answers so."""
    old = "import shmprotocol.wire.messages as m; m.VERSION = 3"
    from support import serve

    child = serve(folder / "h", old)
    try:
        line = Line.__new__(Line)
        line.path, line._options = str(folder / "h"), ()
        assert "speaks version 3" in line.fail()
    finally:
        child.kill()
        child.communicate()


def test_successor_without_a_host_says_so(folder: Path) -> None:
    line = Line.__new__(Line)
    line.path, line._options = str(folder / "h"), ()
    assert "no host at" in line.fail()
    assert not os.path.exists(line.path)


def test_part_of_a_program_is_not_taken_over(host: WatchedHost) -> None:
    with Query(host.socket_path) as query, pytest.raises(Unsupported, match="part of a program"):
        query.ask(takeover(), m.Done)
