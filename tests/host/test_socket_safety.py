"""The host's socket among the files of others: no link is followed, nothing of another's is replaced."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import shmclient
from shmhost.machine.socket_file import SocketFile
from shmprotocol.errors import HostError
from support import as_nobody, in_child, needs_root, put_values

MARK = "listening"


@contextmanager
def bound(path: Path, kind: int = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """Give the socket of another program."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            sock.listen(0)
        yield sock


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_socket_of_another_program_is_left_alone(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with bound(path, kind):
        before = path.lstat()
        with pytest.raises(HostError, match="another program"), SocketFile(str(path), 0o600, ""):
            pass
        assert os.path.samestat(path.lstat(), before)


def test_socket_whose_queue_is_full_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with bound(path), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        with pytest.raises(HostError, match="another program"), SocketFile(str(path), 0o600, ""):
            pass


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_socket_that_nobody_has_open_is_replaced(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with bound(path, kind):
        pass
    with SocketFile(str(path), 0o600, ""):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600


@pytest.mark.parametrize("target", ["a socket", "a file", "nothing"])
def test_link_in_the_place_of_the_socket_is_not_followed(target: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "h.sock", tmp_path / "victim"
    if target == "a file":
        victim.touch(0o600)
    path.symlink_to(victim)
    with ExitStack() as stack:
        if target == "a socket":
            stack.enter_context(bound(victim))
        stack.enter_context(pytest.raises(HostError))
        stack.enter_context(SocketFile(str(path), 0o666, ""))
    assert path.is_symlink()
    assert victim.exists() == (target != "nothing")


def test_link_that_comes_in_between_gets_no_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, victim = tmp_path / "h.sock", tmp_path / "victim"
    victim.touch(0o600)

    class Raced(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            super().bind(address)
            os.unlink(address)
            os.symlink(victim, address)

    monkeypatch.setattr("shmhost.machine.socket_file.socket.socket", Raced)
    with pytest.raises(HostError, match="replaced"), SocketFile(str(path), 0o666, ""):
        pass
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert path.is_symlink(), "what is not the host's stays"


def test_socket_that_came_in_its_place_stays_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with SocketFile(str(path), 0o600, ""):
        path.unlink()
        other = socket.socket(socket.AF_UNIX)
        other.bind(str(path))
    with other:
        assert path.is_socket()


def test_mode_is_right_without_proc_where_the_umask_allows_it(tmp_path: Path) -> None:
    def serve() -> None:
        os.umask(0)
        with SocketFile(str(tmp_path / "h.sock"), 0o622, ""):
            assert stat.S_IMODE((tmp_path / "h.sock").stat().st_mode) == 0o622

    assert in_child(serve) == 0


# --- users, namespaces, and file systems that cannot be written


@contextmanager
def host(path: Path, *prefix: str) -> Iterator[None]:
    """Run a host, in another namespace."""
    command = [
        *prefix,
        sys.executable,
        "-B",
        "-m",
        "shmhost",
        "serve",
        "--socket-mode",
        "666",
        "--socket",
        path,
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        lines = []
        for line in child.stderr:
            lines.append(line)
            if MARK in line:
                break
        assert MARK in "".join(lines[-1:]), lines
        yield
    finally:
        child.terminate()
        child.communicate()


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """Give a folder that all may enter."""
    folder = Path("/tmp") / f"shm-{os.getpid()}-{path.name[-20:]}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


needs_namespaces = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "-r", "true"], capture_output=True, check=False).returncode != 0,
    reason="there are no user namespaces",
)


def enter_user_namespace() -> None:
    """Become root of a new user namespace, as containers without privileges have it."""
    libc, uid = ctypes.CDLL(None, use_errno=True), os.getuid()
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: it lost that by setuid, and /proc/self with it
    assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWUSER
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    assert os.getuid() == 0


@needs_root
@needs_namespaces
def test_client_in_a_user_namespace_is_who_it_is_outside(tmp_path: Path) -> None:
    with open_folder(tmp_path) as folder, host(folder / "h.sock"):
        path = str(folder / "h.sock")
        with shmclient.connect(path) as shm:
            shm.put("a", b"1", mode=0o644).close()
            shm.put("mine", b"1", mode=0o600).close()

        def be_root_in_a_namespace() -> None:
            enter_user_namespace()
            with shmclient.connect(path) as shm:
                assert bytes(shm.get("a")) == b"1"
                shm.put("b", b"2").close()
                assert shm.stat("b").uid == 65534
                with pytest.raises(shmclient.RegionNotFound):
                    shm.get("mine")

        assert as_nobody(be_root_in_a_namespace) == 0


@needs_root
@needs_namespaces
def test_host_in_a_user_namespace_serves_those_outside(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with host(path, "unshare", "-r"):
        put_values(str(path), a=b"1")
        with shmclient.connect(str(path)) as shm:
            assert bytes(shm.get("a")) == b"1"


READ_ONLY = 'mount --make-rprivate / && mount -t tmpfs tmpfs {0} && mount -o remount,ro,bind / && exec "$@"'


@needs_root
@needs_namespaces
def test_host_needs_nothing_but_the_folder_of_its_socket(tmp_path: Path) -> None:
    """With a root file system that is read-only, and no /dev/shm."""
    program = f"""
import shmhost.serving.embedded as embedded, shmclient
path = {str(tmp_path / "h.sock")!r}
try:
    open("/probe", "w")
except OSError:
    with embedded.embedded(socket_path=path), shmclient.connect(path) as shm:
        shm.put("a", bytes(100_000)).close()
        with shm.arena("b", 1 << 20) as arena:
            arena["x"] = b"1"
        print(len(shm.get("a")), bytes(shm.get("b/x")))
"""
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        READ_ONLY.format(tmp_path),
        "sh",
        sys.executable,
        "-B",
        "-c",
        program,
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "100000 b'1'", run.stderr


@needs_root
@needs_namespaces
def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    mount = f'mount --make-rprivate / && mount -t tmpfs -o ro tmpfs {tmp_path} && exec "$@"'
    serve = [sys.executable, "-B", "-m", "shmhost", "serve", "--socket", str(tmp_path / "h.sock")]
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *serve], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "Read-only file system" in run.stderr
    assert "Traceback" not in run.stderr
