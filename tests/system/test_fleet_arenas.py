"""Values of arenas that follow on other hosts, as they change: real processes, over loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmclient
from benchmarks.fleet_hosts import free_ports
from shmhost.testing.process import HostProcess
from tests.fleet_support import fleet, metrics_of, start, statuses, write_plan
from tests.support import read_tasks, wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": ["camera/"], "import": ["camera/"]}
MIB = 2**20


def names(host: HostProcess) -> list[str]:
    with shmclient.connect(host.socket_path) as shm:
        return sorted(info.name for info in shm.list())


def test_values_follow_by_follow_wait_and_get_and_go_with_the_original(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, "a", "b", **SHARED) as (first, second),
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
    ):
        with shm.arena("camera", 16 * MIB, mode=0o644) as camera:
            camera["front"] = np.arange(1000)
            camera["left"] = {"x": np.ones(3), "text": "left"}
            values = other.follow("camera/front", wait=60)
            assert next(values).sum() == 499_500
            assert other.get("camera/left", wait=60)["text"] == "left"
            assert other.stat("camera/front").mode == 0o404
            before = other.stat("camera/front").generation
            camera["front"] = np.full(5, 7)
            assert next(values).tolist() == [7] * 5
            assert other.stat("camera/front").generation > before
            del camera["left"]
            wait_until(lambda: names(second) == ["camera/front"], 30)
            assert names(first) == ["camera"]  # copies have no names where they come from
        assert other.get("camera/front").tolist() == [7] * 5  # kept, as the arena is
        with shm.arena("camera", 16 * MIB) as camera:  # a new owner
            camera["rear"] = b"r"
            assert bytes(other.get("camera/rear", wait=60)) == b"r"
            wait_until(lambda: names(second) == ["camera/rear"], 30)
            shm.unlink("camera")
            wait_until(lambda: names(second) == [], 30)


def test_values_come_in_their_order_and_the_last_one_comes(tmp_path: Path) -> None:
    ports = free_ports(3)
    metrics = f"127.0.0.1:{ports[2]}"
    with (
        start(write_plan(tmp_path, "a", ports[0], (), **SHARED), metrics=metrics) as first,
        start(write_plan(tmp_path, "b", ports[1], ports[:1], bandwidth="8M", **SHARED)) as second,
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
        shm.arena("camera", 16 * MIB) as camera,
    ):
        camera["front"] = np.full(MIB // 8, 0)
        seen, last, put = [], 2000, 0
        for frame in other.follow("camera/front", wait=60):
            assert frame.min() == frame.max()  # never half of one
            seen.append(int(frame[0]))
            if seen[-1] == last:
                break
            while put < min(last, seen[-1] + 500):
                put += 1
                camera["front"] = np.full(MIB // 8, put)
        assert seen == sorted(set(seen))
        figures = metrics_of(ports[2])
        assert figures["shmhost_fleet_values_skipped"] > 500
        assert figures["shmhost_fleet_values"] >= figures["shmhost_fleet_value_wait_seconds_count"] > 0
        assert figures["shmhost_fleet_values"] >= len(seen)


def test_arena_that_is_there_before_the_importing_host_comes_with_it(tmp_path: Path) -> None:
    ports = free_ports(2)
    owner = """
import shmclient, sys
with shmclient.connect(sys.argv[1]) as shm, shm.arena("camera", 1 << 24) as camera:
    for number in range(700):
        camera[str(number)] = str(number)
"""
    with start(write_plan(tmp_path, "a", ports[0], (), **SHARED)) as first:
        subprocess.run([sys.executable, "-c", owner, first.socket_path], check=True, timeout=60)  # its end
        with start(write_plan(tmp_path, "b", ports[1], ports[:1], **SHARED)) as second:
            wait_until(lambda: len(names(second)) == 700, 60)
            with shmclient.connect(second.socket_path) as shm:
                assert shm.get("camera/699") == "699"


def test_value_with_pointers_into_its_arena_is_refused_and_the_others_come(tmp_path: Path) -> None:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("struct node { const struct node *next; int value; };")
    with (
        fleet(tmp_path, "a", "b", **SHARED) as (first, second),
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
        shm.arena("camera", 16 * MIB) as camera,
    ):
        with camera.build("graph", 4096) as builder:
            builder.set_root(builder.new(ffi, "struct node *", {"value": 7}))
        camera["front"] = b"f"
        assert bytes(other.get("camera/front", wait=60)) == b"f"
        plan = str(tmp_path / "a.toml")
        wait_until(lambda: statuses(plan)[0]["failed"] != {}, 30)
        assert "pointers into its arena" in statuses(plan)[0]["failed"]["camera/graph"]
        camera["graph"] = b"g"
        assert bytes(other.get("camera/graph", wait=60)) == b"g"
        assert statuses(plan)[0]["failed"] == {}


def test_values_go_on_when_the_process_that_copies_them_is_killed(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, "a", "b", **SHARED) as (first, second),
        shmclient.connect(first.socket_path) as shm,
        shmclient.connect(second.socket_path) as other,
        shm.arena("camera", 16 * MIB) as camera,
    ):
        camera.put_many({"front": b"1", "left": b"1"})
        values = other.follow("camera/front", wait=60)
        assert bytes(next(values)) == b"1"
        children = "".join(read_tasks(first.pid, "children")).split()
        assert children
        for pid in children:
            os.kill(int(pid), 9)
        camera["front"] = b"2"
        del camera["left"]
        assert bytes(next(values)) == b"2"
        wait_until(lambda: names(second) == ["camera/front"], 30)
