"""Clients that hand back what others have handed back, and closed, before: its addresses wait for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_expected import VALUE, is_taken
from test_returns import Held, holding, put

import shmclient
from service_support import Service
from shmprotocol.wire.names import State
from shmprotocol.wire.query import Query
from support import Machine, wait_until
from takeover_support import line_of_hosts


def state_of(path: str, held: Held) -> State | None:
    """Return the state of a region; None: the host has it no more."""
    with Query(path) as query:
        infos = [inspection.info for inspection in query.inspect("")]
    return next((State(info.state) for info in infos if info.region == held.grant.region), None)


def end(path: str, name: str, *, unlinked: bool = False) -> None:
    """Replace or unlink a name."""
    with shmclient.connect(path) as shm:
        if unlinked:
            shm.unlink(name)
        else:
            shm.put(name, VALUE).close()


@contextlib.contextmanager
def freed(machine: Machine, *, unlinked: bool = False) -> Iterator[Held]:
    """Have a client hand a region back, whose name ends, and close it; give what another client has of it."""
    put(machine.path, "x", VALUE)
    with holding(machine.path, "x") as (late,):
        machine.restart()
        assert is_taken(machine.path, late)
        end(machine.path, "x", unlinked=unlinked)
        wait_until(lambda: state_of(machine.path, late) is None)
        yield late


@pytest.mark.parametrize("unlinked", [False, True], ids=["replaced", "unlinked"])
def test_late_client_hands_back_what_another_one_has_closed(machine: Machine, unlinked: bool) -> None:
    with freed(machine, unlinked=unlinked) as late:
        for _ in range(2):
            assert is_taken(machine.path, late)
            wait_until(lambda: state_of(machine.path, late) is None)
        machine.restart()
        assert is_taken(machine.path, late)


def test_late_client_hands_back_what_came_from_a_store_and_was_replaced(manager: Service) -> None:
    put(manager.path, "x", VALUE)
    wait_until(lambda: len(manager.names()) == 1)
    with holding(manager.path, "x") as (late,):
        manager.restart()
        end(manager.path, "x")
        wait_until(lambda: state_of(manager.path, late) is None)
        assert is_taken(manager.path, late)


def test_late_client_hands_back_to_the_successor_of_a_host(tmp_path: Path) -> None:
    with line_of_hosts(tmp_path / "h.sock") as line:
        put(line.path, "x", VALUE)
        with holding(line.path, "x") as (late,):
            line.kill_and_start()
            assert is_taken(line.path, late)
            line.take_over()
            end(line.path, "x")
            wait_until(lambda: state_of(line.path, late) is None)
            line.take_over()
            assert is_taken(line.path, late)
