"""What `describe` says of real descriptors, against `os.stat` and `stat.filemode`."""

from __future__ import annotations

import errno
import fcntl
import grp
import json
import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmprotocol.kernel.status import FP_SPECIAL, Status, _seal_names, describe, permission_string

SEALS = {"SEAL": 0x1, "SHRINK": 0x2, "GROW": 0x4, "WRITE": 0x8, "FUTURE_WRITE": 0x10, "EXEC": 0x20}
MFD_NOEXEC_SEAL = 0x8  # the os module of Python 3.11 lacks it


@contextmanager
def opened(path: str | Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def memfd(size: int = 0, flags: int = os.MFD_ALLOW_SEALING) -> Iterator[int]:
    fd = os.memfd_create("status", flags | os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


def _has_noexec_seal() -> bool:
    try:
        os.close(os.memfd_create("probe", MFD_NOEXEC_SEAL))
    except OSError:
        return False
    return True


def agrees(status: Status, fd: int) -> bool:
    """Say whether all that `os.stat` tells is in the status too."""
    reference = os.stat(fd)
    return (
        status.device == (os.major(reference.st_dev), os.minor(reference.st_dev))
        and (status.inode, status.mode, status.links)
        == (reference.st_ino, stat.S_IMODE(reference.st_mode), reference.st_nlink)
        and (status.uid, status.gid, status.size) == (reference.st_uid, reference.st_gid, reference.st_size)
        and (status.blocks, status.block_size) == (reference.st_blocks, reference.st_blksize)
        and status.permissions.endswith(stat.filemode(reference.st_mode)[1:])
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [("/", "directory"), ("/dev/null", "character device"), (__file__, "regular file")],
)
def test_describe_agrees_with_stat(path: str, name: str) -> None:
    with opened(path) as fd:
        status = describe(fd)
        assert agrees(status, fd)
    assert status.type == name


def test_describe_agrees_with_stat_of_a_memfd_with_memory() -> None:
    with memfd(1 << 20) as fd:
        os.pwrite(fd, b"x" * 8192, 0)
        status = describe(fd)
        assert agrees(status, fd)
    assert (status.type, status.size, status.blocks) == ("regular file", 1 << 20, 16)


def test_describe_names_the_types_of_sockets_and_pipes() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    with ours, theirs, open(reader, "rb"), open(writer, "wb"):
        kinds = [describe(fd).type for fd in (ours.fileno(), reader, writer)]
        access = [describe(fd).access for fd in (ours.fileno(), reader, writer)]
    assert kinds == ["socket", "FIFO", "FIFO"]
    assert access == ["read-write", "read-only", "write-only"]


def test_describe_says_other_for_an_object_without_a_type() -> None:
    fd = os.eventfd(0)
    try:
        assert describe(fd).type == "other"
    finally:
        os.close(fd)


def test_describe_shows_the_special_bits_of_a_setuid_file(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    (tmp_path / "program").chmod(0o4755)
    with opened(tmp_path / "program") as fd:
        status = describe(fd)
    assert (status.mode, status.permissions) == (0o4755, "[4755] rwsr-xr-x")


def test_describe_names_the_owner_and_the_group() -> None:
    with memfd() as fd:
        status = describe(fd)
    assert status.owner == pwd.getpwuid(os.geteuid()).pw_name
    assert status.group == grp.getgrgid(os.getegid()).gr_name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_describe_has_no_names_when_the_system_knows_none(tmp_path: Path) -> None:
    unknown = 3_999_999_999
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", unknown, unknown)
    with opened(tmp_path / "file") as fd:
        status = describe(fd)
    assert (status.uid, status.gid, status.owner, status.group) == (unknown, unknown, None, None)
    assert f"? (uid {unknown})" in str(status)


@pytest.mark.parametrize(
    ("flags", "access"),
    [
        (os.O_RDONLY, "read-only"),
        (os.O_WRONLY, "write-only"),
        (os.O_RDWR, "read-write"),
        (os.O_RDWR | os.O_APPEND | os.O_NONBLOCK, "read-write"),
        (os.O_PATH, "none"),
    ],
)
def test_describe_names_the_access_of_the_descriptor(flags: int, access: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(tmp_path / "file", flags) as fd:
        assert describe(fd).access == access


@pytest.mark.parametrize("name", ["SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "SEAL"])
def test_describe_names_a_seal(name: str) -> None:
    with memfd() as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS[name])
        assert describe(fd).seals == (name,)


def test_describe_names_all_seals_of_a_sealed_object() -> None:
    with memfd() as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS["SEAL"] | SEALS["SHRINK"] | SEALS["GROW"] | SEALS["WRITE"])
        assert describe(fd).seals == ("SEAL", "SHRINK", "GROW", "WRITE")


@pytest.mark.skipif(not _has_noexec_seal(), reason="this kernel has no MFD_NOEXEC_SEAL")
def test_describe_names_the_exec_seal_when_the_kernel_has_it() -> None:
    """F_SEAL_EXEC is new in Linux 6.3, as is MFD_NOEXEC_SEAL, which sets it."""
    with memfd(flags=MFD_NOEXEC_SEAL) as fd:
        assert describe(fd).seals == ("EXEC",)


def test_describe_tells_no_seals_from_no_sealing() -> None:
    with memfd() as sealable, memfd(flags=0) as unsealable, opened("/proc/self/status") as proc:
        assert describe(sealable).seals == ()
        assert describe(unsealable).seals == (
            "SEAL",
        )  # what the kernel says of an object made without sealing
        assert describe(proc).seals is None


def test_seal_without_a_name_is_shown_as_a_number() -> None:
    assert _seal_names(0x8) == ("WRITE",)
    assert _seal_names(0x48) == ("WRITE", "0x40")


def _closed() -> int:
    fd = os.memfd_create("closed")
    os.close(fd)
    return fd


@pytest.mark.parametrize("number", [_closed, lambda: -1, lambda: 2**40])
def test_describe_names_the_descriptor_when_it_is_not_open(number: Callable[[], int]) -> None:
    fd = number()
    with pytest.raises(OSError, match=f"descriptor {fd} is not open") as caught:
        describe(fd)
    assert caught.value.errno == errno.EBADF


def test_describe_leaves_the_descriptor_open() -> None:
    with memfd(4096) as fd:
        before = os.fstat(fd)
        describe(fd)
        assert os.fstat(fd) == before


def test_status_prints_aligned_lines() -> None:
    with memfd(4096) as fd:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS["SHRINK"] | SEALS["GROW"])
        lines = str(describe(fd)).splitlines()
    keys = [line[:11].rstrip() for line in lines]
    assert {line[11:13] for line in lines} == {"  "}
    assert all(line[13] != " " for line in lines)
    assert keys[0] == "type"
    assert "size         4096 bytes" in lines
    assert "seals        SHRINK, GROW" in lines


def test_status_as_dict_survives_json() -> None:
    with memfd(4096) as fd:
        status = describe(fd)
    as_dict = status.as_dict()
    assert json.loads(json.dumps(as_dict)) == as_dict
    assert (as_dict["size"], as_dict["seals"], as_dict["device"]) == (4096, [], list(status.device))


@pytest.mark.parametrize(
    ("mode", "plain", "special"),
    [
        (0o644, "[0644] rw-r--r--", "[0644] rw-r--r--"),
        (0o000, "[0000] ---------", "[0000] ---------"),
        (0o777, "[0777] rwxrwxrwx", "[0777] rwxrwxrwx"),
        (0o4755, "[0755] rwxr-xr-x", "[4755] rwsr-xr-x"),
        (0o4644, "[0644] rw-r--r--", "[4644] rwSr--r--"),
        (0o2755, "[0755] rwxr-xr-x", "[2755] rwxr-sr-x"),
        (0o2744, "[0744] rwxr--r--", "[2744] rwxr-Sr--"),
        (0o1777, "[0777] rwxrwxrwx", "[1777] rwxrwxrwt"),
        (0o1776, "[0776] rwxrwxrw-", "[1776] rwxrwxrwT"),
        (0o7777, "[0777] rwxrwxrwx", "[7777] rwsrwsrwt"),
        (stat.S_IFREG | 0o640, "[0640] rw-r-----", "[0640] rw-r-----"),
        (stat.S_IFDIR | 0o1777, "[0777] rwxrwxrwx", "[1777] rwxrwxrwt"),
    ],
)
def test_permission_string_shows_special_bits_when_asked(mode: int, plain: str, special: str) -> None:
    assert permission_string(mode) == plain
    assert permission_string(mode, FP_SPECIAL) == special


def test_permission_string_agrees_with_filemode_for_every_mode() -> None:
    for mode in range(0o10000):
        assert permission_string(mode, FP_SPECIAL) == f"[{mode:04o}] {stat.filemode(mode)[1:]}"


@pytest.mark.parametrize("flags", [2, 3, -1])
def test_permission_string_refuses_unknown_flags(flags: int) -> None:
    with pytest.raises(ValueError, match=r"flags .* FP_SPECIAL"):
        permission_string(0o644, flags)


@pytest.mark.parametrize("mode", [-1, 0o200000, 1 << 40])
def test_permission_string_refuses_a_mode_out_of_range(mode: int) -> None:
    with pytest.raises(ValueError, match=r"mode .* outside"):
        permission_string(mode)
