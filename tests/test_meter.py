"""The counters of a host: what is counted, and that a real one counts it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import shmclient
from shmhost.meter import BOUNDS, Meter
from shmhost.query import Query
from shmprotocol import messages as m
from support import RawPeer, WatchedHost, watched_host

MIB = 1 << 20


def measure(path: str) -> m.Measured:
    with Query(path) as query:
        return query.measure()


def test_latency_falls_into_the_bucket_of_its_bound() -> None:
    meter = Meter(0)
    for duration in (0, BOUNDS[0], BOUNDS[0] + 1, BOUNDS[-1], BOUNDS[-1] + 1):
        meter.add("open", duration)
    latency = meter.latencies["open"]
    assert latency.counts == [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1]
    assert (latency.count, latency.total_ns) == (5, 2 * BOUNDS[0] + 1 + 2 * BOUNDS[-1] + 1)
    assert list(BOUNDS) == sorted(BOUNDS)


def test_host_counts_what_its_clients_do(host: WatchedHost, shm: shmclient.Client) -> None:
    before = measure(host.socket_path)
    shm.put("a", bytes(MIB)).close()
    old = shm.get("a")
    shm.put("a", bytes(2 * MIB)).close()
    with pytest.raises(shmclient.RegionNotFound):
        shm.get("none")
    with pytest.raises(shmclient.RegionExists):
        shm.put("a", b"x", replace=False)
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(b"\xff" * 100)
        assert peer.is_dropped()
    after = measure(host.socket_path)
    counts = {one.operation: one.requests for one in after.timings}
    assert (counts["create"], counts["publish"], counts["open"]) == (3, 2, 2)
    assert all(one.total_ns > 0 for one in after.timings)
    assert dict(after.refusals) == {"exists": 1, "not-found": 1}
    assert (after.dropped - before.dropped, after.connections - before.connections) == (1, 2)
    assert after.clients == 2
    found = {one.state: (one.regions, one.leases) for one in after.totals}
    assert found == {"current": (1, 0), "superseded": (1, 1)}
    (account,) = after.accounts
    assert (account.uid, account.regions, account.clients) == (os.getuid(), 2, 2)
    assert account.size == after.used == sum(one.size for one in after.totals)
    assert before.started_ns == after.started_ns
    assert len(old) == MIB


def test_waits_and_watches_are_counted_while_they_last(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.watch():
        assert measure(host.socket_path).listeners == 1
    assert shm.list() == []  # the Cancel has been read, too
    assert measure(host.socket_path).listeners == 0


def test_work_in_a_thread_is_counted_when_it_is_done(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("large", bytes(32 * MIB)).close()
    (publish,) = [one for one in measure(host.socket_path).timings if one.operation == "publish"]
    assert publish.requests == 1
    assert publish.total_ns > 100_000  # it looked at 8192 pages


@pytest.mark.parametrize(("text", "restarts"), [("", 0), ("3", 3), ("x", 0), ("-1", 0), ("9" * 30, 0)])
def test_starts_are_counted_beside_the_socket(text: str, restarts: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    Path(f"{path}.lock").write_text(text)
    for number in range(2):
        with watched_host(str(path)):
            assert measure(str(path)).restarts == restarts + number
