"""How Prometheus reads a host that has no network, and what it warns of: by the files in `packaging`."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import shmclient
import shmprotocol.errors
from support import watched_host

PACKAGING = Path(__file__).parents[2] / "packaging"
RULES = PACKAGING / "prometheus/shmhost.rules.yaml"
UNITS = [PACKAGING / "systemd" / f"shmhost-metrics.{kind}" for kind in ("socket", "service")]


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def setting(unit: Path, key: str) -> str:
    (line,) = re.findall(rf"^{key}=(.*)$", unit.read_text("ascii"), re.MULTILINE)
    return str(line)


@pytest.fixture
def metrics_socket(tmp_path: Path) -> Iterator[str]:
    """A host whose metrics are at a Unix socket, with some requests in them."""
    address = str(tmp_path / "metrics.sock")
    with (
        watched_host(str(tmp_path / "h.sock"), metrics=address) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        shm.put("x", b"1").close()
        with pytest.raises(shmclient.RegionNotFound):
            shm.get("none")
        yield address


def answer(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def bridged(metrics_socket: str) -> Iterator[int]:
    """A port of this machine, passed on by the program of the unit as systemd starts it."""
    program, *arguments = setting(UNITS[1], "ExecStart").split()
    activate = shutil.which("systemd-socket-activate")
    if activate is None or not Path(program).exists():
        pytest.skip("systemd-socket-proxyd is not installed (Debian: apt-get install systemd)")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = setting(UNITS[0], "ListenStream").replace(":9464", f":{port}")
    words = [word.replace("%t/shmhost/metrics.sock", metrics_socket) for word in arguments]
    assert metrics_socket in words
    child = subprocess.Popen([activate, "-l", address, program, *words], stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        assert "Listening" in child.stderr.readline()
        yield port
    finally:
        child.kill()
        child.communicate()


def test_port_of_the_units_gives_the_metrics_of_the_socket(bridged: int) -> None:
    assert "shmhost_regions{" in answer(bridged)


def test_units_are_verified_by_systemd(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text("ascii"))
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    verified = subprocess.run([analyze, "verify", *paths], capture_output=True, text=True, timeout=50)
    assert verified.returncode == 0, verified.stderr
    assert "shmhost" not in verified.stdout + verified.stderr  # an unknown key is a line and no failure
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=15", paths[1]]
    assert subprocess.run(command, capture_output=True, timeout=50).returncode == 0


def test_alerts_ask_for_metrics_that_exist(metrics_socket: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(metrics_socket)
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: sock.recv(1 << 16), b"")).decode().partition("\r\n\r\n")[2]
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    queries = [alert["expr"] for alert in alerts()]
    asked = {name for query in queries for name in re.findall(r"\b(?:shmhost|process)_[a-z_]+", query)}
    assert len(queries) >= 8
    assert asked <= names
    codes = {
        code
        for query in queries
        for codes in re.findall(r'code=~"([^"]+)"', query)
        for code in codes.split("|")
    }
    existing = {kind.code for kind in vars(shmprotocol.errors).values() if hasattr(kind, "code")}
    assert codes
    assert codes <= existing


def test_alerts_say_what_to_look_at() -> None:
    for alert in alerts():
        assert set(alert["annotations"]) == {"summary", "description"}, alert["alert"]
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_rules_are_what_prometheus_takes() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    checked = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=50)
    assert checked.returncode == 0, checked.stdout + checked.stderr
