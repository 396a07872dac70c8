"""Hosts of tests without the 0.45 s of CPU that each takes to load: forks of a process that has loaded it."""

from __future__ import annotations

import atexit
import inspect
import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from typing import Any

# A host has nothing of the process that forks it but the modules, and all that a new process would have from
# the one that asks for it. Between them is one that waits for its end, and says how that was.
PARENT = """
import json, os, resource, signal, socket, sys
import anyio._backends._asyncio, uvloop
import shmhost.__main__, shmhost.commands.serve, shmhost.serving.server

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
asked = socket.socket(fileno=int(sys.argv[1]))
while True:
    text, fds, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    if not text:
        os._exit(0)
    if os.fork() == 0:
        break
    for descriptor in fds:
        os.close(descriptor)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
end = fds.pop()
pid = os.fork()
if pid:
    asked.send(b"%d" % pid)
    asked.close()
    for descriptor in (0, 1, 2, *fds):
        os.close(descriptor)
    os.write(end, b"%d" % os.waitpid(pid, 0)[1])
    os._exit(0)
asked.close()
os.close(end)
for number, descriptor in enumerate(fds, 1):
    os.dup2(descriptor, number)
    os.close(descriptor)
how = json.loads(text)
os.chdir(how["folder"])
os.umask(how["umask"])
resource.setrlimit(resource.RLIMIT_NOFILE, how["files"])
os.environ.clear()
os.environ.update(how["environ"])
sys.argv = how["argv"]
shmhost.__main__.main()
"""


class _Parent:
    """The process that forks, started at the first fork; a fork of the test's process starts its own."""

    def __init__(self) -> None:
        self._pid = 0
        self._lock = threading.Lock()

    def fork(self, argv: list[str], stderr: int, end: int) -> int:
        """Return the pid of a new host. Where `end` leads to comes its status, as waitpid(2) has that."""
        umask = os.umask(0)
        os.umask(umask)
        files, environ = resource.getrlimit(resource.RLIMIT_NOFILE), dict(os.environ)
        how = {"argv": argv, "folder": os.getcwd(), "umask": umask, "files": files, "environ": environ}
        with self._lock:
            if self._pid != os.getpid():
                self._start()
            socket.send_fds(self._socket, [json.dumps(how).encode()], [1, stderr, end])
            return int(self._socket.recv(64))

    def _start(self) -> None:
        self._pid = os.getpid()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-c", PARENT, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        atexit.register(self._end)

    def _end(self) -> None:
        if self._pid == os.getpid():
            self._socket.close()
            self._process.kill()  # a child of the test's may have a copy of the socket, so it may see no end
            self._process.wait()


_PARENT = _Parent()


class ForkedHost(subprocess.Popen[str]):
    """A host, as `Popen([..., "-m", "shmhost", "serve", ...], stderr=PIPE, text=True)` starts it."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(["shmhost", "serve", *arguments], stderr=subprocess.PIPE, text=True)

    def _execute_child(self, args: list[str], *more: Any) -> None:
        pipes = inspect.signature(super()._execute_child).bind(args, *more).arguments  # type: ignore[misc]
        self._end, end = os.pipe()
        try:
            self.pid = _PARENT.fork(args, pipes["errwrite"], end)
        finally:
            os.close(end)
            os.close(pipes["errwrite"])
            self._closed_child_pipe_fds = True
        self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._end], [], [], 0)[0]:
            return 0, 0
        status = int(os.read(self._end, 64))
        os.close(self._end)
        return self.pid, status

    def _internal_poll(self, *_: Any, **_more: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def can_fork() -> bool:
    """Whether hosts may be forked: not where a library or a tracer is to be loaded at their start."""
    names = os.environ.keys()
    return "LD_PRELOAD" not in names and not any(name.startswith(("COVERAGE_", "COV_")) for name in names)


def start_host(*arguments: str) -> subprocess.Popen[str]:
    """Start `shmhost serve` with such arguments; what it logs is in the pipe `stderr`."""
    if can_fork():
        return ForkedHost(*arguments)
    command = [sys.executable, "-m", "shmhost", "serve", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
