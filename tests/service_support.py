"""A stand-in for systemd: a notify socket, a store of descriptors, and a service that it starts again.

As systemd.service(5) and sd_notify(3) have it: it listens to the main process alone (NotifyAccess=main),
keeps descriptors by their names up to a limit, and drops what is over it, and what it has already.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from manager_support import VARIABLES, listening
from support import remove_objects, wait_until

# Puts the descriptors at 3 and on, and sets LISTEN_PID, as a manager does between fork and exec.
LAUNCHER = """
import fcntl, os, sys
count = int(sys.argv[1])
high = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 500) for each in sys.argv[2 : 2 + count]]
for target, descriptor in enumerate(high, 3):
    os.dup2(descriptor, target)
os.closerange(3 + count, 1024)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2 + count :]])
"""
CREDENTIALS = struct.Struct("3i")
_LIBC = ctypes.CDLL(None)
_KCMP = 272 if os.uname().machine == "aarch64" else 312


class Service:
    """A host as a service. `room` is FileDescriptorStoreMax=; `says_room`: whether $FDSTORE has it."""

    def __init__(
        self, folder: Path, room: int, *options: str, is_activated: bool = True, says_room: bool = True
    ) -> None:
        self.path = str(folder / "host.sock")
        self.room = room
        self.options = options
        self.says_room = says_room
        self.entries: list[tuple[str, int]] = []
        self.rejected = 0  # for lack of room
        self.ignored = 0  # messages of other processes
        self.states: list[str] = []
        self.log = ""
        self.is_reading = threading.Event()
        self.is_reading.set()
        self._lock = threading.Lock()
        self._address = str(folder / "manager")
        self._listener = listening(Path(self.path)) if is_activated else None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self._address)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.child: subprocess.Popen[bytes] | None = None
        self._log_path = folder / "log"
        self.main = 0

    def start(self, *options: str) -> None:
        """Start the service, and return when it says READY."""
        fds = [self._listener.fileno()] if self._listener is not None else []
        names = ["shmhost.socket"] * len(fds)
        with self._lock:
            names += [name for name, _ in self.entries]
            fds += [descriptor for _, descriptor in self.entries]
        environ = _environ() | {"NOTIFY_SOCKET": self._address}
        if fds:
            environ |= {"LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(names)}
        if self.says_room and self.room:
            environ["FDSTORE"] = str(self.room)
        command = [sys.executable, "-c", LAUNCHER, str(len(fds)), *map(str, fds), "-m", "shmhost", "serve"]
        self.states.clear()
        with self._log_path.open("ab") as log:
            self.child = subprocess.Popen(
                [*command, "--socket", self.path, *self.options, *options],
                env=environ,
                pass_fds=fds,
                stderr=log,
            )
        self.main = self.child.pid
        wait_until(lambda: "READY=1" in self.states or self._has_ended())
        assert "READY=1" in self.states, self.read_log()

    def reload(self) -> None:
        """Have another host take over, as ExecReload= does, and return when it is the main process."""
        command = [sys.executable, "-m", "shmhost", "serve", "--socket", self.path, "--takeover"]
        with self._log_path.open("ab") as log:
            successor = subprocess.Popen([*command, *self.options], env=_environ(), stderr=log)
        assert self.child is not None
        assert self.child.wait(60) == 0, self.read_log()
        self.child = successor
        wait_until(lambda: self.main == successor.pid)

    def end(self, number: int = signal.SIGKILL) -> None:
        """End the main process; the store stays, as for a restart."""
        assert self.child is not None
        self.child.send_signal(number)
        status = self.child.wait(60)
        assert status == (-number if number == signal.SIGKILL else 0), self.read_log()
        self.is_reading.set()
        self._drain()

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.end(number)
        self.start()

    def stop(self) -> None:
        """End the service; its store goes, unless FileDescriptorStorePreserve=yes."""
        self.end(signal.SIGTERM)
        with self._lock:
            for _, descriptor in self.entries:
                os.close(descriptor)
            self.entries.clear()

    def add(self, name: str, descriptor: int) -> None:
        """Put something in the store that no host has put there; the descriptor stays the caller's."""
        with self._lock:
            self.entries.append((name, os.dup(descriptor)))

    def names(self) -> list[str]:
        with self._lock:
            return sorted(name for name, _ in self.entries)

    def idle_descriptors(self) -> list[str]:
        """Return what the host has open when it has no client, and one descriptor of each stored region."""
        while True:
            kinds = self.descriptors()
            objects = sum("memfd:shmhost:" in kind for kind in kinds)
            if "pidfd" not in kinds and objects == len(self.entries):
                return kinds
            assert objects >= len(self.entries), kinds
            time.sleep(0.01)

    def descriptors(self) -> list[str]:
        """Return what the host has open, sorted."""
        assert self.child is not None
        kinds = []
        for path in Path(f"/proc/{self.child.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                link = os.readlink(path)
                kinds.append("pidfd" if "pidfd" in link else link.split(":[")[0])
        return sorted(kinds)

    def inodes(self) -> set[int]:
        """Return the inodes of what the host has open."""
        assert self.child is not None
        inodes = set()
        for path in Path(f"/proc/{self.child.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                inodes.add(path.stat().st_ino)
        return inodes

    def read_log(self) -> str:
        return self._log_path.read_text()

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
        remove_objects(self.path)
        self.is_reading.set()
        with self._lock:
            for _, descriptor in self.entries:
                os.close(descriptor)
            self.entries.clear()
        self.main = -1
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._address)
        self._thread.join()
        self._socket.close()
        if self._listener is not None:
            self._listener.close()

    def _has_ended(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    def _drain(self) -> None:
        """Return when all is read that the ended process has sent."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"X_DRAINED=1", self._address)
        wait_until(lambda: "X_DRAINED=1" in self.states)
        self.states.remove("X_DRAINED=1")

    def _read(self) -> None:
        while True:
            data, control, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(1024) + socket.CMSG_SPACE(12))
            if not data:
                return
            self.is_reading.wait()
            fds, pid = array.array("i"), 0
            for _, kind, content in control:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(content)
                else:
                    pid, _, _ = CREDENTIALS.unpack(content)
            try:
                self._take(data.decode().split("\n"), fds.tolist(), pid)
            finally:
                for descriptor in fds:
                    os.close(descriptor)

    def _take(self, lines: list[str], fds: list[int], pid: int) -> None:
        if pid == os.getpid():
            self.states += lines
            return
        if pid != self.main:
            self.ignored += 1
            return
        self.states += lines
        fields = dict(line.split("=", 1) for line in lines)
        if "MAINPID" in fields:
            self.main = int(fields["MAINPID"])
        name = fields.get("FDNAME", "stored")
        with self._lock:
            if fields.get("FDSTOREREMOVE") == "1":
                for entry in [entry for entry in self.entries if entry[0] == name]:
                    self.entries.remove(entry)
                    os.close(entry[1])
            elif fields.get("FDSTORE") == "1":
                assert fields["FDPOLL"] == "0"
                for descriptor in fds:
                    self._keep(name, descriptor)

    def _keep(self, name: str, descriptor: int) -> None:
        if any(_is_same(descriptor, other) for _, other in self.entries):
            return
        if len(self.entries) >= self.room:
            self.rejected += 1
            return
        self.entries.append((name, os.dup(descriptor)))


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith((*VARIABLES, "FDSTORE"))}


def _is_same(left: int, right: int) -> bool:
    """Whether two descriptors are of one open file, kcmp(2), as systemd's same_fd()."""
    pid = os.getpid()
    return bool(_LIBC.syscall(_KCMP, pid, pid, 0, left, right) == 0)


@contextlib.contextmanager
def service(
    folder: Path, room: int = 64, *options: str, is_activated: bool = True, says_room: bool = True
) -> Iterator[Service]:
    """Yield a service that was not started yet."""
    each = Service(folder, room, *options, is_activated=is_activated, says_room=says_room)
    try:
        yield each
    finally:
        each.close()
