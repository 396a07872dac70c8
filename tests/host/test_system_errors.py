"""What the system refuses is refused to the client that asked: its connection and its leases live on."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import shmclient
from session_support import CREATE, World
from shmhost.core.objects import Memfd, PosixShm
from shmhost.machine import shm_names
from shmhost.machine.shm_names import ShmNames
from shmprotocol.native import builtins
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from support import RawPeer, WatchedHost, count_descriptors, watched_host

LIMIT = 128
SYSTEM_CALLS = {
    os: (
        "memfd_create",
        "ftruncate",
        "fchmod",
        "open",
        "posix_fallocate",
        "pwrite",
        "pread",
    ),
    fcntl: ("fcntl",),
    builtins: ("Sealer", "change_name"),
}

NAMES = ShmNames(f"test-{os.getpid()}")


class Failing:
    """Makes the call number `failing` of those that objects make fail; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.failing = 0
        for module, names in SYSTEM_CALLS.items():
            for name in names:
                patch.setattr(module, name, self._wrapped(getattr(module, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args)

        return attempt

    def count(self, failing: int, function: Callable[[], Any]) -> Any:
        self.calls, self.failing = 0, failing
        try:
            return function()
        finally:
            self.failing = 0


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.hub.make_object = lambda backend, name, capacity: (
        Memfd(name, capacity) if backend == "memfd" else PosixShm(name, capacity, NAMES)
    )
    yield world
    world.hub.registry.close()


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_each_step_that_fails_is_undone(
    backend: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shm_names, "SHM_FOLDER", tmp_path)
    talk = world.client()
    create = CREATE._replace(backend=backend)
    failing = Failing(monkeypatch)
    before = world.taken(), count_descriptors()
    for step in range(1, 20):
        created = failing.count(step, lambda: talk.say(create))
        if isinstance(created, m.Created):
            break
        assert (created.code, "No space left" in created.text) == ("out-of-memory", True)
        assert (world.taken(), count_descriptors(), list(tmp_path.iterdir())) == (*before, [])
    assert step == failing.calls + 1 > 3
    pending = world.taken(), count_descriptors()
    for step in range(1, 20):
        publish = m.Publish(2, created.region, 1, 100, 0, 0, 0, 0)
        published = failing.count(step, lambda publish=publish: talk.say(publish))
        if isinstance(published, m.Published):
            break
        assert (published.code, "No space left" in published.text) == ("out-of-memory", True)
        assert (world.taken(), count_descriptors()) == pending
    assert step > failing.calls > 0


def test_refusals_of_the_system_are_told_to_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[Any] = []
    world.hub.warn = lambda peer, error: warnings.append((peer.uid, str(error)))
    talk = world.client()
    Failing(monkeypatch).failing = 1
    talk.say(CREATE)
    talk.say(CREATE._replace(size=0))
    assert [uid for uid, _ in warnings] == [7]


@contextmanager
def host_process(path: Path, prefix: tuple[str, ...] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A host of its own, under what `prefix` starts; its log is in `.log` of the path."""
    command = [*prefix, sys.executable, "-m", "shmhost.cli", "serve", "--socket", str(path)]
    with path.with_suffix(".log").open("w+") as log:
        child = subprocess.Popen(command, stderr=log, text=True, **options)
        try:
            with shmclient.connect(str(path), wait=20):
                pass
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


def test_puts_are_refused_when_host_has_no_descriptor_left(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))

    with host_process(path, preexec_fn=limit), shmclient.connect(str(path)) as shm:
        region = shm.put("first", b"lives")
        refusals = []
        for number in range(LIMIT + 22):
            try:
                shm.put(f"x/{number}", b"x").close()
            except shmclient.QuotaExceeded as error:
                refusals.append(str(error))
        assert refusals
        assert all("ulimit -n" in text for text in refusals)
        with shmclient.connect(str(path)) as repair:  # even so: some are kept for that
            assert repair.stat("x/1").leases == 0
        assert bytes(region.data) == b"lives"
        assert shm.stat("first").leases == 1
        for number in range(5):
            shm.unlink(f"x/{number}")
        assert bytes(shm.put("again", b"works").data) == b"works"
    log = path.with_suffix(".log").read_text()
    assert "Traceback" not in log
    assert "refused uid" not in log


@pytest.mark.parametrize("options", ["ro", "nr_inodes=1", "size=4k"])
def test_shm_backend_is_refused_when_its_folder_takes_nothing(options: str, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    mount = f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"'
    unshare = ("unshare", "--mount", "--", "sh", "-c", mount, "sh")
    if os.getuid() or not shutil.which("unshare"):
        pytest.skip("only root mounts")
    with host_process(path, unshare), shmclient.connect(str(path)) as shm:
        region = shm.put("a", b"memfd")
        with pytest.raises((shmclient.OutOfMemory, shmclient.Unsupported), match="/dev/shm"):
            shm.put("b", bytes(1 << 20), backend="shm")
        assert shm.stat("a").leases == 1
        region.close()
    assert "Traceback" not in path.with_suffix(".log").read_text()


def _seal_seals(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)


def _seal_writes(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def _append(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)


@pytest.mark.parametrize(
    ("spoil", "backend"),
    [(_seal_seals, "memfd"), (_seal_writes, "memfd"), (_append, "memfd"), (_append, "shm")],
)
def test_publish_is_refused_when_creator_spoiled_its_object(
    spoil: Callable[[int], None], backend: str, host: WatchedHost
) -> None:
    with RawPeer(host.socket_path) as peer:
        created, fds = peer.ask(m.Create(1, "x", 100, "full", backend, 0o600, True))
        assert isinstance(created, m.Created)
        spoil(fds[0])
        descriptors.close_all(fds)
        refused, _ = peer.ask(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
        assert isinstance(refused, m.Refused)
        assert (refused.code, "create it again" in refused.text) == ("invalid", True)
        assert isinstance(peer.ask(m.Measure(3))[0], m.Measured)


def test_creator_cannot_make_a_later_open_wait(host: WatchedHost) -> None:
    """A lease breaks when others open the file, and they wait: so all is open before the creator comes."""
    with RawPeer(host.socket_path) as peer:
        _, fds = peer.ask(m.Create(1, "x", 100, "full", "memfd", 0o600, True))
        with pytest.raises(BlockingIOError):
            fcntl.fcntl(fds[0], fcntl.F_SETLEASE, fcntl.F_WRLCK)
        descriptors.close_all(fds)


def test_host_ends_when_an_object_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shm_names, "SHM_FOLDER", tmp_path)

    with watched_host(str(tmp_path / "h.sock")) as host, shmclient.connect(host.socket_path) as shm:
        shm.put("stuck", b"x", backend="shm")
        shm.put("after", b"x")
        survivors = host.call(lambda: [region.object for region in host.host.registry.regions.values()])
        monkeypatch.setattr(builtins, "change_name", lambda *_: errno.EROFS)
    assert [memory_object.reader() for memory_object in survivors] == [-1, -1]
    assert "cannot remove an object: [Errno 30] Read-only file system" in caplog.text
