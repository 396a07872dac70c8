"""Numbers of processes mean nothing: one that is used again, and 0, which another pid namespace gives."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_support import ArenaPeer
from shmhost.machine.peers import peer_pidfd
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import Machine, needs_root, wait_until

SYS_CLONE3 = 435
_LIBC = ctypes.PyDLL(None, use_errno=True)  # keeps the GIL: the child has no other thread
WORK = (m.Hello(1, m.VERSION, m.VERSION, "x"), m.Create(5, "b", 4096, "full", "memfd", 0o600, True))


def clone_as(pid: int) -> int:
    """Start a process that sleeps and has this number, clone3(2)."""
    arguments, numbers = (ctypes.c_uint64 * 11)(), (ctypes.c_int * 1)(pid)
    arguments[4], arguments[8], arguments[9] = signal.SIGCHLD, ctypes.addressof(numbers), 1
    child: int = _LIBC.syscall(SYS_CLONE3, arguments, ctypes.sizeof(arguments))
    if child == 0:
        _LIBC.pause()
        _LIBC._exit(0)
    assert child == pid, os.strerror(ctypes.get_errno())
    return child


@contextlib.contextmanager
def heir(path: str) -> Iterator[int]:
    """Give the number of a client that has died in the middle of its work; a child of it has its socket."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(theirs)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.send(b"".join(map(pack, WORK)))
            if not os.fork():
                os.read(ours, 1)
            os._exit(0)
    os.close(ours)
    os.waitpid(pid, 0)
    try:
        yield pid
    finally:
        os.close(theirs)


def counters(peer: ArenaPeer) -> tuple[int, int]:
    """Return the clients and the bytes that are charged."""
    measured, _ = peer.ask(m.Measure(3))
    assert isinstance(measured, m.Measured)
    return measured.clients, measured.used


@needs_root
@pytest.mark.parametrize("is_stopped", [False, True])
def test_dead_client_is_gone_though_its_number_is_used_again(machine: Machine, is_stopped: bool) -> None:
    """Also where it dies before the host takes its connection, and another has the number by then."""
    with ArenaPeer(machine.path) as peer:
        if is_stopped:
            machine.signal(signal.SIGSTOP)
        with heir(machine.path) as pid:
            again = clone_as(pid)
            machine.signal(signal.SIGCONT)
            try:
                wait_until(lambda: counters(peer) == (1, 0))
            finally:
                os.kill(again, signal.SIGKILL)
                os.waitpid(again, 0)


class _Reaped:
    """A socket whose peer is reaped, as Linux 6.5 to 6.15 tell of one."""

    def getsockopt(self, *_: int) -> int:
        raise OSError(errno.EINVAL, "")


def test_peer_that_is_reaped_is_no_peer_without_a_pidfd() -> None:
    """Without one, a child of it that has the socket would stand for it for ever."""
    with pytest.raises(OSError, match=r"\[Errno 22\]"):
        peer_pidfd(_Reaped())  # type: ignore[arg-type]


@contextlib.contextmanager
def host_in_pid_namespace(path: Path) -> Iterator[None]:
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "shmhost", "serve"]
    child = subprocess.Popen([*command, "--socket", str(path)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        assert any("listening" in line for line in child.stderr)
        yield
    finally:
        child.kill()
        child.communicate()


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare(1)")
def test_client_whose_number_is_0_is_served_and_gone_as_others(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with host_in_pid_namespace(path), ArenaPeer(str(path)) as peer, ArenaPeer(str(path)) as other:
        other.publish("a")
        peer.opened("a")
        described, _ = peer.ask(m.Stat(6, "a"))
        assert isinstance(described, m.Described)
        assert described.info.creator_pid == 0
        before = counters(peer)
        with heir(str(path)):
            wait_until(lambda: counters(peer) == before)
        other.close()
        wait_until(lambda: counters(peer)[0] == 1)
