"""What several tests need: bounded waits, counters of what must not leak, a raw peer, real children."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

import shmclient
import shmclient.aio
from forked import start_host
from shmhost.serving.server import Host, backend_options
from shmhost.settings.config import Config
from shmprotocol.native.builtins import Closer, flush_late, rest_keeper
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
WINDOW = range(0x550000000000, 0x550000000000 + 256 * 1024**3)


def remove_objects(socket_path: str) -> None:
    """Remove what a host that was killed has left in /dev/shm: other tests count what is there."""
    try:
        status = os.stat(f"{socket_path}.lock")
    except FileNotFoundError:
        return
    for path in Path("/dev/shm").glob(f"shmhost-{status.st_dev:x}-{status.st_ino:x}[.-]*"):
        path.unlink(missing_ok=True)


def wait_until(
    condition: Callable[[], object], timeout_s: float = 20.0, shown: Callable[[], object] = lambda: ""
) -> None:
    """Return when a condition holds; fail when it does not in time, and show something then."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition never held {shown()}"
        time.sleep(0.002)


def count_descriptors() -> int:
    """Return how many descriptors are open, without those that come and go.

    These are the counters of a host's threads, and boards, which a client keeps until it looks at one
    (test_lazy_board.py counts them). The thread that watches hosts has one, too.
    """
    own = rest_keeper()
    return len([name for name in os.listdir("/proc/self/fd") if not _goes(f"/proc/self/fd/{name}")]) - own


def _goes(path: str) -> bool:
    try:
        target = os.readlink(path)
        return target == "anon_inode:[eventfd]" or "board:shmhost" in target
    except FileNotFoundError:  # of the listing itself, and of what other threads close
        return True


def count_threads() -> int:
    """Return how many threads live, without those of a host that wait for work."""
    return len([thread for thread in threading.enumerate() if thread.name != "shmhost worker"])


def read_tasks(pid: int | str, name: str) -> list[str]:
    """Read a file of each thread of a process in /proc, without those of threads that end meanwhile."""
    texts = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            texts.append((task / name).read_text("utf-8"))
    return texts


def mapped_addresses() -> list[int]:
    """Return the addresses of the regions that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        lines = [line for line in maps if "shmhost:" in line]
    return sorted({int(line.split("-", 1)[0], 16) for line in lines} & set(_starts(lines)))


def _starts(lines: list[str]) -> list[int]:
    return [int(line.split("-", 1)[0], 16) for line in lines if line.split()[2] == "00000000"]


def give_spares_back(shm: shmclient.Client | shmclient.aio.AsyncClient) -> None:
    """Have a client give back what it got ahead of its puts, which a host takes back when it is idle."""
    if shm._core.channel is not None:
        while (spare := shm._core.channel.context.spares.take(0)) is not None:
            spare.abort()


class WatchedHost:
    """A host in a thread, whose inside can be looked at."""

    def __init__(self, host: Host, portal: Any) -> None:
        self.host = host
        self.socket_path = host.config.socket_path
        self._portal = portal

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the host's thread."""
        return self._portal.call(function)

    def counts(self) -> dict[str, Any]:
        """Return what must go back to where it was when clients are gone."""
        flush_late()  # of clients in this process: a Release may wait for the next request

        def count() -> dict[str, Any]:
            self._end_freeing()
            registry = self.host.registry
            return {
                "links": len(self.host._links),
                "clients": self.host._hub.clients.total(),
                "tallies": self.host.registry.tallies.states(),
                "leases": sum(len(region.leases) for region in registry.regions.values()),
                "creating": len(registry.creating),
                "regions": len(registry.regions),
                "charged": registry.accounts.bytes.used,
                # Without what is unread: that is looked at now and then.
                "accounts": {uid: figures[:9] for uid, figures in registry.accounts.in_use().items()},
                "free addresses": sum(window.free() for window in registry.allocator.windows),
                "listeners": len(self.host._hub.listeners),
                "closing": self.host._closer.pending,
                "arenas": len(registry.arenas),
                "arena links": len(self.host._arena_links),
                "ledgers": len(self.host._hub.ledgers),
            }

        counted: dict[str, Any] = self.call(count)
        return counted | {"descriptors": count_descriptors(), "threads": count_threads()}

    def _end_freeing(self) -> None:
        """Return when the host's thread has closed what it was given: that is freed, but still open."""
        if (crew := self.host._crew) is not None:
            crew.freer._closer.end()
            crew.freer._closer = Closer()

    def settle(self, leases: int = 0) -> None:
        """Return when the host has handled what clients gave back a moment later, and freed it."""
        wait_until(lambda: self.counts()["leases"] == leases)
        wait_until(lambda: not self.call(lambda: self.host._crew and self.host._crew.workers._running))

    def is_back_at(self, before: dict[str, Any]) -> bool:
        """Return whether nothing is left since; fewer threads are no leak: one of an earlier test may end."""
        now = self.counts()
        return now | {"threads": 0} == before | {"threads": 0} and now["threads"] <= before["threads"]


@contextlib.contextmanager
def watched_host(
    path: str, listener: socket.socket | None = None, options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[WatchedHost]:
    with start_blocking_portal("asyncio", options or backend_options()) as portal:
        serving, host = portal.start_task(Host(Config(socket_path=path, **settings), listener).serve)
        try:
            yield WatchedHost(host, portal)
        finally:
            portal.call(host.stop)
            serving.result()
            # Nothing is in an account any more. Many leases may be under way still, and a thread may be
            # blocked for as long as a client likes.
            in_use = host.registry.accounts.in_use
            wait_until(lambda: host._links or portal.call(in_use) == {}, shown=in_use)


@contextlib.contextmanager
def client_with_two(path: str) -> Iterator[shmclient.Client]:
    """Give a client of a host, which has put two small values: a and b."""
    with shmclient.connect(path) as shm:
        for name in ("a", "b"):
            shm.put(name, name.encode() * 10).close()
        yield shm


def serve(path: Path, first: str = "") -> subprocess.Popen[str]:
    """Start a host as a user would, after it has run `first`; return when it listens."""
    if first:
        program = f"{first}\nfrom shmhost.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", "--socket", str(path)]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    else:
        child = start_host("--socket", str(path))
    assert child.stderr is not None
    for line in child.stderr:
        if "listening" in line:
            return child
    child.stderr.close()
    raise AssertionError(f"the host ended with {child.wait()}")


class Machine:
    """A host process that can be stopped, killed and started again at its socket."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.child = serve(Path(self.path))

    def signal(self, number: int) -> None:
        assert self.child is not None
        self.child.send_signal(number)

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def restart(self) -> None:
        self.kill()
        self.start()


class RawPeer:
    """A client that says exactly what it is told to, well-formed or not."""

    def __init__(self, path: str, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.connection = Connection("client")
        if greet:
            self.ask(m.Hello(1, m.VERSION, m.VERSION, "raw"))

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        descriptors.send(self.socket, data, fds or [], 0)

    def receive(self) -> tuple[m.Message, list[int]]:
        """Return the next message and its descriptors; EOFError at the end of the stream."""
        while True:
            for message, fds in self.connection.messages():
                if isinstance(message, m.Welcome):  # which brings the board
                    descriptors.close_all(fds)
                    fds = []
                return message, fds
            data, fds = descriptors.receive(self.socket)
            if not data:
                raise EOFError
            self.connection.receive(data, fds)

    def ask(self, message: m.Message) -> tuple[m.Message, list[int]]:
        self.send(pack(message))
        return self.receive()

    def is_dropped(self) -> bool:
        """Read on until the host ends the connection; what comes before must be its Goodbye."""
        try:
            while True:
                message, fds = self.receive()
                descriptors.close_all(fds)
                assert isinstance(message, m.Goodbye), message
        except (EOFError, ConnectionResetError):
            return True

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lingering:
    """A TCP socket whose last close blocks: unsent bytes, an hour of SO_LINGER, a peer that reads nothing."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.socket = socket.create_connection(listener.getsockname())
            self._peer, _ = listener.accept()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.send(bytes(1 << 16))

    def release(self) -> None:
        """End the wait of whoever closes it: closed with unread bytes, the peer answers with a reset."""
        self._peer.close()

    def __enter__(self) -> Lingering:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.socket.close()


def in_child(function: Callable[[], object]) -> int:
    """Run a function in a forked child; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not a handler in Python, which a hang in C never runs
        signal.alarm(30)  # a child that hangs ends itself
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forbid(number: int, errno: int) -> None:
    """Have a system call fail with an error, in this process from now on (seccomp(2))."""
    no_new_privileges, seccomp, filter_mode = 38, 22, 2
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(no_new_privileges, 1, 0, 0, 0) == 0
    assert prctl(seccomp, filter_mode, program, 0, 0) == 0


def as_nobody(function: Callable[[], object]) -> int:
    """Run a function as another user, in a forked child; return its exit code."""

    def run() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        function()

    return in_child(run)


def without_proc(function: Callable[[], object]) -> Callable[[], object]:
    """Return a function that calls another where /proc is empty, in a mount namespace of its own."""

    def call() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
        assert libc.unshare(clone_newns) == 0
        assert libc.mount(b"none", b"/", None, ms_rec | ms_private, None) == 0
        assert libc.mount(b"tmpfs", b"/proc", b"tmpfs", 0, None) == 0
        function()

    return call


def put_values(path: str, **values: bytes) -> None:
    """Publish values, as another program does."""
    with shmclient.connect(path, wait=30) as shm:
        for name, value in values.items():
            shm.put(name, value).close()
        shm.list()  # and the events have been sent


def drop_clients(host: WatchedHost) -> None:
    """End each connection, as a broken one ends."""
    host.call(lambda: [link.close() for link in list(host.host._links)])


def count_waits(host: WatchedHost) -> int:
    """Return how many waits and watches the clients of a host have there."""

    def count() -> int:
        return sum(link.session.listening for link in host.host._links)

    number: int = host.call(count)
    return number


def close_shared_clients() -> None:
    """Close the clients that `shmclient.shared_memory` has in this process, one for each host."""
    from shmclient._shared import hosts

    while hosts._clients:
        hosts._clients.popitem()[1].close()
