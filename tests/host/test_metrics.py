"""The metrics, scraped over real sockets and read by Prometheus's own parser."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import shmclient
import shmhost
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.serving import metrics
from shmhost.settings.config import Config, metrics_address
from shmprotocol.errors import InvalidArgument
from support import RawPeer, count_descriptors, wait_until, watched_host

MIB = 1 << 20
DASHBOARD = Path(__file__).parents[2] / "packaging/grafana/shmhost.json"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


def fetch(address: str) -> tuple[int, str]:
    """Scrape once; return the status and the text."""
    endpoint = metrics_address(address)
    assert endpoint is not None
    connection = (
        UnixConnection(endpoint)
        if isinstance(endpoint, str)
        else http.client.HTTPConnection(*endpoint, timeout=30)
    )
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples by name, each by its labels' values."""
    status, text = fetch(address)
    assert status == 200
    metrics: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metrics.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return metrics


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(params=["tcp", "tcp6", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "unix":
        return str(tmp_path / "metrics.sock")
    if request.param == "tcp6":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"no IPv6 on the loopback here: {error}")
        return f"[::1]:{free_port()}"
    return f"127.0.0.1:{free_port()}"


def test_scrape_shows_what_was_done(address: str, tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "h.sock"), metrics=address, budget=1 << 30) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        shm.put("a", bytes(MIB)).close()
        old = shm.get("a")
        shm.put("a", bytes(2 * MIB)).close()
        for _ in range(2):
            with pytest.raises(shmclient.RegionNotFound):
                shm.get("none")
        with RawPeer(host.socket_path, greet=False) as peer, shm.watch():
            peer.send(b"\xff" * 100)
            assert peer.is_dropped()
            metrics = scrape(address)
        uid = (str(os.getuid()),)
        assert metrics["shmhost_regions"] == {
            ("spare",): 1,  # from the second put, for a third
            ("creating",): 0,
            ("aborted",): 0,
            ("current",): 1,
            ("superseded",): 1,
            ("unlinked",): 0,
        }
        assert metrics["shmhost_leases"][("superseded",)] == 1
        assert metrics["shmhost_leases"][("current",)] == 0
        assert metrics["shmhost_user_regions"][uid] == 3
        assert metrics["shmhost_region_bytes"][("superseded",)] >= MIB
        assert metrics["shmhost_user_bytes"][uid] > 3 * MIB
        charged = metrics["shmhost_user_bytes"][uid] + 3 * REGION_OVERHEAD
        assert metrics["shmhost_memory_used_bytes"][()] == charged
        assert metrics["shmhost_user_clients"][uid] == metrics["shmhost_clients"][()] == 1
        assert metrics["shmhost_memory_budget_bytes"][()] == 1 << 30
        assert metrics["shmhost_listeners"][()] == 1
        assert metrics["shmhost_refusals_total"] == {("not-found",): 2}
        assert metrics["shmhost_dropped_clients_total"][()] == 1
        assert metrics["shmhost_connections_total"][()] == 2
        assert metrics["shmhost_restarts_total"][()] == 0
        assert metrics["shmhost_request_duration_seconds_count"][("publish",)] == 2
        assert abs(metrics["shmhost_start_time_seconds"][()] - time.time()) < 600
        first = (hex(host.host.config.windows[0][0]),)
        assert metrics["shmhost_window_free_bytes"][first] < metrics["shmhost_window_bytes"][first]
        assert metrics["process_open_fds"][()] > 3
        assert len(old) == MIB


def test_histogram_has_cumulative_buckets(tmp_path: Path) -> None:
    address = str(tmp_path / "metrics.sock")
    with (
        watched_host(str(tmp_path / "h.sock"), metrics=address) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        for number in range(50):
            shm.put(f"r{number}", b"x").close()
        metrics = scrape(address)
    buckets = metrics["shmhost_request_duration_seconds_bucket"]
    of_put = [(float(le), value) for (le, operation), value in buckets.items() if operation == "put"]
    assert [bound for bound, _ in of_put] == sorted(bound for bound, _ in of_put)
    assert [value for _, value in of_put] == sorted(value for _, value in of_put)
    assert of_put[-1] == (float("inf"), 50)
    assert 0 < metrics["shmhost_request_duration_seconds_sum"][("put",)] < 60


def test_names_follow_the_conventions(tmp_path: Path) -> None:
    address = str(tmp_path / "metrics.sock")
    with watched_host(str(tmp_path / "h.sock"), metrics=address):
        families = list(text_string_to_metric_families(fetch(address)[1]))
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"(shmhost|process)_[a-z_]+", family.name), family.name
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert not family.name.endswith("_total")


def test_nothing_is_served_unless_asked_for(tmp_path: Path) -> None:
    assert Config().metrics == ""
    with watched_host(str(tmp_path / "h.sock")):
        assert {path.name for path in tmp_path.iterdir()} - {"h.sock.lock", "h.sock.state"} == {"h.sock"}
        assert "metrics" not in {thread.name for thread in threading.enumerate()}


def test_endpoint_leaves_nothing_behind(address: str, tmp_path: Path) -> None:
    with watched_host(str(tmp_path / "warm.sock"), metrics=address):
        scrape(address)
    before = count_descriptors()
    with watched_host(str(tmp_path / "h.sock"), metrics=address):
        scrape(address)
    wait_until(lambda: count_descriptors() == before)
    assert "metrics" not in {thread.name for thread in threading.enumerate()}
    assert not (tmp_path / "metrics.sock").exists()


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:9464",
        "[::]:9464",
        "192.168.1.1:1",
        "example.org:80",
        "127.0.0.1:0",
        "127.0.0.1:x",
        "x",
        ":-1",
    ],
)
def test_address_that_others_could_reach_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="a port of this machine"):
        Config(metrics=text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("127.1.2.3:1", ("127.1.2.3", 1)),
        ("[::1]:9464", ("::1", 9464)),
        ("/run/m.sock", "/run/m.sock"),
        ("", None),
    ],
)
def test_address_is_a_port_of_this_machine_or_a_path(text: str, endpoint: object) -> None:
    assert metrics_address(text) == endpoint


def test_scraper_that_says_nothing_does_not_keep_the_next(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhost.serving.metrics.SCRAPE_S", 0.2)
    with watched_host(str(tmp_path / "h.sock"), metrics=address):
        endpoint: Any = metrics_address(address)
        family = (
            socket.AF_UNIX
            if isinstance(endpoint, str)
            else socket.AF_INET6
            if ":" in endpoint[0]
            else socket.AF_INET
        )
        with socket.socket(family) as silent:
            silent.connect(endpoint)
            assert scrape(address)["shmhost_info"]


def test_slow_scraper_does_not_keep_the_host_from_ending(address: str, tmp_path: Path) -> None:
    endpoint: Any = metrics_address(address)
    inet = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    family = socket.AF_UNIX if isinstance(endpoint, str) else inet
    with ThreadPoolExecutor() as pool, socket.socket(family) as slow:
        is_over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not is_over.wait(0.05):
                    slow.send(b"G")

        with watched_host(str(tmp_path / "h.sock"), metrics=address):
            slow.connect(endpoint)
            dripping = pool.submit(drip)
            wait_until(lambda: not dripping.done())
            began = time.monotonic()
        took = time.monotonic() - began
        is_over.set()
        dripping.result(30)
    assert took < 4  # and not SCRAPE_S, or for as long as it drips


def test_odd_requests_are_answered_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "metrics.sock")
    with watched_host(str(tmp_path / "h.sock"), metrics=address):
        for path, headers, answer in (
            ("/metrics?name[]=shmhost_clients", {}, 200),
            ("/metrics", {"Accept": "application/openmetrics-text;version=abc"}, 400),
        ):
            connection = UnixConnection(address)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            assert response.status == answer
            assert ("shmhost_clients 0.0" in text) == (answer == 200)
    assert "Traceback" not in capfd.readouterr().err


def test_endpoint_pauses_while_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener stays readable all the while: without a pause it would take a whole processor."""
    pauses: list[float] = []
    monkeypatch.setattr("shmhost.serving.metrics.time.sleep", pauses.append)

    class Exhausted(socket.socket):
        def accept(self) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

    with Exhausted(socket.AF_UNIX) as listener:
        server = metrics._Server(listener, None)
        with pytest.raises(OSError, match="Too many"):
            server.get_request()
    assert pauses == [metrics.RETRY_S]


def test_restarts_are_counted(tmp_path: Path) -> None:
    address = str(tmp_path / "metrics.sock")
    for number in range(3):
        with watched_host(str(tmp_path / "h.sock"), metrics=address):
            assert scrape(address)["shmhost_restarts_total"][()] == number


def test_metrics_are_not_served_at_the_socket_of_the_host(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the host's own socket"):
        Config(str(tmp_path / "h.sock"), metrics=f"{tmp_path}/./h.sock")


def test_busy_host_is_told_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmhost.serving.metrics.PATIENCE_S", 0.1)
    address = str(tmp_path / "metrics.sock")
    with watched_host(str(tmp_path / "h.sock"), metrics=address) as host, ThreadPoolExecutor() as pool:
        has_begun, is_over = threading.Event(), threading.Event()
        busy = pool.submit(host.call, lambda: has_begun.set() or is_over.wait(60))
        assert has_begun.wait(30)
        try:
            status, text = fetch(address)
        finally:
            is_over.set()
        assert (status, "too busy" in text) == (503, True)
        busy.result(30)
        monkeypatch.setattr("shmhost.serving.metrics.PATIENCE_S", 30)
        assert scrape(address)["shmhost_info"]


def test_scrapes_beside_changes_all_succeed(tmp_path: Path) -> None:
    address = str(tmp_path / "metrics.sock")
    with (
        watched_host(str(tmp_path / "h.sock"), metrics=address) as host,
        shmclient.connect(host.socket_path) as shm,
        ThreadPoolExecutor() as pool,
    ):
        scrapes = [pool.submit(scrape, address) for _ in range(30)]
        for number in range(300):
            shm.put(f"r{number % 7}", b"x").close()
            if number % 3 == 0:
                shm.unlink(f"r{number % 7}")
        assert all(future.result(60)["shmhost_regions"] for future in scrapes)


def test_host_says_why_when_its_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(tmp_path / "h.sock")]
        command += ["--metrics", f"127.0.0.1:{listener.getsockname()[1]}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (result.returncode, "cannot serve metrics" in result.stderr) == (1, True)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "h.sock").exists()


def test_host_says_what_to_install_when_the_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        pytest.raises(shmhost.HostError, match=r"pip install 'shmhost\[metrics\]'"),
        watched_host(str(tmp_path / "h.sock"), metrics=str(tmp_path / "m.sock")),
    ):
        pass


def test_dashboard_asks_for_metrics_that_exist(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    address = str(tmp_path / "metrics.sock")
    with (
        watched_host(str(tmp_path / "h.sock"), metrics=address) as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        shm.put("x", b"1").close()
        with pytest.raises(shmclient.RegionNotFound):
            shm.get("none")
        metrics = scrape(address)
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for expr in targets for name in re.findall(r"\b(?:shmhost|process)_[a-z_]+", expr)}
    assert len(targets) >= 10
    assert asked <= set(metrics)
    labels = {label for expr in targets for label in re.findall(r"by \((\w+)", expr)}
    assert labels <= {"le", "operation", "state", "uid", "code", "window"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
