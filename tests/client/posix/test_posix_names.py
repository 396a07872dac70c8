"""Named objects of shared memory, and the rules of their names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posix_support import CREATE, PAGE, SHM, refused
from shmclient import posix
from support import in_child, needs_root

LONGEST = posix.NAME_MAX - 1


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


# --- named objects: F1 to F6, F42


def test_object_is_created_under_its_name_and_opened_by_it(name: str) -> None:
    first = posix.shm_open(name, CREATE)
    second = posix.shm_open(name, posix.O_RDWR)
    os.pwrite(first, b"content", 0)
    assert os.pread(second, 10, 0) == b"content"
    assert os.fstat(first).st_ino == (SHM / name[1:]).stat().st_ino
    posix.close(first)
    posix.close(second)


@pytest.mark.parametrize("mode", [0, 0o400, 0o600, 0o640, 0o644, 0o666, 0o777])
def test_mode_at_creation_is_what_fstat_shows(mode: int, name: str, no_umask: None) -> None:
    fd = posix.shm_open(name, CREATE, mode)
    status = posix.fstat(fd)
    posix.close(fd)
    assert (posix.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, mode)


def test_mode_is_private_unless_given(name: str, no_umask: None) -> None:
    fd = posix.shm_open(name, CREATE)
    mode = stat.S_IMODE(posix.fstat(fd).st_mode)
    posix.close(fd)
    assert mode == 0o600


def test_umask_takes_bits_off_the_mode(name: str, no_umask: None) -> None:
    os.umask(0o027)
    fd = posix.shm_open(name, CREATE, 0o666)
    mode = stat.S_IMODE(posix.fstat(fd).st_mode)
    posix.close(fd)
    assert mode == 0o640


def test_existing_name_is_refused_when_it_must_be_new(name: str) -> None:
    posix.close(posix.shm_open(name, CREATE))
    with pytest.raises(FileExistsError, match=f"shm_open of '{name}'"):
        posix.shm_open(name, CREATE)
    posix.close(posix.shm_open(name, posix.O_RDWR | posix.O_CREAT))


def test_missing_name_is_refused_with_help(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"shm_open of '{name}'.*Pass O_CREAT"):
        posix.shm_open(name, posix.O_RDWR)
    with pytest.raises(FileNotFoundError, match=f"shm_unlink of '{name}'"):
        posix.shm_unlink(name)


def test_existing_object_is_emptied_by_o_trunc(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    posix.ftruncate(fd, PAGE)
    posix.close(posix.shm_open(name, posix.O_RDWR | posix.O_TRUNC))
    assert posix.fstat(fd).st_size == 0
    posix.close(fd)


def test_descriptor_follows_no_link_and_ends_at_exec(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    assert posix.fcntl(fd, posix.F_GETFL) & posix.O_NOFOLLOW
    assert posix.fcntl(fd, posix.F_GETFD) == posix.FD_CLOEXEC
    posix.close(fd)


@pytest.mark.parametrize(
    "flags", [posix.O_RDONLY, posix.O_RDWR, posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC]
)
def test_symbolic_link_is_refused_and_its_target_unharmed(flags: int, name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"content")
    (SHM / name[1:]).symlink_to(target)
    with refused(errno.ELOOP):
        posix.shm_open(name, flags)
    assert target.read_bytes() == b"content"


def test_dangling_link_creates_nothing(name: str, tmp_path: Path) -> None:
    (SHM / name[1:]).symlink_to(tmp_path / "target")
    with refused(errno.ELOOP):
        posix.shm_open(name, posix.O_RDWR | posix.O_CREAT)
    assert not (tmp_path / "target").exists()


@needs_root
def test_object_of_another_user_is_refused(name: str) -> None:
    posix.close(posix.shm_open(name, CREATE, 0o600))

    def open_it() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError, match=f"Permission denied: shm_open of '{name}'"):
            posix.shm_open(name, posix.O_RDONLY)

    assert in_child(open_it) == 0


def test_memory_of_an_unlinked_name_lives_until_its_descriptor_is_closed(name: str) -> None:
    old = posix.shm_open(name, CREATE)
    os.pwrite(old, b"content", 0)
    posix.shm_unlink(name)
    with refused(errno.ENOENT):
        posix.shm_unlink(name)
    new = posix.shm_open(name, CREATE)
    assert (os.pread(old, 10, 0), os.pread(new, 10, 0)) == (b"content", b"")
    assert posix.fstat(old).st_ino != posix.fstat(new).st_ino
    posix.close(old)
    posix.close(new)


# --- names: F3


@pytest.mark.parametrize("slashes", ["", "/", "///"])
def test_leading_slashes_of_a_name_do_not_count(slashes: str, name: str) -> None:
    posix.close(posix.shm_open(name, CREATE))
    posix.shm_unlink(slashes + name[1:])
    assert not (SHM / name[1:]).exists()


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_name_is_text_bytes_or_a_path(kind: Callable[[str], Any], name: str) -> None:
    posix.close(posix.shm_open(kind(name), CREATE))
    posix.shm_unlink(kind(name))


@pytest.mark.parametrize("letter", ["x", "é"])
def test_name_may_have_bytes_up_to_the_limit(letter: str, name: str) -> None:
    longest = (name[1:] + letter * LONGEST).encode()[:LONGEST].decode(errors="ignore")
    posix.close(posix.shm_open(longest, CREATE))
    assert (SHM / longest).exists()
    posix.shm_unlink(longest)


BAD_NAMES = [
    "",
    "/",
    "///",
    ".",
    "..",
    "/.",
    "//..",
    "a/b",
    "/a/b",
    "a/",
    "../a",
    "a\0b",
    "\0",
    b"",
    b"/a/b",
    b"\0",
]
TOO_LONG = ["x" * (LONGEST + 1), "/" + "x" * (LONGEST + 1), b"x" * (LONGEST + 1), "é" * 128, "x" * 100_000]


@pytest.mark.parametrize("bad", [*BAD_NAMES, *TOO_LONG], ids=lambda bad: repr(bad)[:12])
def test_bad_name_is_refused_and_nothing_is_created(bad: str | bytes) -> None:
    before = set(os.listdir(SHM))
    with refused(errno.EINVAL):
        posix.shm_open(bad, CREATE)
    with refused(errno.EINVAL):
        posix.shm_unlink(bad)
    assert not {entry for entry in set(os.listdir(SHM)) - before if entry in ("a", "b") or entry[0] == "x"}


@pytest.mark.parametrize("bad", [5, None, bytearray(b"name"), 1.5, ["name"]])
def test_name_of_another_type_is_a_type_error(bad: Any) -> None:
    for call in (
        lambda: posix.shm_open(bad, CREATE),
        lambda: posix.shm_unlink(bad),
        lambda: posix.memfd_create(bad, backend="memfd"),
        lambda: posix.memfd_create(bad, backend="shm"),
    ):
        with pytest.raises(TypeError):
            call()
