"""`shmclient.shared_memory`: what goes wrong with the original does not go wrong with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

import shmclient
from shmclient.shared_memory import ShareableList, SharedMemory, SharedMemoryManager
from support import WatchedHost, as_nobody, close_shared_clients, needs_root, wait_until, watched_host


@pytest.fixture(autouse=True)
def _environ(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the module use the test's host, and this process have no client of it afterwards."""
    name = next((name for name in ("host", "open_host") if name in request.fixturenames), None)
    if name is None:
        monkeypatch.delenv("SHMHOST_SOCKET", raising=False)
    else:
        monkeypatch.setenv("SHMHOST_SOCKET", request.getfixturevalue(name).socket_path)
    yield
    close_shared_clients()


def start(program: str, *args: str, **environ: str) -> subprocess.Popen[str]:
    """Start a program that has the classes; it prints a line when it is ready, and waits for one."""
    before = "import sys\nfrom shmclient.shared_memory import *\n"
    after = "\nprint('ready', flush=True)\nsys.stdin.readline()\n"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", before + textwrap.dedent(program) + after, *args],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=os.environ | environ,
    )


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        raise AssertionError(child.communicate(timeout=60)[1])
    return line


def exists(name: str) -> bool:
    try:
        SharedMemory(name).close()
    except FileNotFoundError:
        return False
    return True


MAKER = """
    segment = SharedMemory("made", create=True, size=1000)
    segment.buf[:4] = b"made"
"""
USER = """
    segment = SharedMemory("made")
    assert bytes(segment.buf[:4]) == b"made"
"""


def test_segment_goes_with_its_killed_maker_and_without_a_warning(host: WatchedHost) -> None:
    before = host.counts()["regions"]
    with start(MAKER) as child:
        assert line_of(child) == "ready"
        assert exists("made")
        child.kill()
        assert child.communicate(timeout=60) == ("", "")
    wait_until(lambda: not exists("made"))
    wait_until(lambda: host.counts()["regions"] == before)


def test_users_keep_the_segment_of_a_killed_maker(host: WatchedHost) -> None:
    with start(MAKER) as child:
        assert line_of(child) == "ready"
        segment = SharedMemory("made")
        child.kill()
    wait_until(lambda: not exists("made"))
    segment.buf[4:8] = b"kept"
    assert bytes(segment.buf[:8]) == b"madekept"
    segment.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, None])
def test_end_of_a_user_destroys_nothing(host: WatchedHost, end: int | None) -> None:
    """The original's tracker unlinks what a program that only opened it leaves behind."""
    segment = SharedMemory("made", create=True, size=1000)
    segment.buf[:4] = b"made"
    with start(USER) as child:
        assert line_of(child) == "ready"
        if end is not None:
            child.send_signal(end)
        assert child.communicate("\n", timeout=60)[1] == ""
    assert exists("made")
    segment.unlink()
    segment.close()


def test_untracked_segment_outlives_its_maker(host: WatchedHost) -> None:
    with start('SharedMemory("made", create=True, size=1000, track=False)') as child:
        assert line_of(child) == "ready"
        child.kill()
    with shmclient.connect(host.socket_path) as shm:
        wait_until(lambda: [info.leases for info in shm.list()] == [0])
    segment = SharedMemory("made")
    segment.unlink()
    segment.close()


def make_in_worker(name: str) -> str:
    segment = SharedMemory(name, create=True, size=1000)
    segment.buf[:4] = b"work"
    segment.close()
    return segment.name


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_worker_makes_is_its_parents(host: WatchedHost, method: str) -> None:
    """The original's forked workers have trackers of their own, which unlink it when the worker ends."""
    with get_context(method).Pool(1) as pool:
        assert pool.apply(make_in_worker, ("made",)) == "made"
        pool.close()
        pool.join()
    segment = SharedMemory("made")
    assert bytes(segment.buf[:4]) == b"work"
    segment.unlink()
    segment.close()


def test_no_resource_tracker_is_started(host: WatchedHost) -> None:
    program = """
    import multiprocessing
    from multiprocessing import resource_tracker
    multiprocessing.set_start_method("fork")  # not 3.14's, which starts it for itself
    with SharedMemoryManager() as manager:
        segment, items = manager.SharedMemory(100), manager.ShareableList([1, "two", b"3", None, 4.5, True])
        assert list(ShareableList(name=items.shm.name)) == [1, "two", b"3", None, 4.5, True]
    left = SharedMemory(create=True, size=10)
    assert resource_tracker._resource_tracker._fd is None
    """
    with start(program) as child:
        assert line_of(child) == "ready"
        assert child.communicate("\n", timeout=60) == ("", "")
        assert child.returncode == 0


def test_manager_unlinks_what_it_made(host: WatchedHost) -> None:
    with SharedMemoryManager() as manager:
        name = manager.SharedMemory(100).name
        assert exists(name)
    assert not exists(name)


ARRAY = """
import numpy as np
from {module} import SharedMemory
segment = SharedMemory(create=True, size=8_000_000)
segment.unlink()
array = np.ndarray((1_000_000,), "f8", segment.buf)
segment.close()
array[:] = 7
assert array.sum() == 7_000_000
"""


@pytest.mark.parametrize(
    ("module", "end"),
    [("shmclient.shared_memory", 0), ("multiprocessing.shared_memory", -signal.SIGSEGV)],
)
def test_array_over_a_segment_survives_its_close(host: WatchedHost, module: str, end: int) -> None:
    """NumPy holds no view of `buf`, so that the original notices nothing, and unmaps what the array uses."""
    program = [sys.executable, "-c", ARRAY.format(module=module)]
    assert subprocess.run(program, check=False, stderr=subprocess.DEVNULL, timeout=60).returncode == end


def test_close_takes_nothing_from_views(host: WatchedHost) -> None:
    before = host.counts()["regions"]
    segment = SharedMemory(create=True, size=8)
    view = segment.buf[2:]
    segment.close()
    segment.close()
    segment.unlink()
    view[0] = 7
    assert bytes(view) == b"\x07" + bytes(5)
    del view
    wait_until(lambda: host.counts()["regions"] == before)


def test_list_with_characters_of_many_bytes(host: WatchedHost) -> None:
    """The original counts characters where it writes bytes, and so cuts them off."""
    items = ShareableList(["ääääääää", "€" * 9])
    assert list(items) == list(ShareableList(name=items.shm.name)) == ["ääääääää", "€" * 9]
    items.shm.unlink()


@pytest.mark.parametrize("name", ["a/b", "/a", ".", "..", "a b", "ä" * 60])
def test_any_name_will_do(host: WatchedHost, name: str) -> None:
    segment = SharedMemory(name, create=True, size=1)
    with pytest.raises(FileExistsError):
        SharedMemory(name, create=True, size=1)
    assert exists(name)
    segment.unlink()
    with pytest.raises(FileNotFoundError):
        segment.unlink()
    segment.close()


def test_memory_that_is_not_there_is_an_error_at_the_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched_host(str(tmp_path / "small"), budget=8 << 20) as small:
        monkeypatch.setenv("SHMHOST_SOCKET", small.socket_path)
        with pytest.raises(MemoryError, match=r"budget|bytes"):
            SharedMemory(create=True, size=64 << 20)


@needs_root
def test_names_are_their_users_own(open_host: WatchedHost) -> None:
    mine = SharedMemory("same", create=True, size=10)

    def use_as_other() -> None:
        with pytest.raises(FileNotFoundError):
            SharedMemory("same")
        theirs = SharedMemory("same", create=True, size=20)
        theirs.buf[:4] = b"them"
        theirs.unlink()
        theirs.close()

    assert as_nobody(use_as_other) == 0
    assert bytes(mine.buf) == bytes(10)
    mine.unlink()
    mine.close()


FILL = """
from {module} import SharedMemory
segment = SharedMemory(create=True, size=96 << 20)
for at in range(0, segment.size, 4096):
    segment.buf[at] = 1
segment.unlink()
"""
SMALL = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'


@needs_root
@pytest.mark.parametrize(
    ("module", "ends"),
    [("shmclient.shared_memory", 0), ("multiprocessing.shared_memory", -signal.SIGBUS)],
)
def test_small_dev_shm_of_containers_is_no_limit(
    host: WatchedHost, module: str, ends: int, tmp_path: Path
) -> None:
    """The original dies of SIGBUS there, after a creation that said nothing."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here: the small /dev/shm was NOT tried")
    program = [sys.executable, "-c", FILL.format(module=module)]
    command = ["unshare", "-m", "sh", "-c", SMALL, "sh", *program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode in (ends, 128 - ends), done.stderr


OWN = """
    from shmclient._shared import hosts
    hosts.IDLE_S = 5
    segment = SharedMemory("own", create=True, size=96 << 20)
    segment.buf[-4:] = b"ours"
"""
OTHER = """
    segment = SharedMemory("own")
    assert bytes(segment.buf[-4:]) == b"ours"
"""


def test_program_without_a_host_starts_one_which_ends_when_nobody_needs_it(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    socket = tmp_path / "shmhost" / "shared_memory.sock"
    with start(OWN, **environ) as first:
        assert line_of(first) == "ready"
        assert socket.is_socket()
        with start(OTHER, **environ) as second:
            assert line_of(second) == "ready"
            assert second.communicate("\n", timeout=60) == ("", "")
        assert first.communicate("\n", timeout=60) == ("", "")
    wait_until(lambda: not socket.exists(), 60)


KILLED = """
    import os, signal, socket, struct
    from shmclient._shared import hosts
    hosts.IDLE_S = 5
    first = SharedMemory("first", create=True, size=100)
    first.buf[:] = b"1" * 100
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(hosts.own_path(os.environ))
        pid = struct.unpack("iii", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    gone = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    __import__("select").select([gone], [], [])
    second = SharedMemory("second", create=True, size=100)
"""


def test_killed_host_is_followed_by_another_with_the_same_segments(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    user = """
    from shmclient._shared.hosts import ask
    from shmclient._shared.segments import _region_name
    ask(lambda client: client.open(_region_name("first"), wait=30).close())
    assert bytes(SharedMemory("first").buf) == b"1" * 100
    SharedMemory("second")
    SharedMemory("first").unlink()
    """
    with start(KILLED, **environ) as first:
        assert line_of(first) == "ready"
        with start(user, **environ) as second:
            assert line_of(second) == "ready"
            assert second.communicate("\n", timeout=60) == ("", "")
        assert first.communicate("\n", timeout=60) == ("", "")
    wait_until(lambda: not (tmp_path / "shmhost" / "shared_memory.sock").exists(), 60)


def test_programs_that_start_at_once_share_one_host(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    program = OWN.replace('"own"', "sys.argv[1]")
    children = [start(program, f"own{number}", **environ) for number in range(3)]
    for child in children:
        assert line_of(child) == "ready"
    with start("\n".join(f'SharedMemory("own{number}")' for number in range(3)), **environ) as other:
        assert line_of(other) == "ready"
    for child in children:
        assert child.communicate("\n", timeout=60) == ("", "")
    wait_until(lambda: not (tmp_path / "shmhost" / "shared_memory.sock").exists(), 60)


@needs_root
def test_folder_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user could have put a host there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "shmhost").mkdir()
    (tmp_path / "shmhost").chmod(0o777)
    with pytest.raises(PermissionError, match="alone can write"):
        SharedMemory(create=True, size=1)


def test_host_that_is_named_and_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHMHOST_SOCKET", str(tmp_path / "none"))
    with pytest.raises(ConnectionError):
        SharedMemory(create=True, size=1)
