"""The socket that a host takes over from its service manager: real children and sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from manager_support import PID, Manager, child, finish, listening, put_and_get, read_until, serve_command
from shmhost.serving import given
from shmhost.serving.given import take_given
from shmprotocol.errors import InvalidArgument

# Puts the descriptor at 3 and sets LISTEN_PID, as a manager does between fork and exec.
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@contextlib.contextmanager
def activated(inherited: int, path: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start a host that was handed a descriptor."""
    command = ["-c", LAUNCHER, str(inherited), *serve_command(path)]
    with child(command, {"LISTEN_FDS": "1"} | variables, pass_fds=(inherited,)) as process:
        yield process


def take(sock: socket.socket | int, monkeypatch: pytest.MonkeyPatch) -> socket.socket | None:
    monkeypatch.setattr(given, "LISTEN_FDS_START", sock if isinstance(sock, int) else sock.fileno())
    return take_given({"LISTEN_FDS": "1", "LISTEN_PID": str(PID)}, PID).listener


def test_listener_is_taken_non_blocking_and_close_on_exec(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(folder / "s") as passed:
        inherited = os.dup(passed.fileno())
        os.set_inheritable(inherited, True)
        taken = take(inherited, monkeypatch)
        assert taken is not None
        with taken:
            assert not taken.getblocking()
            assert not taken.get_inheritable()
            assert taken.getsockname() == str(folder / "s")


KINDS = {
    "datagram": (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "type"),
    "seqpacket": (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "type"),
    "TCP": (lambda: socket.create_server(("127.0.0.1", 0)), "family"),
    "not listening": (lambda: socket.socket(socket.AF_UNIX), "does not listen"),
    "connected": (lambda: socket.socketpair()[0], "does not listen"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the pair's other end
def test_socket_of_the_wrong_kind_is_refused_and_left_open(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, wrong = KINDS[kind]
    with make() as sock:
        with pytest.raises(InvalidArgument, match=rf"{wrong}.*: pass one listening AF_UNIX"):
            take(sock, monkeypatch)
        os.fstat(sock.fileno())


def test_descriptor_is_refused_when_it_is_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null", "rb") as file, pytest.raises(InvalidArgument, match="is not a socket"):
        take(file.fileno(), monkeypatch)
    with pytest.raises(InvalidArgument, match="is not a socket"):
        take(1_000_000, monkeypatch)  # not open


def test_activated_host_serves_who_waits_and_leaves_the_socket_file(
    path_manager: Manager, folder: Path
) -> None:
    path = folder / "host.sock"
    with listening(path) as listener:
        before = path.stat()
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(path))
            variables = {"NOTIFY_SOCKET": path_manager.address}
            with activated(listener.fileno(), path, **variables) as process:
                assert path_manager.receive()[0] == "READY=1"
                assert put_and_get(path) == b"value"
                finish(process)
            assert early.recv(1) == b""  # it was accepted, and ended with the host
        assert os.path.samestat(path.stat(), before)
        assert sorted(os.listdir(folder)) == ["host.sock", "host.sock.lock", "notify"]
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(path))  # waits for the next host


def test_activated_host_serves_again_after_it_was_killed(folder: Path) -> None:
    path = folder / "host.sock"
    with listening(path) as listener:
        with activated(listener.fileno(), path) as process:
            read_until(process, "listening")
        with activated(listener.fileno(), path) as process:
            assert put_and_get(path) == b"value"
            finish(process)


def test_host_ends_with_one_line_when_the_descriptor_is_wrong(folder: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong,
        activated(wrong.fileno(), folder / "host.sock") as process,
    ):
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert log.startswith("shmhost: descriptor 3, passed with $LISTEN_FDS, is a socket of type")
    assert log.count("\n") == 1
    assert os.listdir(folder) == []
