"""Hosts that join over zenoh: real processes on this machine, over loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import shmclient
from benchmarks.fleet_hosts import WINDOW, free_ports
from shmhost.core.window import Span
from shmhost.fleet.plan import slice_of
from shmhost.testing.process import HostProcess
from shmprotocol.errors import HostError
from tests.fleet_support import fleet, metrics_of, start, statuses, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")


def put_slice(path: str, slices: int = 8) -> int | None:
    """Put a value, and return the slice that it lies in."""
    with shmclient.connect(path) as shm:
        info = shm.put("value", b"x" * 5000)
        return slice_of((WINDOW,), slices, Span(info.address, info.capacity))


def test_hosts_hand_out_of_slices_of_their_own_when_they_join_at_once(tmp_path: Path) -> None:
    with fleet(tmp_path, "a", "b", "c", slices=3) as hosts:
        rows = statuses(str(tmp_path / "a.toml"))
        slices = [put_slice(host.socket_path, 3) for host in hosts]
        command = [sys.executable, "-m", "shmhost", "map", "--socket", hosts[0].socket_path]
        command += ["--fleet", str(tmp_path / "a.toml")]
        picture = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert [(row["name"], row["slice"]) for row in rows] == list(zip("abc", slices, strict=True))
    assert sorted(row["slice"] for row in rows) == [0, 1, 2]
    lines = [line for line in picture.splitlines() if line.startswith("slice ")]
    assert [line.split()[1] for line in lines] == ["0", "1", "2"]
    assert {line.split()[-1] for line in lines} == {"a", "b", "c"}


def test_host_is_refused_when_no_slice_is_free(tmp_path: Path) -> None:
    ports = free_ports(2)
    first, second = (
        write_plan(tmp_path, name, port, ports[:1], slices=1) for name, port in zip("ab", ports, strict=True)
    )
    with start(first), pytest.raises(HostError, match="no slice is free: 'a' has slice 0"):
        start(second)


def test_host_is_refused_when_its_number_is_taken(tmp_path: Path) -> None:
    ports = free_ports(2)
    with start(write_plan(tmp_path, "a", ports[0], (), slice=5)) as host:
        assert put_slice(host.socket_path) == 5
        with pytest.raises(HostError, match="'a' refuses: slice 5 is in use"):
            start(write_plan(tmp_path, "b", ports[1], ports[:1], slice=5))


@pytest.mark.parametrize(
    ("values", "settings", "reason"),
    [
        ({}, {"windows": ((0x530000000000, 2**36),)}, "has the windows 0x520000000000:68719476736"),
        ({"slices": 4}, {}, "cuts its windows into 8 slices, and 'b' has 4"),
    ],
)
def test_host_is_refused_with_the_reason_when_it_does_not_fit(
    tmp_path: Path, values: dict[str, int], settings: dict[str, object], reason: str
) -> None:
    ports = free_ports(2)
    with start(write_plan(tmp_path, "a", ports[0], ())) as host:
        with pytest.raises(HostError, match=reason):
            start(write_plan(tmp_path, "b", ports[1], ports[:1], **values), **settings)
        assert put_slice(host.socket_path) is not None


def test_host_has_its_slice_again_when_it_was_killed(tmp_path: Path) -> None:
    ports = free_ports(3)
    port = ports[2]
    with (
        start(write_plan(tmp_path, "a", ports[0], ports[1:2])) as first,
        start(write_plan(tmp_path, "b", ports[1], ports[:1]), metrics=f"127.0.0.1:{port}") as second,
    ):
        before = put_slice(first.socket_path)
        first.kill()
        wait_until(lambda: metrics_of(port)["shmhost_fleet_hosts"] == 0.0)
        first.start()
        wait_until(lambda: metrics_of(port)["shmhost_fleet_hosts"] == 1.0)
        assert put_slice(first.socket_path) == before
        assert put_slice(second.socket_path) != before


def test_one_host_loses_when_two_have_the_same_slice_since_a_partition(tmp_path: Path) -> None:
    """A host that is stopped cannot be asked: its links are closed, and it sees the other when it goes on."""
    ports = free_ports(2)
    plans = [
        write_plan(tmp_path, name, port, ports, slices=1) for name, port in zip("ab", ports, strict=True)
    ]
    with start(plans[0]) as first:
        first.stop()
        with start(plans[1]) as second:
            assert put_slice(second.socket_path, 1) == 0
            first.cont()
            loser, winner = lost(first, second)
            with shmclient.connect(loser.socket_path) as shm:
                with pytest.raises(shmclient.QuotaExceeded, match="slice 0 is also used by"):
                    shm.put("other", b"x")
                if loser is second:
                    assert bytes(shm.get("value")) == b"x" * 5000
            assert put_slice(winner.socket_path, 1) == 0


def test_loser_of_a_slice_goes_on_in_another_and_nothing_is_overwritten(tmp_path: Path) -> None:
    """Both give addresses of one slice in a partition, and each exports what lies there."""
    ports = free_ports(2)
    shared: dict[str, object] = {"slices": 4, "export": [""], "import": [""]}
    named = zip("ab", ports, strict=True)
    plans = [write_plan(tmp_path, name, port, ports, **shared) for name, port in named]
    path = str(tmp_path / "b.sock")
    with start(plans[0]) as first:
        (row,) = statuses(plans[0])
        # The largest identity, which loses, and a wish for the slice of the other.
        (tmp_path / "b.sock.fleet").write_text(json.dumps({"host": "f" * 16, "slice": row["slice"]}))
        with shmclient.connect(first.socket_path) as shm:
            shm.put("of a", b"a" * 5000).close()
            first.stop()
            with start(plans[1], socket_path=path) as second, shmclient.connect(path) as other:
                before = other.put("of b", b"b" * 5000).address
                assert slice_of((WINDOW,), 4, Span(before, 8192)) == row["slice"]
                first.cont()
                lost(first, second)
                wait_until(lambda: statuses(plans[0])[1]["slice"] not in (None, row["slice"]), 60)
                after = other.put("next of b", b"c" * 5000).address
                assert slice_of((WINDOW,), 4, Span(after, 8192)) != row["slice"]
                assert bytes(shm.get("next of b", wait=60)) == b"c" * 5000
                assert bytes(other.get("of b")) == b"b" * 5000
                assert bytes(shm.get("of a")) == b"a" * 5000
                assert statuses(plans[0])[1]["lost"] == [row["slice"]]
                assert [sorted(each["exports"]) for each in statuses(plans[0])] == [
                    ["of a"],
                    ["next of b", "of b"],
                ]
                held, slices = other.open("of b"), [each["slice"] for each in statuses(plans[0])]
                second.kill()
                second.start()
                wait_until(lambda: len(statuses(plans[0])) == 2, 60)
                assert [each["slice"] for each in statuses(plans[0])] == slices
                assert statuses(plans[0])[1]["lost"] == [row["slice"]]
                assert other.open("of b", wait=60).address == held.address


def lost(*hosts: HostProcess) -> tuple[HostProcess, HostProcess]:
    """Return the host that loses its slice, and the other."""
    wait_until(lambda: any("is also used by" in line for host in hosts for line in host.log), 60.0)
    loser = next(host for host in hosts if any("is also used by" in line for line in host.log))
    return loser, next(host for host in hosts if host is not loser)
