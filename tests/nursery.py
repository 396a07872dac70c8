"""Hosts that start at once: each is a fork of one process that has loaded all that a host needs."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

PROGRAM = """
import os, signal, sys
import uvloop, anyio._backends._asyncio
import shmhost.cli, shmhost.commands.serve, shmhost.serving.server
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.write(1, b"ready\\n")
while True:
    line = sys.stdin.readline()
    if not line:
        break
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        is_held, *arguments = line.split()
        if is_held == "held":
            signal.sigwait([signal.SIGUSR1])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        sys.argv = ["shmhost", "serve", "--socket", *arguments]
        shmhost.cli.main()
        os._exit(0)
    os.write(1, b"%d\\n" % pid)
"""


class Nursery:
    """A process that forks hosts, one after the other, at one socket. `messages` is what they have said."""

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self.pid = 0  # of the last host
        self.listened_s = 0.0  # when that was there, by CLOCK_MONOTONIC
        self.messages: list[str] = []
        self._options = options
        command = [sys.executable, "-c", PROGRAM]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)
        self._is_listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def begin(self, *, is_held: bool = False) -> int:
        """Fork a host; return its pid. It is not there yet; with `is_held` it waits for SIGUSR1 first."""
        self._is_listening.clear()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        how = "held" if is_held else "free"
        self._process.stdin.write(" ".join((how, self.path, *self._options)) + "\n")
        self.pid = int(self._process.stdout.readline())
        return self.pid

    def is_listening(self) -> bool:
        """Whether the last host has said that it listens."""
        return self._is_listening.is_set()

    def wait(self) -> None:
        """Return when the last host listens."""
        assert self._is_listening.wait(60), self.messages[-20:]

    def start(self) -> int:
        """Fork a host, and return its pid when it listens."""
        pid = self.begin()
        self.wait()
        return pid

    def kill(self) -> None:
        """End the last host, and return when it is gone. May be called again."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(self.pid)
                try:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    _wait_for(process)
                finally:
                    os.close(process)
        self.pid = 0

    def close(self) -> None:
        self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "listening" in line:
                self.listened_s = time.monotonic()
                self._is_listening.set()
            elif re.search(r"Error|Traceback|WARNING|warning", line):
                self.messages.append(line)


def _wait_for(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)


@contextlib.contextmanager
def nursery(path: str, *options: str) -> Iterator[Nursery]:
    hosts = Nursery(path, *options)
    try:
        yield hosts
    finally:
        hosts.close()
