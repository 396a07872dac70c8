"""Arenas on a real host, by clients that speak the wire and the control socket."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, Board, stat
from shmprotocol.abi.header import FLAG_ARENA, FLAG_SEAL_WRITER, KIND_ARENA
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import ARENA_GROW, ARENA_LEDGER, LEDGER_SIZE, MAX_DESCRIPTORS
from support import WatchedHost, as_nobody, needs_root, wait_until, watched_host

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def seals_of(descriptor: int) -> int:
    """Return the seals, without that of the mode, which Linux 6.3 has."""
    f_seal_exec = 0x20
    return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & ~f_seal_exec


# --- made


def test_arena_is_not_seen_before_it_is_ready(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned = owner.make()
    assert reader.refusal(m.Open(3, ("camera",), (), False)).code == "not-found"
    assert reader.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, True, True)).code == "busy"
    assert owned.ready() == 0
    assert reader.open("camera").grants[0].region == owned.made.region


def test_arena_is_made_of_whole_pages_with_its_header(owner: ArenaPeer) -> None:
    owned = owner.make("camera", SIZE + 1, 3 * SIZE + 5)
    assert (owned.made.size, owned.made.span) == (SIZE + 4096, 3 * SIZE + 4096)
    assert os.fstat(owned.memory).st_size == SIZE + 4096
    page = os.pread(owned.memory, 4096, 0)
    assert int.from_bytes(page[16:20], "little") == KIND_ARENA
    assert int.from_bytes(page[20:24], "little") == FLAG_SEAL_WRITER | FLAG_ARENA
    assert int.from_bytes(page[24:32], "little") == owned.made.address
    assert int.from_bytes(page[40:48], "little") == owned.made.span
    assert int.from_bytes(page[80:88], "little") == owned.made.generation


@pytest.mark.parametrize(("max_size", "grows"), [(0, 0), (SIZE, 0), (SIZE + 1, 1)])
def test_arena_has_its_seals(owner: ArenaPeer, max_size: int, grows: int) -> None:
    owned = owner.make("camera", SIZE, max_size)
    first = fcntl.F_SEAL_SHRINK | (0 if grows else fcntl.F_SEAL_GROW)
    assert seals_of(owned.memory) == first
    assert owned.ready() == 0
    assert seals_of(owned.memory) == first | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
    with pytest.raises(PermissionError):
        os.pwrite(owned.memory, b"x", 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": ""}, "invalid"),
        ({"name": "a//b"}, "invalid"),
        ({"mode": 0o1000}, "invalid"),
        ({"size": 8191 - 4095}, "invalid"),
        ({"size": 0}, "invalid"),
        ({"max_size": SIZE - 4096}, "invalid"),
        ({"size": 2**64 - 1}, "quota-exceeded"),
        ({"max_size": 2**64 - 1}, "quota-exceeded"),
    ],
)
def test_arena_is_refused(owner: ArenaPeer, change: dict[str, int], code: str) -> None:
    request = m.Arena(2, "camera", SIZE, 0, 0o600, True, True)._replace(**change)  # type: ignore[arg-type]
    assert owner.refusal(request).code == code


def test_arena_of_two_pages_is_the_smallest(owner: ArenaPeer) -> None:
    assert owner.make("camera", 4097).made.size == 8192


def test_ready_is_said_once(owner: ArenaPeer) -> None:
    owned = owner.publish()
    assert owned.ready() == errno.EALREADY


def test_creation_of_an_arena_ends_with_its_name(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned = owner.make()
    reply, _ = reader.ask(m.Unlink(3, "camera"))
    assert reply == m.Done(3)
    assert owned.ready() == errno.ENOENT
    reader.publish("camera")


def test_abort_frees_the_name_of_an_arena_that_is_made(host: WatchedHost, owner: ArenaPeer) -> None:
    """At once, so before what the client asks next; the addresses are free when the socket has ended."""
    owned = owner.make()
    free = host.counts()["free addresses"]
    owner.send(pack(m.Abort(0, owned.made.region, False)))
    again = owner.make()
    assert again.made.address != owned.made.address
    assert (owned.ready(), again.ready()) == (errno.ENOENT, 0)
    owner.send(pack(m.Abort(0, again.made.region, False)))
    assert stat(owner).region == again.made.region  # it is published, so it stays
    owned.close()
    wait_until(lambda: host.counts()["free addresses"] == free)


@pytest.mark.parametrize("way", ["control", "session"])
def test_creation_of_an_arena_ends_with_its_owner(owner: ArenaPeer, reader: ArenaPeer, way: str) -> None:
    owned = owner.make()
    if way == "control":
        owned.leave()
    else:
        owner.socket.close()
        assert owned.is_ended()
    wait_until(lambda: not isinstance(reader.put("camera"), m.Refused))


# --- joined


def test_first_grant_of_an_arena_brings_the_ledger(owner: ArenaPeer, reader: ArenaPeer, board: Board) -> None:
    owned = owner.publish(max_size=2 * SIZE)
    assert board.line(owned.made.line)[:2] == (owned.made.region, owned.made.generation)
    assert board.line(owned.made.line)[-3:] == (0, SIZE, 0)
    opened, fds = reader.opened("camera")
    (grant,) = opened.grants
    assert grant._replace(lease=0, rights=0) == m.Grant(
        *(0, owned.made.region, owned.made.generation, "camera", owned.made.address, SIZE - 4096, 2 * SIZE),
        *(FLAG_SEAL_WRITER | FLAG_ARENA, owned.made.line, 0),
    )
    assert opened.ledger[1] == LEDGER_SIZE == os.fstat(fds[1]).st_size
    assert fcntl.fcntl(fds[0], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    note = owned.receive()
    assert note[:4] == (ARENA_LEDGER, os.getpid(), opened.ledger[0], LEDGER_SIZE)
    assert board.line(owned.made.line).ledgers == 1
    os.pwrite(fds[1], b"held", 4096)
    assert os.pread(note.descriptors[0], 4, 4096) == b"held"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(note.descriptors[0], b"x", 4096)
    with socket.socket(fileno=os.dup(note.descriptors[1])) as raiser:
        raiser.send(b"8 bytes.", socket.MSG_DONTWAIT)
    assert os.read(fds[2], 100) == b"8 bytes."
    with pytest.raises(BlockingIOError):
        os.read(fds[2], 100)
    descriptors.close_all([*fds, *note.descriptors])


def test_ledger_is_sealed_in_its_shape(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owner.publish()
    _, fds = reader.opened("camera")
    assert seals_of(fds[1]) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(fds[1], fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    descriptors.close_all(fds)


def test_event_takes_no_descriptors_of_an_owner(owner: ArenaPeer, reader: ArenaPeer) -> None:
    """The client would close them, and an owner can make that wait."""
    owned = owner.publish()
    _, fds = reader.opened("camera")
    note = owned.receive()
    with socket.socket(fileno=os.dup(fds[2])) as event:
        if not descriptors.are_refused(event):
            pytest.skip("SO_PASSRIGHTS needs Linux 6.16")
    with socket.socket(fileno=os.dup(note.descriptors[1])) as raiser, pytest.raises(PermissionError):
        socket.send_fds(raiser, [b"8 bytes."], [0])
    descriptors.close_all([*fds, *note.descriptors])


def test_second_arena_is_joined_with_the_same_ledger(owner: ArenaPeer, reader: ArenaPeer) -> None:
    first, second = owner.publish("first"), owner.publish("second")
    number, size = reader.open("first").ledger
    assert (size, reader.open("first").ledger) == (LEDGER_SIZE, (0, 0))
    assert reader.open("second").ledger == (0, 0)
    assert (first.ledger(), second.ledger()) == (number, number)
    first.send(ARENA_GROW, 0)
    assert first.receive().kind == ARENA_GROW  # and it was told of the ledger once


def test_name_below_an_arena_is_answered_with_the_arena(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned = owner.publish("rack/camera")
    owner.put("rack/plain")
    opened = reader.open("rack/camera/front", "rack/plain", "rack/camera")
    assert [grant.name for grant in opened.grants] == ["rack/camera", "rack/plain", "rack/camera"]
    assert opened.grants[0].region == opened.grants[2].region == owned.made.region
    assert reader.refusal(m.Open(3, ("rack/front",), (), False)).code == "not-found"
    assert reader.refusal(m.Open(3, ("rack",), (), False)).code == "not-found"


def test_what_is_held_is_sent_again_unless_it_was_joined_here(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer
) -> None:
    """A client that connects again has a new ledger, which the owner must know."""
    number = owner.publish().made.region
    first = reader.open("camera", held=(number,))
    assert first.grants[0].lease
    assert first.ledger[1] == LEDGER_SIZE
    assert reader.open("camera", held=(number,)).grants[0].lease == 0


@pytest.mark.parametrize(("count", "is_refused"), [(MAX_DESCRIPTORS - 2, False), (MAX_DESCRIPTORS - 1, True)])
def test_first_open_of_an_arena_has_room_for_the_ledger(
    owner: ArenaPeer, reader: ArenaPeer, count: int, is_refused: bool
) -> None:
    owner.publish()
    names = tuple(f"camera/{i}" for i in range(count))
    if is_refused:
        assert reader.refusal(m.Open(3, names, (), False)).code == "invalid"
        assert reader.open("camera").ledger[1]
    else:
        assert len(reader.open(*names).grants) == count
    assert len(reader.open(*[f"camera/{i}" for i in range(MAX_DESCRIPTORS)]).grants) == MAX_DESCRIPTORS


@pytest.mark.parametrize("waited", ["camera", "camera/front"])
def test_wait_ends_when_the_arena_is_published(owner: ArenaPeer, reader: ArenaPeer, waited: str) -> None:
    reader.send(pack(m.Open(7, (waited,), (), True)))
    reader.ask(m.List(8, "", ""))
    owned = owner.publish()
    reply, fds = reader.receive()
    descriptors.close_all(fds)
    assert isinstance(reply, m.Opened)
    assert reply.grants[0].name == "camera"
    assert reply.ledger[0] == owned.ledger()


@pytest.mark.parametrize("version", [1, 2])
def test_older_client_is_told_that_it_is_too_old(host: WatchedHost, owner: ArenaPeer, version: int) -> None:
    owner.publish()
    with ArenaPeer(host.socket_path, version) as old:
        refusal = old.refusal(m.Open(3, ("camera",), (), False))
        assert refusal.code == "unsupported"
        assert "'camera' is an arena" in refusal.text
        assert old.refusal(m.Open(3, ("camera/front",), (), False)).code == "not-found"
        assert isinstance(old.ask(m.Stat(3, "camera"))[0], m.Described)


@needs_root
def test_rights_are_the_arenas(host: WatchedHost, folder: Path) -> None:
    folder.chmod(0o755)

    def refused() -> None:
        with ArenaPeer(path) as peer:
            assert peer.refusal(m.Open(3, ("camera/front",), (), False)).code == "not-found"

    def granted() -> None:
        with ArenaPeer(path) as peer:
            assert peer.open("camera/front").ledger[1]
            assert peer.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, True, True)).code == "access-denied"

    path = str(folder / "h.sock")
    with watched_host(path, socket_mode=0o666), ArenaPeer(path) as owner:
        owned = owner.publish(mode=0o600)
        assert as_nobody(refused) == 0
        assert isinstance(owner.ask(m.Chmod(3, "camera", 0o644))[0], m.Done)
        assert as_nobody(granted) == 0
        assert owned.ledger() == owned.forgotten()
