"""Links with certificates: hosts of one CA join over TLS, and others do not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import shmclient
from benchmarks.fleet_hosts import WINDOW, free_ports
from shmhost.fleet.certificates import common_name
from shmhost.fleet.config import read_fleet
from shmhost.fleet.observer import observe
from shmprotocol.errors import HostError, InvalidArgument
from shmprotocol.kernel.constants import MIB
from tests.fleet_certificates import make_ca, needs_openssl, write_tls
from tests.fleet_support import metrics_of, start, statuses
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = needs_openssl


def test_only_hosts_with_a_certificate_of_the_ca_join(tmp_path: Path) -> None:
    ends = [f"127.0.0.1:{port}" for port in free_ports(4)]
    ca, other_ca = make_ca(tmp_path, "ca"), make_ca(tmp_path, "other")
    first = write_tls(tmp_path, "a", ends[0], [], ca, ca[0])
    second = write_tls(tmp_path, "b", ends[1], ends[:1], ca, ca[0])
    stranger = write_tls(tmp_path, "c", ends[2], ends[:2], other_ca, ca[0])  # it trusts them; they do not
    with (
        start(first) as left,
        start(second, metrics=ends[3]) as right,
        start(stranger) as other,
    ):
        with shmclient.connect(left.socket_path) as shm:
            address = shm.put("x", b"over TLS").address
            shm.put("large", b"TLS too " * MIB)
        with shmclient.connect(right.socket_path) as shm:
            assert shm.open("x", wait=60).address == address
            assert bytes(shm.get("large", wait=60)) == b"TLS too " * MIB
            assert metrics_of(int(ends[3].rpartition(":")[2]))["shmhost_fleet_bulk_bytes"] >= 8 * MIB
        wait_until(lambda: len(statuses(first)) == 2, 30)
        with shmclient.connect(other.socket_path) as shm:
            assert "x" not in shm
        assert not any("is there" in line for line in other.log)


def let_in(plan: str, **peers: dict[str, list[str]]) -> str:
    """Add an access list to the file of a host."""
    with open(plan, "a") as file:
        for peer, rights in peers.items():
            lines = [f"{key} = {json.dumps(prefixes)}\n" for key, prefixes in rights.items()]
            file.write(f"[access.{peer}]\n{''.join(lines)}")
    return plan


@contextlib.contextmanager
def member(plan: str) -> Iterator[Any]:
    """Be a peer with the certificate of a host, which says whatever a test has it say."""
    import zenoh

    config = read_fleet(plan, (WINDOW,))
    assert config.tls is not None
    tls = {"root_ca_certificate": config.tls.ca, "enable_mtls": True}
    tls |= {f"{side}_certificate": config.tls.certificate for side in ("listen", "connect")}
    tls |= {f"{side}_private_key": config.tls.key for side in ("listen", "connect")}
    values = {f"transport/link/tls/{key}": value for key, value in tls.items()}
    values |= {"mode": "peer", "connect/endpoints": list(config.connect), "listen/endpoints": []}
    settings = zenoh.Config()
    for key, value in {**values, "scouting/multicast/enabled": False}.items():
        settings.insert_json5(key, json.dumps(value))
    with zenoh.open(settings) as session:
        yield session


def ask(session: Any, key: str, *question: object) -> str | None:
    """Return the refusal, or the kind of the answer; None: there is no answer at all."""
    for reply in session.get(key, payload=msgpack.packb(question), timeout=5.0):
        return "an answer" if reply.ok is not None else str(reply.err.payload.to_string())
    return None


def test_names_go_only_to_and_from_those_whom_the_access_list_allows(tmp_path: Path) -> None:
    ends = [f"127.0.0.1:{port}" for port in free_ports(4)]
    ca = make_ca(tmp_path, "ca")
    plans = [write_tls(tmp_path, name, ends[n], ends[:n], ca, ca[0]) for n, name in enumerate("abcd")]
    everything = {"import": [""], "export": [""]}
    let_in(plans[0], b={"import": ["models/"], "export": ["camera/"]}, c={})
    let_in(plans[1], a=everything, c=everything)
    with start(plans[0]) as first, start(plans[1]) as second:
        with shmclient.connect(first.socket_path) as shm, shmclient.connect(second.socket_path) as other:
            shm.put("models/x", b"for b").close()
            shm.put("private/x", b"for nobody").close()
            other.put("private/y", b"not from b").close()
            other.put("camera/y", b"from b").close()
            assert bytes(other.get("models/x", wait=60)) == b"for b"
            assert bytes(shm.get("camera/y", wait=60)) == b"from b"
            assert {info.name for info in shm.list()} == {"models/x", "private/x", "camera/y"}
            assert {info.name for info in other.list()} == {"models/x", "private/y", "camera/y"}
            wait_until(lambda: len(statuses(plans[1])) == 2, 30)
            assert {row["name"]: list(row["exports"]) for row in statuses(plans[1])}["a"] == ["models/x"]
        address = statuses(plans[0])[0]["address"]
        with member(plans[2]) as session:  # c is let in, and may copy nothing
            key = f"shmhost/test/ask/a/{address}"
            wait_until(lambda: ask(session, f"{key}/c", "card", "c" * 32) == "an answer", 30)
            refusal = ask(session, f"{key}/c", "leaves", "c" * 32, "models/x", b"t" * 32)
            assert refusal is not None
            assert "'c' may not import 'models/x' from 'a'" in refusal
            assert ask(session, f"{key}/b", "card", "c" * 32) is None  # as b
            assert ask(session, f"{key}/*", "card", "c" * 32) is None
        with member(plans[3]) as session:  # d has a certificate, and is not on the list
            assert ask(session, f"{key}/d", "card", "d" * 32) is None
            assert not list(session.liveliness().get("shmhost/test/live/**", timeout=2.0))
        with pytest.raises(HostError, match="no host of the fleet answers"):
            observe(read_fleet(plans[3], (WINDOW,)), b"", 2.0)


def test_access_list_takes_a_host_whose_name_is_that_in_its_certificate(tmp_path: Path) -> None:
    ca = make_ca(tmp_path, "ca")
    plan = let_in(write_tls(tmp_path, "a", "127.0.0.1:1", [], ca, ca[0]), b={})
    assert common_name(str(tmp_path / "a.pem")) == "a"
    assert read_fleet(plan, (WINDOW,)).access.peers == ("b",)
    text = Path(plan).read_text()
    Path(plan).write_text(text.replace('name = "a"', 'name = "z"'))
    with pytest.raises(InvalidArgument, match="'z', and its certificate has the common name 'a'"):
        read_fleet(plan, (WINDOW,))
    Path(plan).write_text(text)
    (tmp_path / "a.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    with pytest.raises(InvalidArgument, match="is not a certificate with a common name"):
        read_fleet(plan, (WINDOW,))
