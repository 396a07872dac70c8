"""The counters of a host: what is counted, and that a real one counts it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import shmclient
import shmhost
from shmhost.core.hub import Hub
from shmhost.core.meter import BOUNDS, Latency, Meter
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.query import Query
from support import RawPeer, WatchedHost, wait_until, watched_host

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


def test_copy_of_a_latency_has_the_bounds_and_the_figures_of_then() -> None:
    latency = Latency((10, 20))
    latency.note(10)
    copy = latency.copy()
    latency.note(21)
    assert (copy.bounds, copy.counts, copy.total_ns) == ((10, 20), [1, 0, 0], 10)
    assert (latency.counts, latency.total_ns) == ([1, 0, 1], 31)


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
    counts = {timing.operation: timing.requests for timing in after.timings}
    assert (counts["create"], counts["publish"], counts["put"], counts["open"]) == (2, 2, 1, 2)
    assert all(timing.total_ns > 0 for timing in after.timings)
    assert dict(after.refusals) == {"exists": 1, "not-found": 1}
    assert (after.dropped - before.dropped, after.connections - before.connections) == (1, 2)
    assert after.clients == 2
    refusals = {timing.state: (timing.regions, timing.leases) for timing in after.totals}
    assert refusals == {"current": (1, 0), "superseded": (1, 1), "spare": (1, 0)}
    (account,) = after.accounts
    assert (account.uid, account.regions, account.clients) == (os.getuid(), 3, 2)
    assert account.capacity == sum(timing.capacity for timing in after.totals)
    assert after.used == account.capacity + 3 * REGION_OVERHEAD
    assert before.started_ns == after.started_ns
    assert len(old) == MIB


def test_waits_and_watches_are_counted_while_they_last(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.watch():
        assert measure(host.socket_path).listeners == 1
    assert shm.list() == []  # the Cancel has been read, too
    assert measure(host.socket_path).listeners == 0


def test_work_in_a_thread_is_counted_when_it_is_done(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("large", bytes(32 * MIB)).close()
    (publish,) = [timing for timing in measure(host.socket_path).timings if timing.operation == "publish"]
    assert publish.requests == 1
    assert publish.total_ns > 100_000  # it looked at 8192 pages


@pytest.mark.parametrize(("text", "restarts"), [("", 0), ("3", 3), ("3\n", 3), (f"{10**18:20d}\n", 10**18)])
def test_starts_are_counted_beside_the_socket(text: str, restarts: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    Path(f"{path}.lock").write_text(text)
    for number in range(2):
        with watched_host(str(path)):
            assert measure(str(path)).restarts == restarts + number


@pytest.mark.parametrize("text", ["x", "-1", "9" * 30, "[metadata]\n" * 100])
def test_file_that_is_no_lock_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "poetry"
    Path(f"{path}.lock").write_text(text)
    with (
        pytest.raises(shmhost.HostError, match=r"poetry\.lock is not a host's lock file"),
        watched_host(str(path)),
    ):
        pass
    assert Path(f"{path}.lock").read_text() == text
    assert not path.exists()


def test_start_that_failed_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    path.write_text("no socket")
    for _ in range(2):
        with pytest.raises(shmhost.HostError, match="is not a socket"), watched_host(str(path)):
            pass
    path.unlink()
    with watched_host(str(path)):
        assert measure(str(path)).restarts == 0


def test_wait_that_was_given_up_is_no_refusal(host: WatchedHost, shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.WaitTimeout):
        shm.get("never", wait=0.01)
    assert measure(host.socket_path).refusals == ()


def test_client_that_never_reads_is_counted_as_dropped(
    host: WatchedHost,
    shm: shmclient.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("shmhost.serving.deadline.TICK_S", 0.02)
    for number in range(100):
        shm.put(f"{number}/" + "x" * 200, b"1").close()
    with RawPeer(host.socket_path) as peer:
        peer.socket.settimeout(0.1)
        with pytest.raises((TimeoutError, ConnectionError)):
            while True:
                peer.send(pack(m.List(2, "", "")))
        wait_until(lambda: measure(host.socket_path).dropped == 1)
    assert "read nothing for" in caplog.text


def test_client_that_asks_on_and_on_does_not_keep_the_others_waiting(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its questions have come, and take 5 ms each; another client has its turn before the last one."""
    real = Hub.measure

    def slow(hub: Hub, request: int) -> m.Measured:
        time.sleep(0.005)
        return real(hub, request)

    monkeypatch.setattr(Hub, "measure", slow)
    with RawPeer(host.socket_path) as greedy:
        greedy.send(pack(m.Measure(2)) * 300)
        latencies = host.host._hub.meter.latencies
        wait_until(lambda: "measure" in latencies)
        assert shm.list() == []
        assert latencies["measure"].count < 200
        for _ in range(300):
            assert isinstance(greedy.receive()[0], m.Measured)  # and it gets all its answers


def test_fault_of_long_work_is_counted_once(host: WatchedHost, shm: shmclient.Client) -> None:
    def fail(backend: str, name: str, capacity: int) -> None:
        raise RuntimeError("a bug")

    before = host.counts() | {"threads": 0}
    for _ in range(2):
        with RawPeer(host.socket_path) as peer:
            host.host._hub.make_object = fail  # type: ignore[assignment]
            peer.send(pack(m.Create(2, "x", 32 * MIB, "full", "shm", 0o600, True)))  # in a thread
            with pytest.raises((EOFError, ConnectionError)):
                peer.receive()
    wait_until(lambda: host.counts() | {"threads": 0} == before, shown=host.counts)
    assert measure(host.socket_path).clients == 2


def test_name_that_comes_back_is_new(host: WatchedHost, shm: shmclient.Client) -> None:
    heard: list[tuple[str, int]] = []
    host.host.registry.note = lambda kind, region: heard.append((kind, region.generation))
    held = shm.put("x", b"1")
    shm.unlink("x")
    shm.put("x", b"2").close()
    shm.put("x", b"3").close()
    expected = [("published", 1), ("unlinked", 1), ("published", 2), ("published", 3), ("freed", 2)]
    wait_until(lambda: heard == expected, shown=lambda: heard)  # the reply goes first
    held.close()
