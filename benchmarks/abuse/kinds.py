"""The abusers: each a generator that hurts as much as it can, and yields wherever it may be stopped.

An abuser that the host drops ends with OSError or EOFError, and is begun again.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  # for sockets: the abuser may not be able to read Python's files
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Generator

from benchmarks.abuse.talker import TIMEOUT_S, Talker, ask_all, many
from shmprotocol.kernel.constants import GIB, MIB
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import ARENA_GROW, ARENA_READY

Abuser = Callable[[str], Generator[None]]

CROWD = 64  # connections, where some are needed
PUBLIC = "public"  # a region that the abuser may read
NAMES = tuple(f"public/{number}" for number in range(64))  # likewise
ARENA_SIZE = 4 * MIB
HOLD_S = 0.005  # between looks, for those that need not do anything but hold on

_MESSAGE = struct.Struct("<IiQQ")  # struct shm_arena_message


def _create(name: str, size: int, number: int = 2) -> m.Create:
    return m.Create(number, name, size, "full", "memfd", 0o600, True)


def _put(name: str, payload: bytes = b"x", mode: int = 0o600) -> m.Put:
    return m.Put(2, name, mode, True, len(payload), 0, 0, payload)


def flood(path: str) -> Generator[None]:
    """One connection keeps its socket full of requests, and reads the replies."""
    requests = pack(m.Stat(2, PUBLIC)) * 200
    with Talker(path) as talker:
        while True:
            talker.socket.sendall(requests)
            for _ in range(200):
                talker.read()
            yield


def crowd(path: str) -> Generator[None]:
    """64 connections ask at once, again and again."""
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, CROWD)
        while True:
            ask_all(talkers, m.Stat(2, PUBLIC))
            yield


def crowd_of_attachers(path: str) -> Generator[None]:
    """64 connections open and release at once, again and again."""
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, CROWD)
        while True:
            for talker in talkers:
                talker.say(m.Open(2, (PUBLIC,), (), False))
            for talker in talkers:
                reply = talker.read()
                if isinstance(reply, m.Opened):
                    talker.say(m.Release(0, tuple(grant.lease for grant in reply.grants)))
            yield


def crowd_of_inspectors(path: str) -> Generator[None]:
    """32 connections inspect all that there is."""
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, CROWD // 2)
        while True:
            ask_all(talkers, m.Inspect(2, "", 0))
            yield


def crowd_of_listers(path: str) -> Generator[None]:
    """32 connections list all that there is."""
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, CROWD // 2)
        while True:
            ask_all(talkers, m.List(2, "", ""))
            yield


def never_reads(path: str) -> Generator[None]:
    """8 connections open 64 names again and again and read nothing."""
    request = pack(m.Open(2, NAMES, (), False)) * 4
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, 8)
        while True:
            for talker in talkers:
                talker.shout(request)
            time.sleep(HOLD_S)
            yield


def never_reads_events(path: str) -> Generator[None]:
    """16 connections with 64 watches each read nothing, while names come and go."""
    with contextlib.ExitStack() as stack:
        for talker in many(stack, path, 16):
            for number in range(64):
                talker.ask(m.Watch(number + 2, ""))
        yield from _replacing(stack.enter_context(Talker(path)))


def never_closes(path: str) -> Generator[None]:
    """Opens and never closes, up to its limit of leases, and on."""
    with Talker(path) as talker:
        while True:
            talker.ask(m.Open(2, NAMES, (), False))
            yield


def half_frames(path: str) -> Generator[None]:
    """64 connections hold half of a large frame each."""
    with contextlib.ExitStack() as stack:
        for talker in many(stack, path, CROWD):
            talker.socket.sendall((60_000).to_bytes(4, "little") + bytes(50_000))
        while True:
            time.sleep(HOLD_S)
            yield


def silent(path: str) -> Generator[None]:
    """Has as many connections as it can, none of which says Hello."""
    with contextlib.ExitStack() as stack:
        while True:
            many(stack, path, 16, greet=False)
            time.sleep(HOLD_S)
            yield


def all_descriptors(path: str) -> Generator[None]:
    """Has as many connections as it can, and names on each: all descriptors of the host."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()
        while True:
            talkers = many(stack, path, 16)
            for talker in talkers:
                talker.ask(_put(f"d{next(numbers)}"))
            time.sleep(0 if talkers else HOLD_S)
            yield


def comes_and_goes(path: str) -> Generator[None]:
    """Connects, says Hello, and goes."""
    while True:
        Talker(path).close()
        yield


def knocks(path: str) -> Generator[None]:
    """Connects and goes, without a word."""
    while True:
        Talker(path, greet=False).close()
        yield


def all_addresses(path: str) -> Generator[None]:
    """Arenas that want to grow without end, and regions of the largest size."""
    with Talker(path) as talker:
        for number in itertools.count():
            talker.ask(m.Arena(2, f"a{number}", 2 * MIB, 64 * GIB, 0o600, True, True))
            talker.ask(_create(f"b{number}", 16 * GIB))
            yield


def all_of_the_budget(path: str) -> Generator[None]:
    """Creates and never publishes, up to the limit of bytes, and on."""
    with Talker(path) as talker:
        for number in itertools.count():
            talker.ask(_create(f"c{number}", 16 * MIB))
            yield


def creates_and_gives_up(path: str) -> Generator[None]:
    """Creates regions and gives them up."""
    with Talker(path) as talker:
        while True:
            reply = talker.ask(_create("c", MIB))
            if isinstance(reply, m.Created):
                talker.say(m.Abort(0, reply.region, False))
            yield


def fills_and_frees(path: str) -> Generator[None]:
    """Publishes 16 MiB, all its pages touched, and unlinks them."""
    data = bytes(16 * MIB)
    with Talker(path) as talker:
        while True:
            number = _filled(talker, "c", data)
            talker.ask(m.Publish(3, number, 1, len(data), 0, 0, 0, 0))
            talker.ask(m.Unlink(4, "c"))
            yield


def holds_pages(path: str) -> Generator[None]:
    """8 connections publish regions whose pages a pipe holds: sealing them waits, and fails."""
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, 8)
        numbers = [_filled(talker, f"h{number}", b"x", stack) for number, talker in enumerate(talkers)]
        while True:
            for talker, number in zip(talkers, numbers, strict=True):
                talker.say(m.Publish(3, number, 1, 1, 0, 0, 0, 0))
            for talker in talkers:
                talker.read()
            yield


def arena_whose_owner_is_deaf(path: str) -> Generator[None]:
    """The owner of an arena reads nothing, while 16 readers join and leave."""
    with contextlib.ExitStack() as stack:
        control = _arena(stack, path)
        while True:
            with contextlib.ExitStack() as readers:
                for talker in many(readers, path, 16):
                    talker.ask(m.Open(2, ("arena",), (), False))
            control.setblocking(False)
            yield


def arena_that_grows(path: str) -> Generator[None]:
    """The owner of an arena asks for more, in steps of a page, and for what it has already."""
    with contextlib.ExitStack() as stack:
        control = _arena(stack, path)
        for number in itertools.count():
            size = ARENA_SIZE + 4096 * (number % 4096)
            for _ in range(8):
                control.send(_MESSAGE.pack(ARENA_GROW, 0, 0, size))
            for _ in range(8):
                control.recv(64)
            yield


def descriptors_that_block(path: str) -> Generator[None]:
    """Sends a TCP socket whose close waits for an hour, and goes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        while True:
            with socket.create_connection(listener.getsockname()) as blocking, Talker(path) as talker:
                peer, _ = listener.accept()
                with peer:
                    blocking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
                    blocking.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            blocking.send(bytes(1 << 16))
                    with contextlib.suppress(OSError):
                        socket.send_fds(talker.socket, [pack(m.Stat(2, PUBLIC))], [blocking.fileno()])
            yield


def replaces(path: str) -> Generator[None]:
    """Replaces small values without end."""
    with Talker(path) as talker:
        yield from _replacing(talker)


def names_come_and_go(path: str) -> Generator[None]:
    """Publishes and unlinks new names without end, each in the log."""
    with Talker(path) as talker:
        for number in itertools.count():
            talker.ask(_put(f"n{number}"))
            talker.ask(m.Unlink(2, f"n{number}"))
            yield


def watches(path: str) -> Generator[None]:
    """16 connections with 1,024 watches each that read their events, while names are replaced."""
    yield from _listening(path, lambda number: m.Watch(number, "n" * (number % 2)))


def watches_elsewhere(path: str) -> Generator[None]:
    """16 connections with 1,024 watches each of other names, while names are replaced."""
    yield from _listening(path, lambda number: m.Watch(number, f"x{number}"))


def waits(path: str) -> Generator[None]:
    """16 connections that wait for 1,024 other names each, while names are replaced."""
    yield from _listening(path, lambda number: m.Open(number, (f"x{number}",), (), True))


def breaks_rules(path: str) -> Generator[None]:
    """Sends what no client sends, is dropped, and comes again."""
    while True:
        with Talker(path) as talker:
            talker.socket.sendall(b"\xff" * 64)
            with contextlib.suppress(OSError, EOFError):
                while True:
                    talker.read()
        yield


def _replacing(talker: Talker) -> Generator[None]:
    while True:
        talker.ask(_put("n"))
        yield


def _listening(path: str, interest: Callable[[int], m.Message]) -> Generator[None]:
    with contextlib.ExitStack() as stack:
        talkers = many(stack, path, 16)
        for talker in talkers:
            talker.socket.setblocking(False)
            for number in range(1024):
                _say_now(talker, interest(number + 2))
        publisher = stack.enter_context(Talker(path))
        while True:
            publisher.ask(_put("n"))
            for talker in talkers:
                _drain(talker)
            yield


def _say_now(talker: Talker, message: m.Message) -> None:
    while True:
        try:
            talker.say(message)
            return
        except BlockingIOError:
            _drain(talker)


def _drain(talker: Talker) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            if not talker.socket.recv(1 << 20):
                raise EOFError


def _filled(talker: Talker, name: str, data: bytes, held: contextlib.ExitStack | None = None) -> int:
    """Return the number of a new region with this content; with a stack, a pipe holds its first page."""
    talker.say(_create(name, len(data)))
    reply, (writer,) = talker.take()
    assert isinstance(reply, m.Created)
    try:
        os.pwrite(writer, data, 4096)
        if held is not None:
            pipe = os.pipe()
            for end in pipe:
                held.callback(os.close, end)
            os.splice(writer, pipe[1], 4096, offset_src=4096)
    finally:
        os.close(writer)
    return reply.region


def _arena(stack: contextlib.ExitStack, path: str) -> socket.socket:
    """Publish an arena; return its control socket."""
    talker = stack.enter_context(Talker(path))
    talker.say(m.Arena(2, "arena", ARENA_SIZE, 16 * ARENA_SIZE, 0o600, True, False))
    reply, fds = talker.take()
    assert isinstance(reply, m.ArenaMade), reply
    os.close(fds[0])
    control = stack.enter_context(socket.socket(fileno=fds[1]))
    control.settimeout(TIMEOUT_S)
    control.send(_MESSAGE.pack(ARENA_READY, 0, 0, 0))
    control.recv(64)
    return control


KINDS: tuple[Abuser, ...] = (
    flood,
    crowd,
    crowd_of_attachers,
    crowd_of_inspectors,
    crowd_of_listers,
    never_reads,
    never_reads_events,
    never_closes,
    half_frames,
    silent,
    knocks,
    comes_and_goes,
    breaks_rules,
    descriptors_that_block,
    all_descriptors,
    all_addresses,
    all_of_the_budget,
    creates_and_gives_up,
    fills_and_frees,
    replaces,
    names_come_and_go,
    watches,
    watches_elsewhere,
    waits,
    holds_pages,
    arena_whose_owner_is_deaf,
    arena_that_grows,
)
