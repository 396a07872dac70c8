"""What a host needs for itself is charged or bounded: "too much" is a refusal, and not its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import select
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import PAGE
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_REQUEST
from support import Machine, RawPeer, needs_root, serve, wait_until

MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")
SYS_SETRESUID = 117  # asm/unistd_64.h


@contextlib.contextmanager
def cgroup(limit: int) -> Iterator[Path]:
    """Give a memory cgroup with this limit in bytes, of either version; skip where there can be none."""
    group, setting = CGROUPS / "memory" / f"shmhost-test-{os.getpid()}", "memory.limit_in_bytes"
    if not group.parent.is_dir():
        group, setting = CGROUPS / group.name, "memory.max"
    try:
        group.mkdir()
        (group / setting).write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made: {error}")
    try:
        yield group
    finally:
        wait_until(lambda: _is_removed(group))


def _is_removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:  # its processes are about to end
        return False
    return True


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Machine]:
    """A host with the default budget in 64 MiB."""
    with in_small_cgroup(tmp_path / "h.sock") as machine:
        yield machine


@contextlib.contextmanager
def in_small_cgroup(path: Path) -> Iterator[Machine]:
    """Give a host with the default budget in 64 MiB."""
    machine = Machine(path)
    with cgroup(64 * MIB) as group:
        enter = f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))"
        machine.child = serve(Path(machine.path), enter)
        try:
            yield machine
        finally:
            machine.kill()


def connected_as(uid: int, path: str) -> RawPeer:
    """Return a connection of another user. The effective uid is set for one thread alone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def connect() -> RawPeer:
        assert libc.syscall(SYS_SETRESUID, -1, uid, -1) == 0
        return RawPeer(path)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        return threads.submit(connect).result()


def test_host_refuses_before_it_is_killed_when_its_cgroup_is_small(small: Machine) -> None:
    """Its limits hold together: regions up to the budget, half requests, and the longest prefixes."""
    with contextlib.ExitStack() as stack:
        shm = stack.enter_context(shmclient.connect(small.path))
        with pytest.raises(shmclient.QuotaExceeded):
            for number in range(9999):
                shm.put(f"{number}/" + "x" * 200, b"1").close()
        assert number > 1000
        for _ in range(200):
            peer = stack.enter_context(RawPeer(small.path))
            peer.send(MAX_REQUEST.to_bytes(4, "little") + bytes(MAX_REQUEST - 1))
        watcher = stack.enter_context(RawPeer(small.path))
        for request in range(2, 1026):
            assert watcher.ask(m.Watch(request, "y" * 255))[0] == m.Done(request)
        with pytest.raises(shmclient.QuotaExceeded):
            shm.put("one more", b"1")
        shm.unlink(shm.list()[0].name)
        shm.put("in its place", b"1").close()


def test_watches_of_a_megabyte_each_end_the_connection(small: Machine) -> None:
    """Frames of 1 MiB are for replies; a connection may have 1,024 watches, and each keeps its prefix."""
    with RawPeer(small.path) as peer:
        size = MIB - 64
        body = pack(m.Watch(2, ""))[4:].replace(b"\xa0", b"\xdb" + size.to_bytes(4, "big")) + b"y" * size
        with contextlib.suppress(ConnectionError):  # the host does not read it to its end
            peer.socket.sendall(len(body).to_bytes(4, "little") + body)
        assert peer.is_dropped()
    with shmclient.connect(small.path) as shm:
        shm.put("x", b"1").close()


def test_region_takes_no_more_of_the_host_than_is_charged(machine: Machine) -> None:
    """Resident memory alone: a third of the charge is left to the kernel's own part."""
    assert machine.child is not None
    count, statm = 2000, Path(f"/proc/{machine.child.pid}/statm")
    with shmclient.connect(machine.path) as shm:
        for number in range(200):  # buffers and code that come with the first regions
            shm.put(f"warm/{number}", b"1").close()
        before = int(statm.read_text().split()[1])
        for number in range(count):
            shm.put(f"{number}/" + "x" * 200, b"1").close()
        taken = (int(statm.read_text().split()[1]) - before) * PAGE
    assert taken < count * REGION_OVERHEAD * 2 // 3


def test_events_that_nobody_reads_do_not_end_a_host_in_a_small_cgroup(small: Machine) -> None:
    """Each change is told 1,024 times to each of twelve connections, which read nothing."""
    with contextlib.ExitStack() as stack:
        shm = stack.enter_context(shmclient.connect(small.path))
        peers = [stack.enter_context(RawPeer(small.path)) for _ in range(12)]
        for peer in peers:
            peer.send(b"".join(pack(m.Watch(request, "")) for request in range(2, 1026)))
            for request in range(2, 1026):
                assert peer.receive()[0] == m.Done(request)
        for number in range(40):
            shm.put(f"{number}/" + "x" * 200, b"1").close()
        assert len(shm.list()) == 40


@needs_root
def test_events_that_many_users_leave_unread_do_not_end_it_either() -> None:
    """All together have a share of its memory: as many users as there are would have more than all of it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)
        machine = stack.enter_context(in_small_cgroup(Path(folder) / "h.sock"))
        os.chmod(machine.path, 0o666)
        shm = stack.enter_context(shmclient.connect(machine.path))
        uids = [uid for uid in range(60_001, 60_015) for _ in range(2)]
        peers = [stack.enter_context(connected_as(uid, machine.path)) for uid in uids]
        for peer in peers:
            peer.send(b"".join(pack(m.Watch(request, "")) for request in range(2, 482)))
            for request in range(2, 482):
                assert peer.receive()[0] == m.Done(request)
        for number in range(40):
            shm.put(f"{number}/" + "x" * 200, b"1", mode=0o644).close()
        wait_until(lambda: all(map(is_hung_up, peers)))  # each would have more than a connection may
        assert len(shm.list()) == 40


def is_hung_up(peer: RawPeer) -> bool:
    """Whether the host has closed a connection, of which nothing is read."""
    poll = select.poll()
    poll.register(peer.socket, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
