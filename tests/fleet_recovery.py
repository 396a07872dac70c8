"""How long a fleet needs after a fault. Its hosts are in network namespaces, on an emulated network.

`make bench-fleet` runs this module for the times of so many partitions and deaths, as JSON in microseconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from shmprotocol.kernel.constants import MIB
from tests.fleet_distant import Distant, distant
from tests.fleet_network import why_no_network
from tests.support import wait_until

SIDES = (0, 1), (2, 3)  # of a partition: each host of one has news for each of the other
LARGE = 48 * MIB
WAIT_S = 60.0


def after_cuts(folder: Path, times: int) -> list[float]:
    """Part a fleet in two again and again; return the seconds from each end of that to each value."""
    folder = _room(folder, "cuts")
    with distant(folder, {number: list(range(number)) for number in range(4)}) as fleet:
        fleet.start_all()
        _meet(fleet, 3)
        return [took for cut in range(times) for took in _cut(fleet, cut)]


def _cut(fleet: Distant, number: int) -> list[float]:
    fleet.network.part(*SIDES[0])
    _meet(fleet, 1)
    for host in range(4):
        with fleet.client(host) as shm:
            shm.put(f"of {host}/{number}", b"x" * 1000).close()
    pairs = [
        (source, reader) for mine, theirs in (SIDES, SIDES[::-1]) for source in mine for reader in theirs
    ]
    with ExitStack() as stack, ThreadPoolExecutor(len(pairs)) as pool:
        clients = [stack.enter_context(fleet.client(reader)) for _, reader in pairs]

        def wait(pair: int) -> float:
            value = clients[pair].get(f"of {pairs[pair][0]}/{number}", wait=WAIT_S)
            at_s = time.monotonic()
            assert bytes(value) == b"x" * 1000
            return at_s

        waiting = [pool.submit(wait, pair) for pair in range(len(pairs))]
        began_s = time.monotonic()
        fleet.network.heal()
        took = [each.result() - began_s for each in waiting]
    _meet(fleet, 3)
    return took


def after_deaths(folder: Path, times: int, *, has_power: bool = True) -> list[float]:
    """End one of two sources in a transfer, again and again; return the seconds from that to the whole copy.

    Without power, no packet says that it is gone.
    """
    folder = _room(folder, f"deaths-{has_power}")
    connect = {number: list(range(number)) for number in range(3)}
    with distant(folder, connect, chunks=1, fetch=[""], **{"import": []}) as fleet:
        fleet.start_all()
        return [_death(fleet, f"x{number}", has_power=has_power) for number in range(times)]


def _death(fleet: Distant, name: str, *, has_power: bool) -> float:
    _meet(fleet, 2)
    value = os.urandom(LARGE)
    with fleet.client(0) as shm, fleet.client(1) as second, fleet.client(2) as third:
        shm.put(name, value).close()
        assert bytes(second.get(name, wait=WAIT_S)) == value
        before = fleet.figure(2, "received_bytes")
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(lambda: (third.get(name, wait=WAIT_S), time.monotonic()))
            wait_until(lambda: fleet.figure(2, "received_bytes") > before)
            if not has_power:
                fleet.network.part(0)
            fleet.hosts[0].kill()
            began_s = time.monotonic()
            copy, at_s = reading.result()
        assert bytes(copy) == value
    fleet.network.heal()
    fleet.restart(0)
    return at_s - began_s


def _meet(fleet: Distant, others: int) -> None:
    """Return when each host sees so many others."""
    for number in fleet.hosts:
        fleet.wait_for_hosts(number, others)


def _room(folder: Path, name: str) -> Path:
    room = folder / name
    room.mkdir()
    return room


def main(cuts: int, deaths: int) -> None:
    """Measure, and print; without the rights for that, end with the reason."""
    reason = why_no_network() if shutil.which("openssl") else "openssl, which makes certificates, is missing"
    if reason:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as name:
        times_s = {"cut": after_cuts(Path(name), cuts), "killed": after_deaths(Path(name), deaths)}
    print(
        json.dumps({"us": {key: [took * 1e6 for took in times] for key, times in times_s.items()}}),
        flush=True,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
