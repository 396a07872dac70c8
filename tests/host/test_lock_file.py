"""The lock file beside a socket is the host's own, and a number in it that no host stored is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import shmclient
from shmhost.core.generations import BLOCK, Generations
from shmhost.machine.socket_file import Lock, SocketFile
from shmprotocol.errors import HostError, QuotaExceeded
from shmprotocol.wire.names import MAX_GENERATION
from support import in_child, watched_host


def stored(path: Path, ceiling: int) -> Path:
    """Store a ceiling as a host does; return the file."""
    lock = Lock(str(path), "cure")
    lock.take()
    lock.count()
    lock.store_ceiling(ceiling)
    lock.release()
    return Path(f"{path}.lock")


def refuse(path: Path, text: str) -> Lock:
    lock = Lock(str(path), "use another path")
    with pytest.raises(HostError, match=text) as refusal:
        lock.take()
    lock.release()
    assert f"{path}.lock" in str(refusal.value)
    assert str(refusal.value).endswith("use another path")
    return lock


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_file_of_another_user_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path / "h.sock", 1000)
    os.chown(file, 65534, 65534)
    before = file.read_bytes()
    refuse(tmp_path / "h.sock", r"belongs to uid 65534, not to uid 0")
    assert file.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_file_of_root_is_refused_by_the_host_of_a_user(tmp_path: Path) -> None:
    file = stored(tmp_path / "h.sock", 1000)
    file.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o755)

    def take() -> None:
        os.setresuid(65534, 65534, 65534)
        refuse(tmp_path / "h.sock", r"belongs to uid 0, not to uid 65534")

    assert in_child(take) == 0


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    stored(tmp_path / "h.sock", 1000).chmod(mode)
    refuse(tmp_path / "h.sock", f"mode {mode:04o}.*chmod go-w")


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_file_that_others_can_only_read_is_taken(mode: int, tmp_path: Path) -> None:
    stored(tmp_path / "h.sock", 1000).chmod(mode)
    assert stored(tmp_path / "h.sock", 2000)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/null", path), os.mkdir])
def test_file_of_another_kind_ends_the_start(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "h.sock.lock")
    with pytest.raises(HostError), SocketFile(str(tmp_path / "h.sock"), 0o600, "use another path"):
        pass
    assert not (tmp_path / "h.sock").exists()


def test_largest_ceiling_is_taken_and_the_next_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    stored(path, MAX_GENERATION)
    lock = Lock(str(path), "cure")
    lock.take()
    assert lock.ceiling == MAX_GENERATION
    lock.store_ceiling(MAX_GENERATION + 1)
    lock.release()
    refused = refuse(path, f"generation {MAX_GENERATION + 1}.*over {MAX_GENERATION}")
    assert refused.ceiling is None  # a host with an inherited socket goes on without its lock


@pytest.mark.parametrize("ceiling", [2**63 - 1, 2**63, 2**64 - 1, 10**20 - 1])
def test_host_does_not_start_with_a_forged_ceiling(ceiling: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    stored(path, ceiling)
    with pytest.raises(HostError, match=str(ceiling)), watched_host(str(path)):
        pass
    assert not path.exists()


def test_numbers_end_at_the_largest_generation() -> None:
    ceilings: list[int] = []
    generations = Generations(ceilings.append)
    generations.resume(MAX_GENERATION - 2)
    assert [generations.next(None), generations.next(MAX_GENERATION - 1)] == [
        MAX_GENERATION - 1,
        MAX_GENERATION,
    ]
    assert ceilings == [MAX_GENERATION]
    with pytest.raises(QuotaExceeded, match=str(MAX_GENERATION)):
        generations.next(MAX_GENERATION)
    assert ceilings == [MAX_GENERATION]


def test_block_is_stored_whole_where_there_is_room_for_it() -> None:
    ceilings: list[int] = []
    generations = Generations(ceilings.append)
    generations.resume(MAX_GENERATION - BLOCK)
    generations.next(None)
    assert ceilings == [MAX_GENERATION]


def test_publish_is_refused_when_no_generation_is_left(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    stored(path, MAX_GENERATION - 1)
    with watched_host(str(path)), shmclient.connect(str(path)) as shm:
        assert shm.put("x", b"last").generation == MAX_GENERATION
        with pytest.raises(shmclient.QuotaExceeded, match=r"h\.sock\.lock|lock file"):
            shm.put("x", b"more")
        with shm.get("x") as view:
            assert bytes(view) == b"last"
