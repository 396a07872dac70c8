"""Files that are not snapshots, or say what is not true: refused by BadRegion, and nothing is left."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shmclient
from shmprotocol.abi.snapshot import IMAGE, START, read_start
from shmprotocol.errors import BadRegion
from snapshot_support import forge, hashed, header_field
from support import WatchedHost


@pytest.fixture
def file(shm: shmclient.Client, tmp_path: Path) -> Iterator[Path]:
    """A snapshot of a region that is gone."""
    shm.put("a", {"x": b"1" * 5000, "y": [1, 2]}).close()
    shm.save("a", tmp_path / "f")
    shm.unlink("a")
    yield tmp_path / "f"
    assert shm.list() == []


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


WRONG = {
    "magic": (0, b"SHMSNAq"),
    "version": (8, b"\x02"),
    "image": (12, b"\x00\x20"),
    "image size": (16, u64(1 << 40)),
    "largest image size": (16, u64(2**64 - 4096)),
    "mode": (32, b"\xff\xff"),
    "room of what is sealed for good": (72, u64(1 << 20)),
    "header magic": (header_field(0), b"X"),
    "abi": (header_field(8), b"\x02"),
    "kind of an arena": (header_field(16), b"\x04"),
    "unknown kind": (header_field(16), b"\x09"),
    "no seal": (header_field(20), b"\x00"),
    "two seals": (header_field(20), b"\x03"),
    "base 0": (header_field(24), u64(0)),
    "base that overflows": (header_field(24), u64(2**64 - 4096)),
    "base outside of its window": (header_field(24), u64(0x1000000)),
    "size over the image": (header_field(32), u64(1 << 40)),
    "size 0": (header_field(32), u64(0)),
    "capacity": (header_field(40), u64(1 << 40)),
    "data": (header_field(48), u64(0x1000)),
    "data size": (header_field(56), u64(2**64 - 1)),
    "root": (header_field(64), u64(0xDEADBEEF000)),
    "root size": (header_field(72), u64(8)),
    "generation 0": (header_field(80), u64(0)),
    "metadata": (header_field(128), u64(0x1000)),
    "metadata size": (header_field(136), u64(2**63)),
    "name size": (header_field(108), b"\xff\xff"),
    "name": (header_field(144), b"\x01"),
    "name that is not UTF-8": (header_field(144), b"\xff"),
}


@pytest.mark.parametrize("key", WRONG)
def test_field_that_is_forged_is_refused(shm: shmclient.Client, file: Path, key: str) -> None:
    forge(file, *WRONG[key])
    with pytest.raises(BadRegion, match=str(file)):
        shm.load(file)


@pytest.mark.parametrize("offset", [24, 48, 71, 72, 4095, IMAGE + 80, IMAGE + 4095, START, START + 5000, -1])
def test_byte_that_changed_is_seen_by_the_hash(shm: shmclient.Client, file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadRegion):
        shm.load(file)


@pytest.mark.parametrize("size", [0, 1, 8, 4095, 4096, 8191, 8192, -4096, -1])
def test_file_that_was_cut_off_is_refused(shm: shmclient.Client, file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadRegion):
        shm.load(file)


def test_file_with_more_bytes_is_refused(shm: shmclient.Client, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"1")
    with pytest.raises(BadRegion, match="cut, or grew"):
        shm.load(file)


def test_sparse_file_of_a_huge_size_costs_nothing(shm: shmclient.Client, file: Path) -> None:
    """The host refuses its size before a byte of it is read."""
    size = 1 << 43
    data = bytearray(file.read_bytes())
    data[16:24] = u64(size)
    data[header_field(32) : header_field(48)] = u64(size) * 2
    data[header_field(24) : header_field(32)] = u64(0x510000000000)
    data[header_field(48) : header_field(56)] = u64(0x510000001000)
    data[header_field(112) : header_field(128)] = u64(0x510000000000) + u64(size)
    data[header_field(128) : header_field(144)] = u64(0) * 2
    file.write_bytes(hashed(bytes(data)))
    os.truncate(file, IMAGE + size)
    with pytest.raises(shmclient.QuotaExceeded):
        shm.load(file)


@pytest.mark.parametrize("base", [0x550000001000, 0x550000000000 + (1 << 38) - 4096])
def test_address_that_no_region_has_is_refused(shm: shmclient.Client, file: Path, base: int) -> None:
    data = bytearray(file.read_bytes())
    data[header_field(24) : header_field(32)] = u64(base)
    data[header_field(48) : header_field(56)] = u64(base + 4096)
    data[header_field(112) : header_field(128)] = u64(0x540000000000) + u64(1 << 45)
    data[header_field(128) : header_field(144)] = u64(0) * 2
    file.write_bytes(hashed(bytes(data)))
    with pytest.raises(shmclient.InvalidArgument, match="no region of this host"):
        shm.load(file)


def change_while_read(file: Path, change: Callable[[], None]) -> Callable[[int], None]:
    """Return a progress function that changes the file in the middle."""
    pending = [change]

    def progress(_done: int) -> None:
        if pending:
            pending.pop()()

    return progress


@pytest.fixture
def large(shm: shmclient.Client, tmp_path: Path) -> Iterator[Path]:
    shm.put("a", os.urandom(8 << 20)).close()
    shm.save("a", tmp_path / "f")
    shm.unlink("a")
    yield tmp_path / "f"
    assert shm.list() == []


def test_file_that_shrinks_while_it_is_read_is_refused(shm: shmclient.Client, large: Path) -> None:
    cut = change_while_read(large, lambda: os.truncate(large, 5 << 20))
    with pytest.raises(BadRegion, match="cut off meanwhile"):
        shm.load(large, progress=cut)


def test_file_that_changes_while_it_is_read_is_refused(shm: shmclient.Client, large: Path) -> None:
    def change() -> None:
        with open(large, "r+b") as stream:
            stream.seek(6 << 20)
            stream.write(b"other")

    with pytest.raises(BadRegion, match="its hash"):
        shm.load(large, progress=change_while_read(large, change))


def test_file_that_grows_while_it_is_read_is_what_it_was(shm: shmclient.Client, large: Path) -> None:
    def grow() -> None:
        with open(large, "ab") as stream:
            stream.write(bytes(1 << 20))

    shm.load(large, progress=change_while_read(large, grow)).close()
    assert len(shm.get("a")) == 8 << 20
    shm.unlink("a")


def test_what_is_not_a_file_is_refused_at_once(shm: shmclient.Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), Path("/proc/self/mem")):
        with pytest.raises((BadRegion, OSError)):
            shm.load(path)
    with pytest.raises(FileNotFoundError):
        shm.load(tmp_path / "none")


def test_save_follows_no_link_and_replaces_files_alone(shm: shmclient.Client, tmp_path: Path) -> None:
    shm.put("a", b"1").close()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "dangling", "fifo", "folder", "folder/", "."):
        with pytest.raises(shmclient.InvalidArgument, match="name a file"):
            shm.save("a", f"{tmp_path}/{name}")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(FileNotFoundError):
        shm.save("a", tmp_path / "none" / "f")
    shm.unlink("a")


def test_refused_files_leave_nothing_in_the_host(
    shm: shmclient.Client, host: WatchedHost, file: Path
) -> None:
    shm.list()
    before = host.counts()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for _ in range(10):
        with pytest.raises(BadRegion):
            shm.load(file)
    shm.list()
    assert host.is_back_at(before)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, START - 1), st.binary(min_size=1, max_size=16)), max_size=6))
def test_any_first_pages_are_a_snapshot_or_refused(pages: bytes, patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(pages)
    for offset, patch in patches:
        data[offset : offset + len(patch)] = patch
    try:
        header = read_start(bytes(data[:START]), len(pages)).header
    except BadRegion:
        return
    assert header.size <= header.capacity == len(pages) - IMAGE
    assert not header.root or header.base < header.root <= header.base + header.size


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import shmhost

    file = tmp_path_factory.mktemp("pages") / "f"
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        shm.put("a", b"1" * 5000).close()
        shm.save("a", file)
    return file.read_bytes()
