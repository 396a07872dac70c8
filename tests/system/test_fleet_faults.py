"""Hosts of a fleet in network namespaces, through faults that last: partitions, deaths, scarcity.

After each: nothing is torn, a client sees a value, an error or a wait, and all is well again by itself.
`test_fleet_network.py` has what is quick.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shmclient
from shmprotocol.kernel.constants import MIB
from tests import fleet_recovery
from tests.fleet_certificates import needs_openssl
from tests.fleet_distant import Distant, distant
from tests.fleet_network import why_no_network
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = [needs_openssl, pytest.mark.torture]

ALL = {0: [], 1: [0], 2: [0, 1]}
LARGE = 48 * MIB
TRIES = int(os.environ.get("TRIES", "20"))


@pytest.fixture(autouse=True)
def network() -> None:
    if reason := why_no_network():
        pytest.skip(f"NOT TESTED: {reason}")


def sha(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


@contextmanager
def three(folder: Path, connect: dict[int, list[int]] | None = None, **values: object) -> Iterator[Distant]:
    """Start three hosts that see each other."""
    with distant(folder, connect or ALL, **values) as fleet:
        fleet.start_all()
        for number in range(3):
            fleet.wait_for_hosts(number, 2)
        yield fleet


def test_both_sides_of_a_partition_publish_and_have_all_after_it(tmp_path: Path) -> None:
    values = [os.urandom(3 * MIB + number) for number in range(3)]
    with three(tmp_path) as fleet:
        with fleet.client(0) as shm:
            shm.put("before", values[0]).close()
        fleet.digest(1, "before")
        fleet.network.part(0)
        for number, others in ((0, 0), (1, 1), (2, 1)):
            fleet.wait_for_hosts(number, others)
        for number, value in enumerate(values):
            with fleet.client(number) as shm:
                assert sha(bytes(shm.get("before", wait=60))) == sha(values[0])
                shm.put(f"of {number}", value).close()
        with fleet.client(0) as shm:
            shm.put("before", values[2]).close()
            assert "of 1" not in shm
            with pytest.raises(shmclient.RegionNotFound, match="did not appear within"):
                shm.get("of 1", wait=0.2)
        assert fleet.digest(2, "of 1") == sha(values[1])
        fleet.network.heal()
        for number in range(3):
            for other, value in enumerate(values):
                assert fleet.digest(number, f"of {other}") == sha(value)
            with fleet.client(number) as shm:
                wait_until(lambda shm=shm: bytes(shm.get("before")) == values[2], 60)
            fleet.wait_for_hosts(number, 2)


def test_hosts_that_met_by_a_third_see_each_other_again(tmp_path: Path) -> None:
    with three(tmp_path, {0: [], 1: [0], 2: [0]}) as fleet:
        fleet.network.cut((1, 2), (2, 1))
        for number in (1, 2):
            fleet.wait_for_hosts(number, 1)
        with fleet.client(1) as shm:
            shm.put("of 1", b"one").close()
        assert fleet.digest(0, "of 1") == sha(b"one")
        fleet.network.heal()
        assert fleet.digest(2, "of 1") == sha(b"one")
        for number in range(3):
            fleet.wait_for_hosts(number, 2)


@pytest.mark.parametrize("way", [(0, 1), (1, 0)], ids=["from", "to"])
def test_one_way_loss_is_a_partition_and_heals(tmp_path: Path, way: tuple[int, int]) -> None:
    value = os.urandom(LARGE)
    with distant(tmp_path, {0: [], 1: [0]}, chunks=1) as fleet:
        fleet.start_all()
        fleet.wait_for_hosts(1, 1)
        with fleet.client(0) as shm:
            shm.put("x", value).close()
        wait_until(lambda: fleet.figure(1, "received_bytes") > 0)
        fleet.network.cut(way)
        fleet.wait_for_hosts(1, 0)
        fleet.wait_for_hosts(0, 0)
        with fleet.client(1) as shm:
            assert "x" not in shm
        fleet.network.heal()
        assert fleet.digest(1, "x") == sha(value)
        assert fleet.figure(1, "received_bytes") <= LARGE + 2 * MIB  # it went on with what it had


def test_machine_that_loses_power_in_a_transfer_is_replaced_by_another_source(tmp_path: Path) -> None:
    """No packet says that it is gone."""
    value = os.urandom(LARGE)
    with distant(tmp_path, ALL, chunks=1) as fleet:
        fleet.start(0)
        fleet.start(1)
        with fleet.client(0) as shm:
            shm.put("x", value).close()
        assert fleet.digest(1, "x") == sha(value)
        fleet.start(2)
        wait_until(lambda: fleet.figure(2, "received_bytes") > 0)
        fleet.network.part(0)
        fleet.hosts[0].kill()
        assert fleet.digest(2, "x") == sha(value)
        assert fleet.figure(2, "received_bytes") <= LARGE + 2 * MIB
        fleet.network.heal()
        fleet.restart(0)
        for number in range(3):
            fleet.wait_for_hosts(number, 2)


ROUTER = """
import json, sys, tomllib, zenoh
with open(sys.argv[1], "rb") as file:
    plan = tomllib.load(file)
settings, tls = zenoh.Config(), plan["tls"]
for key, value in {
    "mode": "router", "listen/endpoints": plan["listen"], "scouting/multicast/enabled": False,
    "transport/link/tls": {
        "root_ca_certificate": tls["ca"], "enable_mtls": True,
        "listen_certificate": tls["certificate"], "listen_private_key": tls["key"],
        "connect_certificate": tls["certificate"], "connect_private_key": tls["key"],
    },
}.items():
    settings.insert_json5(key, json.dumps(value))
with zenoh.open(settings):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def router(fleet: Distant, number: int) -> Iterator[subprocess.Popen[str]]:
    """Run a router of zenoh in a namespace; killed at the end."""
    with fleet.network.inside(number):
        child = subprocess.Popen(
            [sys.executable, "-c", ROUTER, fleet.plans[number]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"
            yield child
        finally:
            child.kill()


def test_hosts_go_on_without_their_router_and_meet_by_the_next_one(tmp_path: Path) -> None:
    with distant(tmp_path, {0: [3], 1: [3], 2: [3], 3: []}) as fleet:
        with router(fleet, 3):
            fleet.start(0)
            fleet.start(1)
            fleet.wait_for_hosts(0, 1)
        with fleet.client(0) as shm:
            shm.put("without", b"x").close()
        assert fleet.digest(1, "without") == sha(b"x")
        fleet.start(2)  # alone, as nobody can be reached
        assert fleet.figure(2, "hosts") == 0
        with router(fleet, 3):
            for number in range(3):
                fleet.wait_for_hosts(number, 2)
            assert fleet.digest(2, "without") == sha(b"x")
        assert len({fleet.status(number)["slice"] for number in range(3)}) == 3


HOLD = """
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm:
    with shm.create(sys.argv[2], 50_000) as builder:
        builder.data[:] = sys.argv[2].encode() * 25_000
    region = shm.open(sys.argv[2])
    print(region.address, flush=True)
    sys.stdin.readline()
    print("unchanged" if bytes(region.data) == sys.argv[2].encode() * 25_000 else "CHANGED")
"""


@contextmanager
def holding(path: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """Have a process put a value and hold it; a line of input ends it."""
    command = [sys.executable, "-c", HOLD, path, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            with shmclient.connect(path) as shm:
                wait_until(lambda: name in shm)
            yield child
        finally:
            child.kill()


def test_hosts_with_one_slice_since_a_partition_overwrite_nothing_and_go_on(tmp_path: Path) -> None:
    """Two give addresses of the same slice, while each sees nobody; a third one sees both later."""
    with distant(tmp_path, ALL) as fleet:
        fleet.start(0)
        number = fleet.status(0)["slice"]
        fleet.network.part(1)
        path = str(tmp_path / "b.sock")  # the largest identity loses
        (tmp_path / "b.sock.fleet").write_text(f'{{"host": "{"f" * 16}", "slice": {number}}}')
        fleet.start(1, socket_path=path)
        with (  # elsewhere, as both are at one address
            holding(fleet.hosts[0].socket_path, "aa") as first,
            holding(path, "bb") as second,
            shmclient.connect(path) as other,
        ):
            fleet.start(2)
            assert fleet.digest(2, "aa") == sha(b"aa" * 25_000)
            fleet.network.heal()
            fleet.wait_for_hosts(2, 2)
            wait_until(lambda: fleet.status(1)["slice"] not in (None, number), 60)
            assert fleet.status(1)["lost"] == [number]
            after = other.put("next", b"n" * 50_000).address
            assert fleet.digest(0, "next") == fleet.digest(2, "next") == sha(b"n" * 50_000)
            shown = [holder.communicate("\n", timeout=60)[0].split() for holder in (first, second)]
            assert shown[0][1] == shown[1][1] == "unchanged"
            assert str(after) not in (shown[0][0], shown[1][0])
            other.put("bb", b"new" * 10_000).close()
            for each in (0, 2):
                wait_until(lambda each=each: fleet.digest(each, "bb") == sha(b"new" * 10_000), 60)


def show(title: str, times_s: list[float]) -> None:
    """Print the median and the 99th percentile, which is the longest one of few."""
    ordered = sorted(times_s)
    p50, p99 = (ordered[min(int(len(ordered) * part), len(ordered) - 1)] for part in (0.5, 0.99))
    print(f"\n{title}: p50 {p50:.2f} s, p99 {p99:.2f} s, of {len(ordered)}", flush=True)


def test_value_that_was_published_in_a_partition_is_there_soon_after_it(tmp_path: Path) -> None:
    """How long a client on the other side waits, from when packets go through again."""
    times_s = fleet_recovery.after_cuts(tmp_path, TRIES)
    show("from the end of a partition to the value", times_s)


@pytest.mark.parametrize("has_power", [True, False], ids=["killed", "powerless"])
def test_transfer_is_whole_soon_after_a_source_has_died(tmp_path: Path, has_power: bool) -> None:
    """How long a client waits from the death of one of two sources, in the middle of 48 MiB."""
    times_s = fleet_recovery.after_deaths(tmp_path, TRIES, has_power=has_power)
    show(f"from the death of a source ({'process' if has_power else 'machine'}) to the whole copy", times_s)
