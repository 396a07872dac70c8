"""The log of a real host, line by line, in both formats."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import shmclient
from shmhost.logs import JsonFormatter

CHANGES = [
    "listening",
    "published",
    "published",
    "freed",
    "changed",
    "unlinked",
    "freed",
    "dropped",
    "stopped",
]


def log_of_a_host(tmp_path: Path, log_format: str) -> list[str]:
    """Run a host, change what it has, have it drop a client, end it; return the lines of its log."""
    path = str(tmp_path / "host.sock")
    command = [sys.executable, "-m", "shmhost.cli", "serve", "--socket", path, "--log-format", log_format]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as host:
        assert host.stderr is not None
        lines = [host.stderr.readline()]
        with shmclient.connect(path) as shm:
            for number in range(2):
                shm.put("x", b"%d" % number).close()
                shm.get("x")
                shm.list()
            shm.chmod("x", 0o640)
            shm.unlink("x")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            peer.sendall(b"\xff" * 100)
            while peer.recv(1000):
                pass
        lines += [host.stderr.readline() for _ in CHANGES[1:-1]]
        host.send_signal(signal.SIGTERM)
        lines += host.stderr.readlines()
    return lines


def test_log_has_a_json_object_for_each_change_of_state(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_of_a_host(tmp_path, "json")]
    assert [line["message"].split()[0] for line in lines] == CHANGES
    assert [line["message"].split()[0] for line in lines if line["level"] == "warning"] == ["dropped"]
    assert lines[1]["values"][:3] == ["published", "x", 1]
    assert {line["logger"] for line in lines} == {"shmhost"}
    assert lines[0]["values"] == [str(tmp_path / "host.sock")]
    assert len({line["pid"] for line in lines}) == 1
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert times[0].tzinfo == UTC


def test_log_is_text_unless_told_otherwise(tmp_path: Path) -> None:
    lines = log_of_a_host(tmp_path, "text")
    assert [line.split(" shmhost ")[1].split()[1] for line in lines] == CHANGES


def test_fault_is_logged_with_its_traceback_in_one_line() -> None:
    try:
        1 / 0
    except ZeroDivisionError:
        record = logging.LogRecord("shmhost", logging.ERROR, "x", 1, "fault %d %s", (5, None), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert "ZeroDivisionError" in parsed["error"]
    assert (parsed["message"], parsed["values"]) == ("fault 5 None", [5, "None"])
