"""A host that ends when nobody needs it."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest

import shmclient
from shmhost.serving.server import Host
from shmhost.settings.config import Config
from shmprotocol.errors import InvalidArgument
from support import wait_until


def serving(path: Path, until_idle: float) -> threading.Thread:
    thread = threading.Thread(target=anyio.run, args=(Host(Config(str(path), until_idle=until_idle)).serve,))
    thread.start()
    return thread


def test_host_that_nobody_comes_to_ends(tmp_path: Path) -> None:
    thread = serving(tmp_path / "h", 0.1)
    thread.join(60)
    assert not thread.is_alive()
    assert not (tmp_path / "h").exists()


def test_host_stays_for_its_last_client_and_no_longer(tmp_path: Path) -> None:
    thread = serving(tmp_path / "h", 1)
    with shmclient.connect(tmp_path / "h", wait=60) as first:
        with shmclient.connect(tmp_path / "h") as second:
            second.put("x", b"1").close()
        thread.join(1.5)  # over the time: it would have ended
        assert bytes(first.get("x")) == b"1"
    thread.join(60)
    assert not thread.is_alive()


def test_host_comes_back_from_an_idle_moment(tmp_path: Path) -> None:
    thread = serving(tmp_path / "h", 2)
    with shmclient.connect(tmp_path / "h", wait=60) as shm:
        shm.put("x", b"1").close()
    with shmclient.connect(tmp_path / "h") as shm:
        thread.join(2.5)
        assert bytes(shm.get("x")) == b"1"
    wait_until(lambda: not thread.is_alive(), 60)


@pytest.mark.parametrize("seconds", [-1, 1e9, float("nan")])
def test_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="idle"):
        Config("/h", until_idle=seconds)
