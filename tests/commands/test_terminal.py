"""The commands in a real terminal of 80 columns: tables that fit, and progress where something takes long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from support import WatchedHost, wait_until
from terminal import Terminal, opened

MIB = 1 << 20


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with opened() as screen:
        yield screen


def test_views_fit_the_screen(host: WatchedHost, shm: shmclient.Client, terminal: Terminal) -> None:
    shm.put("models/" + "x" * 60, bytes(3 * MIB)).close()
    old = shm.get("models/" + "x" * 60)
    shm.put("models/" + "x" * 60, bytes(5 * MIB)).close()
    shm.put("features", b"1", mode=0o644).close()
    for command, texts in {
        ("ls",): ["features", "0644", "5.0 MiB"],
        ("stat", "features"): ["generation", "mode 0644"],
        ("who",): ["python", "superseded", "nobody"],
        ("map",): ["free", "superseded", "end of the window"],
        ("config",): ["budget", "--socket"],
    }.items():
        terminal.run_module("shmhost", *command, "--socket", host.socket_path)
        screen = terminal.until("code=0")
        for text in texts:
            assert text in screen, (command, screen)
        # A line that is too long would be wrapped by the terminal: it would begin at the left, with no table.
        assert max(map(len, screen.splitlines())) <= 80
    assert len(old) == 3 * MIB


def test_map_lines_are_not_wrapped(host: WatchedHost, shm: shmclient.Client, terminal: Terminal) -> None:
    for number in range(3):
        shm.put(f"long/{'n' * 90}{number}", bytes(MIB)).close()
    terminal.run_module("shmhost", "map", "--socket", host.socket_path)
    lines = terminal.until("code=0").splitlines()
    regions = [line for line in lines if "long/" in line]
    assert len(regions) == 3
    assert all(line.startswith("0x") and line.endswith("…") for line in regions)


def test_doctor_ends_with_a_verdict_on_the_screen(host: WatchedHost) -> None:
    with opened(height=60) as tall:
        tall.run_module("shmhost", "doctor", "--socket", host.socket_path, "--budget", "64M")
        screen = tall.until("code=")
    assert "a host answers" in " ".join(screen.split())
    assert max(map(len, screen.splitlines())) <= 80


def test_wait_shows_what_for_and_is_gone_when_it_is_over(
    host: WatchedHost, shm: shmclient.Client, terminal: Terminal
) -> None:
    terminal.run_module("shmclient", "get", "late", "--wait", "60", "--socket", host.socket_path)
    assert "0:00:0" in terminal.until("Waiting for late")
    shm.put("late", b"here it is\n").close()
    screen = terminal.until("code=0")
    assert "here it is" in screen
    assert "Waiting" not in screen


def test_wait_ends_by_ctrl_c(host: WatchedHost, terminal: Terminal) -> None:
    terminal.run_module("shmclient", "get", "never", "--wait", "60", "--socket", host.socket_path)
    terminal.until("Waiting for never")
    terminal.type("C-c")
    screen = terminal.until("code=1")
    assert "Traceback" not in screen


def test_reading_shows_how_much_has_come(
    host: WatchedHost, shm: shmclient.Client, terminal: Terminal, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    terminal.run_module("shmclient", "put", "piped", str(pipe), "--socket", host.socket_path)
    with pipe.open("wb") as writer:
        writer.write(bytes(32 * MIB))
        writer.flush()
        screen = terminal.until("32.0/? MiB")
        assert "Reading" in screen
        writer.write(bytes(MIB))
    screen = terminal.until("code=0")
    assert "Reading" not in screen
    assert len(shm.get("piped")) == 33 * MIB


def test_storing_shows_a_bar(terminal: Terminal, tmp_path: Path) -> None:
    code = (
        "import time; from shmclient._commands import progress as _progress\n"
        "with _progress.transferring('Storing x', 1 << 30) as progress:\n"
        "    progress(1 << 29); time.sleep(3600)"
    )
    script = tmp_path / "bar.py"
    script.write_text(code)
    terminal.run(f"clear; {sys.executable} {script}")
    assert "━━" in terminal.until("0.5/1.0 GiB")
    terminal.type("C-c")


def test_nothing_is_shown_where_no_terminal_is(host: WatchedHost, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(40 * MIB))
    command = [sys.executable, "-m", "shmclient", "put", "big", str(tmp_path / "big")]
    result = subprocess.run(
        [*command, "--socket", host.socket_path], capture_output=True, text=True, timeout=30
    )
    assert (result.returncode, result.stderr) == (0, "")
    command = [sys.executable, "-m", "shmclient", "get", "none", "--wait", "0.8"]
    result = subprocess.run([*command, "--socket", host.socket_path], capture_output=True, timeout=30)
    assert result.returncode == 6
    assert result.stderr.startswith(b"shmclient: 'none'")
    assert result.stderr.count(b"\n") == 1


def test_put_tells_its_progress(shm: shmclient.Client) -> None:
    done: list[int] = []
    shm.put("x", bytes(40 * MIB), progress=done.append).close()
    assert done[0] == 16 * MIB
    assert done == sorted(done)
    assert done[-1] >= 40 * MIB
    assert len(shm.get("x")) == 40 * MIB


def test_put_with_progress_writes_what_put_writes(
    shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmclient._drivers.transfer.PIECE", 1000)
    content = {"a": os.urandom(12345), "b": b"", "c": os.urandom(999), "d": os.urandom(1000)}
    shm.put("x", content, progress=lambda _: None).close()
    assert {key: bytes(value) for key, value in shm.get("x").items()} == content


def test_put_is_undone_when_its_progress_raises(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts() | {"threads": 0}  # one frees the memory, and stays for the next time

    def stop(done: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        shm.put("x", bytes(20 * MIB), progress=stop)
    assert shm.list() == []
    wait_until(lambda: host.counts() | {"threads": 0} == before)
    shm.put("x", b"the name is free").close()
