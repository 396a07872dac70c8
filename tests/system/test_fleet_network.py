"""Hosts of a fleet in network namespaces of their own, on a network that is bad for a moment: the quick part.

`test_fleet_faults.py` has what takes longer than zenoh's lease of 5 s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet_certificates import needs_openssl
from tests.fleet_distant import Distant, distant
from tests.fleet_network import why_no_network
from tests.support import wait_until
from tests.system.test_fleet_replicas import READ_LIST, WRITE_LIST, run

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = needs_openssl


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distant]:
    """Three hosts that see each other, each connected to the ones before it."""
    if reason := why_no_network():
        pytest.skip(f"NOT TESTED: {reason}")
    with distant(tmp_path_factory.mktemp("fleet"), {0: [], 1: [0], 2: [0, 1]}) as hosts:
        hosts.start_all()
        for number in range(3):
            hosts.wait_for_hosts(number, 2)
        yield hosts


def test_pointers_are_right_in_every_namespace(fleet: Distant) -> None:
    run(WRITE_LIST, fleet.hosts[0])
    with fleet.client(0) as shm:
        address = shm.stat("models/list").address
    for number in (1, 2):
        assert run(READ_LIST, fleet.hosts[number]) == ["one", "two", "three"]
        with fleet.client(number) as shm:
            assert shm.stat("models/list").address == address


def test_value_arrives_whole_with_loss_and_delay(fleet: Distant) -> None:
    value = os.urandom(300_000)
    fleet.network.loss, fleet.network.delay_s = 0.05, 0.1
    try:
        with fleet.client(0) as shm:
            shm.put("lossy", value).close()
        for number in (1, 2):
            assert fleet.digest(number, "lossy") == hashlib.sha256(value).hexdigest()
    finally:
        fleet.network.loss = fleet.network.delay_s = 0.0


def test_reader_waits_over_a_short_partition(fleet: Distant) -> None:
    before = fleet.network.dropped
    fleet.network.part(0)
    try:
        with fleet.client(0) as shm, ThreadPoolExecutor() as pool, fleet.client(1) as other:
            shm.put("late", b"late").close()
            reading = pool.submit(fleet.digest, 2, "late")
            wait_until(lambda: fleet.network.dropped > before + 2)
            assert "late" not in other
            assert not reading.done()
            fleet.network.heal()
            assert reading.result(60) == hashlib.sha256(b"late").hexdigest()
            assert bytes(other.get("late", wait=60)) == b"late"
    finally:
        fleet.network.heal()
