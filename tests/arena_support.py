"""A client that makes and opens arenas, and speaks on their control sockets as a program in C does."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import shmclient
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import ARENA_FORGET, ARENA_GROW, ARENA_LEDGER, ARENA_READY
from support import RawPeer

MESSAGE = struct.Struct("<IiQQ")
LINE = struct.Struct("<QQ4IQI")
SIZE = 1 << 16
CAMERA_SIZE = 8 << 20  # of the arena `camera` that clients in Python have
SLOTS = 504  # that a client can have armed at once: see `shm_arena_layout.h`


class Note(NamedTuple):
    """A message on a control socket."""

    kind: int
    code: int
    number: int
    size: int
    descriptors: list[int]


class Line(NamedTuple):
    """A line of the board."""

    region: int
    generation: int
    changes: int
    rights: int
    cpu: int
    ledgers: int
    size: int
    waiters: int


def fill(memory: int, values: dict[str, bytes], *, older: dict[str, bytes] | None = None) -> dict[str, int]:
    """Write control page, entries and values of an arena, before it is READY; return where the blocks are.

    `older` are the values before those: what the other records have.
    """
    older = older or {}
    start, heap = 8192, 8192 + 192 * len(values)
    blocks: dict[str, int] = {}
    for number, (name, value) in enumerate(values.items()):
        block = heap + 1024 * number
        blocks[name], blocks[f"older {name}"] = block, block + 512
        os.pwrite(memory, value, block)
        encoded, generation = name.encode(), 10 + number
        at = 0
        if len(encoded) > 32:
            at = block + 700
            os.pwrite(memory, encoded, at)
        record = struct.pack("<3QII4Q", block, len(value), 0, 0, 0, 0, 0, generation, time.monotonic_ns())
        other = bytes(64)
        if name in older:
            other = struct.pack("<3QII4Q", block + 512, len(older[name]), 0, 0, 0, 0, 0, number + 1, 1)
        entry = struct.pack("<4Q32s", generation << 2, 0, len(encoded), at, b"" if at else encoded)
        os.pwrite(memory, entry + record + other, start + 192 * number)
    said = (10 + len(values), len(values), len(values), sum(map(len, values.values())))
    page = struct.pack("<8s2I6Q4Q", b"SHMAREN\0", 1, 0, 4096, 0, start, len(values), heap, 0, *said)
    os.pwrite(memory, page, 4096)
    return blocks


def hold(ledger: int, *blocks: int, since_ns: int = 0, first: int = 0) -> None:
    """Write holds into a ledger, as its client does."""
    high = first + len(blocks)
    os.pwrite(ledger, struct.pack("<Q", high), 0)
    data = b"".join(struct.pack("<QQ", block, since_ns or time.monotonic_ns()) for block in blocks)
    os.pwrite(ledger, data, 4096 + 16 * first)


class Board:
    """The board of a host, as a client has it."""

    def __init__(self, path: str) -> None:
        self._peer = RawPeer(path, greet=False)
        self._peer.send(pack(m.Hello(1, m.VERSION, m.VERSION, "board")))
        data, fds = descriptors.receive(self._peer.socket)
        assert len(data) > 8
        self._descriptor = fds.pop()

    def line(self, number: int) -> Line:
        assert number
        return Line._make(LINE.unpack(os.pread(self._descriptor, LINE.size, 4096 + 128 + 64 * number)))

    def close(self) -> None:
        os.close(self._descriptor)
        self._peer.close()


class Owned:
    """An arena, as its owner has it."""

    def __init__(self, reply: m.ArenaMade, memory: int, control: int) -> None:
        self.made = reply
        self.memory = memory
        self.control = socket.socket(fileno=control)
        self.control.settimeout(20)

    def send(self, kind: int, size: int = 0) -> None:
        self.control.send(MESSAGE.pack(kind, 0, 0, size))

    def receive(self) -> Note:
        """Return the next message; EOFError if the host has ended the conversation."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 64, 4)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        assert len(data) == MESSAGE.size
        return Note(*MESSAGE.unpack(data), list(fds))

    def ask(self, kind: int, size: int = 0) -> Note:
        """Return the answer, with what came before it left out."""
        self.send(kind, size)
        while (note := self.receive()).kind != kind:
            descriptors.close_all(note.descriptors)
        return note

    def ready(self) -> int:
        """Publish; return the error."""
        return self.ask(ARENA_READY).code

    def grow(self, size: int) -> tuple[int, int]:
        """Return the error, and the size from then on."""
        note = self.ask(ARENA_GROW, size)
        return note.code, note.size

    def ledger(self) -> int:
        """Return the number of the ledger that the next message tells of."""
        note = self.receive()
        assert (note.kind, len(note.descriptors)) == (ARENA_LEDGER, 2), note
        descriptors.close_all(note.descriptors)
        return note.number

    def forgotten(self) -> int:
        """Return the number of the ledger that the next message says is gone."""
        note = self.receive()
        assert note.kind == ARENA_FORGET, note
        return note.number

    def is_ended(self) -> bool:
        """Read on until the host has ended the conversation."""
        try:
            while True:
                descriptors.close_all(self.receive().descriptors)
        except EOFError:
            return True

    def leave(self) -> None:
        """End the conversation; may be called again."""
        self.control.close()

    def close(self) -> None:
        self.leave()
        if self.memory >= 0:
            os.close(self.memory)
        self.memory = -1


class ArenaPeer(RawPeer):
    """A client that owns arenas, or reads them."""

    def __init__(self, path: str, version: int = m.VERSION) -> None:
        super().__init__(path, greet=False)
        self.ask(m.Hello(1, m.VERSION_MIN, version, "raw"))
        self._owned: list[Owned] = []

    def make(
        self,
        name: str = "camera",
        size: int = SIZE,
        max_size: int = 0,
        *,
        mode: int = 0o600,
        replace: bool = True,
        keep: bool = True,
    ) -> Owned:
        reply, fds = self.ask(m.Arena(2, name, size, max_size, mode, replace, keep))
        assert isinstance(reply, m.ArenaMade), reply
        self._owned.append(Owned(reply, *fds))
        return self._owned[-1]

    def publish(
        self, name: str = "camera", size: int = SIZE, max_size: int = 0, **options: bool | int
    ) -> Owned:
        owned = self.make(name, size, max_size, **options)  # type: ignore[arg-type]
        assert owned.ready() == 0
        return owned

    def refusal(self, message: m.Message) -> m.Refused:
        """Return the refusal that a request gets."""
        reply, fds = self.ask(message)
        descriptors.close_all(fds)
        assert isinstance(reply, m.Refused), reply
        return reply

    def open(self, *names: str, held: tuple[int, ...] = ()) -> m.Opened:
        """Open names, and close the descriptors."""
        opened, fds = self.opened(*names, held=held)
        descriptors.close_all(fds)
        return opened

    def opened(self, *names: str, held: tuple[int, ...] = ()) -> tuple[m.Opened, list[int]]:
        reply, fds = self.ask(m.Open(3, names, held, False))
        assert isinstance(reply, m.Opened), reply
        return reply, fds

    def put(self, name: str, *, replace: bool = True) -> m.Message:
        reply, fds = self.ask(m.Put(4, name, 0o600, replace, 1, 0, 0, b"x"))
        descriptors.close_all(fds)
        return reply

    def close(self) -> None:
        super().close()
        while self._owned:
            self._owned.pop().close()


class Sleepers:
    """The places for sleepers in the ledger of a client that reads, which has none taken now."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._first = self._free()

    def _free(self) -> int:
        """Return the first free place."""
        slot: int = self._reader._arm(None)
        self._reader._disarm(slot)
        return slot

    def count(self) -> int:
        """Return how many are taken in a row."""
        return (self._free() - self._first) // 8


def start_camera(owner: shmclient.Client, *values: bytes) -> shmclient.Arena:
    """Make the arena `camera`, and put values under the name `x`."""
    arena = owner.arena("camera", 8 << 20, names=16)
    for value in values:
        arena["x"] = value
    return arena


def stat(peer: ArenaPeer, name: str = "camera") -> m.RegionInfo:
    reply, _ = peer.ask(m.Stat(6, name))
    assert isinstance(reply, m.Described), reply
    return reply.info


@contextlib.contextmanager
def peers(path: str, count: int) -> Iterator[list[ArenaPeer]]:
    """Give some clients."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ArenaPeer(path)) for _ in range(count)]
