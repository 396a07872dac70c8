"""Memory objects against the real kernel: what the seals stop, and what they do not."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmhost.core.objects import F_SEAL_FUTURE_WRITE, Memfd, PosixShm
from shmhost.machine.shm_names import SHM_FOLDER, ShmNames
from shmprotocol.errors import InvalidArgument, RegionBusy
from shmprotocol.wire.descriptors import reopen as reopen_read_only
from support import count_descriptors, in_child

HEADER = b"H" * 4096
SIZE = 8192
PREFIX = f"shmhost-test-{os.getpid()}"
NAMES = ShmNames(PREFIX)
SHAPE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def memfd() -> Iterator[Memfd]:
    memory = Memfd("x", SIZE)
    yield memory
    memory.close()


@pytest.mark.parametrize(("seal", "write"), [("full", fcntl.F_SEAL_WRITE), ("writer", F_SEAL_FUTURE_WRITE)])
def test_published_object_has_its_seals_and_nothing_more_can_be_added(
    seal: str, write: int, memfd: Memfd
) -> None:
    memfd.publish(HEADER, seal)
    assert fcntl.fcntl(memfd.reader(), fcntl.F_GET_SEALS) & (SHAPE | write) == SHAPE | write
    assert os.pread(memfd.reader(), SIZE, 0) == HEADER + bytes(4096)


@pytest.mark.parametrize("seal", ["full", "writer"])
def test_nobody_writes_or_shrinks_what_is_published(seal: str, memfd: Memfd) -> None:
    creators = os.dup(memfd.writer())
    memfd.publish(HEADER, seal)
    again = os.open(f"/proc/self/fd/{memfd.reader()}", os.O_RDWR)
    for descriptor in (creators, again):
        for attempt in (
            lambda fd: os.pwrite(fd, b"x", 0),
            lambda fd: os.ftruncate(fd, 0),
            lambda fd: os.ftruncate(fd, 2 * SIZE),
            lambda fd: mmap.mmap(fd, SIZE),
        ):
            with pytest.raises(PermissionError):
                attempt(descriptor)
        os.close(descriptor)


def test_publish_is_refused_while_a_writable_mapping_lives_and_works_after(memfd: Memfd) -> None:
    mapping = mmap.mmap(memfd.writer(), SIZE)
    with pytest.raises(RegionBusy):
        memfd.publish(HEADER, "full")
    mapping.close()
    memfd.publish(HEADER, "full")


def test_writer_seal_lets_an_old_mapping_write(memfd: Memfd) -> None:
    with mmap.mmap(memfd.writer(), SIZE) as mapping:
        memfd.publish(HEADER, "writer")
        mapping[4096:4100] = b"live"
        assert os.pread(memfd.reader(), 4, 4096) == b"live"


def test_object_before_publish_cannot_change_its_size(memfd: Memfd) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memfd.writer(), 0)


def test_other_users_reopen_an_object_to_read_it_and_never_to_write_it(memfd: Memfd) -> None:
    def reopen() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        own = reopen_read_only(memfd.writer())
        again = own[0]
        assert os.lseek(again, 7, os.SEEK_SET) == 7
        assert os.lseek(memfd.writer(), 0, os.SEEK_CUR) == 0
        for path in (f"/proc/self/fd/{memfd.writer()}", f"/proc/self/fd/{again}"):
            with pytest.raises(PermissionError):
                os.open(path, os.O_RDWR)

    assert in_child(reopen) == 0


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_close_leaves_nothing(backend: str) -> None:
    before = (count_descriptors(), sorted(SHM_FOLDER.glob(f"{PREFIX}*")))
    for publish in (False, True):
        memory = Memfd("x", SIZE) if backend == "memfd" else PosixShm("x", SIZE, NAMES)
        if publish:
            memory.publish(HEADER, "full")
        memory.close()
        memory.close()
    assert (count_descriptors(), sorted(SHM_FOLDER.glob(f"{PREFIX}*"))) == before


def test_named_object_is_replaced_and_only_its_own_name_removed() -> None:
    old, new = PosixShm("a/b", SIZE, NAMES), PosixShm("a/b", SIZE, NAMES)
    path = SHM_FOLDER / f"{PREFIX}.a%2Fb"
    old.publish(b"1" * 4096, "full")
    new.publish(b"2" * 4096, "full")
    old.close()
    assert path.read_bytes()[:1] == b"2"
    new.close()
    assert not path.exists()


def test_named_object_refuses_a_name_that_is_too_long_for_a_file() -> None:
    with pytest.raises(InvalidArgument, match="shm backend"):
        PosixShm("ä" * 100, SIZE, NAMES)


FULL = """
import subprocess, sys
from pathlib import Path
import shmhost.core.objects as objects
import shmhost.machine.shm_names as shm_names
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", sys.argv[1]], check=True)
objects.SHM_FOLDER = shm_names.SHM_FOLDER = Path(sys.argv[1])
try:
    objects.PosixShm("x", 1 << 20, shm_names.ShmNames("full"))
except objects.OutOfMemory as error:
    assert "No space left" in str(error), error
    assert list(Path(sys.argv[1]).iterdir()) == []
    print("refused")
"""


def test_full_tmpfs_is_an_error_and_never_a_signal(tmp_path: Path) -> None:
    command = ["unshare", "--mount", sys.executable, "-c", FULL, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if "Operation not permitted" in result.stderr:
        pytest.skip("a mount namespace of its own is not permitted here")
    assert (result.stdout, result.stderr) == ("refused\n", "")
