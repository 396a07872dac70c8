"""The host's socket and its folders, and how the process around it begins and ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import shmclient
from shmhost.machine.socket_file import SocketFile
from support import WatchedHost, serve


def test_socket_has_its_mode_from_its_first_moment_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tries to connect while it is made must not be told that it is not for him."""
    seen: list[int] = []

    class Watched(socket.socket):
        def bind(self, path: str) -> None:  # type: ignore[override]
            super().bind(path)
            seen.append(stat.S_IMODE(os.stat(path).st_mode))

    monkeypatch.setattr("shmhost.machine.socket_file.socket.socket", Watched)
    before = os.umask(0)  # as `shmhost serve` has it
    try:
        with SocketFile(str(tmp_path / "h.sock"), 0o666, "") as listener:
            assert listener.fileno() >= 0
    finally:
        os.umask(before)
    assert seen == [0o666]


def test_folders_above_a_socket_are_for_their_owner_alone_to_change(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c" / "h.sock"
    child = serve(path)
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in list(path.parents)[:3]]
    child.kill()
    child.communicate()
    assert modes == [0o755] * 3


def test_serve_gives_its_socket_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    before = os.umask(0o077)
    try:
        child = serve(path)
    finally:
        os.umask(before)
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "Umask:\t0000" in status
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    child.kill()
    child.communicate()


def test_host_ends_cleanly_when_it_gets_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    child = serve(path)
    with shmclient.connect(path) as shm:
        shm.put("x", b"1").close()
        view = shm.get("x")
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert not path.exists()
        assert bytes(view) == b"1"
        with pytest.raises(shmclient.HostGone):
            shm.stat("x")
    assert child.stderr is not None
    child.stderr.close()


def test_stale_socket_is_recognised_when_its_host_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    first = serve(path)
    first.kill()
    first.wait()
    assert path.exists()
    second = serve(path)
    with shmclient.connect(path) as shm:
        shm.put("x", b"1").close()
    second.terminate()
    assert second.wait(20) == 0
    for child in (first, second):
        assert child.stderr is not None
        child.stderr.close()


def test_second_host_is_refused_on_the_same_socket(host: WatchedHost, shm: shmclient.Client) -> None:
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", host.socket_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert result.returncode == 1
    assert "another host serves" in result.stderr
    assert "Traceback" not in result.stderr
    assert shm.list() == []


def test_host_leaves_a_file_alone_that_is_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    path.write_text("precious")
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert result.returncode == 1
    assert "not a socket" in result.stderr
    assert path.read_text() == "precious"


def test_socket_has_the_mode_of_the_settings(host: WatchedHost) -> None:
    assert stat.S_IMODE(os.stat(host.socket_path).st_mode) == 0o660
