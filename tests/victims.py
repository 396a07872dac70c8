"""Processes of users of their own that have objects: a host, and a client that writes one of each kind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anyio

from arena_support import SIZE as ARENA_SIZE
from arena_support import ArenaPeer, fill, hold
from shmclient import posix
from shmhost.serving.server import Host, backend_options
from shmhost.settings.config import Config
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import RawPeer

PAGE = 4096
PAYLOAD = 4 * PAGE
FILLING = b"\x07" * PAYLOAD
GROWING, SHARED, UNSEALED = "growing arena", "shared", "unsealed"
PR_SET_DUMPABLE = 4


class Holder(NamedTuple):
    """A process that has an object: its descriptor, and where it has it mapped; -1 and 0: it has none.

    Whether the descriptor can write, and the mapping.
    """

    pid: int
    descriptor: int = -1
    address: int = 0
    can_write: bool = False
    is_writing: bool = False


class Target(NamedTuple):
    """An object, the process that writes it, and the host.

    `reader` and `writer`, which may be -1, are descriptors of this process.
    """

    name: str
    reader: int
    writer: int
    owner: Holder
    host: Holder
    path: str = ""  # in /dev/shm, where no object can be sealed

    @property
    def is_sealed(self) -> bool:
        """Whether the kernel protects it from all but its writer."""
        return self.name not in ("shm", SHARED, UNSEALED)

    @property
    def has_sealed_size(self) -> bool:
        """Whether it has one size for ever, unless it can grow."""
        return self.is_sealed or self.name == SHARED

    @property
    def can_grow(self) -> bool:
        """Whether a descriptor that writes can make it larger."""
        return self.name == GROWING or not self.has_sealed_size


def become(uid: int, is_dumpable: bool) -> None:
    """Be another user, for good, and be traced by others of that user as far as the system lets them."""
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, int(is_dumpable), 0, 0, 0)


@contextlib.contextmanager
def child(function: Callable[[socket.socket], object], uid: int, is_dumpable: bool = True) -> Iterator[Child]:
    """Run a function in a process of another user, with an end of a pair of sockets; kill it in the end."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        try:
            ours.close()
            become(uid, is_dumpable)
            function(theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    ours.settimeout(30)
    try:
        with ours:
            yield Child(pid, ours)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Child(NamedTuple):
    """A process, and its socket."""

    pid: int
    socket: socket.socket


def serve(path: str) -> Callable[[socket.socket], None]:
    """Return what a host does: it says a word when it listens."""
    # All that is imported late: the interpreter may lie where another user cannot read.
    anyio.run(anyio.sleep, 0, backend="asyncio", backend_options=backend_options())

    def run(sock: socket.socket) -> None:
        class Status:
            def started(self, _value: object = None) -> None:
                sock.sendall(b"\n")

        async def main() -> None:
            await Host(Config(socket_path=path, socket_mode=0o666)).serve(task_status=Status())

        anyio.run(main, backend="asyncio", backend_options=backend_options())

    return run


# --- a client that has written one object of each kind


class Made(NamedTuple):
    """An object that a client has made: its descriptors, and where it has mapped it."""

    reader: int
    writer: int = -1
    address: int = 0
    is_writing: bool = False


def write_all(path: str) -> Callable[[socket.socket], None]:
    """Return what a client does: it makes the objects, hands over copies of its descriptors, and waits."""

    def run(sock: socket.socket) -> None:
        with RawPeer(path) as peer, ArenaPeer(path) as arenas, ArenaPeer(path) as reader:
            objects = {**make_regions(peer), **make_arenas(arenas, reader), "board": find_board(path)}
            hand_over(sock, objects)
            sock.recv(1)

    return run


def hand_over(sock: socket.socket, objects: dict[str, Made]) -> None:
    numbers = [fd for each in objects.values() for fd in (each.reader, each.writer) if fd >= 0]
    socket.send_fds(sock, [json.dumps(objects).encode()], numbers)


def receive(owner: Child, host: int, folder: str) -> dict[str, Target]:
    """Return what a client has handed over. Descriptors of the targets are this process's."""
    data, fds, _, _ = socket.recv_fds(owner.socket, 1 << 16, 64)
    targets: dict[str, Target] = {}
    for name, (reader, writer, address, is_writing) in json.loads(data).items():
        ours = fds.pop(0)
        writes = fds.pop(0) if writer >= 0 else -1
        path = f"{folder}.{name}" if name == "shm" else ""
        holder = Holder(owner.pid, writer if writer >= 0 else reader, address, writer >= 0, is_writing)
        targets[name] = Target(name, ours, writes, holder, find_in(host, ours), path)
    return targets


def make_regions(peer: RawPeer) -> dict[str, Made]:
    objects = {"full": make_region(peer, "full", "full", "memfd"), "spare": make_by_spare(peer)}
    reply, fds = peer.ask(m.Put(4, "put", 0o600, False, 3 * PAGE, 0, 0, FILLING[: 3 * PAGE]))
    assert isinstance(reply, m.Published), reply
    objects["put"] = mapped(fds[0])
    objects["writer"] = make_region(peer, "writer", "writer", "memfd")
    objects[SHARED] = make_region(peer, SHARED, "shared", "memfd", mode=0o400)
    objects["shm"] = make_region(peer, "shm", "full", "shm")
    return objects


def mapped(reader: int, writer: int = -1, *, is_written: bool = False) -> Made:
    """Map an object, for writing or for reading, for as long as the process lives."""
    prot = posix.PROT_RDWR if is_written else posix.PROT_READ
    size = os.fstat(reader).st_size
    mapping = posix.mmap(None, size, prot, posix.MAP_SHARED, writer if is_written else reader)
    KEPT.append(mapping)
    return Made(reader, writer, mapping.address, is_written)


KEPT: list[object] = []  # of a client's process


def make_region(peer: RawPeer, name: str, seal: str, backend: str, mode: int = 0o600) -> Made:
    """Make a region, and keep the descriptor by which it was written."""
    created, (writer,) = peer.ask(m.Create(1, name, PAYLOAD, seal, backend, mode, False))
    assert isinstance(created, m.Created), created
    os.pwrite(writer, FILLING, PAGE)
    is_written = seal in ("writer", "shared") or backend == "shm"
    written = mapped(writer, writer, is_written=True) if is_written else None
    reply, fds = peer.ask(m.Publish(2, created.region, 1, PAYLOAD, 0, 0, 0, 0))
    assert isinstance(reply, m.Published), reply
    return (written or mapped(fds[0]))._replace(reader=fds[0], writer=writer)


def make_by_spare(peer: RawPeer) -> Made:
    created, (writer,) = peer.ask(m.Create(1, "other", PAYLOAD, "full", "memfd", 0o600, False))
    assert isinstance(created, m.Created), created
    reply, fds = peer.ask(m.Publish(2, created.region, 1, PAYLOAD, 0, 0, 0, 0, (PAYLOAD,)))
    assert isinstance(reply, m.Published), reply
    descriptors.close_all([writer, fds[0]])
    spare = fds[1]
    os.pwrite(spare, FILLING, PAGE)
    number = reply.spares[0].region
    reply, fds = peer.ask(m.Assign(3, number, "spare", 0o600, False, PAYLOAD, PAYLOAD, 0, 0, ()))
    assert isinstance(reply, m.Published), reply
    return mapped(fds[0])._replace(writer=spare)


def make_arenas(owner: ArenaPeer, reader: ArenaPeer) -> dict[str, Made]:
    """Make two arenas, of which one can grow, and the ledger of a reader of theirs."""
    objects = {}
    for name, most in (("arena", 0), (GROWING, 4 * ARENA_SIZE)):
        arena = owner.make(name, ARENA_SIZE, most)
        fill(arena.memory, {"a": b"a" * 100, "b": b"b" * 100})
        written = mapped(arena.memory, arena.memory, is_written=True)
        assert arena.ready() == 0
        _, fds = reader.opened(name)
        objects[name] = written._replace(reader=fds[0])
        if not most:
            ledger = fds[1]
            objects["ledger"] = make_ledger(ledger, arena.receive().descriptors[0])
    return objects


def make_ledger(writer: int, reader: int) -> Made:
    """Map a ledger, and seal it as its client does."""
    hold(writer, *range(64, 64 * 400, 64))
    ledger = mapped(reader, writer, is_written=True)
    posix.add_seals(writer, posix.F_SEAL_FUTURE_WRITE | posix.F_SEAL_SEAL)
    return ledger


def find_board(path: str) -> Made:
    """Have the board of a host, as every client has it."""
    peer = RawPeer(path, greet=False)
    KEPT.append(peer)
    peer.send(pack(m.Hello(1, m.VERSION, m.VERSION, "board")))
    _, fds = descriptors.receive(peer.socket)
    return mapped(fds.pop())


# --- what another process has of an object


def find_in(pid: int, descriptor: int) -> Holder:
    """Return what a process has of an object, a descriptor that can write before one that cannot."""
    identity = os.fstat(descriptor)
    numbers = [number for number in os.listdir(f"/proc/{pid}/fd") if _is_it(pid, number, identity)]
    can_write = {number: os.lstat(f"/proc/{pid}/fd/{number}").st_mode & stat.S_IWUSR for number in numbers}
    best = max(numbers, key=lambda number: can_write[number])
    address = _address_in(pid, identity)
    return Holder(pid, int(best), address, bool(can_write[best]), address != 0)


def _is_it(pid: int, number: str, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), identity)
    except FileNotFoundError:
        return False


def _address_in(pid: int, identity: os.stat_result) -> int:
    for line in Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines():
        where, _, _, _, inode, *_ = line.split()
        if int(inode) == identity.st_ino:
            return int(where.split("-")[0], 16)
    return 0


def wait_for(child: Child) -> None:
    """Return when a process has said a word."""
    assert select.select([child.socket], [], [], 30)[0]
    assert child.socket.recv(1)
