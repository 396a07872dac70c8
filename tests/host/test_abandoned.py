"""Folders and names in /dev/shm of embedded hosts that were killed: the next one removes these alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmhost
from shmhost.core.objects import SHM_FOLDER

PROGRAM = """
import shmclient, shmhost, sys
host = shmhost.start()
shm = shmclient.connect(host.socket_path)
shm.put("x", b"1" * 5000, backend="shm").close()
print(host.socket_path, flush=True)
sys.stdin.read()
"""


class Embedder:
    """A process with an embedded host that has a region in /dev/shm."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", PROGRAM]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout is not None
        self.folder = Path(self.child.stdout.readline().strip()).parent
        lock = os.stat(self.folder / "host.sock.lock")
        self.file = SHM_FOLDER / f"shmhost-{lock.st_dev:x}-{lock.st_ino:x}.x"
        assert self.file.exists()

    def age(self) -> None:
        """Have it started an hour ago."""
        os.utime(self.folder / "host.sock.lock", (0, 0))

    def end(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def embedder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedder]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    embedder = Embedder()
    yield embedder
    embedder.end()
    embedder.file.unlink(missing_ok=True)


def start_another() -> None:
    with shmhost.embedded():
        pass


def test_what_a_killed_host_left_is_removed_by_the_next_one(embedder: Embedder) -> None:
    embedder.age()
    embedder.end()
    start_another()
    assert not embedder.folder.exists()
    assert not embedder.file.exists()


def test_what_a_host_has_that_lives_stays(embedder: Embedder) -> None:
    embedder.age()
    start_another()
    assert embedder.folder.exists()
    assert embedder.file.exists()


def test_what_may_be_a_host_that_starts_stays(embedder: Embedder) -> None:
    embedder.end()
    start_another()
    assert embedder.folder.exists()
    assert embedder.file.exists()


def test_other_folders_and_links_stay(embedder: Embedder, folder: Path) -> None:
    embedder.age()
    embedder.end()
    other = folder / "shmhost-mine"
    other.mkdir()
    (folder / "elsewhere").mkdir()
    moved = embedder.folder.rename(folder / "elsewhere" / "shmhost-moved")
    embedder.folder.symlink_to(moved)
    start_another()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [other.name, "elsewhere", embedder.folder.name]
    )
    assert embedder.file.exists()
