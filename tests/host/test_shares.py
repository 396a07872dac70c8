"""Users of one host: each finds its guarantee, whatever others take. Clients are processes of other users."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import select
import tempfile
from collections.abc import Callable, Iterator

import pytest

import shmclient
from arena_support import ArenaPeer
from shmhost.core.accounts import NEWCOMERS
from shmhost.core.interests import MAX_LISTENING
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.core.resources import Totals
from shmhost.core.shares import GUARANTEES
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import WatchedHost, in_child, wait_until, watched_host

ALICE, BOB = 65533, 65534
BUDGET = 64 << 20
FILES = 640
PAGE = 4096
SYS_SETRESUID = 117  # asm/unistd_64.h


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedHost]:
    """A host of root, with little to share, whose socket every user can reach."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become other users")
    totals = Totals(BUDGET, FILES, 64 * 64, 40, lines=64, listening=64 * 64)
    monkeypatch.setattr("shmhost.serving.server.totals_of", lambda _config, _slices: totals)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with watched_host(f"{folder}/h.sock", socket_mode=0o666) as running:
            yield running


def as_user(uid: int, function: Callable[[], object]) -> None:
    """Run a function as a user, in a forked child; what it takes is gone with it."""

    def run() -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        function()

    assert in_child(run) == 0


def fill(shm: shmclient.Client, size: int) -> int:
    """Put values of a size under many names until the host refuses; return their number."""
    for number in range(10_000):
        try:
            shm.put(f"{os.getuid()}/{number}", bytes(size), mode=0o644).close()
        except shmclient.QuotaExceeded:
            return number
    raise AssertionError("the host never refused")


def test_user_who_takes_all_bytes_leaves_others_their_guarantee(shared: WatchedHost) -> None:
    size = 256 * 1024 - REGION_OVERHEAD - 2 * PAGE  # with these 256 KiB, a quarter of a guarantee

    def take_all() -> None:
        with shmclient.connect(shared.socket_path) as shm:
            assert fill(shm, size) == 4 * (GUARANTEES - NEWCOMERS)

    def put_a_guarantee() -> None:
        with shmclient.connect(shared.socket_path) as shm:
            for number in range(4):
                shm.put(f"bob/{number}", bytes(size)).close()
            with pytest.raises(shmclient.QuotaExceeded, match=f"uid {BOB}"):
                shm.put("bob/more", bytes(size)).close()

    as_user(ALICE, take_all)
    as_user(BOB, put_a_guarantee)


@contextlib.contextmanager
def holding(uid: int, take: Callable[[contextlib.ExitStack], object]) -> Iterator[None]:
    """Have a user hold what a function takes while the block runs."""
    ready, end = os.pipe(), os.pipe()

    def hold() -> None:
        os.close(end[1])
        with contextlib.ExitStack() as stack:
            take(stack)
            os.write(ready[1], b"!")
            os.read(end[0], 1)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        held = threads.submit(as_user, uid, hold)
        try:
            wait_until(lambda: held.done() or select.select([ready[0]], [], [], 0)[0])
            yield
        finally:
            os.close(end[1])
            held.result()
            for descriptor in (*ready, end[0]):
                os.close(descriptor)


def test_user_who_takes_all_connections_locks_out_neither_root_nor_others(shared: WatchedHost) -> None:
    def connect_again_and_again(stack: contextlib.ExitStack) -> None:
        with pytest.raises(shmclient.ShmError, match=f"uid {ALICE}"):
            for _ in range(FILES):
                stack.enter_context(shmclient.connect(shared.socket_path))

    def connect_twice() -> None:
        with shmclient.connect(shared.socket_path) as first, shmclient.connect(shared.socket_path) as second:
            assert (first.list(), second.list()) == ([], [])

    with holding(ALICE, connect_again_and_again):
        as_user(BOB, connect_twice)
        with shmclient.connect(shared.socket_path) as shm:
            assert shm.list() == []
    wait_until(lambda: shared.call(shared.host.registry.accounts.in_use) == {})


def test_user_who_never_closes_leaves_others_their_leases(shared: WatchedHost) -> None:
    names = [f"shared/{number}" for number in range(64)]

    def open_again_and_again(stack: contextlib.ExitStack) -> None:
        peer = stack.enter_context(ArenaPeer(shared.socket_path))
        while not isinstance(reply := peer.ask(m.Open(9, tuple(names), (), False))[0], m.Refused):
            pass
        assert reply.code == "quota-exceeded"
        assert f"64 leases are over the share of uid {ALICE}" in reply.text

    def open_some() -> None:
        with shmclient.connect(shared.socket_path) as shm:
            assert len(shm.open_many(names)) == 64

    with shmclient.connect(shared.socket_path) as shm:
        for name in names:
            shm.put(name, b"x", mode=0o644).close()
        with holding(ALICE, open_again_and_again):
            as_user(BOB, open_some)


def test_user_who_watches_all_that_it_can_leaves_others_their_watches(shared: WatchedHost) -> None:
    def watch_again_and_again(stack: contextlib.ExitStack) -> None:
        with pytest.raises(AssertionError, match=f"over the share of uid {ALICE}"):
            while True:
                peer = stack.enter_context(ArenaPeer(shared.socket_path))
                for number in range(2, MAX_LISTENING + 2):
                    assert isinstance(reply := peer.ask(m.Watch(number, "shared/"))[0], m.Done), reply

    def watch_some() -> None:
        with shmclient.connect(shared.socket_path) as shm, contextlib.ExitStack() as stack:
            for _ in range(64):
                stack.enter_context(shm.watch("shared/"))

    with holding(ALICE, watch_again_and_again):
        as_user(BOB, watch_some)


def test_user_with_a_line_for_each_of_many_names_leaves_others_theirs(shared: WatchedHost) -> None:
    """Beyond its share, its names have none: they are looked up by asking."""

    def put_many(stack: contextlib.ExitStack) -> None:
        shm = stack.enter_context(shmclient.connect(shared.socket_path))
        for number in range(70):
            shm.put(f"alice/{number}", b"x").close()
        region = stack.enter_context(shm.open("alice/69"))
        assert region.is_current()
        shm.put("alice/69", b"y").close()
        assert not region.is_current()

    def make_an_arena() -> None:
        with shmclient.connect(shared.socket_path) as shm, shm.arena("bob", 1 << 16) as arena:
            arena["a"] = b"x"

    with holding(ALICE, put_many):
        as_user(BOB, make_an_arena)


def connect_as(uid: int, path: str) -> ArenaPeer:
    """Connect as a user, from a thread: the C library would change the uid of all threads."""
    libc = ctypes.CDLL(None, use_errno=True)

    def connect() -> ArenaPeer:
        assert libc.syscall(SYS_SETRESUID, -1, uid, -1) == 0
        return ArenaPeer(path)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        return threads.submit(connect).result()


def ask(peer: ArenaPeer, message: m.Message) -> m.Message:
    reply, fds = peer.ask(message)
    descriptors.close_all(fds)
    return reply


def test_reader_that_leases_each_generation_fills_its_own_share_and_not_the_publishers(
    shared: WatchedHost,
) -> None:
    """It keeps what it has then, and gets leases again when it has let go of some."""
    put = m.Put(2, "alice/x", 0o644, True, 60_000, 0, 0, bytes(60_000))
    opening = m.Open(3, ("alice/x",), (), False)
    with connect_as(ALICE, shared.socket_path) as alice, connect_as(BOB, shared.socket_path) as bob:
        leases = []
        while True:
            published = ask(alice, put)
            assert isinstance(published, m.Published), published
            alice.send(pack(m.Release(0, (published.grant.lease,))))
            opened = ask(bob, opening)
            if isinstance(opened, m.Refused):
                break
            assert isinstance(opened, m.Opened)
            leases.append(opened.grants[0].lease)
        assert f"uid {BOB} gets no more leases" in opened.text
        charged = {account.uid: account.bytes.used for account in shared.host.registry.accounts}
        assert charged[BOB] > BUDGET * 9 // 10
        assert charged[ALICE] == published.grant.capacity + REGION_OVERHEAD
        bob.send(pack(m.Release(0, tuple(leases[:100]))))
        assert isinstance(ask(bob, opening), m.Opened)
