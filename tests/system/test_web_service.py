"""The web service of the examples, under a real server, over a host that is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmclient
from support import Machine, wait_until

pytest.importorskip("uvicorn", reason="NOT TESTED: examples/web_service.py, because uvicorn is not installed")
EXAMPLES = Path(__file__).parents[2] / "examples"


class Web:
    """The service at a Unix socket."""

    def __init__(self, path: str, log: Path) -> None:
        self._path = path
        self._log = log

    def get(self, path: str = "/") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("service", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(self._path)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def await_answer(self, *expected: object) -> None:
        """Return when the service gives an answer; one that says it differently fails the test in the end."""
        wait_until(lambda: self.get() == expected, 30, lambda: f"{self.get()} {self.log()}")

    def is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get() is not None
        return False

    def log(self) -> str:
        return self._log.read_text("utf-8")


@pytest.fixture
def web(machine: Machine, tmp_path: Path) -> Iterator[Web]:
    path, log = str(tmp_path / "web"), tmp_path / "log"
    options = ["--lifespan", "on", "--no-access-log", "--app-dir", EXAMPLES, "--uds", path]
    command = [sys.executable, "-m", "uvicorn", *options, "web_service:app"]
    environ = os.environ | {"SHMHOST_SOCKET": machine.path}
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    service = Web(path, log)
    try:
        wait_until(service.is_up, 30, service.log)
        yield service
        server.terminate()
        assert server.wait(30) in (0, -15), service.log()
        assert "ERROR" not in service.log()
    finally:
        server.kill()
        server.wait()


def put(machine: Machine, *numbers: float) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("prices", np.array(numbers)).close()


def test_service_has_each_new_value_and_lives_over_a_killed_host(machine: Machine, web: Web) -> None:
    assert web.get() == (503, "nobody has put 'prices' yet")
    put(machine, 1, 2)
    web.await_answer(200, {"rows": 2, "sum": 3.0, "values": 1})
    machine.kill()
    assert web.get() == (200, {"rows": 2, "sum": 3.0, "values": 1})
    machine.start()
    put(machine, 3, 4, 5)
    web.await_answer(200, {"rows": 3, "sum": 12.0, "values": 2})
    wait_until(lambda: len(web.get("/changes")[1]) == 2, 30)
    changes = [change.split() for change in web.get("/changes")[1]]
    assert [change[:2] for change in changes] == [["published", "prices"]] * 2
    assert int(changes[0][2]) < int(changes[1][2])
