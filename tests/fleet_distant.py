"""Hosts of a fleet in network namespaces, with TLS between them, as between machines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import shmclient
from shmhost.testing.process import HostProcess
from tests.fleet_certificates import make_ca, write_tls
from tests.fleet_network import Network, address_of
from tests.fleet_support import metrics_of, start, statuses
from tests.support import wait_until

PORT, METRICS = 7447, 9464


class Distant:
    """The hosts that are up, by the numbers of their namespaces; `connect` says whom each connects to."""

    def __init__(
        self, folder: Path, network: Network, connect: dict[int, list[int]], **values: object
    ) -> None:
        self.network = network
        self.hosts: dict[int, HostProcess] = {}
        self._stack = ExitStack()
        ca = make_ca(folder, "ca")
        ends = [f"{address_of(number)}:{PORT}" for number in range(max(connect) + 1)]
        self.plans = {
            number: write_tls(
                folder, "abcdef"[number], ends[number], [ends[other] for other in others], ca, ca[0], **values
            )
            for number, others in connect.items()
        }

    def start(self, number: int, **settings: object) -> HostProcess:
        """Start a host; return when it listens."""
        with self.network.inside(number):
            host = start(self.plans[number], **{"metrics": f"127.0.0.1:{METRICS}", **settings})
        self.hosts[number] = self._stack.enter_context(host)
        return host

    def start_all(self) -> None:
        """Start all at once."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.start, self.plans))

    def restart(self, number: int) -> None:
        """Start a host again that was killed."""
        with self.network.inside(number):
            self.hosts[number].start()

    def client(self, number: int) -> shmclient.Client:
        """Return a client of a host."""
        return shmclient.connect(self.hosts[number].socket_path)

    def figure(self, number: int, name: str) -> float:
        """Return a metric of a host."""
        with self.network.inside(number):
            return metrics_of(METRICS)[f"shmhost_fleet_{name}"]

    def status(self, number: int) -> dict[str, Any]:
        """Return what a host says about itself."""
        with self.network.inside(number):
            rows = statuses(self.plans[number])
        return next(row for row in rows if row["name"] == "abcdef"[number])

    def digest(self, number: int, name: str, wait: float = 60) -> str:
        """Return the hash of a value, as a client of a host reads it."""
        with self.client(number) as shm:
            return hashlib.sha256(shm.get(name, wait=wait)).hexdigest()

    def wait_for_hosts(self, number: int, count: int) -> None:
        """Return when a host sees so many others."""
        wait_until(lambda: self.figure(number, "hosts") == count, 60)

    def close(self) -> None:
        """End all hosts."""
        self._stack.close()


@contextmanager
def distant(folder: Path, connect: dict[int, list[int]], **values: object) -> Iterator[Distant]:
    """Make a network and a fleet for hosts; the test starts them."""
    with Network(max(connect) + 1) as network:
        fleet = Distant(folder, network, connect, **values)
        try:
            yield fleet
        finally:
            network.heal()
            fleet.close()
