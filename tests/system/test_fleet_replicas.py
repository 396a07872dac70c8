"""Regions that go from host to host: real processes on this machine, over loopback."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pwd
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shmclient
from benchmarks.fleet_hosts import free_ports
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import MIB
from tests.fleet_support import Link, fleet, metrics_of, start, statuses, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": ["models/"], "import": ["models/"]}
LARGE = 96 * MIB

LIST = """
struct node { struct node *next; const char *text; };
"""
WRITE_LIST = f"""
import cffi, sys, shmclient
ffi = cffi.FFI()
ffi.cdef('''{LIST}''')
with shmclient.connect(sys.argv[1]) as shm, shm.create("models/list", 4096) as builder:
    node = ffi.NULL
    for word in (b"three", b"two", b"one"):
        node = builder.new(ffi, "struct node *", {{"next": node, "text": builder.bytes(word + b"\\0")}})
    builder.set_root(node)
"""
READ_LIST = f"""
import cffi, sys, shmclient
ffi = cffi.FFI()
ffi.cdef('''{LIST}''')
with shmclient.connect(sys.argv[1]) as shm:
    region = shm.open("models/list", wait=60)
    node = region.root(ffi, "struct node *")
    while node != ffi.NULL:
        print(ffi.string(node.text).decode())
        node = node.next
"""


def run(script: str, host: HostProcess) -> list[str]:
    command = [sys.executable, "-c", script, host.socket_path]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout.split()


def names(host: HostProcess) -> list[str]:
    with shmclient.connect(host.socket_path) as shm:
        return [info.name for info in shm.list()]


def digest(host: HostProcess, name: str, wait: float = 60) -> str:
    """Return the hash of a value, read by a client of a host."""
    with shmclient.connect(host.socket_path) as shm:
        return hashlib.sha256(shm.get(name, wait=wait)).hexdigest()


def test_pointers_are_right_on_another_host(tmp_path: Path) -> None:
    with fleet(tmp_path, "a", "b", **SHARED) as (first, second):
        run(WRITE_LIST, first)
        assert run(READ_LIST, second) == ["one", "two", "three"]


def test_replica_follows_its_original_until_that_is_unlinked(tmp_path: Path) -> None:
    with fleet(tmp_path, "a", "b", **SHARED) as (first, second), shmclient.connect(first.socket_path) as shm:
        shm.put("private/x", b"not for others")
        address = shm.put("models/x", b"1" * 3_000_000, mode=0o644).address
        with shmclient.connect(second.socket_path) as other:
            copy = other.open("models/x", wait=60)
            assert (copy.address, bytes(copy.data)) == (address, b"1" * 3_000_000)
            assert other.stat("models/x").mode == 0o404
            before = copy.generation
            copy.close()
            shm.put("models/x", b"2", mode=0o644)
            wait_until(lambda: other.get("models/x") == b"2")
            assert other.stat("models/x").generation > before
            shm.chmod("models/x", 0o600)
            wait_until(lambda: other.stat("models/x").mode == 0o400)
            shm.unlink("models/x")
            wait_until(lambda: "models/x" not in other)
            assert names(second) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_name_is_fetched_when_a_client_waits_for_it(tmp_path: Path, is_there: bool) -> None:
    with (
        fleet(tmp_path, "a", "b", "c", export=["models/"], fetch=["models/"]) as hosts,
        ThreadPoolExecutor() as pool,
    ):
        first, second, third = hosts
        with shmclient.connect(first.socket_path) as shm:
            if is_there:
                shm.put("models/x", b"x" * 100)
                wait_until(lambda: statuses(str(tmp_path / "a.toml"))[0]["exports"] != {})
            reading = pool.submit(digest, second, "models/x")
            if not is_there:
                shm.put("models/x", b"x" * 100)
        assert reading.result(60) == hashlib.sha256(b"x" * 100).hexdigest()
        assert names(third) == []


def test_host_that_joins_late_gets_what_is_current(tmp_path: Path) -> None:
    ports = free_ports(2)
    with start(write_plan(tmp_path, "a", ports[0], (), **SHARED)) as first:
        with shmclient.connect(first.socket_path) as shm:
            for number in range(700):  # more than an answer has
                shm.put(f"models/{number}", b"old")
            shm.put("models/1", b"new")
            shm.unlink("models/2")
        with start(write_plan(tmp_path, "b", ports[1], ports[:1], **SHARED)) as second:
            wait_until(lambda: len(names(second)) == 699, 60)
            assert sorted(names(second)) == sorted(names(first))
            with shmclient.connect(second.socket_path) as shm:
                wait_until(lambda: shm.get("models/1") == b"new")


def test_transfer_goes_on_with_another_source_when_one_is_killed(tmp_path: Path) -> None:
    ports = free_ports(4)
    value = os.urandom(LARGE)
    plans = [
        write_plan(tmp_path, name, ports[number], ports[:number], chunks=1, **SHARED)
        for number, name in enumerate("abc")
    ]
    with start(plans[0]) as first, start(plans[1]) as second:
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", value)
        digest(second, "models/x")
        with start(plans[2], metrics=f"127.0.0.1:{ports[3]}") as third:
            wait_until(lambda: metrics_of(ports[3])["shmhost_fleet_received_bytes"] > 0)
            first.kill()
            assert digest(third, "models/x") == hashlib.sha256(value).hexdigest()
            assert LARGE <= metrics_of(ports[3])["shmhost_fleet_received_bytes"] < LARGE + MIB  # none twice


def test_transfer_goes_on_with_the_chunks_that_are_here_after_one_way_loss(tmp_path: Path) -> None:
    ports = free_ports(3)
    value = os.urandom(LARGE)
    link = Link(ports[0], LARGE // 2)  # chunks go over it as well, with bulk = []
    with (
        contextlib.closing(link),
        start(write_plan(tmp_path, "a", ports[0], (), bulk=[], **SHARED)) as first,
        start(
            write_plan(tmp_path, "b", ports[1], [link.port], **SHARED), metrics=f"127.0.0.1:{ports[2]}"
        ) as second,
        shmclient.connect(first.socket_path) as shm,
    ):
        shm.put("models/x", value)
        assert link.held.wait(60)
        wait_until(lambda: metrics_of(ports[2])["shmhost_fleet_hosts"] == 0, 60)
        before = metrics_of(ports[2])["shmhost_fleet_received_bytes"]
        assert 0 < before < LARGE
        assert names(second) == []
        link.release()
        assert digest(second, "models/x") == hashlib.sha256(value).hexdigest()
        assert LARGE <= metrics_of(ports[2])["shmhost_fleet_received_bytes"] < LARGE + MIB  # none twice


def test_last_generation_arrives_when_a_name_changes_during_transfers(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, "a", "b", chunks=1, **SHARED) as (first, second),
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
    ):
        for number in range(12):
            shm.put("models/x", bytes([number]) * 20 * MIB)
        seen, value = [], b""
        while value != bytes([11]):
            region = other.open("models/x", wait=60)
            value, generation = bytes(region.data[:1]), region.generation
            assert bytes(region.data) == value * 20 * MIB
            seen.append((generation, value))
            region.close()
        assert seen == sorted(seen)


def test_name_that_is_replaced_faster_than_it_is_copied_gets_newer_copies(tmp_path: Path) -> None:
    """A copy takes half a second, and each generation lives for a tenth of that."""
    is_enough = threading.Event()

    def publish(host: HostProcess) -> int:
        with shmclient.connect(host.socket_path) as shm:
            for number in itertools.count():
                shm.put("models/x", number.to_bytes(8, "little") * MIB).close()
                if is_enough.wait(0.05):
                    return number
        raise AssertionError

    with (
        fleet(tmp_path, "a", "b", bandwidth="16M", **SHARED) as (first, second),
        shmclient.connect(second.socket_path) as other,
        ThreadPoolExecutor() as pool,
    ):
        publishing = pool.submit(publish, first)
        seen = list[int]()
        try:
            for region in other.follow("models/x", wait=60):
                number = int.from_bytes(region[:8], "little")
                assert bytes(region[-8:]) == bytes(region[:8])
                seen.append(number)
                if len(seen) == 4:
                    break
        finally:
            is_enough.set()
        last = publishing.result(60)
        wait_until(lambda: other.get("models/x")[:8] == last.to_bytes(8, "little"), 60)
    assert seen == sorted(set(seen))


def test_bandwidth_that_is_sent_is_limited(tmp_path: Path) -> None:
    ports = free_ports(3)
    metrics = f"127.0.0.1:{ports[2]}"
    with (
        start(write_plan(tmp_path, "a", ports[0], (), bandwidth="4M", **SHARED), metrics=metrics) as first,
        start(write_plan(tmp_path, "b", ports[1], ports[:1], **SHARED)) as second,
        shmclient.connect(first.socket_path) as shm,
    ):
        before_s = time.monotonic()
        shm.put("models/x", os.urandom(6 * MIB))
        digest(second, "models/x")
        assert time.monotonic() - before_s > 1.0  # 6 MiB, less a burst and the one that is to be paid off
        assert 6 * MIB <= metrics_of(ports[2])["shmhost_fleet_sent_bytes"] < 7 * MIB
        assert metrics_of(ports[2])["shmhost_fleet_send_waited_seconds"] > 1.0


def test_lag_of_a_copy_counts_from_its_announcement_also_behind_another_transfer(tmp_path: Path) -> None:
    ports = free_ports(3)
    plans = [
        write_plan(tmp_path, "a", ports[0], (), **SHARED),
        write_plan(tmp_path, "b", ports[1], ports[:1], bandwidth="4M", **SHARED),
    ]
    with (
        start(plans[0]) as first,
        start(plans[1], metrics=f"127.0.0.1:{ports[2]}") as second,
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
    ):
        shm.put("models/x", os.urandom(6 * MIB)).close()
        wait_until(lambda: metrics_of(ports[2])["shmhost_fleet_received_bytes"] > 0)
        shm.put("models/x", b"small").close()
        before_s = time.monotonic()
        values = other.follow("models/x", wait=60)
        assert len(next(values)) == 6 * MIB
        waited_s = time.monotonic() - before_s  # for the first one alone
        assert bytes(next(values)) == b"small"
        (row,) = statuses(plans[1])[-1]["replicas"]
        assert row["lag_s"] > waited_s / 2
        metrics = metrics_of(ports[2])
        assert metrics["shmhost_fleet_lag_seconds_count"] == 2
        assert metrics["shmhost_fleet_lag_seconds_sum"] > row["lag_s"] + waited_s


def test_name_that_two_hosts_export_is_copied_from_the_same_one_everywhere(tmp_path: Path) -> None:
    ports = free_ports(5)
    plans = [
        write_plan(tmp_path, name, port, [each for each in ports if each != port], **SHARED)
        for name, port in zip("abcd", ports[:4], strict=True)
    ]
    with (
        start(plans[0]) as first,
        start(plans[1]) as second,
        start(plans[2], metrics=f"127.0.0.1:{ports[4]}") as third,
        shmclient.connect(first.socket_path) as a,
        shmclient.connect(second.socket_path) as b,
        shmclient.connect(third.socket_path) as c,
    ):
        wait_until(lambda: len(statuses(plans[2])) == 3, 30)
        hosts = sorted(statuses(plans[2])[:2], key=lambda row: row["address"])
        winner, loser = [{"a": a, "b": b}[row["name"]] for row in hosts]
        loser.put("models/x", b"of the second").close()
        assert bytes(c.get("models/x", wait=60)) == b"of the second"
        assert bytes(winner.get("models/x", wait=60)) == b"of the second"  # a copy, which is replaced
        winner.put("models/x", b"of the first").close()
        wait_until(lambda: c.get("models/x") == b"of the first", 30)
        names = [row["name"] for row in hosts]
        wait_until(lambda: statuses(plans[2])[-1]["conflicts"] == {"models/x": names}, 30)
        assert metrics_of(ports[4])["shmhost_fleet_conflicts"] == 1
        assert any(f"all copy that of {names[0]!r}" in line for line in third.log)
        assert bytes(loser.get("models/x")) == b"of the second"  # it is its own
        with start(plans[3]) as late:
            assert digest(late, "models/x") == hashlib.sha256(b"of the first").hexdigest()
            winner.unlink("models/x")
            wait_until(lambda: c.get("models/x", wait=30) == b"of the second", 30)
        wait_until(lambda: metrics_of(ports[4])["shmhost_fleet_conflicts"] == 0, 30)


def test_killed_host_has_its_slice_again_although_others_have_copies_there(tmp_path: Path) -> None:
    with fleet(tmp_path, "a", "b", **SHARED) as (first, second):
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", b"x").close()
        digest(second, "models/x")
        before = [row["slice"] for row in statuses(str(tmp_path / "a.toml"))]
        first.kill()
        assert names(second) == ["models/x"]
        first.start()
        assert [row["slice"] for row in statuses(str(tmp_path / "a.toml"))] == before
        wait_until(lambda: names(second) == [], 60)  # nobody had kept it
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", b"y").close()
        with shmclient.connect(second.socket_path) as shm:
            assert bytes(shm.get("models/x", wait=60)) == b"y"


def test_copy_is_a_copy_again_when_its_host_was_killed(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, "a", "b", **SHARED) as (first, second),
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
    ):
        shm.put("models/x", b"x").close()
        copy = other.open("models/x", wait=60)
        second.kill()
        second.start()
        wait_until(lambda: statuses(str(tmp_path / "a.toml"))[-1]["replicas"] != [], 60)
        assert other.open("models/x", wait=60).address == copy.address
        shm.put("models/x", b"y").close()
        wait_until(lambda: bytes(other.get("models/x")) == b"y", 60)


def test_region_that_is_too_large_for_the_importing_host_is_refused_until_there_is_room(
    tmp_path: Path,
) -> None:
    with fleet(tmp_path, "a", "b", memory="4M", **SHARED) as (first, second):
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/a", b"a" * 3 * MIB)
            digest(second, "models/a")
            shm.put("models/b", b"b" * 3 * MIB)
            wait_until(lambda: statuses(str(tmp_path / "a.toml"))[1]["failed"] != {}, 60)
            reason = statuses(str(tmp_path / "a.toml"))[1]["failed"]["models/b"]
            assert reason.startswith("replicas may have 4194304 bytes on this host")
            assert names(second) == ["models/a"]
            shm.unlink("models/a")
        digest(second, "models/b")


PUT_AS = """
import os, pwd, sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    shm.put("warm", "imports all, from where others may not read").close()
for name in sys.argv[2:]:
    if not (pid := os.fork()):
        os.setuid(pwd.getpwnam(name).pw_uid)
        with shmclient.connect(sys.argv[1]) as shm:
            shm.put(f"models/{name}", name)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: it takes root to be several users")
def test_copy_belongs_to_the_user_of_the_name_or_of_the_table_and_never_to_root_by_a_name(
    tmp_path: Path,
) -> None:
    ports = free_ports(2)
    plans = [
        write_plan(tmp_path, name, port, ports, **SHARED) for name, port in zip("ab", ports, strict=True)
    ]
    with open(plans[1], "a") as file:
        file.write('[users]\ndaemon = "nobody"\nsys = "root"\n')
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        start(plans[0], socket_path=(path := f"{folder}/host.sock"), socket_mode=0o666),
        start(plans[1]) as second,
        shmclient.connect(second.socket_path) as shm,
    ):
        os.chmod(folder, 0o755)
        command = [sys.executable, "-c", PUT_AS, path, "bin", "daemon", "sys"]
        subprocess.run(command, check=True, timeout=60)
        owners = {}
        for name in ("bin", "daemon", "sys"):
            shm.open(f"models/{name}", wait=60).close()
            owners[name] = shm.stat(f"models/{name}").uid
    users = {"bin": "bin", "daemon": "nobody", "sys": "root"}  # the host's own user is root
    assert owners == {name: pwd.getpwnam(user).pw_uid for name, user in users.items()}
