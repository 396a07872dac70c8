"""Every road into every kind of object of a host that is not the attacker's to write, by a real attacker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator

import pytest

import roads_support as roads
import victims
from arena_programs import needs_compiler
from shmclient import posix
from support import needs_root
from victims import Holder, Target

pytestmark = needs_compiler
IS_ROOT = os.getuid() == 0
# Of the host, of who writes the objects, and of another user.
HOST, OWNER, OTHER = (54320, 54321, 54322) if IS_ROOT else (os.getuid(),) * 3
ATTACKERS = {"another user": OTHER, "the same user": OWNER, "the host's user": HOST, "root": 0}
NAMES = ["full", "spare", "put", "writer", victims.SHARED, "shm", "arena", victims.GROWING, "ledger", "board"]
NEEDS_ROOT = ("file handle", "owner's map_files", "host's map_files")
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)

as_users = pytest.mark.parametrize("who", ATTACKERS if IS_ROOT else ["the same user"])


@contextlib.contextmanager
def scene(is_dumpable: bool = True) -> Iterator[dict[str, Target]]:
    """Give the objects that a client has written at a host, which are processes of two users."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.chown(folder, HOST, -1)
        os.chmod(folder, 0o755)
        path = f"{folder}/h.sock"
        host = stack.enter_context(victims.child(victims.serve(path), HOST))
        victims.wait_for(host)
        owner = stack.enter_context(victims.child(victims.write_all(path), OWNER, is_dumpable))
        lock = os.stat(f"{path}.lock")
        prefix = f"/dev/shm/shmhost-{lock.st_dev:x}-{lock.st_ino:x}"
        targets = victims.receive(owner, host.pid, prefix)
        stack.callback(os.unlink, targets["shm"].path)  # the host is killed
        for target in targets.values():
            for descriptor in {target.reader, target.writer} - {-1}:
                stack.callback(os.close, descriptor)
        yield targets


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    with scene() as objects:
        yield objects


def attacker(who: str, is_dumpable: bool = True) -> roads.Attacker:
    uid = ATTACKERS[who] if IS_ROOT else os.getuid()
    sees_owner = roads.may_see(uid, OWNER, is_dumpable)
    return roads.Attacker(uid, sees_owner, roads.may_see(uid, HOST), uid == HOST)


def try_all(target: Target, attacker: roads.Attacker) -> int:
    """Try all roads with each descriptor; return how many there were. They must end as the table says.

    A bystander sees a change where the road is open, and none elsewhere.
    """
    count, bystander = 0, roads.Bystander(target)
    for descriptor in [target.reader] + [target.writer] * (target.writer >= 0):
        for road, outcome in roads.attack(target, descriptor, attacker.uid):
            is_writer = descriptor == target.writer
            right = {roads.expected(road, target, attacker, is_writer)}
            right |= {roads.UNTRIED} if road in roads.OPTIONAL else set()
            assert outcome in right, (target.name, road, is_writer)
            assert bystander.has_seen_a_change() == (outcome == roads.OPEN), (target.name, road, is_writer)
            count += 1
    return count


@as_users
@pytest.mark.parametrize("name", NAMES)
def test_roads_end_as_the_table_says(name: str, who: str, targets: dict[str, Target]) -> None:
    target = targets[name]
    assert try_all(target, attacker(who)) == len(roads.ROADS) * (1 + (target.writer >= 0))


@needs_root
def test_process_that_is_not_dumpable_is_closed_to_its_own_user() -> None:
    with scene(is_dumpable=False) as targets:
        for name in ("full", "writer", "arena", "ledger"):
            assert try_all(targets[name], attacker("the same user", is_dumpable=False))


# --- the control: into an object without seals, each of the roads leads


def wait(sock: socket.socket) -> None:
    """Have the object mapped for writing, and let anybody trace this process."""
    _, (descriptor,), _, _ = socket.recv_fds(sock, 1, 1)
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
    size = os.fstat(descriptor).st_size
    with posix.mmap(None, size, posix.PROT_RDWR, posix.MAP_SHARED, descriptor) as mapping:
        sock.sendall(f"{descriptor} {mapping.address}".encode())
        sock.recv(1)


@contextlib.contextmanager
def unsealed(path: str) -> Iterator[Target]:
    """Give an object that nothing protects, and a process that has it; with a path, it is a file there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    descriptor = os.open(path, flags) if path else os.memfd_create("x", os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, victims.FILLING)
        os.fchown(descriptor, OWNER, -1)
        with victims.child(wait, OWNER) as child:
            socket.send_fds(child.socket, [b"\n"], [descriptor])
            number, address = map(int, child.socket.recv(100).split())
            holder = Holder(child.pid, number, address, True, True)
            yield Target(victims.UNSEALED, descriptor, descriptor, holder, holder, path)
    finally:
        os.close(descriptor)
        if path:
            os.unlink(path)


@pytest.mark.parametrize("road", [road for road in roads.ROADS if road not in roads.HARMLESS])
def test_road_leads_into_an_object_without_seals(road: str) -> None:
    if road in NEEDS_ROOT and not IS_ROOT:
        pytest.skip("only root gets there")
    path = f"/dev/shm/shmhost-test-{secrets.token_hex(8)}" if road == "name" else ""
    with unsealed(path) as target:
        bystander = roads.Bystander(target)
        uid = 0 if road in NEEDS_ROOT else OWNER
        ((_, outcome),) = roads.attack(target, target.writer, uid, road)
        if outcome == roads.UNTRIED and road in roads.OPTIONAL:
            pytest.skip("this kernel does not have it")
        assert (outcome, bystander.has_seen_a_change()) == (roads.OPEN, True)


def test_all_roads_of_the_program_are_in_the_table() -> None:
    with unsealed("") as target:
        assert sorted(road for road, _ in roads.attack(target, target.writer, OWNER)) == sorted(roads.ROADS)
