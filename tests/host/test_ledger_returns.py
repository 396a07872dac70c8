"""Ledgers of a host that was killed, handed back again and again, by whoever has a descriptor."""

from __future__ import annotations

import os

import pytest

from arena_support import ArenaPeer, Board, hold
from returning_support import descriptors_of, give, kept, own, read, refusal
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import (
    ARENA_LEDGER,
    ARENA_REST,
)
from support import Machine


def words(board: Board, line: int) -> int:
    return board.line(line).ledgers


def test_ledger_that_is_handed_back_again_and_again_fills_no_queue(machine: Machine) -> None:
    """The owner reads nothing meanwhile: a message waits for it, and not as many as there are requests."""
    with kept(machine.path) as clients:
        machine.restart()
        board = Board(machine.path)
        with ArenaPeer(machine.path) as peer, ArenaPeer(machine.path) as reader:
            control = own(peer, clients)
            start = control.until(ARENA_REST)
            read(reader, clients)
            before = descriptors_of(machine)
            for _ in range(300):
                reply, fds = give(reader, m.RestoreLedger(6, clients.ledger, True), clients.ledger_memory)
                assert reply == m.LedgerRestored(6, True)
                close_all(fds)
            assert descriptors_of(machine) < before + 50
            heard = [note.kind for note in control.notes()]
            while heard.count(ARENA_LEDGER) < words(board, start[0].number) - start[0].code - 2:
                heard += [note.kind for note in control.notes()]
            assert set(heard) == {ARENA_LEDGER}
            assert len(heard) < 100
            reader.close()
            assert control.forgotten() == clients.ledger
            control.close()
        board.close()


def test_ledger_that_this_host_made_is_not_handed_back(machine: Machine) -> None:
    """Owners have descriptors of it, and could take it from its client."""
    with kept(machine.path) as clients:
        machine.restart()
        with (
            ArenaPeer(machine.path) as owner,
            ArenaPeer(machine.path) as reader,
            ArenaPeer(machine.path) as other,
        ):
            control = own(owner, clients)
            control.until(ARENA_REST)
            opened, fds = reader.opened("camera")
            number = opened.ledger[0]
            for event in (False, True):
                assert refusal(other, m.RestoreLedger(5, number, event), fds[1]) == "not-found"
            assert [note.kind for note in control.until(ARENA_LEDGER)] == [ARENA_LEDGER]
            close_all(fds)
            other.close()
            assert control.notes() == []
            reader.close()
            assert control.forgotten() == number
            control.close()


def test_ledger_is_heeded_as_long_as_its_process_lives_if_no_client_goes_on_with_it(machine: Machine) -> None:
    """Whoever reads without a host does not know that the connection by which it is handed back has ended."""
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as owner:
            control = own(owner, clients)
            control.until(ARENA_REST)
            with ArenaPeer(machine.path) as keeper:
                read(keeper, clients)
                control.until(ARENA_LEDGER)
            with pytest.raises(TimeoutError):  # two looks
                control.control.settimeout(2.5)
                control.receive()
            control.control.settimeout(20)
            with ArenaPeer(machine.path) as client:
                reply, fds = give(client, m.RestoreLedger(6, clients.ledger, True), clients.ledger_memory)
                assert reply == m.LedgerRestored(6, True)
                close_all(fds)
                control.until(ARENA_LEDGER)
            assert control.forgotten() == clients.ledger  # the client has closed it, and held nothing
            control.close()


def test_ledger_that_is_used_again_after_it_lingered_stays(machine: Machine) -> None:
    with kept(machine.path) as clients:
        machine.restart()
        with ArenaPeer(machine.path) as owner, ArenaPeer(machine.path) as client:
            control = own(owner, clients)
            hold(clients.ledger_memory, clients.address + 8192)
            with ArenaPeer(machine.path) as first:
                reply, fds = give(first, m.RestoreLedger(6, clients.ledger, True), clients.ledger_memory)
                close_all(fds)
            reply, fds = give(client, m.RestoreLedger(6, clients.ledger, True), clients.ledger_memory)
            assert reply == m.LedgerRestored(6, True)
            close_all(fds)
            control.until(ARENA_REST)
            while ARENA_LEDGER in [note.kind for note in control.notes()]:
                pass
            os.pwrite(clients.ledger_memory, bytes(8), 4096)
            control.control.settimeout(2.5)
            with pytest.raises(TimeoutError):
                while control.receive().kind == ARENA_LEDGER:
                    pass
            control.control.settimeout(20)
            client.close()
            assert control.forgotten() == clients.ledger
            control.close()
