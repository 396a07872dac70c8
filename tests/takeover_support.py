"""Hosts that take each other's place, and successors that stop half-way."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from forked import start_host
from shmhost.core.state_records import STATE_FORM
from shmhost.serving import parcels
from shmhost.serving.handover import GO, READY, START
from shmhost.settings.config import WINDOWS
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import RawPeer, remove_objects

KILLS = """
import os, select, signal
from shmhost.cli import main
from shmhost.serving import parcels
from shmhost.serving.handover import GO
from shmhost.serving.takeover import Heritage

receive, accept = parcels.receive_exactly, Heritage.accept

def kill():
    process = os.pidfd_open({pid})
    signal.pidfd_send_signal(process, signal.SIGKILL)
    select.select([process], [], [])  # until it is dead, and its socket closed

def kill_and_accept(heritage):
    if "{where}" == "before":  # and before READY: after that it may let go at once
        kill()
    accept(heritage)

def receive_and_kill(sock, size):
    data = receive(sock, size)
    if "{where}" == "after" and data == GO:
        kill()
    return data

Heritage.accept = kill_and_accept
parcels.receive_exactly = receive_and_kill
main()
"""


class Line:
    """A host at a socket, and its successors. The last one is killed at the end of the block."""

    _program: tuple[str, ...] = ()

    def __init__(self, path: Path, *options: str, first: str = "") -> None:
        self.path = str(path)
        self._options = options
        if first:
            self._program = "-c", f"{first}\nfrom shmhost.cli import main; main()"
        self.child = self._start()

    def _start(self, *more: str, program: tuple[str, ...] | None = None) -> subprocess.Popen[str]:
        program = self._program if program is None else program
        arguments = "--socket", self.path, *self._options, *more
        if program:
            command = [sys.executable, *program, "serve", *arguments]
            child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        else:
            child = start_host(*arguments)
        assert child.stderr is not None
        log = ""
        for text in child.stderr:
            log += text
            if "listening" in text:
                return child
        child.stderr.close()
        child.wait()
        raise AssertionError(log)

    def take_over(self, *options: str, program: tuple[str, ...] = ()) -> str:
        """Have another host take the place of this one; return what this one logged at last."""
        before, self.child = self.child, self._start("--takeover", *options, program=program)
        _, log = before.communicate(timeout=30)
        assert before.returncode == 0, log
        return log

    def try_to_take_over(self) -> bool:
        """Have another host take the place of this one, which may die; return whether that one serves."""
        before = self.child
        try:
            self.child = self._start("--takeover")
        except AssertionError:
            return False
        finally:
            before.communicate(timeout=30)
        return True

    def take_over_and_kill(self, where: str) -> None:
        """Have a successor kill this host, before or after that lets it go. AssertionError: it ends then."""
        before, program = self.child, KILLS.format(pid=self.child.pid, where=where)
        try:
            self.child = self._start("--takeover", program=("-c", program))
        finally:
            before.communicate(timeout=30)
            assert before.returncode == -signal.SIGKILL

    def kill_and_start(self) -> None:
        """Kill the host, and start another."""
        self.close()
        self.child = self._start()

    def fail(self, *options: str) -> str:
        """Have a successor fail, and return why."""
        try:
            self._start("--takeover", *options).kill()
        except AssertionError as error:
            return str(error)
        raise AssertionError("it took over")

    def descriptors(self) -> list[str]:
        """Return the kinds of what the host has open, sorted, without the counters of its threads."""
        folder = Path(f"/proc/{self.child.pid}/fd")
        kinds = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                kinds.append(os.readlink(path).split(":")[0])
        return sorted(kind for kind in kinds if kind not in ("anon_inode", "pipe"))

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


@contextlib.contextmanager
def line_of_hosts(path: Path, *options: str, first: str = "") -> Iterator[Line]:
    """Yield a host, and its successors; each of them runs `first` before it starts."""
    line = Line(path, *options, first=first)
    try:
        yield line
    finally:
        line.close()
        remove_objects(line.path)


def takeover(state: int = STATE_FORM, windows: tuple[tuple[int, int], ...] = WINDOWS) -> m.Takeover:
    return m.Takeover(2, state, importlib.metadata.version("shmhost"), windows)


class HalfSuccessor:
    """A successor that goes so far, and no further."""

    def __init__(self, path: str, windows: tuple[tuple[int, int], ...] = WINDOWS) -> None:
        self._windows = windows
        self.peer = RawPeer(path)
        self.socket: socket.socket = self.peer.socket

    def ask(self) -> None:
        self.peer.send(pack(takeover(windows=self._windows)))

    def hear(self) -> None:
        message, _ = self.peer.receive()
        assert message == m.Done(2), message

    def start(self) -> None:
        self.socket.sendall(START)

    def read_some(self) -> None:
        assert self.socket.recv(16)

    def read_all(self) -> None:
        self.data, self.owned = parcels.receive(self.socket)

    def ready(self) -> None:
        self.socket.sendall(READY)

    def let_go(self) -> None:
        assert parcels.receive_exactly(self.socket, 1) == GO

    def die(self) -> None:
        self.socket.close()
        if hasattr(self, "owned"):
            self.owned.close()
