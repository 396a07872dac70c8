"""Links with certificates: hosts of one CA join over TLS, and others do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import shmclient
from tests.fleet_support import free_ports, start, statuses, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="NOT TESTED: there is no openssl here"
)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def make_ca(folder: Path, name: str) -> tuple[str, str]:
    """Make a certificate that signs others; return the paths of it and of its key."""
    certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    extension = "basicConstraints=critical,CA:TRUE"
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-subj", f"/CN={name}", "-addext", extension, "-keyout", key, "-out", certificate)
    return certificate, key


def write_tls(
    folder: Path, name: str, port: int, others: list[int], ca: tuple[str, str], trusted: str
) -> str:
    """Write the file of a host with a certificate of a CA, which trusts those of one."""
    certificate, key, request = (str(folder / f"{name}.{end}") for end in ("pem", "key", "csr"))
    names = folder / f"{name}.ext"
    names.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}")
    openssl(*new, "-keyout", key, "-out", request)
    sign = ("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", "2")
    openssl(*sign, "-extfile", str(names), "-out", certificate)
    plan = write_plan(
        folder,
        name,
        port,
        (),
        listen=[f"tls/127.0.0.1:{port}"],
        connect=[f"tls/127.0.0.1:{other}" for other in others],
        export=[""],
        **{"import": [""]},
    )
    with open(plan, "a") as file:
        file.write(f'[tls]\nca = "{trusted}"\ncertificate = "{certificate}"\nkey = "{key}"\n')
    return plan


def test_only_hosts_with_a_certificate_of_the_ca_join(tmp_path: Path) -> None:
    ports = free_ports(3)
    ca, other_ca = make_ca(tmp_path, "ca"), make_ca(tmp_path, "other")
    first = write_tls(tmp_path, "a", ports[0], [], ca, ca[0])
    second = write_tls(tmp_path, "b", ports[1], ports[:1], ca, ca[0])
    stranger = write_tls(tmp_path, "c", ports[2], ports[:2], other_ca, ca[0])  # it trusts them; they do not
    with start(first) as left, start(second) as right, start(stranger) as other:
        with shmclient.connect(left.socket_path) as shm:
            address = shm.put("x", b"over TLS").address
        with shmclient.connect(right.socket_path) as shm:
            assert shm.open("x", wait=60).address == address
        wait_until(lambda: len(statuses(first)) == 2, 30)
        with shmclient.connect(other.socket_path) as shm:
            assert "x" not in shm
        assert not any("is there" in line for line in other.log)
