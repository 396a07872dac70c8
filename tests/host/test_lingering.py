"""Ledgers of clients that are dropped before their process ends, and before they hold nothing."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys

import pytest

from arena_support import ArenaPeer, hold
from shmprotocol.wire import descriptors
from support import WatchedHost, wait_until

pytestmark = pytest.mark.usefixtures("leaves_nothing")

HOLDER = """
import os, sys
from arena_support import ArenaPeer, hold
peer = ArenaPeer(sys.argv[1])
reply, fds = peer.opened("camera")
hold(fds[1], reply.grants[0].address + 8192)
peer.send(b"\\0" * 64)  # no frame begins so
print("held", flush=True)
sys.stdin.read()
"""


NONSENSE = bytes(64)  # no frame begins so


def is_told(control: socket.socket) -> bool:
    """Whether the owner has a message."""
    return bool(select.select([control], [], [], 0)[0])


def test_owner_hears_of_a_client_that_was_dropped_once_it_holds_nothing(
    host: WatchedHost, owner: ArenaPeer
) -> None:
    owned = owner.publish()
    with ArenaPeer(host.socket_path) as reader:
        reply, fds = reader.opened("camera")
        number = owned.ledger()
        hold(fds[1], reply.grants[0].address + 8192)
        reader.send(NONSENSE)
        wait_until(lambda: host.counts()["links"] == 1)
    assert (host.counts()["ledgers"], is_told(owned.control)) == (1, False)
    os.pwrite(fds[1], bytes(8), 4096)
    assert owned.forgotten() == number
    descriptors.close_all(fds)


def test_owner_hears_of_a_client_that_was_dropped_when_its_process_is_killed(
    host: WatchedHost, owner: ArenaPeer
) -> None:
    owned = owner.publish()
    command = [sys.executable, "-c", HOLDER, host.socket_path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        number = owned.ledger()
        wait_until(lambda: host.counts()["links"] == 1)
        assert (host.counts()["ledgers"], is_told(owned.control)) == (1, False)
        child.kill()
        assert owned.forgotten() == number


def test_owner_hears_at_once_of_a_client_that_closes_its_connection(
    host: WatchedHost, owner: ArenaPeer
) -> None:
    owned = owner.publish()
    with ArenaPeer(host.socket_path) as reader:
        reply, fds = reader.opened("camera")
        number = owned.ledger()
        hold(fds[1], reply.grants[0].address + 8192)
    assert owned.forgotten() == number
    descriptors.close_all(fds)


def test_host_stops_while_a_client_that_was_dropped_holds_values(host: WatchedHost, owner: ArenaPeer) -> None:
    owner.publish()
    with ArenaPeer(host.socket_path) as reader:
        reply, fds = reader.opened("camera")
        hold(fds[1], reply.grants[0].address + 8192)
        reader.send(NONSENSE)
        wait_until(lambda: host.counts()["links"] == 1)
    assert host.counts()["ledgers"] == 1
    os.pwrite(fds[1], bytes(8), 4096)
    descriptors.close_all(fds)
