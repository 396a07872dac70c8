"""Names in /dev/shm, which every user of the machine can take: whose they are, and when they go."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from held_support import blocked_write, is_held_up
from shmhost.core.objects import PosixShm
from shmhost.machine.shm_names import SHM_FOLDER, ShmNames
from shmprotocol.native import builtins
from support import Machine, WatchedHost, as_nobody, needs_root, wait_until, watched_host

HEADER = b"H" * 4096
UNLINK = 3  # of `change_name`


@pytest.fixture
def prefix() -> Iterator[str]:
    """A prefix of this test alone, and nothing left of it."""
    prefix = f"shmhost-test-{secrets.token_hex(8)}"
    yield prefix
    left = list(SHM_FOLDER.glob(f"{prefix}*"))
    for path in left:
        path.unlink()
    assert left == []


def published(names: ShmNames, name: str = "x") -> PosixShm:
    memory = PosixShm(name, 8192, names)
    try:
        memory.publish(HEADER, "full")
    except BaseException:
        memory.close()
        raise
    return memory


def files_of(host_socket: str) -> list[Path]:
    lock = os.stat(f"{host_socket}.lock")
    return sorted(SHM_FOLDER.glob(f"shmhost-{lock.st_dev:x}-{lock.st_ino:x}*"))


@needs_root
def test_name_that_another_user_has_taken_is_refused_and_left(prefix: str) -> None:
    names = ShmNames(prefix)
    path = names.path_of("x")
    assert as_nobody(lambda: path.write_bytes(b"theirs")) == 0
    with pytest.raises(shmclient.RegionExists, match="did not make it but uid 65534"):
        published(names)
    assert path.read_bytes() == b"theirs"
    path.unlink()


@pytest.mark.parametrize("kind", ["file", "symlink", "folder"])
def test_name_of_anything_else_is_refused_and_left(prefix: str, tmp_path: Path, kind: str) -> None:
    names = ShmNames(prefix)
    path = names.path_of("x")
    {"file": path.touch, "symlink": lambda: path.symlink_to(tmp_path), "folder": path.mkdir}[kind]()
    with pytest.raises(shmclient.RegionExists, match="remove it"):
        published(names)
    path.rmdir() if kind == "folder" else path.unlink()


def test_own_older_generation_is_replaced_but_not_what_took_its_place(prefix: str) -> None:
    names = ShmNames(prefix)
    first = published(names)
    second = published(names)
    first.close()
    path = names.path_of("x")
    assert path.exists()
    path.unlink()
    path.touch()  # somebody else's, with the rights to that
    with pytest.raises(shmclient.RegionExists):
        published(names)
    second.close()
    assert path.exists()
    path.unlink()


def test_sweep_removes_the_files_of_its_prefix_but_for_those_that_are_expected(prefix: str) -> None:
    names, other = ShmNames(prefix), ShmNames(f"{prefix}0")
    expected = published(names, "a/b")
    memories = [published(names), PosixShm("y", 8192, names), published(other), expected]
    ShmNames(prefix).sweep(lambda name, _device, _inode: name == "a/b")
    assert sorted(SHM_FOLDER.glob(f"{prefix}*")) == sorted([names.path_of("a/b"), other.path_of("x")])
    for memory in memories:
        memory.close()


def test_object_of_an_earlier_host_is_replaced_and_removed_by_the_next(prefix: str) -> None:
    left = published(ShmNames(prefix))
    names = ShmNames(prefix)
    again = PosixShm.of("x", 8192, names, os.dup(left.reader()))
    newer = published(names)
    again.close()
    assert names.path_of("x").exists()
    newer.close()
    assert not names.path_of("x").exists()
    left.close()


def test_object_without_a_name_waits_for_no_lock_of_the_folder(prefix: str) -> None:
    """A look-up of a name that is not there would, with all that the host has open."""
    names = ShmNames(prefix)
    replaced = published(names)
    published(names).close()
    held = SHM_FOLDER / f"{prefix}-held"
    descriptor = os.open(held, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def adopt_and_close() -> None:
        PosixShm.of("x", 8192, ShmNames(prefix), os.dup(replaced.reader())).close()
        replaced.close()

    threads = [
        threading.Thread(target=builtins.change_name, args=(UNLINK, os.fsencode(held), b"")),
        threading.Thread(target=adopt_and_close),
    ]
    with blocked_write(descriptor):
        threads[0].start()
        wait_until(lambda: is_held_up(os.getpid()))
        threads[1].start()
        wait_until(lambda: not threads[1].is_alive())
    for thread in threads:
        thread.join()
    os.close(descriptor)


def test_name_is_removed_where_no_thread_can_be_started(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    names = ShmNames(prefix)
    memory = published(names)
    monkeypatch.setattr(builtins, "change_name", no_thread)
    memory.close()
    assert not names.path_of("x").exists()


@needs_root
def test_sweep_leaves_what_others_put_there(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    names = ShmNames(prefix)
    path = names.path_of("x")
    assert as_nobody(path.touch) == 0
    names.path_of("y").mkdir()
    names.sweep(lambda _name, _device, _inode: False)
    assert path.exists()
    assert caplog.records == []
    path.unlink()
    names.path_of("y").rmdir()


@pytest.mark.parametrize("is_known", [False, True])
def test_names_that_a_killed_host_left_are_free_after_a_start(machine: Machine, is_known: bool) -> None:
    """Those that may come back stay until somebody takes them; the others go at the start."""
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1", backend="shm").close()
    assert len(files_of(machine.path)) == 1
    machine.kill()
    if not is_known:
        os.unlink(f"{machine.path}.state")
    machine.start()
    assert len(files_of(machine.path)) == is_known
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"2", backend="shm").close()
        assert len(files_of(machine.path)) == 1
        shm.unlink("x")
        wait_until(lambda: not files_of(machine.path))


def test_file_of_a_publish_that_a_kill_cut_off_is_gone_at_the_next_start(machine: Machine) -> None:
    """A host is killed between giving an object its name and noting it: the older one is the current one."""
    with shmclient.connect(machine.path) as shm, shm.put("x", b"1", backend="shm") as held:
        (path,) = files_of(machine.path)
        machine.kill()
        never_published = path.with_name(f"{path.name}-2")
        never_published.write_bytes(b"2")
        never_published.rename(path)
        machine.start()
        assert files_of(machine.path) == []
        assert bytes(shm.get("x", wait=30)) == b"1"
        assert held.is_current()
        shm.put("x", b"3", backend="shm").close()
        assert len(files_of(machine.path)) == 1


def test_file_goes_when_a_put_takes_the_name_of_a_region_that_is_not_back(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1", backend="shm").close()
        machine.restart()
        assert len(files_of(machine.path)) == 1
        shm.put("x", b"2").close()
        wait_until(lambda: not files_of(machine.path))


def test_two_hosts_with_one_window_keep_their_names_apart(host: WatchedHost, tmp_path: Path) -> None:
    path = str(tmp_path / "other.sock")
    with watched_host(path), shmclient.connect(host.socket_path) as a:
        a.put("m", b"A", backend="shm").close()
        with shmclient.connect(path) as b:
            b.put(
                "m",
                b"B",
                backend="shm",
            ).close()
            assert [file.read_bytes()[4096:4097] for file in files_of(host.socket_path)] == [b"A"]
            assert [file.read_bytes()[4096:4097] for file in files_of(path)] == [b"B"]
            b.unlink("m")
            wait_until(lambda: not files_of(path))
        assert len(files_of(host.socket_path)) == 1


@needs_root
def test_client_is_refused_and_served_on_when_another_user_has_its_name(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm:
        shm.put("a", b"1", backend="shm").close()
        (taken,) = files_of(host.socket_path)
        squatted = taken.with_name(taken.name[:-1] + "b")
        assert as_nobody(squatted.touch) == 0
        with pytest.raises(shmclient.RegionExists, match="uid 65534"):
            shm.put("b", b"1", backend="shm")
        assert bytes(shm.get("a")) == b"1"
    squatted.unlink()
