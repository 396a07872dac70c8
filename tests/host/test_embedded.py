"""Hosts in a thread of this process."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

import shmclient
import shmclient.aio
import shmhost
from support import in_child


def test_host_serves_from_start_to_close() -> None:
    host = shmhost.start()
    with shmclient.connect(host.socket_path) as shm:
        shm.put("a", b"1")
        host.close()
        with pytest.raises(shmclient.HostGone):
            shm.get("a")
    assert not os.path.exists(os.path.dirname(host.socket_path))


def test_close_may_be_called_again_and_on_any_thread() -> None:
    host = shmhost.start()
    threads = [threading.Thread(target=host.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    host.close()
    assert repr(host).endswith("ended>")


def test_block_closes_its_host_also_after_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), shmhost.embedded() as host:
        raise KeyboardInterrupt
    assert not os.path.exists(host.socket_path)


def test_folder_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with shmhost.start() as host:
        folder = Path(host.socket_path).parent
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700


def test_runtime_folder_that_is_missing_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    with shmhost.start() as host:
        assert tmp_path not in Path(host.socket_path).parents


def test_settings_are_those_of_the_host(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with shmhost.start(socket_path=path, socket_mode=0o600, budget=1 << 20) as host:
        assert host.socket_path == str(path)
        assert path.stat().st_mode & 0o777 == 0o600
        with shmclient.connect(path) as shm, pytest.raises(shmclient.QuotaExceeded):
            shm.put("a", bytes(1 << 20))


def test_path_of_bytes_is_taken_by_host_and_clients(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "h") + b"\xff"
    with shmhost.embedded(socket_path=path) as host, shmclient.connect(path) as shm:
        assert host.socket_path == shm.socket_path == os.fsdecode(path)
        shm.put("x", b"1").close()
        assert bytes(shm.get("x")) == b"1"


def test_unknown_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="bugdet"):
        shmhost.start(bugdet=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("settings", [{"budget": 0}, {"socket_mode": 0o1000}, {"windows": ()}])
def test_wrong_setting_leaves_no_folder(
    settings: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(shmclient.InvalidArgument):
        shmhost.start(**settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_host_that_cannot_start_says_why(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    with shmhost.start(socket_path=path):
        with pytest.raises(shmhost.HostError, match="another host serves"):
            shmhost.start(socket_path=path)
        shmclient.connect(path).close()


def test_host_that_is_collected_ends_with_a_warning() -> None:
    host = shmhost.start()
    path, thread = host.socket_path, host_thread()
    with pytest.warns(ResourceWarning, match="garbage-collected while running"):
        del host
    thread.join()
    assert not os.path.exists(path)


def host_thread() -> threading.Thread:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "shmhost"]
    return thread


def test_host_starts_and_ends_while_a_loop_runs_in_its_thread() -> None:
    async def main() -> bytes:
        with shmhost.start() as host:
            async with await shmclient.aio.connect(host.socket_path) as shm:
                await shm.put("a", b"1")
                return bytes(await shm.get("a"))

    assert asyncio.run(main()) == b"1"


def test_child_of_a_fork_does_not_end_its_parents_host() -> None:
    with shmhost.start() as host:

        def child() -> None:
            host.close()
            with host:
                pass
            with shmclient.connect(host.socket_path) as shm:
                shm.put("a", b"1")
            with shmhost.start() as own:
                shmclient.connect(own.socket_path).close()

        assert in_child(child) == 0
        with shmclient.connect(host.socket_path) as shm:
            assert bytes(shm.get("a")) == b"1"


def test_host_starts_again_at_its_path_while_a_forked_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "host.sock"
    reader, writer = os.pipe()
    with shmhost.start(socket_path=path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(reader)
    try:
        shmhost.start(socket_path=path).close()
    finally:
        os.close(writer)
        os.waitpid(child, 0)
