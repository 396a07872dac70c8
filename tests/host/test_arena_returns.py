"""Arenas and ledgers of a host that was killed, handed back by clients that say anything they like."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, Board
from foreign import KINDS, passable
from returning_support import OPEN, Kept, descriptors_of, give, is_open, kept, own, read, refusal
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import (
    ARENA_BACK,
    ARENA_BOARD,
    ARENA_GROW,
    ARENA_KEEP,
    ARENA_LEAVE,
    ARENA_LEDGER,
    ARENA_REST,
)
from support import Machine, as_nobody, in_child, wait_until
from takeover_support import line_of_hosts

REQUESTS: dict[str, Callable[[Kept], m.Message]] = {
    "arena": lambda clients: m.RestoreArena(5, clients.region),
    "ledger": lambda clients: m.RestoreLedger(5, clients.ledger, False),
    "ledger and event": lambda clients: m.RestoreLedger(5, clients.ledger, True),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_descriptors_of_foreign_kinds_are_refused_and_closed(what: str, machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as peer:
            before = descriptors_of(machine)
            for kind in passable():
                with ExitStack() as stack:
                    other = KINDS[kind](stack)
                    assert refusal(peer, REQUESTS[what](clients), other) == "not-found", kind
            assert refusal(peer, REQUESTS[what](clients), peer.socket.fileno()) == "not-found"
            wait_until(lambda: descriptors_of(machine) == before)
            read(peer, clients)
            own(peer, clients).close()
            assert isinstance(give(peer, OPEN)[0], m.Opened)


@pytest.mark.parametrize("what", REQUESTS)
def test_numbers_that_never_were_are_refused(what: str, machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as peer:
            memory = clients.memory if what == "arena" else clients.ledger_memory
            request = REQUESTS[what](clients)
            field = "region" if what == "arena" else "ledger"
            for number in (0, clients.region + clients.ledger + 7, 2**63, 2**64 - 1):
                assert refusal(peer, request._replace(**{field: number}), memory) == "not-found"


def copy_of(descriptor: int, seals: int) -> int:
    """Return an object with the same content, size and seals."""
    copy = os.memfd_create("copy", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(copy, os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
    return copy


def test_copies_and_each_others_objects_are_refused(machine: Machine) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    with kept(machine.path) as clients:
        machine.restart()
        arena = copy_of(clients.memory, fcntl.F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
        ledger = copy_of(clients.ledger_memory, seals | F_SEAL_FUTURE_WRITE)
        with ArenaPeer(machine.path) as peer:
            for _ in range(2):  # before they are back, and after
                assert refusal(peer, REQUESTS["arena"](clients), arena) == "not-found"
                assert refusal(peer, REQUESTS["arena"](clients), clients.ledger_memory) == "not-found"
                assert refusal(peer, REQUESTS["ledger"](clients), ledger) == "not-found"
                assert refusal(peer, REQUESTS["ledger"](clients), clients.memory) == "not-found"
                own(peer, clients).close()
                read(peer, clients)
        close_all([arena, ledger])


def as_others(
    machine: Machine, attack: Callable[[ArenaPeer], object], run: Callable[[Callable[[], object]], int]
) -> None:
    """Run an attack with a connection of another process, or of another user."""

    def go() -> None:
        with ArenaPeer(machine.path) as peer:
            attack(peer)

    assert run(go) == 0


@pytest.mark.parametrize("run", [as_nobody, in_child])
def test_arena_and_ledger_of_others_are_refused(
    run: Callable[[Callable[[], object]], int], folder: Path
) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    Path(machine.path).chmod(0o666)
    with kept(machine.path) as clients:
        machine.restart()
        Path(machine.path).chmod(0o666)

        def attack(peer: ArenaPeer) -> None:
            for what, memory in (("arena", clients.memory), ("arena", clients.arena)):
                assert refusal(peer, REQUESTS[what](clients), memory) == "not-found"
            for what in ("ledger", "ledger and event"):
                assert refusal(peer, REQUESTS[what](clients), clients.ledger_memory) == "not-found"

        as_others(machine, attack, run)
        with ArenaPeer(machine.path) as peer:
            assert not is_open(machine.path)
            control = own(peer, clients)
            read(peer, clients)
            assert [note.kind for note in control.until(ARENA_LEDGER)] == [
                *(ARENA_BOARD, ARENA_KEEP, ARENA_REST, ARENA_LEDGER)
            ]
            as_others(machine, attack, run)
            assert control.notes() == []
            assert is_open(machine.path)
            control.close()
    machine.kill()


def test_arena_whose_owner_died_is_found_though_no_owner_hands_it_back(machine: Machine) -> None:
    """Its object proves what it is, whatever the client says about it."""
    with kept(machine.path) as clients, ArenaPeer(machine.path) as old:
        died = kept_by_dead(machine, old)
        machine.restart()
        with ArenaPeer(machine.path) as waiting, ArenaPeer(machine.path) as peer:
            waiting.send(pack(m.Open(7, ("dead",), (), True)))
            assert refusal(peer, m.RestoreArena(5, died[0]), died[1]) == "not-found"
            reply, fds = waiting.receive()
            assert isinstance(reply, m.Opened), reply
            close_all([*fds, died[1]])
            own(peer, clients).close()


def kept_by_dead(machine: Machine, reader: ArenaPeer, *, keep: bool = True) -> tuple[int, int]:
    """Have a process make the arena `dead`, and end with its host; return number and descriptor."""
    ready, over = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            peer = ArenaPeer(machine.path)
            peer.publish("dead", keep=keep)
            os.write(ready[1], b"1")
            os.read(over[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    opened, fds = reader.opened("dead")
    close_all(fds[1:])
    machine.kill()
    os.write(over[1], b"1")
    os.waitpid(pid, 0)
    close_all([*ready, *over])
    machine.start()
    return opened.grants[0].region, fds[0]


def test_arena_that_is_over_is_not_left_behind_by_a_refusal(machine: Machine) -> None:
    with ArenaPeer(machine.path) as old:
        number, memory = kept_by_dead(machine, old, keep=False)
        with ArenaPeer(machine.path) as peer:
            assert refusal(peer, m.RestoreArena(5, number), memory) == "not-found"
            reply, _ = peer.ask(m.Measure(6))
            assert isinstance(reply, m.Measured)
            assert (reply.arenas, reply.used) == (0, 0)
        os.close(memory)


def test_half_a_frame_leaves_no_descriptor(machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        before = descriptors_of(machine)
        for what in REQUESTS:
            with ArenaPeer(machine.path) as peer:
                peer.send(pack(REQUESTS[what](clients))[:-1], [clients.memory])
        wait_until(lambda: descriptors_of(machine) == before)


@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_descriptors_ends_the_connection(count: int, what: str, machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        before = descriptors_of(machine)
        with ArenaPeer(machine.path) as peer:
            memory = clients.memory if what == "arena" else clients.ledger_memory
            peer.send(pack(REQUESTS[what](clients)), [memory] * count)
            with contextlib.suppress(EOFError, ConnectionResetError):
                while True:
                    close_all(peer.receive()[1])
        with ArenaPeer(machine.path) as peer:
            own(peer, clients).close()
        wait_until(lambda: descriptors_of(machine) <= before + 6)  # arena and ledger are there


def test_descriptor_of_a_reader_makes_nobody_an_owner(machine: Machine) -> None:
    """Nor does it take the arena from the owner, nor let anybody in."""
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as peer, ArenaPeer(machine.path) as other:
            assert refusal(other, m.RestoreArena(5, clients.region), clients.arena) == "invalid"
            assert not is_open(machine.path)
            control = own(peer, clients)
            assert refusal(other, m.RestoreArena(5, clients.region), clients.arena) == "invalid"
            other.close()
            control.send(ARENA_GROW, SIZE + 4096)
            assert control.until(ARENA_GROW)[-1].code == 0
            assert is_open(machine.path)
            control.close()


def test_arena_is_that_of_whoever_handed_it_back_last(machine: Machine) -> None:
    """The thread that hands back may come before the client itself does, or be cut off and begin anew."""
    with kept(machine.path) as clients:
        machine.restart()
        with (
            ArenaPeer(machine.path) as first,
            ArenaPeer(machine.path) as second,
            ArenaPeer(machine.path) as third,
        ):
            lost = own(first, clients, back=False)
            control = own(second, clients, back=False)
            assert lost.is_ended()
            lost.close()
            first.close()
            assert not is_open(machine.path)
            control.send(ARENA_BACK)
            wait_until(lambda: is_open(machine.path))
            reply, fds = give(third, m.RestoreArena(5, clients.region), clients.memory)
            assert (reply, fds) == (m.ArenaRestored(5, False), [])
            second.close()
            control.send(ARENA_GROW, SIZE + 4096)
            assert control.until(ARENA_GROW)[-1].code == 0
            third.close()
            assert control.is_ended()
            control.close()


MISUSES = {
    "nothing": b"",
    "half a message": bytes(12),
    "too much": bytes(48),
    "no kind": bytes(24),
    "the host's": (ARENA_REST).to_bytes(4, "little") + bytes(20),
    "a high one": b"\xff" * 24,
}


@pytest.mark.parametrize("said", MISUSES)
def test_owner_that_misuses_its_control_socket_lets_nobody_in(said: str, machine: Machine) -> None:
    """It may write on: so the arena stays shut until the process has ended, or hands it back."""
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as peer, ArenaPeer(machine.path) as other:
            control = own(peer, clients, back=False)
            control.until(ARENA_REST)
            control.control.send(MISUSES[said])
            assert control.is_ended()
            control.close()
            assert not is_open(machine.path)
            assert refusal(other, m.Unlink(7, "no such name")) == "not-found"  # nobody else is hurt
            again = own(peer, clients)
            wait_until(lambda: is_open(machine.path))
            again.close()


def test_messages_before_back_do_what_they_do_after_it(machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as peer:
            control = own(peer, clients, back=False)
            control.until(ARENA_REST)
            assert control.ready() != 0
            assert control.grow(2 * SIZE) == (0, 2 * SIZE)
            assert control.ask(ARENA_BOARD).number
            assert not is_open(machine.path)
            control.send(ARENA_LEAVE)
            wait_until(lambda: is_open(machine.path))
            control.send(ARENA_BACK)  # too late
            control.close()
            assert is_open(machine.path)


def test_arena_that_is_half_back_moves_on_to_a_successor(folder: Path) -> None:
    """Nobody joins before BACK, whichever host hears it; the owner then knows all who had joined."""
    with line_of_hosts(folder / "h") as line, kept(line.path) as clients:
        line.kill_and_start()
        with ArenaPeer(line.path) as peer, ArenaPeer(line.path) as reader:
            control = own(peer, clients, back=False)
            line.take_over()
            assert not is_open(line.path)
            start = control.until(ARENA_REST)
            assert [note.kind for note in start] == [ARENA_BOARD, ARENA_KEEP, ARENA_REST]
            reply, fds = give(reader, m.RestoreLedger(6, clients.ledger, True), clients.ledger_memory)
            assert reply == m.LedgerRestored(6, True)
            close_all(fds)
            assert control.until(ARENA_LEDGER)[0].number == clients.ledger
            assert not is_open(line.path)
            waiting = ArenaPeer(line.path)
            waiting.send(pack(m.Open(7, ("camera",), (), True)))
            control.send(ARENA_BACK)
            opened, fds = waiting.receive()
            assert isinstance(opened, m.Opened), opened
            close_all(fds)
            board = Board(line.path)
            line_number = control.ask(ARENA_BOARD).number
            assert board.line(line_number).ledgers - start[0].code == 4  # KEEP, REST, and LEDGER of both
            board.close()
            waiting.close()
            reader.close()
            control.close()


def test_owner_that_ends_half_back_lets_others_in_at_a_successor(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line, ArenaPeer(line.path) as old:
        ready, over = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(60)
                first = ArenaPeer(line.path)
                owned = first.publish()
                os.write(ready[1], b"1")
                os.read(over[0], 1)
                peer = ArenaPeer(line.path)
                give(peer, m.RestoreArena(5, owned.made.region), owned.memory)
                os.write(ready[1], b"1")
                os.read(over[0], 1)
            finally:
                os._exit(0)
        os.read(ready[0], 1)
        _, fds = old.opened("camera")
        close_all(fds)
        line.kill_and_start()
        os.write(over[1], b"1")
        os.read(ready[0], 1)
        line.take_over()
        assert not is_open(line.path)
        os.write(over[1], b"1")
        os.waitpid(pid, 0)
        wait_until(lambda: is_open(line.path))
        close_all([*ready, *over])
