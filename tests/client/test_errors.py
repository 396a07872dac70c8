"""What a client's errors are, raised by a real host, or by none."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

import shmclient
import shmclient.aio

pytestmark = pytest.mark.anyio


async def test_dead_host_is_no_missing_name_when_a_wait_is_over(tmp_path: Path) -> None:
    """`except RegionNotFound` around a call that waits would hide that nobody serves any more."""
    path = tmp_path / "none.sock"
    for wait in (0, 0.05):
        with pytest.raises(TimeoutError) as caught:
            shmclient.connect(path, wait=wait)
        with pytest.raises(TimeoutError) as caught_async:
            await shmclient.aio.connect(path, wait=wait)
        for error in (caught.value, caught_async.value):
            assert type(error) is shmclient.WaitTimeout
            assert not isinstance(error, FileNotFoundError)
            assert isinstance(error.__cause__, shmclient.HostGone)


def test_missing_name_is_both_a_missing_name_and_a_timeout(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionTimeout) as caught:
        shm.get("never", wait=0)
    assert isinstance(caught.value, shmclient.RegionNotFound)
    assert isinstance(caught.value, shmclient.WaitTimeout)
    assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, "never")


def test_refusal_names_the_region(shm: shmclient.Client) -> None:
    with shm.create("taken", 100), pytest.raises(shmclient.RegionBusy) as busy:
        shm.put("taken", b"1")
    assert busy.value.filename == "taken"
    calls: list[Callable[[], object]] = [
        lambda: shm.get("x"),
        lambda: shm.open("x"),
        lambda: shm.stat("x"),
        lambda: shm.unlink("x"),
        lambda: shm.chmod("x", 0o600),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError) as missing:
            call()
        assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "x")
        assert missing.value.strerror == str(missing.value)


def test_missing_host_names_the_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(ConnectionError) as caught:
        shmclient.connect(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)


async def test_closed_client_is_not_a_closed_region(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    async with await shmclient.aio.connect(shm.socket_path) as ashm:
        pass
    shm.close()
    with pytest.raises(shmclient.ClientClosed, match="connect again"):
        shm.stat("x")
    with pytest.raises(shmclient.ClientClosed, match="connect again"):
        await ashm.stat("x")
    region.close()
    with pytest.raises(shmclient.RegionClosed):
        region.fileno()
    assert issubclass(shmclient.ClientClosed, shmclient.Closed)
    assert not issubclass(shmclient.ClientClosed, shmclient.RegionClosed)
