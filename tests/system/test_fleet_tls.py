"""Links with certificates: hosts of one CA join over TLS, and others do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import shmclient
from tests.fleet_certificates import make_ca, needs_openssl, write_tls
from tests.fleet_support import free_ports, start, statuses
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = needs_openssl


def test_only_hosts_with_a_certificate_of_the_ca_join(tmp_path: Path) -> None:
    ends = [f"127.0.0.1:{port}" for port in free_ports(3)]
    ca, other_ca = make_ca(tmp_path, "ca"), make_ca(tmp_path, "other")
    first = write_tls(tmp_path, "a", ends[0], [], ca, ca[0])
    second = write_tls(tmp_path, "b", ends[1], ends[:1], ca, ca[0])
    stranger = write_tls(tmp_path, "c", ends[2], ends[:2], other_ca, ca[0])  # it trusts them; they do not
    with start(first) as left, start(second) as right, start(stranger) as other:
        with shmclient.connect(left.socket_path) as shm:
            address = shm.put("x", b"over TLS").address
        with shmclient.connect(right.socket_path) as shm:
            assert shm.open("x", wait=60).address == address
        wait_until(lambda: len(statuses(first)) == 2, 30)
        with shmclient.connect(other.socket_path) as shm:
            assert "x" not in shm
        assert not any("is there" in line for line in other.log)
