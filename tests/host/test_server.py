"""The host against clients that break every rule: they are dropped, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

import shmclient
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import MAX_REQUEST
from support import RawPeer, WatchedHost, in_child, needs_root, serve, wait_until

HELLO = pack(m.Hello(1, m.VERSION, m.VERSION, "raw"))
CREATE = m.Create(2, "raw", 100, "full", "memfd", 0o600, True)


@pytest.fixture
def settled(host: WatchedHost, shm: shmclient.Client) -> Iterator[Callable[[], None]]:
    """Check that another client goes on as before, and that nothing is left behind."""
    shm.put("witness", b"untouched").close()
    # The workers of an earlier test's host may be about to end; this one has had no work for any.
    wait_until(lambda: "AnyIO worker thread" not in {thread.name for thread in threading.enumerate()})
    before = host.counts()

    def check() -> None:
        wait_until(lambda: host.counts() == before, shown=lambda: (before, host.counts()))
        view = shm.get("witness")
        assert bytes(view) == b"untouched"
        del view

    yield check
    check()


def frame(value: object) -> bytes:
    body = msgpack.packb(value)
    return len(body).to_bytes(4, "little") + body


BROKEN = {
    "garbage": b"\xde\xad\xbe\xef" * 16,
    "a frame over the limit": (MAX_REQUEST + 1).to_bytes(4, "little"),
    "a frame that is no msgpack": b"\x04\0\0\0\xc1\xc1\xc1\xc1",
    "a frame that is no array": frame(1),
    "a map": frame({1: 2}),
    "an unknown message": frame([99, 0, 1]),
    "a reply": pack(m.Done(1)),
    "a message with missing fields": frame([9, 0, 1]),
    "a name that is a number": frame([9, 0, 1, 7]),
    "a negative id": frame([9, 0, -1, "name"]),
    "a descriptor declared that requests never have": frame([9, 1, 1, "name"]),
    "Hello twice": HELLO,
    "a lease that it has not": pack(m.Release(0, (12345,))),
}


@pytest.mark.parametrize("what", BROKEN)
def test_client_is_told_why_and_dropped_when_it_sends(
    what: str, host: WatchedHost, settled: Callable[[], None]
) -> None:
    with RawPeer(host.socket_path) as peer:
        peer.send(BROKEN[what])
        message, _ = peer.receive()
        assert isinstance(message, m.Goodbye)
        assert peer.is_dropped()


@pytest.mark.parametrize("request_", [CREATE, m.Stat(1, "x"), m.Release(0, ())])
def test_client_is_dropped_when_it_does_not_greet(
    request_: m.Message, host: WatchedHost, settled: Callable[[], None]
) -> None:
    with RawPeer(host.socket_path, greet=False) as peer:
        message, _ = peer.ask(request_)
        assert isinstance(message, m.Goodbye)
        assert "before Hello" in message.text
        assert peer.is_dropped()


def test_client_is_told_the_versions_when_they_do_not_meet(
    host: WatchedHost, settled: Callable[[], None]
) -> None:
    with RawPeer(host.socket_path, greet=False) as peer:
        message, _ = peer.ask(m.Hello(1, 7, 9, "from the future"))
        assert isinstance(message, m.Goodbye)
        assert "7 to 9" in message.text


def conversation() -> list[bytes]:
    """Return the frames of a client that does a bit of everything."""
    return [
        HELLO,
        pack(CREATE),
        pack(m.Open(3, ("witness",), (), False)),
        pack(m.Open(4, ("never",), (), True)),
        pack(m.Watch(5, "")),
        pack(m.List(6, "", "")),
    ]


@pytest.mark.parametrize("step", range(len(conversation()) + 1))
@pytest.mark.parametrize("half", [False, True])
def test_nothing_is_left_when_a_client_goes_at_any_step(
    step: int, half: bool, host: WatchedHost, settled: Callable[[], None]
) -> None:
    frames = conversation()
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(b"".join(frames[:step]) + (frames[step][:7] if half and step < len(frames) else b""))


def test_client_is_dropped_when_it_never_reads(
    host: WatchedHost, settled: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawPeer(host.socket_path) as peer:
        monkeypatch.setattr("shmhost.serving.deadline.TICK_S", 0.1)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.socket.setblocking(False)
        flood = b"".join(pack(m.Open(number, ("witness",), (), False)) for number in range(2, 5000))
        with contextlib.suppress(BlockingIOError):
            peer.send(flood)
        wait_until(lambda: host.counts()["links"] == 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that end after some tenths of a second."""
    monkeypatch.setattr("shmhost.serving.deadline.TICK_S", 0.02)


@pytest.mark.parametrize("data", [b"", HELLO[:1], HELLO[:-1]])
def test_client_is_dropped_when_its_hello_does_not_come(
    data: bytes, impatient: None, host: WatchedHost, settled: Callable[[], None]
) -> None:
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(data)
        message, _ = peer.receive()
        assert isinstance(message, m.Goodbye)
        assert f"{'the rest of its frame' if data else 'its Hello'} did not come within 10 s" in message.text
        assert peer.is_dropped()


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("before", [b"", pack(m.Stat(2, "missing"))])
def test_client_is_dropped_when_the_rest_of_its_frame_does_not_come(
    before: bytes, drips: bool, impatient: None, host: WatchedHost, settled: Callable[[], None]
) -> None:
    """Also one that sends a byte now and then."""
    with RawPeer(host.socket_path) as peer:
        peer.send(before + MAX_REQUEST.to_bytes(4, "little"))
        if before:
            assert isinstance(peer.receive()[0], m.Refused)
        while drips and not select.select([peer.socket], [], [], 0.01)[0]:
            peer.send(b"x")
        assert peer.is_dropped()


def test_client_that_is_silent_between_its_frames_stays(
    impatient: None, host: WatchedHost, settled: Callable[[], None]
) -> None:
    stat = pack(m.Stat(2, "missing"))
    with RawPeer(host.socket_path) as peer, RawPeer(host.socket_path) as other:
        peer.send(stat[:9])
        peer.send(stat[9:])
        peer.receive()
        other.send(stat[:9])
        assert other.is_dropped()  # so the time is over for the first as well
        assert isinstance(peer.ask(m.Stat(3, "missing"))[0], m.Refused)


def test_client_stays_when_it_was_the_host_that_was_stopped(tmp_path: Path) -> None:
    """The deadline is over when the host goes on, and the rest of the frame has come meanwhile."""
    path = tmp_path / "h.sock"
    child = serve(path, "import shmhost.serving.deadline as d; d.TICK_S = 0.05")
    with RawPeer(str(path), greet=False) as peer, RawPeer(str(path)) as silent:
        peer.send(HELLO[:9])
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(1.5)  # not to wait for something: this is the time in which the host is stopped
        peer.send(HELLO[9:])
        child.send_signal(signal.SIGCONT)
        assert isinstance(peer.receive()[0], m.Welcome)
        assert isinstance(silent.ask(m.Stat(2, "missing"))[0], m.Refused)
    child.terminate()
    child.communicate()


def test_pipelined_requests_get_their_replies_in_order(host: WatchedHost) -> None:
    with RawPeer(host.socket_path) as peer:
        peer.send(b"".join(pack(m.Stat(number, "missing")) for number in range(2, 200)))
        assert [peer.receive()[0].id for _ in range(2, 200)] == list(range(2, 200))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"root": 8, "root_size": 8}, "root"),
        ({"root": 1, "root_size": 2**64 - 1}, "root"),
        ({"metadata": 8, "metadata_size": 8}, "metadata"),
        ({"metadata_size": 1}, "metadata"),
        ({"data_size": 101}, "data"),
        ({"data_size": 2**64 - 1}, "data"),
        ({"kind": 9}, "kind"),
        ({"region": 4711}, "not being created"),
    ],
)
def test_publish_is_refused_when_it_points_outside(
    change: dict[str, int], reason: str, host: WatchedHost, settled: Callable[[], None]
) -> None:
    with RawPeer(host.socket_path) as peer:
        created, fds = peer.ask(CREATE)
        assert isinstance(created, m.Created)
        good = m.Publish(3, created.region, 1, 100, 0, 0, 0, 0)
        reply, _ = peer.ask(good._replace(**change))
        assert isinstance(reply, m.Refused)
        assert reply.code == "invalid"
        assert reason in reply.text
        published, more = peer.ask(good)
        assert isinstance(published, m.Published)
        for descriptor in (*fds, *more):
            os.close(descriptor)
        peer.ask(m.Unlink(4, "raw"))


KILLED_AT = ["connected", "created", "mapped", "half written", "before publish", "published", "reading"]
PUBLISHER = """
import os, sys
import shmclient
from shmprotocol.wire import messages as m
step = sys.argv[2]
def pause(name):
    if name == step:
        print("here", flush=True)
        sys.stdin.read()
shm = shmclient.connect(sys.argv[1])
pause("connected")
if step == "created":
    from shmclient._drivers.steps import Ask
    shm._core.channel.ask(Ask(m.Create(77, "victim", 100, "full", "memfd", 0o600, True)))
    pause("created")
with shm.create("victim", 1 << 20) as builder:
    pause("mapped")
    builder.data[: 1 << 19] = bytes(1 << 19)
    pause("half written")
    builder.data[1 << 19 :] = bytes(1 << 19)
    pause("before publish")
pause("published")
view = shm.get("victim")
pause("reading")
"""


@pytest.mark.parametrize("step", KILLED_AT)
def test_host_frees_everything_when_a_publisher_is_killed(
    step: str, host: WatchedHost, shm: shmclient.Client, settled: Callable[[], None]
) -> None:
    command = [sys.executable, "-c", PUBLISHER, host.socket_path, step]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGKILL)
    wait_until(lambda: host.counts()["links"] == 1)
    published = step in ("published", "reading")
    assert [info.name for info in shm.list("victim")] == (["victim"] if published else [])
    shm.put("victim", b"the name is free").close()
    shm.unlink("victim")


# --- who is at the other end


@needs_root
def test_mode_lets_a_member_of_the_group_in(host: WatchedHost, shm: shmclient.Client) -> None:
    os.chmod(host.socket_path, 0o666)
    for folder in Path(host.socket_path).parents[:4]:
        os.chmod(folder, folder.stat().st_mode | 0o755)

    def become(uid: int, gid: int, groups: list[int]) -> None:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    def publish() -> None:
        become(5001, 6001, [])
        with shmclient.connect(host.socket_path) as other:
            other.put("theirs", b"hello", mode=0o640).close()

    def member() -> None:
        become(5002, 6002, [6000, 6001])
        with shmclient.connect(host.socket_path) as other:
            assert bytes(other.get("theirs")) == b"hello"

    def stranger() -> None:
        become(5002, 6002, [6000])
        with shmclient.connect(host.socket_path) as other, pytest.raises(shmclient.RegionNotFound):
            other.get("theirs")

    assert [in_child(role) for role in (publish, member, stranger)] == [0, 0, 0]


# --- the socket, and the process around it


def test_large_object_is_closed_when_no_thread_can_be_started(
    host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = host.counts()  # of a host that has no idle thread yet
    with RawPeer(host.socket_path) as peer:
        created, fds = peer.ask(m.Create(2, "large", 17 * 1024 * 1024, "full", "memfd", 0o600, True))
        close_all(fds)
        assert isinstance(created, m.Created)
        monkeypatch.setattr(threading.Thread, "start", refuse)  # as RLIMIT_NPROC does, but not for root
        peer.send(pack(m.Abort(0, created.region, False)))
        peer.ask(m.Measure(3))
    wait_until(lambda: host.counts() == before, shown=lambda: (before, host.counts()))
