"""Hosts of a fleet that run out of something: a copy is refused with the reason, and comes later."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from benchmarks.fleet_hosts import free_ports
from shmprotocol.kernel.constants import MIB
from tests.fleet_support import fleet, metrics_of, start, statuses, write_plan
from tests.support import needs_root, wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = pytest.mark.torture

SHARED = {"export": [""], "import": [""]}


def failed(plan: str, name: str) -> str:
    """Return why a host has no copy of a name, once it says so."""
    reasons: list[str] = []

    def is_there() -> bool:
        (row,) = [row for row in statuses(plan) if f"{row['name']}.toml" == os.path.basename(plan)]
        reasons.extend(row["failed"][each] for each in row["failed"] if each == name)
        return bool(reasons)

    wait_until(is_there, 60)
    return reasons[0]


def digest(path: str, name: str) -> str:
    with shmclient.connect(path) as shm:
        return hashlib.sha256(shm.get(name, wait=60)).hexdigest()


def test_copy_that_cannot_be_written_is_refused_and_comes_later(tmp_path: Path) -> None:
    """The kernel refuses to write the last chunk, as it does when there is no memory for it."""
    value = os.urandom(96 * MIB)
    ports = free_ports(3)
    plans = [
        write_plan(tmp_path, name, ports[number], ports[:number], chunks=1, **SHARED)
        for number, name in enumerate("ab")
    ]
    with start(plans[0]) as first, start(plans[1], metrics=f"127.0.0.1:{ports[2]}") as second:
        before = resource.prlimit(second.pid, resource.RLIMIT_FSIZE)
        with shmclient.connect(first.socket_path) as shm:
            shm.put("x", value).close()
        wait_until(lambda: metrics_of(ports[2])["shmhost_fleet_received_bytes"] > 0)
        resource.prlimit(second.pid, resource.RLIMIT_FSIZE, (95 * MIB, before[1]))
        assert "no memory for 'x'" in failed(plans[1], "x")
        with shmclient.connect(second.socket_path) as shm:
            assert "x" not in shm
            shm.put("own", b"own").close()
        resource.prlimit(second.pid, resource.RLIMIT_FSIZE, before)
        assert digest(second.socket_path, "x") == hashlib.sha256(value).hexdigest()


def test_copy_waits_while_the_budget_is_full(tmp_path: Path) -> None:
    with fleet(tmp_path, "a", "b", memory="128M", **SHARED) as (first, second):
        with second.fill(leave=2 * MIB), shmclient.connect(first.socket_path) as shm:
            shm.put("x", b"x" * 5 * MIB).close()
            assert "budget" in failed(str(tmp_path / "b.toml"), "x")
            shm.put("small", b"s").close()
            assert digest(second.socket_path, "small") == hashlib.sha256(b"s").hexdigest()
        assert digest(second.socket_path, "x") == hashlib.sha256(b"x" * 5 * MIB).hexdigest()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a folder on a disk of its own, of 256 KiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "shmhost-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_root
def test_copies_come_while_the_disk_of_the_host_is_full(tmp_path: Path) -> None:
    disk, path = tmp_path / "disk", str(tmp_path / "disk/host.sock")
    ports = free_ports(2)
    plans = [
        write_plan(tmp_path, name, ports[number], ports[:number], **SHARED)
        for number, name in enumerate("ab")
    ]
    with small_disk(disk), start(plans[0]) as first, start(plans[1], socket_path=path) as second:
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096))
        for number in range(3):
            with shmclient.connect(first.socket_path) as shm:
                shm.put(f"x{number}", b"x" * 50_000).close()
            assert digest(path, f"x{number}") == hashlib.sha256(b"x" * 50_000).hexdigest()
        (disk / "filler").unlink()
        assert not any("Traceback" in line for line in second.log)
