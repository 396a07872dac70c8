"""Regions that are announced before they are hashed, and whose host dies meanwhile: real processes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import shmclient
from benchmarks.fleet_hosts import free_ports
from shmprotocol.kernel.constants import MIB
from tests.fleet_support import metrics_of, start, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": ["models/"], "import": ["models/"]}


def test_transfer_from_a_host_that_was_killed_before_the_hash_leaves_nothing(tmp_path: Path) -> None:
    ports = free_ports(3)
    value = os.urandom(5 * MIB)

    def figure(name: str) -> float:
        return metrics_of(ports[2])[f"shmhost_fleet_{name}"]

    slow = write_plan(tmp_path, "b", ports[1], ports[:1], bandwidth="16M", **SHARED)
    with (
        start(write_plan(tmp_path, "a", ports[0], (), **SHARED)) as first,
        start(slow, metrics=f"127.0.0.1:{ports[2]}") as second,
        shmclient.connect(second.socket_path) as other,
    ):
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", bytes(96 * MIB)).close()
            wait_until(lambda: figure("received_bytes") > 0)
            first.kill()
        assert "models/x" not in other
        first.start()
        wait_until(lambda: figure("transfers") == 0, 60)
        assert (figure("replica_bytes"), [info.name for info in other.list()]) == (0, [])
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", value).close()
        data = other.get("models/x", wait=60)
        assert hashlib.sha256(data).digest() == hashlib.sha256(value).digest()
