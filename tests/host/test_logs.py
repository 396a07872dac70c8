"""The log of a real host, line by line, in both formats."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import shmclient
from shmhost.machine import log_limit, logs
from shmhost.machine.logs import JsonFormatter
from support import RawPeer, as_nobody, needs_root, serve

INFO = ["listening", "published", "changed", "unlinked", "freed", "dropped", "stopped"]
DEBUG = ["listening", "published", "published", "freed", *INFO[2:]]  # a second generation, for the first one


def log_of_a_host(tmp_path: Path, log_format: str, level: str = "info") -> list[str]:
    """Run a host, change what it has, have it drop a client, end it; return the lines of its log."""
    path = str(tmp_path / "host.sock")
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", path, "--log-format", log_format]
    command += ["--log-level", level]
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
        lines += [host.stderr.readline() for _ in (DEBUG if level == "debug" else INFO)[1:-1]]
        host.send_signal(signal.SIGTERM)
        lines += host.stderr.readlines()
    return lines


def test_log_has_a_json_object_for_each_change_of_state(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_of_a_host(tmp_path, "json")]
    assert [line["message"].split()[0] for line in lines] == INFO
    assert [line["message"].split()[0] for line in lines if line["level"] == "warning"] == ["dropped"]
    assert lines[1]["values"][:3] == ["published", "x", 1]
    assert {line["logger"] for line in lines} == {"shmhost"}
    assert lines[0]["values"] == [str(tmp_path / "host.sock")]
    assert len({line["pid"] for line in lines}) == 1
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert times[0].tzinfo == UTC


def test_generations_are_logged_when_asked_for(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_of_a_host(tmp_path, "json", "debug")]
    words = [line["message"].split()[0] for line in lines if line["logger"] == "shmhost"]
    assert words == DEBUG


def test_log_is_text_unless_told_otherwise(tmp_path: Path) -> None:
    lines = log_of_a_host(tmp_path, "text")
    assert [line.split(" shmhost ")[1].split()[1] for line in lines] == INFO


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


class Blocked:
    """Where a log goes that nobody reads, until it is let go."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.may_go = threading.Event()

    def __call__(self, written: bytes) -> None:
        assert self.may_go.wait(30)
        self.lines.append(written.decode().rstrip("\n"))


def line(number: int) -> logging.LogRecord:
    return logging.LogRecord("shmhost", logging.INFO, "x", 1, "line %d", (number,), None)


def test_nobody_waits_for_a_log_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BACKLOG", 5)
    monkeypatch.setattr(log_limit, "MAX_LINES", 100)
    target = Blocked()
    handler = logs.PatientHandler(target)
    for number in range(100):
        handler.handle(line(number))
    target.may_go.set()
    handler.close()
    assert target.lines[0] == "line 0"
    count = sum(text.startswith("line ") for text in target.lines)
    assert count in (5, 6)  # the thread may have one in its hands
    assert f"{100 - count} log lines dropped: the reader of stderr is too slow" in target.lines


def test_end_of_a_log_that_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "END_S", 0.05)
    target = Blocked()
    handler = logs.PatientHandler(target)
    handler.handle(line(1))
    handler.close()
    assert target.lines == []
    target.may_go.set()


def test_host_serves_on_when_nobody_reads_its_log(tmp_path: Path) -> None:
    # Its standard error is a pipe of 64 KiB, which is not read from here on.
    no_limit = "from shmhost.machine import log_limit; log_limit.MAX_LINES = 10**6"
    child = serve(tmp_path / "h.sock", no_limit)
    try:
        with shmclient.connect(tmp_path / "h.sock") as shm:
            for number in range(2000):
                shm.put(f"x{number}", b"%d" % number).close()
            assert bytes(shm.get("x1999")) == b"1999"
    finally:
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 0
    assert errors.count("published") > 100


@needs_root
def test_flood_of_another_user_leaves_few_lines_and_a_count(folder: Path) -> None:
    """Names that come and go, and connections that are dropped: each kind has so many lines a second."""
    os.chmod(folder, 0o755)
    path = folder / "h.sock"
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(path), "--socket-mode", "666"]
    host = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert host.stderr is not None
    host.stderr.readline()
    began_s = time.monotonic()

    def flood() -> None:
        with shmclient.connect(path) as shm:
            for number in range(1000):
                shm.put(f"x{number}", b"1").close()
                shm.unlink(f"x{number}")
        for _ in range(200):
            with RawPeer(str(path), greet=False) as peer:
                peer.send(b"\xff" * 100)
                assert peer.is_dropped()

    assert as_nobody(flood) == 0
    seconds = math.ceil(time.monotonic() - began_s) + 1
    host.send_signal(signal.SIGTERM)
    lines = host.stderr.read().splitlines()
    host.wait(30)
    host.stderr.close()
    whole = [line for line in lines if "left out" not in line]
    left_out = [int(line.split("left out ")[1].split()[0]) for line in lines if "left out" in line]
    assert len(whole) <= 2 * log_limit.MAX_LINES * seconds + 1
    assert sum(left_out) + len(whole) == 3 * 1000 + 200 + 1  # published, unlinked, freed; dropped; stopped


def test_host_ends_though_nobody_reads_its_log(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(tmp_path / "h.sock")]
    host = subprocess.Popen(command, stderr=writer)
    os.close(writer)
    try:
        with shmclient.connect(tmp_path / "h.sock", wait=30) as shm:
            for number in range(200):
                shm.put(f"x{number}", b"1").close()
        host.send_signal(signal.SIGTERM)
        assert host.wait(30) == 0
    finally:
        os.close(reader)
        host.kill()
        host.wait()
