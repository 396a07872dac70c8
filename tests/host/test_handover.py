"""The end of a takeover: the old host lets a successor go, which serves, or is dead."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shmhost.machine.processes import may_run
from shmhost.serving import handover
from shmhost.serving.handover import SERVING
from support import wait_until


class Successor:
    """A process that has READY behind it: it says that it serves when it is told to."""

    def __init__(self) -> None:
        own, self._theirs = socket.socketpair()
        self._order, self._told = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                self._theirs.recv(1)
                self._told.recv(1)
                self._theirs.sendall(SERVING)
                signal.pause()
            os._exit(0)
        self._theirs.close()
        self._told.close()
        own.settimeout(1)
        self.link: Any = SimpleNamespace(
            socket=own, pidfd=os.pidfd_open(self.pid), peer=SimpleNamespace(pid=self.pid)
        )

    def say(self) -> None:
        """Have it say that it serves, and return when that is there."""
        self._order.sendall(b"x")
        select.select([self.link.socket], [], [])

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._order.close()
        self.link.socket.close()
        os.close(self.link.pidfd)


@pytest.fixture
def successor() -> Iterator[Successor]:
    successor = Successor()
    yield successor
    successor.close()


def test_successor_that_serves_at_the_last_moment_lives(
    successor: Successor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to be killed, and the host to end: nobody would serve then."""
    numbers = []

    def send(pidfd: int, number: int) -> None:
        if not numbers:
            successor.say()
        numbers.append(number)
        signal_process(pidfd, number)

    signal_process = signal.pidfd_send_signal
    monkeypatch.setattr(handover.signal, "pidfd_send_signal", send)
    handover._commit(successor.link)
    wait_until(lambda: may_run(successor.pid))
    assert numbers == [signal.SIGSTOP, signal.SIGCONT]


def test_successor_that_says_nothing_is_dead_before_the_host_goes_on(successor: Successor) -> None:
    with pytest.raises(ConnectionResetError):
        handover._commit(successor.link)
    wait_until(lambda: not may_run(successor.pid))  # its socket is closed a moment before


def test_successor_that_serves_at_once_is_let_go(successor: Successor) -> None:
    successor._order.sendall(b"x")
    successor.link.socket.settimeout(30)
    handover._commit(successor.link)
    assert may_run(successor.pid)
