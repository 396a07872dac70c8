"""Addresses of arenas whose owner the next host has not heard of: taken as long as it has them mapped."""

from __future__ import annotations

import os
import secrets
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, Owned, stat
from returning_support import Kept, give, is_open, kept, own
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import ARENA_LEAVE, State
from support import wait_until
from takeover_support import Line, line_of_hosts

SPAN, PART = 32 << 20, 1 << 20  # addresses of the arena, and of a region


@pytest.fixture
def line(folder: Path) -> Iterator[Line]:
    with line_of_hosts(folder / "h", "--window", "0x550000000000:96M", "--board", "100") as each:
        yield each


def hand_back(peer: ArenaPeer, clients: Kept | Process) -> None:
    """Hand the arena back as its reader."""
    reply, _ = give(peer, m.Restore(4, (clients.region,)), clients.arena)
    assert isinstance(reply, m.Restored)
    assert reply.grants[0].lease


def hand_back_to_next(line: Line, clients: Kept | Process) -> None:
    """Kill the host, and hand the arena back to the next one, by a connection that ends then."""
    line.kill_and_start()
    with ArenaPeer(line.path) as peer:
        hand_back(peer, clients)


def unlink(line: Line) -> None:
    with ArenaPeer(line.path) as peer:
        assert peer.ask(m.Unlink(7, "camera"))[0] == m.Done(7)


def are_taken(line: Line, address: int) -> bool:
    """Whether no region gets addresses of the arena, however many there are."""
    addresses: list[int] = []
    with ArenaPeer(line.path) as peer:
        while True:
            reply, fds = peer.ask(m.Create(8, secrets.token_hex(8), PART, "full", "memfd", 0o600, True))
            close_all(fds)
            if not isinstance(reply, m.Created):
                break
            addresses.append(reply.address)
        assert isinstance(reply, m.Refused), reply
        assert "addresses" in reply.text
        return not any(address - PART < each < address + SPAN for each in addresses)


def is_nothing_left(line: Line) -> bool:
    with ArenaPeer(line.path) as peer:
        reply, _ = peer.ask(m.Measure(9))
        assert isinstance(reply, m.Measured)
        leases = [use.used for use in reply.uses if use.resource == "leases"]
        return (reply.arenas, leases) == (0, [])


def leases_of(line: Line) -> list[tuple[State, int]]:
    """Return the states of arenas, and the pids of who has them leased."""
    with ArenaPeer(line.path) as peer:
        reply, _ = peer.ask(m.Inspect(10, "", 0))
        assert isinstance(reply, m.Inspected)
        return [(State(each.info.state), lease.pid) for each in reply.regions for lease in each.holders]


class Process:
    """Another process, which owns the arena, does some steps, and lives on; its reader has it, too."""

    def __init__(self, line: Line, *steps: Callable[[ArenaPeer, Owned], object], keep: bool = True) -> None:
        ready, self._over = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.alarm(120)
                peer = ArenaPeer(line.path)
                owned = peer.publish("camera", SIZE, SPAN, mode=0o644, keep=keep)
                for step in steps:
                    step(peer, owned)
                os.write(ready[1], b"1")
                os.read(self._over[0], 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(ready[1])
        assert os.read(ready[0], 1) == b"1"
        os.close(ready[0])
        self._is_over = False
        with ArenaPeer(line.path) as reader:
            opened, (self.arena, *others) = reader.opened("camera")
        close_all(others)
        self.region, self.address = opened.grants[0].region, opened.grants[0].address

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            os.write(self._over[1], b"1")
            close_all(self._over)
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self.arena)


def test_addresses_are_taken_until_the_owner_comes_and_goes(line: Line) -> None:
    with kept(line.path, max_size=SPAN) as clients:
        hand_back_to_next(line, clients)
        unlink(line)
        assert leases_of(line) == [(State.UNLINKED, os.getpid())]
        assert are_taken(line, clients.address)
        with ArenaPeer(line.path) as peer:
            control = own(peer, clients)
            control.send(ARENA_LEAVE)
            assert leases_of(line) == [(State.UNLINKED, os.getpid())]
            assert are_taken(line, clients.address)
            control.close()
        wait_until(lambda: is_nothing_left(line))
        assert not are_taken(line, clients.address)


def test_addresses_are_taken_until_the_process_of_the_owner_has_ended(line: Line) -> None:
    with Process(line) as owner:
        hand_back_to_next(line, owner)
        assert not is_open(line.path)
        line.take_over()
        unlink(line)
        assert are_taken(line, owner.address)
        line.take_over()
        assert are_taken(line, owner.address)
        assert leases_of(line) == [(State.UNLINKED, owner.pid)]
        owner.end()
        wait_until(lambda: is_nothing_left(line))
        assert not are_taken(line, owner.address)


def test_owner_that_has_left_has_it_mapped_still(line: Line) -> None:
    """It writes no more, so others may join at once."""

    def leave(_: ArenaPeer, owned: Owned) -> None:
        owned.send(ARENA_LEAVE)
        wait_until(lambda: not has_owner(line))

    with Process(line, leave) as owner:
        hand_back_to_next(line, owner)
        assert is_open(line.path)
        unlink(line)
        assert are_taken(line, owner.address)
        line.take_over()
        assert are_taken(line, owner.address)
        owner.end()
        wait_until(lambda: is_nothing_left(line))


def has_owner(line: Line) -> bool:
    with ArenaPeer(line.path) as peer:
        return stat(peer).arena.has_owner


def test_owner_that_has_ended_the_conversation_has_nothing_mapped(line: Line) -> None:
    def close(_: ArenaPeer, owned: Owned) -> None:
        owned.close()
        wait_until(lambda: not has_owner(line))

    with Process(line, close) as owner:
        hand_back_to_next(line, owner)
        assert is_open(line.path)
        unlink(line)
        wait_until(lambda: is_nothing_left(line))
        assert not are_taken(line, owner.address)


def test_nobody_joins_after_a_kill_while_an_owner_lives_that_the_host_had_dropped(line: Line) -> None:
    """It may write on, and looks at the board of the host that dropped it."""

    def misuse(_: ArenaPeer, owned: Owned) -> None:
        owned.send(99)
        assert owned.is_ended()

    with Process(line, misuse) as owner:
        assert is_open(line.path)  # the word on that board keeps it from using anything again
        line.kill_and_start()
        with ArenaPeer(line.path) as peer:
            hand_back(peer, owner)
            assert not is_open(line.path)
            owner.end()
            wait_until(lambda: is_open(line.path))


def test_owner_whose_client_ends_behind_its_last_word_has_left(line: Line) -> None:
    """The host may hear of the end of the connection first."""

    def leave(peer: ArenaPeer, owned: Owned) -> None:
        line.child.send_signal(signal.SIGSTOP)
        owned.send(ARENA_LEAVE)
        peer.socket.close()
        line.child.send_signal(signal.SIGCONT)
        wait_until(lambda: not has_owner(line))

    with Process(line, leave) as owner:
        hand_back_to_next(line, owner)
        assert is_open(line.path)


def test_name_goes_with_an_owner_that_does_not_come_back(line: Line) -> None:
    with Process(line, keep=False) as owner:
        line.kill_and_start()
        with ArenaPeer(line.path) as peer:
            hand_back(peer, owner)
            assert leases_of(line) == [(State.CURRENT, owner.pid), (State.CURRENT, os.getpid())]
            owner.end()
            wait_until(lambda: leases_of(line) == [(State.UNLINKED, os.getpid())])
        wait_until(lambda: is_nothing_left(line))
