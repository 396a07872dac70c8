"""The socket that a host takes over from its service manager: real children and sockets."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager_support import PID, Manager, child, finish, listening, put_and_get, read_until, serve_command
from shmhost.serving import given as given_module
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
    monkeypatch.setattr(given_module, "LISTEN_FDS_START", sock if isinstance(sock, int) else sock.fileno())
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


@pytest.fixture
def passed(folder: Path) -> Iterator[dict[str, int]]:
    """Descriptors that a manager could pass."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(folder / "s"))
        second = stack.enter_context(listening(folder / "t"))
        left, _ = map(stack.enter_context, socket.socketpair())
        null = stack.enter_context(open("/dev/null", "rb"))
        path = stack.enter_context(open("/dev/null", "rb", opener=lambda p, _: os.open(p, os.O_PATH)))
        kinds = {"listener": listener, "second": second, "connected": left, "null": null, "path": path}
        yield {name: each.fileno() for name, each in kinds.items()}


def given_of(passed: dict[str, int], names: str, *kinds: str) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the name of the socket of a listener and the entries that a child is given as descriptors."""

    def ask(pipe: int) -> None:
        high = [fcntl.fcntl(passed[kind], fcntl.F_DUPFD, 900) if kind != "closed" else -1 for kind in kinds]
        os.closerange(3, pipe)
        for target, descriptor in enumerate(high, 3):
            if descriptor >= 0:
                os.dup2(descriptor, target)
        environ = {"LISTEN_PID": "7", "LISTEN_FDS": str(len(kinds)), "LISTEN_FDNAMES": names}
        try:
            listener, entries = take_given(environ, 7)
        except InvalidArgument as error:
            os.write(pipe, f"{error}".encode())
            os._exit(1)
        assert not any(os.get_inheritable(descriptor) for _, descriptor in entries)
        address = listener and os.path.basename(listener.getsockname())
        numbers = [(name, kinds[descriptor - 3]) for name, descriptor in entries]
        os.write(pipe, repr((address, numbers)).encode())
        os._exit(0)

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ask(fcntl.fcntl(writer, fcntl.F_DUPFD, 800))
        finally:
            os._exit(2)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 1:
        raise InvalidArgument(text)
    assert status == 0, text
    result: tuple[str | None, list[tuple[str, str]]] = ast.literal_eval(text)
    return result


@pytest.mark.parametrize(
    ("names", "kinds", "listener", "entries"),
    [
        ("u.socket", "listener", "s", []),
        ("u.socket:r1:r2", "listener null null", "s", [("r1", "null"), ("r2", "null")]),
        ("r1", "null", None, [("r1", "null")]),
        ("r1", "listener", None, [("r1", "listener")]),
        ("r1:r1:u.socket", "null null listener", "s", [("r1", "null"), ("r1", "null")]),
        ("u.socket:stored", "listener connected", "s", [("stored", "connected")]),
        ("u.socket:stored:x", "listener path null", "s", [("stored", "path"), ("x", "null")]),
        ("stored:r1", "null null", None, [("stored", "null"), ("r1", "null")]),
    ],
)
def test_entries_are_told_from_the_listener(
    names: str, kinds: str, listener: str | None, entries: list[tuple[str, str]], passed: dict[str, int]
) -> None:
    assert given_of(passed, names, *kinds.split()) == (listener, entries)


@pytest.mark.parametrize(
    ("names", "kinds", "message"),
    [
        ("a:b", "listener second", "serves one socket"),
        ("a:a", "listener connected", "does not listen"),  # one unit with two streams
        ("a:r1", "connected null", "does not listen"),
        ("a", "listener second", "1 names for"),
        ("a:b:c", "listener second", "3 names for"),
        ("", "listener second", "1 names for"),
        ("a:r1", "listener closed", "Bad file descriptor"),
        ("a:b", "listener closed", "Bad file descriptor"),
    ],
)
def test_what_a_manager_passes_wrongly_is_refused(
    names: str, kinds: str, message: str, passed: dict[str, int]
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        given_of(passed, names, *kinds.split())


@given(st.text(alphabet="r01a:x", max_size=12), st.integers(1, 4))
def test_names_are_refused_or_taken_whatever_they_are(names: str, count: int) -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}
    with pytest.raises(InvalidArgument), pytest.MonkeyPatch.context() as patch:
        patch.setattr(given_module, "LISTEN_FDS_START", 1_000_000)  # none of them is open
        take_given(environ, 7)
    assert environ == {}


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
