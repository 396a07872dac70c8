"""Regions that come back to a host whose predecessor was killed, by clients that say anything they like."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import shmclient
from foreign import KINDS, passable
from shmprotocol.errors import RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import MAX_RESTORED
from shmprotocol.wire.query import Query
from support import Lingering, Machine, RawPeer, as_nobody, wait_until
from takeover_support import line_of_hosts

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Held:
    """What a client has of a region: its grant, and a descriptor."""

    def __init__(self, grant: m.Grant, descriptor: int) -> None:
        self.grant = grant
        self.descriptor = descriptor


@contextlib.contextmanager
def holding(path: str, *names: str) -> Iterator[list[Held]]:
    """Open names on a connection that its host's death ends."""
    with RawPeer(path) as peer:
        reply, fds = peer.ask(m.Open(2, names, (), False))
        assert isinstance(reply, m.Opened)
    try:
        yield [Held(*each) for each in zip(reply.grants, fds, strict=True)]
    finally:
        close_all(fds)


def hand_back(peer: RawPeer, *pairs: tuple[int, int]) -> tuple[m.Grant, ...]:
    """Hand back regions by their numbers, with these descriptors."""
    numbers = tuple(number for number, _ in pairs)
    peer.send(pack(m.Restore(5, numbers)), [descriptor for _, descriptor in pairs])
    reply, fds = peer.receive()
    assert isinstance(reply, m.Restored), reply
    assert fds == []
    assert [grant.region for grant in reply.grants] == list(numbers)
    return reply.grants


def put(path: str, name: str, value: bytes, **options: object) -> None:
    with shmclient.connect(path) as shm:
        shm.put(name, value, **options).close()  # type: ignore[arg-type]


def test_region_is_back_with_its_name_and_all_that_it_was(machine: Machine) -> None:
    put(machine.path, "a/b", b"first", mode=0o640)
    with shmclient.connect(machine.path) as shm:
        shm.chmod("a/b", 0o604)
        before = shm.stat("a/b")
    with holding(machine.path, "a/b") as (held,):
        machine.restart()
        with shmclient.connect(machine.path) as shm, RawPeer(machine.path) as peer:
            with pytest.raises(RegionNotFound):
                shm.stat("a/b")
            (grant,) = hand_back(peer, (held.grant.region, held.descriptor))
            assert grant.lease
            assert grant == held.grant._replace(lease=grant.lease, line=grant.line, rights=grant.rights)
            assert shm.stat("a/b") == dataclasses.replace(before, leases=1)
            assert bytes(shm.get("a/b")) == b"first"
        with shmclient.connect(machine.path) as shm:
            wait_until(lambda: shm.stat("a/b").leases == 0)
            with shm.put("a/b", b"second") as second:
                assert second.generation == before.generation + 1


def test_what_is_back_survives_one_more_kill(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        for _ in range(3):
            machine.restart()
            with RawPeer(machine.path) as peer, shmclient.connect(machine.path) as shm:
                (grant,) = hand_back(peer, (held.grant.region, held.descriptor))
                assert (grant.region, shm.stat("x").number) == (held.grant.region, held.grant.region)


def test_second_client_gets_a_lease_of_the_same_region(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        with RawPeer(machine.path) as first, RawPeer(machine.path) as second:
            pair = (held.grant.region, held.descriptor)
            leases = {hand_back(peer, pair)[0].lease for peer in (first, second)}
            assert len(leases - {0}) == 2
            with shmclient.connect(machine.path) as shm:
                assert shm.stat("x").leases == 2


def forged(held: Held) -> int:
    """Make an object with the same content, seals and size as a region, header and all."""
    size = os.fstat(held.descriptor).st_size
    copy = os.memfd_create("shmhost:x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(copy, os.pread(held.descriptor, size, 0))
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy


def test_copy_of_a_region_is_refused(machine: Machine) -> None:
    put(machine.path, "x", b"1" * 5000)
    with holding(machine.path, "x") as (held,):
        machine.restart()
        copy = forged(held)
        try:
            with RawPeer(machine.path) as peer, shmclient.connect(machine.path) as shm:
                (grant,) = hand_back(peer, (held.grant.region, copy))
                assert (grant.lease, shm.exists("x")) == (0, False)
                assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease
                assert hand_back(peer, (held.grant.region, copy))[0].lease == 0  # nor of what is back
        finally:
            os.close(copy)


def test_copy_by_another_user_is_refused(folder: Path) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    put(machine.path, "x", b"1", mode=0o644)
    Path(machine.path).chmod(0o666)
    with holding(machine.path, "x") as (held,):
        machine.restart()
        Path(machine.path).chmod(0o666)

        def attack() -> None:
            with RawPeer(machine.path) as peer:
                assert hand_back(peer, (held.grant.region, forged(held)))[0].lease == 0

        assert as_nobody(attack) == 0
    machine.kill()


def test_object_of_another_region_is_refused(machine: Machine) -> None:
    for name in ("x", "y"):
        put(machine.path, name, b"1")
    with holding(machine.path, "x", "y") as (x, y):
        machine.restart()
        with RawPeer(machine.path) as peer:
            swapped = hand_back(peer, (x.grant.region, y.descriptor), (y.grant.region, x.descriptor))
            assert [grant.lease for grant in swapped] == [0, 0]
            right = hand_back(peer, (x.grant.region, x.descriptor), (y.grant.region, y.descriptor))
            assert all(grant.lease for grant in right)


def test_number_that_no_region_had_is_refused(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        with RawPeer(machine.path) as peer:
            for number in (0, held.grant.region + 1, 2**64 - 1):
                assert hand_back(peer, (number, held.descriptor))[0].lease == 0


def descriptors_of(pid: int) -> int:
    """Count the descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_descriptors_of_foreign_kinds_are_refused_and_closed(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        child = machine.child
        assert child is not None
        with RawPeer(machine.path) as peer:
            before = descriptors_of(child.pid)
            with ExitStack() as stack:
                others = [KINDS[kind](stack) for kind in passable()]
                others.append(peer.socket.fileno())  # the connection itself
                grants = hand_back(peer, *[(held.grant.region, number) for number in others])
            assert [grant.lease for grant in grants] == [0] * len(others)
            wait_until(lambda: descriptors_of(child.pid) == before)
            assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease


def test_descriptors_of_foreign_kinds_are_refused_in_place_of_each_object(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("full", b"1" * 5000).close()
        shm.put("shm", b"1", backend="shm").close()
        with shm.create("writer", 100, seal="writer"):
            pass
    with holding(machine.path, "full", "shm", "writer") as regions:
        machine.restart()
        with RawPeer(machine.path) as peer:
            for kind in passable():
                with ExitStack() as stack:
                    other = KINDS[kind](stack)
                    grants = hand_back(peer, *[(held.grant.region, other) for held in regions])
                    assert [grant.lease for grant in grants] == [0] * 3, kind
            right = hand_back(peer, *[(held.grant.region, held.descriptor) for held in regions])
            assert all(grant.lease for grant in right)
        with shmclient.connect(machine.path) as shm:
            shm.unlink("shm")
            wait_until(lambda: shm.stat("full").leases == 0)


def test_writable_descriptor_comes_back_as_one_that_cannot_write(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        writable = os.open(f"/proc/self/fd/{held.descriptor}", os.O_RDWR)  # which the seals make harmless
        with RawPeer(machine.path) as peer, RawPeer(machine.path) as other:
            assert hand_back(peer, (held.grant.region, writable))[0].lease
            os.close(writable)
            _, (descriptor,) = other.ask(m.Open(2, ("x",), (), False))
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            os.close(descriptor)


def test_descriptors_are_refused_after_the_first_other_request(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        with RawPeer(machine.path) as peer:
            peer.ask(m.List(3, "", ""))
            with pytest.raises(PermissionError):
                peer.send(pack(m.Restore(4, (1,))), [held.descriptor])


def test_descriptors_are_refused_by_a_host_without_a_predecessor(machine: Machine) -> None:
    with RawPeer(machine.path) as peer, open("/dev/null") as file, pytest.raises(PermissionError):
        peer.send(pack(m.Restore(4, (1,))), [file.fileno()])


@pytest.mark.parametrize("count", [0, 2])
def test_wrong_number_of_descriptors_ends_the_connection(count: int, machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        with RawPeer(machine.path) as peer:
            frame = pack(m.Restore(4, (held.grant.region,)))
            peer.send(frame, [held.descriptor] * count)
            if count:
                assert isinstance(peer.receive()[0], m.Restored)  # which has all that it needs
            assert peer.is_dropped()
        with RawPeer(machine.path) as peer:
            assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease


def test_half_a_restore_leaves_no_descriptor(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        child = machine.child
        assert child is not None
        before = descriptors_of(child.pid)
        with RawPeer(machine.path) as peer:
            peer.send(pack(m.Restore(4, (held.grant.region,)))[:-1], [held.descriptor])
        wait_until(lambda: descriptors_of(child.pid) == before)


def test_limit_of_regions_in_a_restore(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    with holding(machine.path, "x") as (held,):
        machine.restart()
        with RawPeer(machine.path) as peer:
            grants = hand_back(peer, *[(held.grant.region, held.descriptor)] * MAX_RESTORED)
            assert len({grant.lease for grant in grants}) == MAX_RESTORED
            peer.send(
                pack(m.Restore(5, (held.grant.region,) * (MAX_RESTORED + 1))),
                [held.descriptor] * (MAX_RESTORED + 1),
            )
            reply, _ = peer.receive()
            assert isinstance(reply, m.Refused)


def test_retired_region_that_nobody_gets_a_lease_of_is_freed(folder: Path) -> None:
    policy = folder / "policy.toml"
    policy.write_text("")
    with line_of_hosts(folder / "h", "--policy", str(policy)) as line:
        put(line.path, "x", b"1")
        with RawPeer(line.path) as peer:
            reply, fds = peer.ask(m.Open(2, ("x",), (), False))
            assert isinstance(reply, m.Opened)
            put(line.path, "x", b"2")
            peer.ask(m.Stat(3, "x"))  # noted by then: the answer to a put comes before that it supersedes
            policy.write_text(f"[[limits]]\nusers = [{os.geteuid()}]\nleases = 0\n")
            line.kill_and_start()
        with RawPeer(line.path) as peer:
            (grant,) = hand_back(peer, (reply.grants[0].region, fds[0]))
            assert grant.lease == 0
        close_all(fds)
        with Query(line.path) as query:
            assert query.measure().used == 0


def test_connection_that_only_hands_back_is_not_counted(folder: Path) -> None:
    """A client that sleeps keeps it: so it needs room for its own when it wakes."""
    policy = folder / "policy.toml"
    policy.write_text(f"[[limits]]\nusers = [{os.geteuid()}]\nconnections = 2\n")
    with line_of_hosts(folder / "h", "--policy", str(policy)) as line:
        put(line.path, "x", b"1")
        with holding(line.path, "x") as (held,), contextlib.ExitStack() as stack:
            line.kill_and_start()
            keepers = [stack.enter_context(RawPeer(line.path)) for _ in range(2)]
            for keeper in keepers:
                assert hand_back(keeper, (held.grant.region, held.descriptor))[0].lease
            with shmclient.connect(line.path) as first, shmclient.connect(line.path) as second:
                assert [info.leases for info in first.list()] == [2]
                assert second.exists("x")
                for _ in range(2):
                    refused, _ = keepers[0].ask(m.Open(7, ("x",), (), False))
                    assert isinstance(refused, m.Refused)
                    assert refused.code == "quota-exceeded"
            wait_until(lambda: isinstance(keepers[0].ask(m.Stat(7, "x"))[0], m.Described))
            assert isinstance(keepers[1].ask(m.Stat(7, "x"))[0], m.Described)


def test_descriptors_whose_close_blocks_keep_nobody_out(machine: Machine) -> None:
    put(machine.path, "x", b"1")
    machine.restart()
    with contextlib.ExitStack() as stack:
        blocking = [stack.enter_context(Lingering()) for _ in range(2 * MAX_RESTORED)]
        peers = [stack.enter_context(RawPeer(machine.path)) for _ in range(2)]
        machine.signal(signal.SIGSTOP)
        for peer, some in zip(peers, (blocking[:MAX_RESTORED], blocking[MAX_RESTORED:]), strict=True):
            restore = m.Restore(5, tuple(range(1000, 1000 + MAX_RESTORED)))
            peer.send(pack(restore), [each.socket.fileno() for each in some])
        for each in blocking:
            each.socket.close()  # so that the last close is the host's
        machine.signal(signal.SIGCONT)
        for peer in peers:
            reply, _ = peer.receive()
            assert isinstance(reply, m.Restored)
        with shmclient.connect(machine.path, timeout=30) as shm:
            shm.put("y", b"1").close()
        with RawPeer(machine.path) as peer, pytest.raises(PermissionError):
            peer.send(pack(m.Restore(5, (1000,))), [0])
        for each in blocking:
            each.release()
        wait_until(lambda: may_send(machine.path))


def may_send(path: str) -> bool:
    """Whether a host takes descriptors."""
    with RawPeer(path) as peer:
        try:
            peer.send(pack(m.Restore(5, (1000,))), [0])
        except PermissionError:
            return False
        return isinstance(peer.receive()[0], m.Restored)
