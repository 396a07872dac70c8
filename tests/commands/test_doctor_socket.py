"""What `doctor` says of the socket: missing, stale, silent, full, a stranger's, or out of reach."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from doctor_support import find, settings
from shmhost.commands.doctor import measure as doctor
from shmhost.settings.config import Config
from support import WatchedHost, in_child, needs_root


def as_nobody() -> None:
    os.setgroups([777])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def open_folders(path: str) -> None:
    """Let others reach a socket in pytest's private folders."""
    for folder in list(Path(path).parents)[:4]:
        folder.chmod(folder.stat().st_mode | 0o755)  # one of them is /tmp: others write there


def stale_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return str(path)


def test_missing_socket_is_a_note_that_says_how_to_start(tmp_path: Path) -> None:
    finding = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert finding.state == "note"
    assert finding.found == f"no host: there is no {tmp_path / 'host.sock'}"
    assert "shmhost serve" in finding.advice


def test_stale_socket_is_a_problem(tmp_path: Path) -> None:
    path = stale_socket(tmp_path / "host.sock")
    finding = find("socket", doctor.examine(settings(path)))
    assert finding.state == "problem"
    assert finding.found == f"stale socket: no host listens at {path}"


def test_file_in_place_of_the_socket_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "host.sock").write_text("not a socket")
    finding = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert finding.state == "problem"
    assert "is not a socket: -rw" in finding.found


@pytest.mark.parametrize(("length", "state"), [(107, "note"), (108, "problem")])
def test_path_is_too_long_from_108_bytes_on(length: int, state: str, tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    path += "x" * (length - len(path))
    finding = find("socket", doctor.examine(settings(path)))
    assert finding.state == state
    assert ("107" in finding.found) == (state == "problem")


def test_silent_listener_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host.sock"))
        listener.listen()
        finding = find("socket", doctor.examine(settings(tmp_path / "host.sock")))
    assert finding.state == "problem"
    assert "does not answer" in finding.found


def test_full_listener_is_a_problem(tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        finding = find("socket", doctor.examine(settings(path)))
    assert finding.state == "problem"
    assert "does not answer" in finding.found


def answer_once(listener: socket.socket, reply: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(4096)
        peer.sendall(reply)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\0\0\0\xc1"])
def test_stranger_at_the_socket_is_a_problem(reply: bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stranger = threading.Thread(target=answer_once, args=(listener, reply))
        stranger.start()
        finding = find("socket", doctor.examine(settings(path)))
        stranger.join()
    assert finding.state == "problem"
    assert f"connecting to {path} fails: {os.strerror(errno.EPROTO)}" in finding.found


@needs_root
@pytest.mark.parametrize(
    ("mode", "gid", "advice"),
    [
        (0, 0, "--socket-mode"),
        (0o660, 0, "a group of its own"),
        (0o660, 4321, "usermod -aG 4321 USER"),
        (0o660, 65534, None),
    ],
)
def test_socket_says_who_may_connect(host: WatchedHost, mode: int, gid: int, advice: str | None) -> None:
    open_folders(host.socket_path)
    os.chown(host.socket_path, 0, gid)
    os.chmod(host.socket_path, mode)

    def child() -> None:
        as_nobody()
        finding = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
        if advice is None:
            assert "a host answers" in finding.found
            return
        assert finding.state == "problem"
        assert (
            f"permission denied: {host.socket_path} is {stat.filemode(stat.S_IFSOCK | mode)}" in finding.found
        )
        assert f"uid 0, gid {gid}" in finding.found
        assert "this process is uid 65534, gid 65534, groups 777" in finding.found
        assert advice in finding.advice

    assert in_child(child) == 0


@needs_root
def test_private_folder_above_the_socket_is_a_problem(host: WatchedHost) -> None:
    open_folders(host.socket_path)
    Path(host.socket_path).parent.chmod(0o700)

    def child() -> None:
        as_nobody()
        finding = find("socket", doctor.examine(Config(socket_path=host.socket_path)))
        assert finding.state == "problem"
        assert "permission denied" in finding.found
        assert "search permission" in finding.advice

    assert in_child(child) == 0


@pytest.mark.parametrize(
    ("mode", "state"), [(0o777, "problem"), (0o1777, "ok"), (0o775, "ok"), (0o757, "problem")]
)
@pytest.mark.parametrize("name", ["host.sock", "below/host.sock"])
def test_folder_is_a_problem_when_all_can_write_to_it(
    mode: int, state: str, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(mode)
    (folder / name).parent.mkdir(exist_ok=True)
    finding = find("socket folder", doctor.examine(settings(folder / name)))
    assert finding.state == state
    assert (finding.advice == f"chmod o-w {folder}") == (state == "problem")


def test_folder_is_looked_at_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to("open")
    finding = find("socket folder", doctor.examine(settings(tmp_path / "link" / "host.sock")))
    assert (finding.state, finding.advice) == ("problem", f"chmod o-w {tmp_path / 'open'}")


def test_folder_that_is_missing_is_no_problem(tmp_path: Path) -> None:
    finding = find("socket folder", doctor.examine(settings(tmp_path / "run" / "shmhost" / "host.sock")))
    assert finding.state == "ok"
